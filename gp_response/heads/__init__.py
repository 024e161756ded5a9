"""Heads: what turns a kernel and data into a posterior."""

from gp_response.heads.adapters import from_gpytorch, head_from_gpytorch
from gp_response.heads.exact import Exact
from gp_response.heads.inducing import choose_inducing, split_features
from gp_response.heads.sampling import (
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
from gp_response.heads.trace import Trace
from gp_response.heads.training import Training

__all__ = [
    "SGPR", "SVGP", "Exact", "Trace", "Training", "SGLD", "Chains", "Draws", "PreconditionedSGLD", "SamplingPlan", "sample",
    "draws", "effective_size", "plan_sampling", "read_devinterp", "split_rhat", "write_devinterp", "choose_inducing",
    "from_gpytorch", "head_from_gpytorch", "split_features",
]  # fmt: skip
