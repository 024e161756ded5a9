"""Second order beyond energies that are linear in h at rows: noise, shifts of inputs, mixtures; against whole refits."""

import math

import pytest
import torch
from refusals import assert_refused
from sparse_cases import relative

import gp_response as gr
from gp_response.testing import example_data, example_head

DATA = example_data(known_noise=True)
X, Y = DATA.test.x, DATA.test.y
OTHER = gr.dataset(X + 0.2, Y, standardise=False)
WAY = [0.3, -0.5, 0.2]
OBSERVABLES = {
    "value": gr.value(X), "loss": gr.loss(X, Y), "variance": gr.variance(X), "pointwise": gr.pointwise(X, torch.sigmoid),
    "average": gr.average(X), "gradient": gr.gradient(X),
}  # fmt: skip
CHANGES = {
    "noise": gr.noise(),
    "noise of rows": gr.noise([0, 1, 5, 20]),
    "noise of groups that share rows": gr.noise({"a": [0, 2, 5], "b": [1, 7, 2], "c": [9]}),
    "shifts": gr.shift_inputs(WAY, [0, 1, 2, 6]),
    "shifts of groups that share rows": gr.shift_inputs(WAY, {"a": [0, 2, 5], "b": [1, 7, 2]}),
    "shifts of groups": gr.shift_inputs(1, {"a": [0, 3], "b": [4, 7, 2]}),
    "temperature": gr.temperature(),
}


def refitted(head, data, observable, change):
    def at(h):
        if change.changes_head:
            return gr.response.expectation(change.changed_head(head, float(h[0])).condition(data), observable)
        return gr.response.expectation(head.condition(change.apply(data, h)), observable)

    return at


def differences(head, data, observable, change, step):
    """Central second differences of refits at two steps, and from both what is left of the square of the step, (m, c, c)."""
    f, c = refitted(head, data, observable, change), len(change.columns(data))
    e = torch.eye(c, dtype=torch.float64)

    def entry(j, k, s):
        a, b = s * e[j], s * e[k]
        return (f(a + b) - f(a - b) - f(b - a) + f(-a - b)) / (4.0 * s**2)

    def every(s):
        upper = {(j, k): entry(j, k, s) for j in range(c) for k in range(j, c)}
        return torch.stack([torch.stack([upper[min(j, k), max(j, k)] for k in range(c)], -1) for j in range(c)], -2)

    return (4.0 * every(step) - every(2.0 * step)) / 3.0


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("asked", OBSERVABLES)
def test_second_derivatives_are_second_differences_of_refits(asked, change, beta):
    """On rows that are equal and nearly so, with weights and known noise. What differences leave is below 1e-6: steps of 2e-3 of
    scales of order one, to the fourth power, and 1e-16/step² of rounding."""
    head = example_head(beta=beta)
    found = gr.second_response(head.condition(DATA), OBSERVABLES[asked], CHANGES[change])
    truth = differences(head, DATA, OBSERVABLES[asked], CHANGES[change], 2e-3)
    assert relative(found.matrix, truth) < 5e-6
    assert torch.equal(found.matrix, found.matrix.transpose(1, 2))
    assert found.converged
    assert float(found.error.max()) < 1e-8 * float(truth.abs().max())


@pytest.mark.parametrize("asked", ["value", "loss", "variance"])
def test_mixtures_bend_as_the_exact_change_does_on_both_sides(asked):
    """The exact change, which is that of a refit, goes on to fractions below zero, where no refit does."""
    posterior, change, observable = example_head().condition(DATA), gr.mixture(OTHER), OBSERVABLES[asked]
    refit = gr.refit_response(example_head(), DATA, observable, change, h=0.3).matrix
    assert torch.allclose(gr.finite_response(posterior, observable, change, h=0.3).matrix, refit, atol=1e-9)
    found = gr.second_response(posterior, observable, change).matrix[:, :, 0]

    def bend(step):
        return sum(gr.finite_response(posterior, observable, change, h=s * step).matrix for s in (1, -1)) / step**2

    assert relative(found, (4.0 * bend(5e-4) - bend(1e-3)) / 3.0) < 1e-5


def test_a_field_with_rough_slopes_bends_as_its_refits_do():
    """A Matern-3/2 field has slopes and no bends of its own: the second derivative of a refit exists all the same."""
    head = gr.Exact(gr.Matern32(lengthscale=1.3, outputscale=1.2), noise=0.2)
    data = example_data(n=30)
    x, change = data.test.x, gr.shift_inputs(WAY, [0, 5, 9])
    found = gr.second_response(head.condition(data), gr.value(x), change)
    off = [float((differences(head, data, gr.value(x), change, s) - found.matrix).abs().max()) for s in (4e-3, 1e-3)]
    assert off[1] < 2e-3 * float(found.matrix.abs().max())
    assert off[1] < 0.4 * off[0]  # where rows coincide differences are off by their step


@pytest.mark.parametrize("solver", [gr.Cholesky(), gr.CG(tolerance=1e-10)])
@pytest.mark.parametrize(
    "change", [gr.noise(), gr.noise([0, 1, 7]), gr.shift_inputs([0.3, -0.5], [0, 1, 7])], ids=["noise", "rows", "shift"]
)
def test_solvers_agree_at_nine_hundred_rows_within_their_bounds(change, solver):
    data = example_data(n=900, dim=2)
    x, y = data.test.x, data.test.y

    def found(solver):
        head = gr.Exact(gr.Matern52(lengthscale=1.2, outputscale=1.5), noise=0.05, solver=solver)
        return gr.second_response(head.condition(data), gr.loss(x, y), change)

    got, dense = found(solver), dense_hessian(data, gr.loss(x, y), change)
    size = float(dense.abs().max())
    assert float((got.matrix - dense).abs().max()) < 1e-5 * size
    assert got.converged


def dense_hessian(data, observable, change):
    head = gr.Exact(gr.Matern52(lengthscale=1.2, outputscale=1.5), noise=0.05, solver=gr.Cholesky())
    return differences(head, data, observable, change, 4e-4)


@pytest.mark.parametrize("noise", [1e-1, 1e-3])
@pytest.mark.parametrize("kind", ["noise", "rows", "shift"])
def test_bounds_cover_float32(kind, noise):
    """Against float64 on the same rounded numbers, whose own bounds are counted in."""
    single = example_data(n=200, dim=2, dtype=torch.float32)
    double = single.to(dtype=torch.float64)
    change = {"noise": gr.noise(), "rows": gr.noise([0, 1, 7]), "shift": gr.shift_inputs([0.25, -0.5], [0, 1, 7])}[kind]
    head = gr.Exact(gr.Matern52(lengthscale=1.2, outputscale=1.5), noise=noise)
    got = gr.second_response(head.condition(single), gr.value(single.test.x), change)
    truth = gr.second_response(head.condition(double), gr.value(double.test.x), change)
    assert got.matrix.dtype == torch.float32
    assert bool(((got.matrix.double() - truth.matrix).abs() <= got.error.double() + truth.error).all())
    assert got.error.isfinite().all()
    # Far from the error there is (1e-8 against float32), as bends are not solved for; enough to say it is no empty bound.
    assert float(truth.error.max()) < 1e-4 * float(truth.matrix.abs().max())


@pytest.mark.parametrize("change", ["noise", "noise of groups that share rows", "shifts", "temperature"])
def test_sparse_heads_bend_as_their_refits_do(change):
    data = example_data()
    head = gr.SGPR(gr.Matern52(lengthscale=[1.5] * 3, outputscale=1.3), data.train.x[4:16].clone(), 0.2)
    for observable in (gr.value(X), gr.loss(X, Y)):
        found = gr.second_response(head.condition(data), observable, CHANGES[change])
        truth = differences(head, data, observable, CHANGES[change], 4e-3)
        assert relative(found.matrix, truth) < 5e-5


@pytest.mark.parametrize("change", ["noise", "noise of rows", "shifts"])
def test_a_prediction_of_second_order_leaves_a_cubic_rest(change):
    posterior, change = example_head().condition(DATA), CHANGES[change]
    off = {}
    for order, h in ((order, h) for order in ("first", "second") for h in (0.01, 0.005)):
        exact = gr.finite_response(posterior, gr.loss(X, Y), change, h=h)
        off[order, h] = float((gr.predict_change(posterior, gr.loss(X, Y), change, h=h, order=order) - exact).norm())
    assert off["first", 0.01] / off["first", 0.005] == pytest.approx(4.0, rel=0.15)
    assert off["second", 0.01] / off["second", 0.005] == pytest.approx(8.0, rel=0.15)


def test_leverages_of_noise_are_exact_for_single_rows():
    posterior, change = example_head().condition(DATA), gr.noise([0, 5, 9])
    exact = gr.finite_response(posterior, gr.loss(X, Y), change, h=0.3)
    leverage = gr.predict_change(posterior, gr.loss(X, Y), change, h=0.3, order="leverage")
    assert torch.allclose(leverage.matrix, exact.matrix, rtol=1e-11)


REGIMES = {
    "noise": (gr.noise(), 0.3), "noise of rows": (gr.noise([0, 1, 7]), 0.2), "groups": (gr.noise([[0, 2, 5], [1, 7]]), -0.1),
    "mixture": (gr.mixture(OTHER), 0.4),
}  # fmt: skip


@pytest.mark.parametrize("asked", ["loss", "variance", "average"])
@pytest.mark.parametrize("case", REGIMES)
def test_regimes_know_the_exact_change_and_where_predictions_leave_it(case, asked):
    posterior, (change, h), observable = example_head().condition(DATA), REGIMES[case], OBSERVABLES[asked]
    found = gr.regime(posterior, observable, change, tolerance=0.05, h=h)
    exact = gr.finite_response(posterior, observable, change, h=h).matrix
    size = float(exact.abs().max())
    assert float((found.exact - exact).abs().max()) < 1e-9 * size
    for order in ("first", "second"):
        predicted = gr.predict_change(posterior, observable, change, h=h, order=order).matrix
        assert float((getattr(found, f"{order}_change") - predicted).abs().max()) < 1e-9 * float(predicted.abs().max())
        sizes, last = getattr(found, order)[0, 0, 1], getattr(found, f"exact_at_{order}")[0, 0, 1]
        if not math.isfinite(float(last)):
            continue
        off = []
        for factor in (1.0 - 1e-4, 1.0 + 1e-4):
            truth = gr.finite_response(posterior, observable, change, h=float(sizes) * factor).matrix[0, 0]
            guess = gr.predict_change(posterior, observable, change, h=float(sizes) * factor, order=order).matrix[0, 0]
            off.append(float((guess - truth).abs() / truth.abs()))
        assert off[0] <= 0.05 < off[1]


def test_regimes_of_noise_end_where_variances_do():
    posterior = example_head().condition(DATA)
    rows = gr.regime(posterior, gr.value(X), gr.noise([0, 7]), h=-0.1)
    assert torch.allclose(rows.limits[:, 0], -posterior.row_noise[[0, 7]])
    assert float(gr.regime(posterior, gr.value(X), gr.noise()).limits[0, 0]) == pytest.approx(-float(posterior.noise))


BAD = {
    "hyperparameters": (
        lambda: gr.second_response(example_head().condition(DATA), gr.value(X), gr.hyperparameter("lengthscale[0]")),
        "no energy at sites",
    ),
    "a regime of shifts": (
        lambda: gr.regime(example_head().condition(DATA), gr.value(X), gr.shift_inputs(0, [1])),
        "closed form",
    ),
    "leverages of a mixture": (
        lambda: gr.predict_change(example_head().condition(DATA), gr.value(X), gr.mixture(OTHER), order="leverage"),
        "order='exact'",
    ),
    "shifts of a field without slopes": (
        lambda: gr.second_response(
            gr.Exact(gr.Matern12(lengthscale=1.0), noise=0.1).condition(DATA), gr.value(X), gr.shift_inputs(0, [1])
        ),
        "no slope",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_second_order_says_so(case):
    assert_refused(*BAD[case])
