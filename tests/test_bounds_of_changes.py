"""Bounds of finite changes hold where errors are as large as what they are errors of, and where a change is far or tiny."""

import math

import pytest
import torch

import gp_response as gr
from gp_response.response.certified_expectation import certified_expectation

SMALL = 1e-6
X = torch.tensor([[0.1, 0.2], [1.0, -0.5]], dtype=torch.float64)
Y = torch.tensor([0.3, -0.2], dtype=torch.float64)


def pairs(n, count, seed=0, noise=SMALL):
    """n rows of which the first `count` are there twice, with labels that differ by more than the noise."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=g, dtype=torch.float64)
    x = torch.cat([x, x[:count]])
    y = torch.sin(2.0 * x[:, 0]) + 0.3 * x[:, 1] ** 2 + 0.1 * torch.randn(n + count, generator=g, dtype=torch.float64)
    return gr.dataset(x, y, standardise=False)


def head(solver=None, noise=SMALL):
    return gr.Exact(gr.RBF(ard=2, lengthscale=[0.8, 1.04], outputscale=1.2), noise=noise, mean=0.1, solver=solver)


def covers(change, truth, room=0.0):
    return bool(((change.matrix - truth).abs() <= change.error + room).all())


LOOSE = {
    "gone": (gr.delete([13]), 1.0),
    "half": (gr.reweight([3]), -0.5),
    "pair": (gr.delete([0, 24]), 1.0),
    "less noise": (gr.noise(), -0.99 * SMALL),
}


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6])
@pytest.mark.parametrize("name", LOOSE)
@pytest.mark.parametrize(
    "observable", [gr.loss(X, Y), gr.evidence(), gr.learning_coefficient()], ids=["loss", "evidence", "lc"]
)
def test_bounds_hold_where_solves_say_little(tolerance, name, observable):
    """A pivot known to its own size only: the logarithm and the squares of its error count."""
    data, (perturbation, h) = pairs(24, 12, seed=1), LOOSE[name]
    truth = gr.refit_response(head(), data, observable, perturbation, h=h).matrix
    try:
        change = gr.finite_response(head(gr.CG(tolerance=tolerance)).condition(data), observable, perturbation, h=h)
    except gr.SolverError:  # so little is known that the change seems impossible: an error, never a wrong number
        return
    assert covers(change, truth, 1e-5 * float(truth.abs().max()))
    if bool(change.error.isinf().any()):
        assert not change.converged


@pytest.mark.parametrize(
    "observable", [gr.value(X), gr.variance(X), gr.evidence()], ids=["value", "variance", "evidence"]
)
def test_a_change_of_all_noise_at_duplicates_has_a_bound(observable):
    """`1 - T` is small in every direction of 200 rows: its inverse is bounded by its norm, not by its trace."""
    data = pairs(150, 50)
    change = gr.finite_response(head().condition(data), observable, gr.noise(), h=1e-3)
    truth = gr.refit_response(head(), data, observable, gr.noise(), h=1e-3).matrix
    size = float(truth.abs().max())
    assert change.converged
    assert float(change.error.max()) < size
    assert covers(change, truth, 1e-8 * size)


def test_a_tiny_change_of_a_large_function_is_bounded_by_its_rounding():
    """E sin(f) = exp(-v/2) sin m; the difference is written without subtracting nearly equal numbers."""
    posterior = head(noise=0.01).condition(pairs(20, 6, noise=0.01))
    moved = gr.finite_response(posterior, gr.value(X), gr.relabel([3]), h=1e-6).matrix[:, 0]
    mean, variance = posterior.mean(X), posterior.variance(X)
    truth = (-0.5 * variance).exp() * 2.0 * torch.cos(mean + 0.5 * moved) * torch.sin(0.5 * moved)
    for far in (0.0, 1e8):
        change = gr.finite_response(posterior, gr.pointwise(X, lambda f, c=far: c + f.sin()), gr.relabel([3]), h=1e-6)
        assert covers(change, truth[:, None])
        assert float(change.error.max()) < 1e-12 * max(1.0, far)


def test_an_expectation_that_cancels_is_bounded_by_the_terms_it_is_the_sum_of():
    """E sin(cf) = exp(-c²v/2) sin cm, of values of size one."""
    posterior = head(noise=0.01).condition(pairs(20, 6, noise=0.01))
    fast = 12.0 / posterior.variance(X).sqrt().min()
    found = certified_expectation(posterior, gr.pointwise(X, lambda f: (fast * f).sin()))
    truth = (-0.5 * fast**2 * posterior.variance(X)).exp() * (fast * posterior.mean(X)).sin()
    assert float(truth.abs().max()) < 1e-30
    assert bool(((found.value - truth).abs() <= found.error).all())
    assert float(found.error.max()) < 1e-12


def test_a_function_is_bounded_by_its_slope_where_the_field_goes():
    """A bump that the field is far from, and then on the flank of: E = w/s exp(-(m - c)²/2s²), s² = w² + v."""
    posterior = head(noise=0.01).condition(pairs(20, 6))
    x = posterior.data.train.x[3:4]
    width, at = 0.3, float(posterior.mean(x)) + 5.0

    def bump(mean, variance):
        spread = width**2 + variance
        return width / spread.sqrt() * (-0.5 * (mean - at) ** 2 / spread).exp()

    mean, variance = posterior.mean(x), posterior.variance(x)
    moved = gr.finite_response(posterior, gr.value(x), gr.relabel([3]), h=10.0)
    truth = bump(mean + moved.matrix[:, 0], variance) - bump(mean, variance)
    asked = gr.pointwise(x, lambda f: (-0.5 * ((f - at) / width) ** 2).exp())
    change = gr.finite_response(posterior, asked, gr.relabel([3]), h=10.0)
    slope = float(truth) * 5.0 / width**2
    assert covers(change, truth[:, None])
    assert float(moved.error) * 1e-3 * slope < float(change.error) < 1e-8 * float(truth)


V = torch.tensor([0.3, -0.7], dtype=torch.float64)
NEW = torch.tensor([[0.3, 0.3], [0.1, -1.7]], dtype=torch.float64)
MOVES = {
    "shift": (gr.shift_inputs(V, [[0, 5]]), 0.1),
    "insert": (gr.insert(NEW, Y), 1.0),
    "mixture": (gr.mixture(gr.dataset(NEW, Y, standardise=False)), 0.3),
    "delete": (gr.delete([0, 24]), 1.0),
}


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("make", [head, lambda noise: gr.SGPR(head().kernel, 12, noise=noise)], ids=["exact", "sgpr"])
def test_single_precision_of_the_data_rounds_neither_points_nor_directions(name, make):
    """The truth is the answer in float64 from the same rows, and from points and directions as they were given."""
    short = pairs(24, 12).to(dtype=torch.float32)
    perturbation, h = MOVES[name]
    model = make(noise=0.01)
    posteriors = [model.condition(data) for data in (short, short.to(dtype=torch.float64))]
    for observable in (gr.value(X), gr.loss(X, Y), gr.variance(X), gr.evidence()):
        if make is not head:  # whose bounds say less
            pair = [gr.finite_response(p, observable, perturbation, h=h).matrix.double() for p in posteriors]
            assert float((pair[0] - pair[1]).abs().max()) < 1e-7 * float(pair[1].abs().max())
            continue
        change, truth = (gr.finite_response(p, observable, perturbation, h=h) for p in posteriors)
        assert change.matrix.dtype == torch.float32
        assert covers(change, truth.matrix, float(truth.error.max()))
        assert float(change.error.max()) < 1e-5 * float(truth.matrix.abs().max())
        if name == "shift":
            slope, exact = (gr.susceptibility(p, observable, perturbation) for p in posteriors)
            assert covers(slope, exact.matrix, float(exact.error.max()))


def test_numbers_in_lists_are_python_s():
    posterior = head(noise=0.01).condition(pairs(24, 12))
    a, b = ([row.tolist() for row in X], Y.tolist())
    for asked, same in (
        (gr.value(a), gr.value(X)),
        (gr.loss(a, b), gr.loss(X, Y)),
        (gr.average(a, b), gr.average(X, Y)),
    ):
        assert torch.equal(*(gr.susceptibility(posterior, o, gr.insert(a, b)).matrix for o in (asked, same)))
    assert math.isclose(float(gr.value(a).points[0, 0]), 0.1, rel_tol=0.0, abs_tol=0.0)


@pytest.mark.parametrize("steep", [1.0, 5.0, 10.0])
def test_a_response_whose_terms_cancel_is_bounded_by_their_rounding(steep):
    """E sin(kf) = exp(-k²v/2) sin(km): far below the sizes of the terms that it is the sum of."""
    posterior = head(noise=0.01).condition(pairs(20, 6))
    x = torch.tensor([[3.0, 3.0], [0.1, 0.2]], dtype=torch.float64)
    mean, variance = posterior.mean(x), posterior.variance(x)
    by_mean, by_variance = (
        gr.susceptibility(posterior, ask(x), gr.reweight([3])).matrix[:, 0] for ask in (gr.value, gr.variance)
    )
    decay = (-0.5 * steep**2 * variance).exp()
    slope, bend = steep * decay * torch.cos(steep * mean), -0.5 * steep**2 * decay * torch.sin(steep * mean)
    truth = slope * by_mean + bend * by_variance
    chi = gr.susceptibility(posterior, gr.pointwise(x, lambda f: torch.sin(steep * f)), gr.reweight([3]))
    assert covers(chi, truth[:, None])
    assert bool((chi.error[:, 0] < 1e-6 * steep * (by_mean.abs() + by_variance.abs())).all())
