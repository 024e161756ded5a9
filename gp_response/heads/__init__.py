"""Heads: what turns a kernel and data into a posterior."""

from gp_response.heads.exact import Exact
from gp_response.heads.inducing import choose_inducing, split_features
from gp_response.heads.trace import Trace
from gp_response.heads.training import Training

__all__ = ["Exact", "Trace", "Training", "choose_inducing", "split_features"]
