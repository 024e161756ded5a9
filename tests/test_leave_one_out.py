"""Leave-one-out of every row: against refits, against extended precision, and between its bounds without a factor."""

import mpmath
import pytest
import torch
from refusals import assert_refused

import gp_response as gr
from gp_response.linalg.inverse_diagonal import enclosed, factor_error, factored
from gp_response.linalg.system import DenseSystem
from gp_response.testing import check_leave_one_out, example_data


def head_of(noise=0.05, *, solver=None, beta=1.0, lengthscale=1.2):
    kernel = gr.Matern32(lengthscale=lengthscale, outputscale=1.5)
    return gr.Exact(kernel, noise=noise, solver=solver, beta=beta, mean=0.2)


def data_of(n, *, dtype=torch.float64, zeros=False, dim=2):
    data = example_data(n=n, dim=dim, dtype=dtype)
    weights = data.train.weights.clone()
    if zeros:
        weights[::9] = 0.0
    return data.with_train(weights=weights)


@pytest.mark.parametrize("beta", [1.0, 0.7])
@pytest.mark.parametrize("zeros", [False, True])
def test_every_row_is_as_a_refit_without_it(zeros, beta):
    check_leave_one_out(head_of(beta=beta), data=data_of(60, zeros=zeros), tolerance=1e-11)


@pytest.mark.parametrize("noise", [1e-1, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [801, 1200])
def test_rows_are_refits_without_them_at_size(n, dtype, noise):
    rows = torch.tensor([0, 1, 2, 3, 9, n - 1])  # 0 and 1 are one input, 2 and 3 nearly; 0 and 9 have no weight
    data = data_of(n, dtype=dtype, zeros=True)
    check_leave_one_out(head_of(noise), data=data, rows=rows, tolerance=1e-6 if dtype == torch.float32 else 1e-9)


def matrix_of(n, noise, seed=0):
    """A whitened system's matrix: at least one, large where noise is small."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[1] = x[0] + 1e-9
    matrix = gr.Matern32(lengthscale=1.2).matrix(x).detach() / noise
    matrix.diagonal().add_(1.5)
    return matrix


def exact_diagonal(matrix):
    with mpmath.workdps(60):
        inverse = mpmath.matrix(matrix.tolist()) ** -1
        return torch.tensor([float(inverse[i, i]) for i in range(len(matrix))], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6, 1e-9])
def test_the_bound_of_the_diagonal_covers_extended_precision_and_is_of_use(noise, seed):
    matrix = matrix_of(50, noise, seed)
    system, truth = DenseSystem(matrix, floor=1.0), exact_diagonal(matrix)
    lower = torch.linalg.cholesky(matrix)
    found = factored(system, lower, seed=seed)
    assert bool(((found.lower <= truth) & (truth <= found.upper)).all())
    assert bool(found.settled.all())
    assert float(((found.upper - found.lower) / truth).max()) < 1e-11 / noise
    true = float(torch.linalg.matrix_norm(product(lower) - matrix.double(), 2))
    assert true <= factor_error(system, lower, seed=seed)


def product(lower):
    """L Lᵀ rounded once."""
    with mpmath.workdps(40):
        exact = mpmath.matrix(lower.tolist())
        whole = exact * exact.T
        return torch.tensor(whole.tolist(), dtype=torch.float64)


def test_a_factor_that_is_too_far_off_is_said_to_be():
    matrix = matrix_of(50, 1e-3)
    wrong = torch.linalg.cholesky(matrix) * 1.05
    found = factored(DenseSystem(matrix, floor=1.0), wrong)
    assert not bool(found.settled.any())
    assert bool(found.upper.isinf().all())
    slightly = torch.linalg.cholesky(matrix)
    slightly[20, 3] += 1e-6
    truth, found = exact_diagonal(matrix), factored(DenseSystem(matrix, floor=1.0), slightly)
    assert bool(((found.lower <= truth) & (truth <= found.upper)).all())
    assert bool((found.upper - found.lower > 1e-7 * truth).all())


@pytest.mark.parametrize("noise", [1e-1, 1e-2, 1e-6])
@pytest.mark.parametrize("n", [801, 1500])
def test_without_a_factor_every_row_lies_between_its_bounds_and_chosen_rows_are_solved(n, noise):
    data = data_of(n, zeros=True)
    rows = torch.tensor([0, 3, 9, n - 1])
    by_factor = head_of(noise).condition(data).looseness()
    by_solves = head_of(noise, solver=gr.CG(tolerance=1e-8)).condition(data).looseness(rows=rows, probes=8)
    assert bool((by_solves.lower <= by_factor.upper).all())
    assert bool((by_solves.upper >= by_factor.lower).all())
    assert bool((by_solves.lower <= by_solves.value).all())
    assert bool((by_solves.value <= by_solves.upper).all())
    width = (by_solves.upper - by_solves.lower) / by_factor.value
    if noise > 1e-5:
        assert float(width[rows].max()) < 1e-6
        assert float(width.median()) < 0.5
        assert bool(by_solves.settled[rows].all())
    others = torch.ones(n, dtype=torch.bool)
    others[rows] = False  # at a noise of a millionth not every solve gets there, and says so
    assert not bool(by_solves.settled[others].any())


def test_solved_rows_are_as_exact_as_those_of_a_factor_and_the_rest_is_flagged():
    data = data_of(900, zeros=True)
    rows = [0, 5, 17]
    exact = gr.leave_one_out(head_of().condition(data))
    found = gr.leave_one_out(head_of(solver=gr.CG()).condition(data), rows=rows, probes=0)
    assert exact.exact
    assert not found.exact
    assert "enclosed" in repr(found)
    assert found.converged[data.train.weights > 0].sum() == 2
    for name in ("mean", "variance", "residual", "log_density"):
        ours, theirs = getattr(found, name), getattr(exact, name)
        error = getattr(found, f"{name}_error") + getattr(exact, f"{name}_error")
        assert bool(((ours - theirs).abs() <= error).all()), name
        assert torch.allclose(ours[rows], theirs[rows], atol=1e-5)
    assert float(found.standard_error.max()) == 0.0


def test_the_random_estimate_has_the_error_it_states_and_beats_the_middle_of_wide_bounds(monkeypatch):
    """In six dimensions 64 neighbours say little."""
    for name, size in (("CORE", 32), ("NEAR", 64), ("HALO", 128)):
        monkeypatch.setattr(f"gp_response.linalg.inverse_diagonal.{name}", size)
    x = torch.randn(700, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = gr.dataset(x, x[:, 0], standardise=False)
    posterior = head_of(0.1, solver=gr.CG(rank=20), lengthscale=2.0).condition(data)
    system, preconditioner, solve = posterior.factor.system, posterior.factor.preconditioner, posterior.factor.solve
    found = enclosed(system, preconditioner, solve, probes=64, seed=1)
    truth = head_of(0.1, lengthscale=2.0).condition(data).looseness().value / posterior.whitening.shift
    assert bool(((found.lower <= truth) & (truth <= found.upper)).all())
    drawn = found.standard_error > 0
    assert int(drawn.sum()) > 600
    off = ((found.value - truth) / found.standard_error)[drawn]
    assert 0.5 < float(off.square().mean().sqrt()) < 1.5
    middle = (enclosed(system, preconditioner, solve, probes=0).value - truth).abs()
    assert float((found.value - truth).abs().median()) < 0.5 * float(middle.median())
    again = enclosed(system, preconditioner, solve, probes=64, seed=1)
    assert torch.equal(again.value, found.value)


class Off(gr.Exact):
    """A head whose looseness is a millionth off."""

    def condition(self, data):
        posterior = super().condition(data)
        right = posterior.looseness()
        posterior._loose = right._replace(**{k: getattr(right, k) * (1 + 1e-6) for k in ("value", "lower", "upper")})
        return posterior


def test_the_law_catches_a_looseness_that_is_a_millionth_off():
    with pytest.raises(AssertionError, match="leave-one-out mean = refit without row 0"):
        check_leave_one_out(Off(gr.Matern32(lengthscale=1.2), noise=0.05), data=data_of(60))


@pytest.mark.parametrize("h", [1.0, 0.3])
def test_many_deletions_at_once_take_the_short_way_and_agree_with_the_long_one(h, monkeypatch):
    data = data_of(801)
    posterior = head_of().condition(data)
    short = gr.finite_response(posterior, gr.value(data.test.x), gr.delete(list(range(801)), each=True), h=h)
    few = list(range(0, 801, 40))
    assert posterior._loose is not None
    monkeypatch.setattr("gp_response.heads.exact_posterior.MANY", 2.0)
    long = gr.finite_response(posterior, gr.value(data.test.x), gr.delete(few, each=True), h=h)
    gap = (short.matrix[:, few] - long.matrix).abs()
    assert bool((gap <= short.error[:, few] + long.error).all())
    assert float(gap.max() / long.matrix.abs().max()) < 1e-10
    assert bool(short.converged)


def test_a_posterior_that_knows_no_better_way_solves_for_every_row():
    data = data_of(120, zeros=True)
    posterior = head_of().condition(data)
    quick, slow = posterior.looseness(), gr.Posterior.looseness(posterior)
    assert bool(((quick.value - slow.value).abs() <= quick.upper - quick.lower + slow.upper - slow.lower).all())
    assert torch.allclose(quick.value, slow.value, atol=1e-10)


def test_arguments_that_make_no_sense_are_refused():
    posterior = head_of().condition(data_of(30))
    assert_refused(lambda: gr.leave_one_out(posterior, probes=-1), "expected an integer of 0 or more")
    assert_refused(lambda: gr.leave_one_out(posterior, rows=[30]), "expected row numbers between 0 and 29")
    assert_refused(lambda: gr.leave_one_out(posterior, rows=[0.5]), "expected row numbers")
