"""Posteriors known by samples: draws of anywhere, samplers, what they cost, and how much they say."""

from gp_response.heads.sampling.chains import Chains
from gp_response.heads.sampling.covariance import SampledCovariance, quantile, sampled_covariance
from gp_response.heads.sampling.diagnostics import effective_size, split_rhat
from gp_response.heads.sampling.draws import LEVEL, Draws, draws
from gp_response.heads.sampling.plan import SamplingPlan, plan_sampling

__all__ = [
    "LEVEL", "Chains", "Draws", "SampledCovariance", "SamplingPlan", "draws", "effective_size", "plan_sampling", "quantile",
    "sampled_covariance", "split_rhat",
]  # fmt: skip
