"""Data, kernels and questions that tests of sparse heads share."""

import torch

import gp_response as gr
from gp_response.testing import example_data

DATA = example_data()
X, Y = DATA.test.x, DATA.test.y
LIKELIHOODS = [gr.Gaussian(0.2), gr.Bernoulli(), gr.Poisson(), gr.StudentT(0.05, 3.0)]


def matern(outputscale=1.3):
    return gr.Matern52(lengthscale=[1.5] * 3, outputscale=outputscale)


def observables(data):
    x, y = data.test.x, data.test.y
    return [gr.value(x), gr.variance(x), gr.loss(x, y), gr.pointwise(x, torch.sigmoid), gr.contrast(x, x.flip(0) + 0.1)]


def perturbations(data, *, discrete=False):
    x, y = data.test.x, data.test.y
    found = [
        gr.reweight([3, 5, 8]),
        gr.delete([3, 17, 20]),
        gr.insert(x[:2] + 0.2, y[:2], each=True),
        gr.insert(x[:2] + 0.2, y[:2]),
    ]
    return found if discrete else [*found, gr.relabel([2, 4])]


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


__all__ = ["DATA", "LIKELIHOODS", "X", "Y", "matern", "observables", "perturbations", "relative"]
