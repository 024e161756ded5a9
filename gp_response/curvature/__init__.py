"""Curvature of a network's loss in chosen parameters, as operators that are never formed."""

from gp_response.curvature.curvature import Curvature
from gp_response.curvature.fisher import EmpiricalFisher, Fisher, fisher
from gp_response.curvature.ggn import GGN, ggn
from gp_response.curvature.hessian import Hessian, hessian
from gp_response.curvature.network import Network
from gp_response.curvature.selection import select

__all__ = ["GGN", "Curvature", "EmpiricalFisher", "Fisher", "Hessian", "Network", "fisher", "ggn", "hessian", "select"]
