"""Heads: what turns a kernel and data into a posterior."""

from gp_response.heads.adapters import from_gpytorch, head_from_gpytorch
from gp_response.heads.exact import Exact
from gp_response.heads.inducing import choose_inducing, split_features
from gp_response.heads.laplace import laplace
from gp_response.heads.sgpr import SGPR
from gp_response.heads.svgp import SVGP
from gp_response.heads.tangent_kernel import TangentKernel, TangentMean
from gp_response.heads.trace import Trace
from gp_response.heads.training import Training

__all__ = [
    "SGPR", "SVGP", "Exact", "TangentKernel", "TangentMean", "Trace", "Training",
    "choose_inducing", "from_gpytorch", "head_from_gpytorch", "laplace", "split_features",
]  # fmt: skip
