"""Curvature of a network's loss in chosen parameters, as operators that are never formed."""

from gp_response.curvature.network import Network
from gp_response.curvature.selection import select

__all__ = ["Network", "select"]
