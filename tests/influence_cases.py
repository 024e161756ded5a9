"""Posteriors and ground truth that tests of the influence operator share."""

import mpmath
import torch

import gp_response as gr
from gp_response.data import row_noise
from gp_response.testing import example_data

KNOWN = {}  # by noise, temperature and data, which are kept with it so that nothing else takes its place


def head(noise=0.1, *, beta=1.0, solver=None):
    return gr.Exact(
        gr.Matern52(lengthscale=[1.5] * 3, outputscale=1.3), noise=noise, mean=0.1, beta=beta, solver=solver
    )


def unseen(data, rows):
    weights = data.train.weights.clone()
    weights[rows] = 0.0
    return data.with_train(weights=weights)


def truth(head, data):
    """W by a double loop over the textbook formula, from kernel entries in float64 and all else in 40 digits."""
    key = (float(head.noise), head.beta, id(data))
    if key not in KNOWN:
        KNOWN[key] = (_truth(head, data), data)
    return KNOWN[key][0]


def _truth(head, data, digits=40):
    train = data.train
    k = head.kernel.matrix(train.x.double()).detach()
    noise = row_noise(data, head.noise.detach().double()).expand(len(train)).tolist()
    with mpmath.workdps(digits):
        keep = [i for i, w in enumerate(train.weights.tolist()) if w > 0]
        prior = mpmath.matrix(k.tolist())
        some = mpmath.matrix([[prior[i, j] for j in keep] for i in keep])
        for a, i in enumerate(keep):
            some[a, a] += mpmath.mpf(noise[i]) / (mpmath.mpf(head.beta) * mpmath.mpf(float(train.weights[i])))
        across = mpmath.matrix([[prior[i, j] for j in range(len(train))] for i in keep])
        inverse = some**-1
        cov = prior - across.T * inverse * across
        mean = mpmath.mpf(float(head.prior_mean))
        left = mpmath.matrix([mpmath.mpf(float(train.y[i])) - mean for i in keep])
        residual = mpmath.matrix([mpmath.mpf(float(y)) - mean for y in train.y]) - across.T * (inverse * left)
        found = torch.empty(len(train), len(train), dtype=torch.float64)
        for i in range(len(train)):
            for j in range(len(train)):
                both = mpmath.mpf(noise[i]) * mpmath.mpf(noise[j])
                found[i, j] = float(residual[i] * residual[j] * cov[i, j] / both + cov[i, j] ** 2 / (2 * both))
    return found


__all__ = ["example_data", "head", "truth", "unseen"]
