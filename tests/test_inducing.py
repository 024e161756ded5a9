"""Inducing points: greedy against a dense reference, on real data, with repeats, weights and deep kernels."""

import random

import gpytorch
import numpy as np
import pytest
import torch
from refusals import assert_refused
from torch import nn

from gp_response.data import load
from gp_response.errors import InputError
from gp_response.features import MLP
from gp_response.heads import choose_inducing, split_features
from gp_response.kernels import RBF, Matern32, Matern52, Scale
from gp_response.kernels.on import On

METHODS = ["greedy", "pivoted", "kmeans", "random"]


def points(n=60, dim=3, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def residual_trace(kernel, x, z):
    """tr(K - K_xz K_zz⁻¹ K_zx) / tr K, densely."""
    with torch.no_grad():
        lower = torch.linalg.cholesky(kernel.matrix(z) + 1e-10 * torch.eye(len(z)).to(z))
        explained = torch.linalg.solve_triangular(lower, kernel.matrix(z, x), upper=False).square().sum()
        total = kernel.diagonal(x).sum()
    return float((total - explained) / total)


def dense_pivots(matrix, count):
    """Pivots by eliminating the largest diagonal of the whole Schur complement."""
    rest, pivots = matrix.clone(), []
    for _ in range(count):
        at = int(rest.diagonal().argmax())
        pivots.append(at)
        rest = rest - torch.outer(rest[:, at], rest[at]) / rest[at, at]
    return pivots


@pytest.mark.parametrize("kernel", [RBF(lengthscale=0.7), Matern32(lengthscale=[0.5, 1.0, 2.0]) * 3.0], ids=str)
def test_greedy_takes_the_pivots_of_a_dense_pivoted_cholesky(kernel):
    x = points()
    x = x * (1.0 + 0.01 * torch.arange(len(x)))[:, None]
    with torch.no_grad():
        expected = dense_pivots(kernel.matrix(x), 20)
    assert torch.equal(choose_inducing(kernel, x, 20), x[expected])


def test_greedy_with_weights_takes_the_pivots_of_the_weighted_matrix():
    kernel, x = Matern52(lengthscale=0.8), points()
    w = torch.rand(len(x), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w[::3] = 0.0
    with torch.no_grad():
        expected = dense_pivots(w.sqrt()[:, None] * kernel.matrix(x) * w.sqrt(), 15)
    assert torch.equal(choose_inducing(kernel, x, 15, weights=w), x[expected])


def test_each_greedy_point_has_the_largest_variance_given_those_before():
    kernel, x = RBF(), points(40)
    z = choose_inducing(kernel, x, 8)
    for m in range(1, 8):
        with torch.no_grad():
            cross, inner = kernel.matrix(x, z[:m]), kernel.matrix(z[:m])
            variance = kernel.diagonal(x) - (cross @ torch.linalg.inv(inner) * cross).sum(1)
        assert torch.equal(x[int(variance.argmax())], z[m])


@pytest.mark.parametrize(
    ("kernel", "count", "better"),
    [(RBF(lengthscale=6.0), 256, 0.6), (RBF(lengthscale=6.0), 512, 0.1), (Matern32(lengthscale=10.0), 512, 0.7)],
    ids=["RBF 256", "RBF 512", "Matern 512"],
)
def test_on_real_weather_greedy_explains_more_than_random_rows(weather, kernel, count, better):
    greedy = residual_trace(kernel, weather, choose_inducing(kernel, weather, count))
    assert greedy < better * min(random_traces(kernel, weather, count))


@pytest.mark.parametrize("kernel", [RBF(lengthscale=6.0), RBF(lengthscale=3.0), Matern32(lengthscale=3.0)], ids=str)
@pytest.mark.parametrize("count", [16, 64, 256])
def test_on_real_weather_random_pivots_explain_more_than_random_rows(weather, kernel, count):
    found = [
        residual_trace(kernel, weather, choose_inducing(kernel, weather, count, method="pivoted", seed=s))
        for s in (0, 1, 2)
    ]
    assert np.mean(found) < np.mean(random_traces(kernel, weather, count))


def random_traces(kernel, x, count):
    return [residual_trace(kernel, x, choose_inducing(kernel, x, count, method="random", seed=s)) for s in (0, 1, 2)]


@pytest.fixture(scope="module")
def weather():
    return load("weather", n=2000).train.x


def test_random_pivots_are_drawn_by_the_variance_left():
    x = points(6, 2)
    with torch.no_grad():
        k = RBF().matrix(x)
        pairs = torch.zeros(6, 6, dtype=torch.float64)
        for i in range(6):
            left = (k.diagonal() - k[:, i] ** 2).clamp_min(0)
            pairs[i] = left / left.sum() / 6
    hits = torch.zeros_like(pairs)
    for seed in range(1500):
        i, j = ((x == row).all(1).nonzero().item() for row in choose_inducing(RBF(), x, 2, method="pivoted", seed=seed))
        hits[i, j] += 1 / 1500
    assert (hits - pairs).abs().max() < 5 * (float(pairs.max()) / 1500) ** 0.5


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_and_no_global_generator_is_read_or_moved(method):
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    x, before = points(300), states()
    first, again, other = (choose_inducing(RBF(), x, 20, method=method, seed=seed, subset=100) for seed in (0, 0, 1))
    assert states() == before
    assert first.shape == (20, 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    np.random.seed(9)  # noqa: NPY002
    assert torch.equal(choose_inducing(RBF(), x, 20, method=method, subset=100), first)


@pytest.mark.parametrize("method", ["greedy", "pivoted", "random"])
def test_repeated_rows_give_no_repeated_points(method):
    x = points(12).repeat(30, 1)
    z = choose_inducing(Matern32(), x, 12, method=method)
    assert len(z.unique(dim=0)) == len(z) == 12
    assert len(choose_inducing(Matern32(), x, 40, method=method)) == 12


def test_centres_of_repeated_rows_are_as_many_as_there_are_rows():
    assert len(choose_inducing(RBF(), points(5).repeat(20, 1), 30, method="kmeans")) == 5


def test_greedy_stops_where_nothing_is_left_to_explain():
    x = torch.linspace(0, 1, 400, dtype=torch.float64)[:, None]
    z = choose_inducing(RBF(lengthscale=2.0), x, 100)
    assert len(z) < 15
    assert residual_trace(RBF(lengthscale=2.0), x, z) < 1e-9


def test_rows_of_weight_zero_are_never_taken():
    x = points(100)
    w = (torch.arange(100) < 30).double()
    allowed = {tuple(row) for row in x[:30].tolist()}
    for method in ("greedy", "pivoted", "random"):
        assert {tuple(row) for row in choose_inducing(RBF(), x, 25, method=method, weights=w).tolist()} <= allowed


def test_random_rows_follow_their_weights():
    x, w = points(50), torch.arange(50.0, dtype=torch.float64)
    hits = sum(
        (x == choose_inducing(RBF(), x, 1, method="random", weights=w, seed=s)).all(1).double() for s in range(2000)
    )
    expected = w / w.sum()
    assert torch.allclose(hits / 2000, expected, atol=float(5 * (expected.max() / 2000).sqrt()))


def test_kmeans_puts_one_centre_into_each_of_separate_clusters():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], dtype=torch.float64)
    x = (centres[:, None] + 0.1 * points(200, 2)).reshape(-1, 2)
    z = choose_inducing(RBF(), x, 3, method="kmeans")
    assert torch.cdist(centres, z).amin(1).max() < 0.1
    heavy = torch.ones(600).double()
    heavy[:200] = 1e-9
    assert torch.cdist(centres, choose_inducing(RBF(), x, 2, method="kmeans", weights=heavy)).amin(1)[1:].max() < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_points_keep_the_dtype_of_the_data(method):
    assert choose_inducing(RBF(), points().float(), 5, method=method).dtype == torch.float32


def test_greedy_looks_at_the_subset_alone():
    x = points(5000)
    calls = []
    kernel = RBF()
    kernel.diagonal = lambda z: calls.append(len(z)) or RBF().diagonal(z)
    choose_inducing(kernel, x, 10, subset=200)
    assert calls == [200]


NET = MLP(3, [6, 2])
SPLITS = {
    "on": lambda: Matern32().on(NET),
    "factor outside": lambda: 2.5 * Matern32().on(NET),
    "two factors": lambda: (Matern32(outputscale=0.5).on(NET) * 2.5) * 3.0,
    "own factor": lambda: On(Matern32(), NET, outputscale=1.7),
    "chained": lambda: (RBF().on(nn.Tanh()) * 1.3).on(NET),
    "gpytorch inside": lambda: Scale(On(gpytorch.kernels.RQKernel(), NET)),
}


@pytest.mark.parametrize("case", SPLITS)
def test_a_deep_kernel_is_its_base_on_its_features(case):
    kernel, x = SPLITS[case](), points()
    base, features = split_features(kernel)
    with torch.no_grad():
        z = features(x)
        assert torch.allclose(base.matrix(z), kernel.matrix(x), rtol=1e-12)
    assert split_features(base) == (base, None)
    chosen = choose_inducing(kernel, x, 7)
    assert torch.equal(chosen, choose_inducing(base, z, 7))
    assert chosen.shape == (7, 2)


def test_a_factor_moved_inside_is_the_same_parameter_with_its_prior():
    kernel = Scale(RBF().on(NET), outputscale=2.0, outputscale_prior=gpytorch.priors.GammaPrior(2.0, 1.0))
    base, _ = split_features(kernel)
    base.matrix(points(5, 2)).sum().backward()
    assert float(kernel.raw_outputscale.grad) != 0.0
    base.outputscale = 3.5
    assert float(kernel.outputscale.detach()) == pytest.approx(3.5)
    assert len(list(base.named_priors())) == len(list(kernel.named_priors())) == 1
    assert {id(p) for p in base.parameters()} < {id(p) for p in kernel.parameters()}


@pytest.mark.parametrize(
    "kernel", [RBF(), 2.0 * RBF(), RBF().on(NET) + Matern32().on(NET), RBF().on(NET) * RBF()], ids=["k", "2k", "+", "*"]
)
def test_kernels_without_one_set_of_features_are_left_whole(kernel):
    assert split_features(kernel) == (kernel, None)
    assert choose_inducing(kernel, points(), 6).shape == (6, 3)


def test_features_after_a_choice_of_columns_are_left_whole():
    kernel = On(RBF(), MLP(2, [2]), active_dims=[0, 2])
    assert split_features(kernel) == (kernel, None)
    assert choose_inducing(kernel, points(), 6).shape == (6, 3)


X = points()
BAD = {
    "method": (lambda: choose_inducing(RBF(), X, 3, method="kmean"), "did you mean 'kmeans'"),
    "kernel": (lambda: choose_inducing("rbf", X, 3), "kernel of type str"),
    "flat": (lambda: choose_inducing(RBF(), X[:, 0], 3), "expected a floating tensor (n, d)"),
    "whole": (lambda: choose_inducing(RBF(), X.long(), 3), "int64"),
    "array": (lambda: choose_inducing(RBF(), X.numpy(), 3), "ndarray"),
    "nan": (lambda: choose_inducing(RBF(), X * float("nan"), 3), "not all finite"),
    "none": (lambda: choose_inducing(RBF(), X, 0), "count=0"),
    "half": (lambda: choose_inducing(RBF(), X, 1.5), "count=1.5"),
    "many": (lambda: choose_inducing(RBF(), X, 61), "only 60 points"),
    "subset": (lambda: choose_inducing(RBF(), X, 3, subset=0), "subset=0"),
    "short weights": (lambda: choose_inducing(RBF(), X, 3, weights=torch.ones(59)), "expected (60,)"),
    "negative weights": (lambda: choose_inducing(RBF(), X, 3, weights=-torch.ones(60)), "not negative"),
    "no weight": (lambda: choose_inducing(RBF(), X, 3, weights=torch.zeros(60)), "not all zero"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_line(case):
    function, message = BAD[case]
    assert_refused(function, message, error=InputError)
