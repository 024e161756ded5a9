"""Heads: what turns a kernel and data into a posterior."""

from gp_response.heads.exact import Exact
from gp_response.heads.training import Trace, Training

__all__ = ["Exact", "Trace", "Training"]
