"""Models trained by GPyTorch or BoTorch as heads of ours."""

from gp_response.heads.adapters.gpytorch import from_gpytorch, head_from_gpytorch

__all__ = ["from_gpytorch", "head_from_gpytorch"]
