"""Heads: what turns a kernel and data into a posterior."""

from gp_response.heads.adapters import from_gpytorch, head_from_gpytorch
from gp_response.heads.cglb import CGLB
from gp_response.heads.exact import Exact
from gp_response.heads.inducing import choose_inducing, split_features
from gp_response.heads.laplace import laplace
from gp_response.heads.sampling import (
    HMC,
    SGLD,
    Chains,
    Draws,
    PreconditionedSGLD,
    SamplingPlan,
    draws,
    effective_size,
    plan_sampling,
    read_devinterp,
    sample,
    split_rhat,
    write_devinterp,
)
from gp_response.heads.sgpr import SGPR
from gp_response.heads.svgp import SVGP
from gp_response.heads.tangent_kernel import TangentKernel, TangentMean
from gp_response.heads.trace import Trace
from gp_response.heads.training import Training

__all__ = [
    "CGLB", "Chains", "Draws", "Exact", "HMC", "PreconditionedSGLD", "SGLD", "SGPR", "SVGP", "SamplingPlan",
    "TangentKernel", "TangentMean", "Trace", "Training", "choose_inducing", "draws", "effective_size",
    "from_gpytorch", "head_from_gpytorch", "laplace", "plan_sampling", "read_devinterp", "sample",
    "split_features", "split_rhat", "write_devinterp",
]  # fmt: skip
