"""Posteriors known by samples: draws of anywhere, samplers, what they cost, and how much they say."""

from gp_response.heads.sampling.chains import Chains
from gp_response.heads.sampling.covariance import SampledCovariance, batch_length, quantile, sampled_covariance
from gp_response.heads.sampling.devinterp import read_devinterp, write_devinterp
from gp_response.heads.sampling.diagnostics import effective_size, split_rhat, traces
from gp_response.heads.sampling.draws import LEVEL, Draws, draws
from gp_response.heads.sampling.hmc import HMC
from gp_response.heads.sampling.langevin import SGLD, PreconditionedSGLD, Target, langevin
from gp_response.heads.sampling.plan import SamplingPlan, plan_sampling
from gp_response.heads.sampling.sample import linearised, sample

__all__ = [
    "HMC", "LEVEL", "SGLD", "Chains", "Draws", "PreconditionedSGLD", "SampledCovariance", "SamplingPlan", "Target", "batch_length",
    "draws", "effective_size", "langevin", "linearised", "plan_sampling", "quantile", "read_devinterp", "sample",
    "sampled_covariance", "split_rhat", "traces", "write_devinterp",
]  # fmt: skip
