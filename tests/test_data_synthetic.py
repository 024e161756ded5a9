"""Fields with known truth: the noise and the covariance are what was asked for."""

import math

import pytest
import torch

from gp_response.data import synthetic
from gp_response.errors import InputError

PROFILES = {
    "rbf": lambda r: (-0.5 * r**2).exp(),
    "matern12": lambda r: (-r).exp(),
    "matern32": lambda r: (1 + math.sqrt(3) * r) * (-math.sqrt(3) * r).exp(),
    "matern52": lambda r: (1 + math.sqrt(5) * r + 5 * r**2 / 3) * (-math.sqrt(5) * r).exp(),
}


@pytest.mark.parametrize("kernel", PROFILES)
@pytest.mark.parametrize("dim", [1, 3])
def test_the_covariance_is_the_kernel(kernel, dim):
    features = 40_000
    _, field = synthetic(2, dim, lengthscale=0.4, outputscale=1.7, kernel=kernel, features=features, seed=1)
    x = torch.rand(30, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = 1.7 * PROFILES[kernel](torch.cdist(x, x) / 0.4)
    # A mean of `features` terms 2 cos cos, each of variance at most 1.5.
    assert (field.covariance(x, x) - expected).abs().max() < 1.7 * 4.5 * math.sqrt(1.5 / features)


def test_the_function_is_a_draw_with_that_covariance():
    x = torch.tensor([[0.1], [0.2], [0.5]], dtype=torch.float64)
    draws = torch.stack([synthetic(1, 1, outputscale=2.0, features=256, seed=s)[1](x) for s in range(1000)])
    expected = 2.0 * PROFILES["rbf"](torch.cdist(x, x) / 0.3)
    assert draws.mean(0).abs().max() < 5 * math.sqrt(2.0 / 1000)
    assert (draws.T @ draws / 1000 - expected).abs().max() < 5 * 2.0 * math.sqrt(2.0 / 1000)


def test_targets_are_the_truth_plus_noise_of_the_variance_asked_for():
    data, truth = synthetic(20_000, 2, noise=0.04, test=1000, seed=3)
    errors = data.train.y - truth(data.train.x)
    assert abs(float(errors.var()) / 0.04 - 1) < 5 * math.sqrt(2 / 20_000)
    assert abs(float(errors.mean())) < 0.007
    assert abs(float((data.test.y - truth(data.test.x)).var()) / 0.04 - 1) < 5 * math.sqrt(2 / 1000)
    assert float(data.train.x.min()) >= 0
    assert float(data.train.x.max()) <= 1
    quiet, truth = synthetic(50, noise=0.0)
    assert torch.allclose(quiet.train.y, truth(quiet.train.x), rtol=1e-12, atol=1e-13)


def test_the_seed_fixes_everything_and_n_does_not_change_the_function():
    x = torch.rand(7, 2, dtype=torch.float64)
    (first, f), (same, _), (_, g) = synthetic(30, seed=4), synthetic(30, seed=4), synthetic(300, test=7, seed=4)
    assert first.fingerprint() == same.fingerprint() != synthetic(30, seed=5)[0].fingerprint()
    assert torch.equal(f(x), g(x))
    assert not torch.allclose(f(x), synthetic(30, seed=5)[1](x))


def test_the_truth_is_differentiable_and_follows_the_dtype():
    data, truth = synthetic(10, 3, test=2, dtype=torch.float32)
    assert data.train.x.dtype == truth(data.train.x).dtype == torch.float32
    assert len(data.test) == 2
    gradient = torch.func.vmap(torch.func.grad(lambda x: truth(x[None])[0]))(data.train.x.double())
    step = torch.zeros(3, dtype=torch.float64)
    step[1] = 1e-6
    x = data.train.x.double()
    assert torch.allclose(gradient[:, 1], (truth(x + step) - truth(x - step)) / 2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n=0; expected a whole number, at least 1"),
        ({"dim": 0}, "dim=0"),
        ({"test": -1}, "test=-1; expected a whole number, at least 0"),
        ({"features": 0}, "features=0"),
        ({"lengthscale": 0.0}, "lengthscale=0.0; expected a positive number"),
        ({"outputscale": float("nan")}, "outputscale=nan"),
        ({"noise": -1.0}, "noise=-1.0; expected a variance, 0 or more"),
        ({"kernel": "matern42"}, "unknown kernel 'matern42'; did you mean"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(options, words):
    with pytest.raises(InputError) as error:
        synthetic(**options)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1
