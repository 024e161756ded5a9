"""Iterative solves: certified against dense float64 where problems are hard, and flagged where they cannot be solved."""

import os

import pytest
import torch

import gp_response as gr
from gp_response.kernels.system import KernelSystem
from gp_response.linalg.block_cg import Goal, block_cg
from gp_response.linalg.extended import residual
from gp_response.linalg.packed_cholesky import PackedCholesky
from gp_response.linalg.preconditioner import diagonal_only, nystrom, randomly_pivoted
from gp_response.linalg.system import DenseSystem
from gp_response.solvers import default_solver

NOISES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def duplicated(n, *, dim=4, dtype=torch.float64, seed=0):
    """Inputs of which most come several times, some moved by 1e-7, with labels that disagree."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(n // 3 + 1, dim, generator=generator, dtype=torch.float64)
    x = base[torch.randint(len(base), (n,), generator=generator)]
    x[::7] += 1e-7 * torch.randn(len(x[::7]), dim, generator=generator, dtype=torch.float64)
    y = torch.sin(x.sum(dim=1)) + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    test = torch.randn(20, dim, generator=generator, dtype=torch.float64)
    return gr.dataset(x.to(dtype), y.to(dtype), test_x=test.to(dtype), test_y=test[:, 0].to(dtype), standardise=False)


def truth(head, data):
    """χ of the test predictions by every weight, from a refined dense solve in float64 (theory: S_ij (y_j - μ_j) / σ²)."""
    x, test, y = (t.double() for t in (data.train.x, data.test.x, data.train.y))
    with torch.no_grad():
        system = head.kernel.matrix(x) + head.noise * torch.eye(len(x), dtype=torch.float64)
        right = torch.cat([head.kernel.matrix(x, test), y[:, None]], dim=1)
    lower = torch.linalg.cholesky(system)
    solved = torch.cholesky_solve(right, lower)
    for _ in range(3):
        solved = solved + torch.cholesky_solve(residual(right, system, solved), lower)
    return solved[:, :-1].T * solved[:, -1] * head.noise.detach()


def response(head, data):
    return gr.susceptibility(head.condition(data), gr.value(data.test.x), gr.reweight())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("noise", NOISES)
def test_bounds_cover_and_are_sharp_on_duplicated_inputs(noise, dtype):
    data = duplicated(900, dtype=dtype)
    head = gr.Exact(gr.Matern32(lengthscale=1.5), noise=noise, solver=gr.CG(tolerance=1e-4))
    chi = response(head, data)
    off = (chi.matrix.double() - truth(head, data)).abs()
    assert chi.converged
    assert bool((off <= chi.error.double()).all())
    # Sharp, unless the first iterate is right to rounding: most rows are the same few points, which M has all.
    ratio = float((chi.error.double() / off.clamp_min(1e-300)).median())
    assert ratio < 100.0 or float(chi.error.max() / chi.matrix.abs().max()) < 1e-6


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_the_tolerance_sets_the_accuracy(tolerance):
    data = duplicated(850)
    head = gr.Exact(gr.Matern52(lengthscale=1.5), noise=1e-2, solver=gr.CG(tolerance=tolerance))
    posterior = head.condition(data)
    target = posterior.target
    assert float(target.residual) <= tolerance
    rhs = posterior.whitened_target()
    left = rhs - posterior.factor.system.dense(torch.float64) @ target.value
    assert float(left.norm() / rhs.norm()) == pytest.approx(float(target.residual), rel=1e-3, abs=1e-13)


def system(n=300, *, noise=1e-2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    one = torch.ones(n, dtype=torch.float64)
    scale = 2.0 ** torch.tensor(noise).double().rsqrt().log2().ceil()
    rhs = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return KernelSystem(gr.Matern32(), x.to(dtype), scale * one, scale**2 * noise * one), rhs


def test_what_does_not_converge_is_flagged_and_its_bound_still_covers():
    data = duplicated(900)
    head = gr.Exact(gr.Matern32(lengthscale=1.5), noise=1e-4, solver=gr.CG(tolerance=1e-8, max_iterations=3, rank=5))
    chi = response(head, data)
    assert not chi.converged
    assert chi.flagged == tuple(range(20))
    assert bool(((chi.matrix - truth(head, data)).abs() <= chi.error).all())


def test_a_tolerance_beyond_float64_is_flagged():
    kernel, rhs = system(noise=1e-6)
    solution = gr.CG(tolerance=1e-18).solve(kernel, rhs)
    assert not bool(solution.converged.any())
    assert float(solution.residual.max()) < 1e-10


@pytest.mark.parametrize("make", ["pivoted", "nystrom", "none"])
def test_preconditioners_lie_below_the_system_and_do_what_they_say(make):
    kernel, rhs = system()
    generator = torch.Generator().manual_seed(0)
    made = {
        "pivoted": lambda: randomly_pivoted(kernel, 40, generator=generator, block=16),
        "nystrom": lambda: nystrom(kernel, torch.arange(0, 300, 7)),
        "none": lambda: diagonal_only(kernel),
    }[make]()
    dense = kernel.dense(torch.float64)
    root = made.unwhiten(torch.eye(300, dtype=torch.float64))
    m = root @ root.T
    assert float(torch.linalg.eigvalsh(dense - m)[0]) > -1e-9 * float(dense.diagonal().max())
    assert float((dense - m).diagonal().sum()) == pytest.approx(made.left, rel=1e-8)
    assert torch.allclose(made.solve(rhs), torch.linalg.solve(m, rhs), rtol=1e-8, atol=1e-12)
    assert torch.allclose(made.unwhiten(made.whiten(rhs)), rhs, atol=1e-9)
    assert float(made.logdet()) == pytest.approx(float(torch.logdet(m)), abs=1e-7)
    assert torch.allclose(made.inverse_diagonal(), torch.linalg.inv(m).diagonal(), rtol=1e-7)
    low = torch.randn(made.rank, 20_000, generator=generator, dtype=torch.float64)
    full = torch.randn(300, 20_000, generator=generator, dtype=torch.float64)
    drawn = made.sample(low, full)
    assert float((drawn @ drawn.T / 20_000 - m).norm() / m.norm()) < 0.15


@pytest.mark.parametrize("n", [300, 1100])  # one panel, and more
def test_a_packed_factor_is_a_factor_of_a_matrix_nearby(n):
    kernel, rhs = system(n, noise=1e-3)
    made = PackedCholesky(kernel)
    dense = kernel.dense(torch.float64)
    root = made.unwhiten(torch.eye(n, dtype=torch.float64))
    assert float((root @ root.T - dense).abs().max()) < 1e-4 * float(dense.diagonal().max())
    assert not root.triu(1).any()
    m = root @ root.T
    for precision, room in ((torch.float64, 1e-10), (torch.float32, 1e-2)):
        assert torch.allclose(made.unwhiten(made.whiten(rhs, precision), precision), rhs, atol=room)
        assert torch.allclose(made.whiten_transposed(rhs, precision), torch.linalg.solve(root.T, rhs), atol=room)
    assert torch.allclose(made.solve(rhs), torch.linalg.solve(m, rhs), rtol=1e-7, atol=1e-10)
    assert float(made.logdet()) == pytest.approx(float(torch.logdet(m)), abs=1e-6)


@pytest.mark.parametrize("noise", [1e-1, 1e-4, 1e-8])
def test_a_packed_factor_takes_few_products_and_its_bounds_hold(noise):
    kernel, rhs = system(1100, noise=noise)
    solution = gr.CG(tolerance=1e-9, preconditioner="cholesky").solve(kernel, rhs)
    expected = gr.Cholesky().solve(kernel, rhs).value
    assert bool(solution.converged.all())
    assert bool(((solution.value - expected).abs() <= solution.error + 1e-12).all())
    assert solution.iterations <= 60 < gr.CG(tolerance=1e-9, preconditioner="none").solve(kernel, rhs).iterations


def test_a_packed_factor_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("gp_response.linalg.packed_cholesky.free_bytes", lambda device: 10_000)
    with pytest.raises(gr.SolverError, match="use preconditioner='pivoted'"):
        gr.CG(preconditioner="cholesky").factor(system()[0])


def test_randomly_chosen_pivots_leave_little_more_than_the_best_rank_k():
    kernel, _ = system(500)
    eigenvalues = torch.linalg.eigvalsh(kernel.dense(torch.float64) - torch.diag(kernel.shift))
    made = randomly_pivoted(kernel, 60, generator=torch.Generator().manual_seed(0))
    assert made.rank == 60
    assert made.left < 3.0 * float(eigenvalues[:-60].sum())


def test_a_kernel_of_low_rank_ends_the_pivots_early():
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = torch.ones(400, dtype=torch.float64)
    made = randomly_pivoted(KernelSystem(gr.Linear(), x, 8 * one, one), 50, generator=torch.Generator().manual_seed(0))
    assert made.rank <= 3


@pytest.mark.parametrize("preconditioner", ["pivoted", "nystrom", "cholesky", "none"])
def test_right_hand_sides_that_depend_on_one_another(preconditioner):
    kernel, rhs = system()
    rhs = torch.cat([rhs, rhs[:, :1], rhs[:, :1] + rhs[:, 1:2], torch.zeros(300, 2, dtype=torch.float64)], dim=1)
    solution = gr.CG(tolerance=1e-9, preconditioner=preconditioner).solve(kernel, rhs)
    expected = torch.linalg.solve(kernel.dense(torch.float64), rhs)
    assert bool(solution.converged.all())
    assert bool(((solution.value - expected).abs() <= solution.error + 1e-14).all())
    assert not solution.value[:, -2:].any()


def test_more_right_hand_sides_than_rows():
    kernel, _ = system(60)
    rhs = torch.randn(60, 150, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    solution = gr.CG(tolerance=1e-8).solve(kernel, rhs)
    assert bool(solution.converged.all())
    assert float((kernel.dense(torch.float64) @ solution.value - rhs).norm(dim=0).max()) < 1e-6


@pytest.mark.parametrize("n", [1, 2, 3, 800, 801])
def test_sizes_at_which_others_change_their_algorithm(n):
    kernel, rhs = system(n)
    solution = gr.CG(tolerance=1e-8).solve(kernel, rhs)
    expected = torch.linalg.solve(kernel.dense(torch.float64), rhs)
    assert bool(solution.converged.all())
    assert bool(((solution.value - expected).abs() <= solution.error + 1e-13).all())


def test_blocks_and_the_order_of_columns_change_nothing_beyond_the_tolerance():
    kernel, rhs = system(400)
    expected = torch.linalg.solve(kernel.dense(torch.float64), rhs)
    order = torch.tensor([3, 1, 4, 0, 2])
    for solver in (gr.CG(block=1), gr.CG(block=2), gr.CG(keep=0), gr.CG(backend="dense"), gr.CG(seed=5)):
        solution = solver.solve(kernel, rhs[:, order])
        assert bool(solution.converged.all())
        assert bool(((solution.value - expected[:, order]).abs() <= solution.error).all())


def test_a_guess_saves_iterations_and_a_bad_one_does_no_harm():
    kernel, rhs = system(800, noise=1e-3)
    solver = gr.CG(tolerance=1e-5).factor(kernel)
    cold = solver.solve(rhs)
    near = solver.solve(rhs, guess=cold.value * (1.0 + 1e-3))
    bad = solver.solve(rhs, guess=1e3 * rhs)
    assert near.iterations < cold.iterations
    assert bool(near.converged.all())
    assert bool(bad.converged.all())
    assert near.diagnostics["rank"] == solver.preconditioner.rank


def test_float32_products_reach_float64_accuracy_by_refinement():
    kernel, rhs = system(500, noise=1e-1, dtype=torch.float32)
    expected = torch.linalg.solve(kernel.dense(torch.float64), rhs)
    solution = gr.CG(tolerance=1e-11, precision="float32").solve(kernel, rhs)
    assert set(solution.diagnostics["precision"]) == {"float32"}
    assert bool(solution.converged.all())
    assert float((solution.value - expected).norm() / expected.norm()) < 1e-11


def test_a_column_stops_when_it_is_done():
    """An eigenvector converges at once; what the others still need must not change it."""
    matrix = torch.diag(torch.linspace(1.0, 50.0, 80, dtype=torch.float64))
    plain = diagonal_only(DenseSystem(matrix))
    easy, hard = torch.eye(80, dtype=torch.float64)[:, :1], torch.ones(80, 1, dtype=torch.float64)
    rhs = torch.cat([easy, hard / hard.norm()], dim=1)
    goal = Goal(torch.full((2,), 1e-6), torch.zeros(2, dtype=torch.bool), torch.zeros(80, 2).double(), float("inf"))
    cycle = block_cg(lambda v: matrix @ v, plain, rhs, goal, floor=1e-12, limit=100)
    assert bool(cycle.met.all())
    assert torch.allclose(cycle.aside, torch.linalg.solve(matrix, rhs), atol=1e-6)


@pytest.mark.parametrize(
    "kernel",
    [
        gr.Matern12(lengthscale=1.5),
        gr.RBF(lengthscale=1.5) + gr.Linear(outputscale=0.1),
        2.0 * (gr.Matern52(lengthscale=2.0) * gr.RBF(lengthscale=3.0)),
        gr.Matern32().on(gr.MLP(4, [8, 3])),
    ],
    ids=["rough", "sum", "product", "features"],
)
def test_every_kind_of_kernel_by_cg_is_what_it_is_by_cholesky(kernel):
    data = duplicated(820)
    ways = {
        name: response(gr.Exact(kernel, noise=0.05, solver=solver), data)
        for name, solver in {"cg": gr.CG(tolerance=1e-7), "cholesky": gr.Cholesky()}.items()
    }
    gap = (ways["cg"].matrix - ways["cholesky"].matrix).abs()
    assert ways["cg"].converged
    assert bool((gap <= ways["cg"].error + ways["cholesky"].error).all())
    assert float(gap.max() / ways["cholesky"].matrix.abs().max()) < 1e-4


def test_weights_of_zero_and_other_temperatures():
    data = duplicated(400)
    weights = torch.rand(400, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights[::5] = 0.0
    data = data.with_train(weights=weights)
    one, other = (
        response(gr.Exact(gr.Matern32(), noise=0.1, beta=0.5, solver=solver), data)
        for solver in (gr.CG(tolerance=1e-8), gr.Cholesky())
    )
    assert bool(((one.matrix - other.matrix).abs() <= one.error + other.error).all())


def test_the_solver_chosen_where_none_is_named():
    cpu = torch.device("cpu")
    assert isinstance(default_solver(1000, cpu), gr.Cholesky)
    assert isinstance(default_solver(50_000, cpu), gr.CG)
    assert isinstance(gr.Exact(gr.RBF()).condition(duplicated(50)).solver, gr.Cholesky)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerance": 0.0}, "between 0 and 1"),
        ({"rank": -1}, "rank=-1"),
        ({"block": 0}, "block=0"),
        ({"preconditioner": "pivot"}, "'pivoted'"),
        ({"precision": "half"}, "unknown precision"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(gr.InputError, match=words):
        gr.CG(**options)


def test_bad_right_hand_sides_are_refused():
    kernel, rhs = system(20)
    with pytest.raises(gr.InputError, match=r"expected \(20,\) or \(20, t\)"):
        gr.CG().solve(kernel, rhs[:5])
    rhs[3, 1] = float("nan")
    with pytest.raises(gr.InputError, match="column 1"):
        gr.CG().solve(kernel, rhs)
    with pytest.raises(gr.InputError, match="give an"):
        gr.CG().solve("matrix", rhs)


def test_the_log_evidence_is_estimated_within_its_error():
    data = duplicated(900)
    head = gr.Exact(gr.Matern32(lengthscale=1.5), noise=0.05, solver=gr.CG(tolerance=1e-8, rank=60))
    posterior = head.condition(data)
    exact = float(gr.Exact(head.kernel, noise=0.05, solver=gr.Cholesky()).condition(data).log_evidence())
    found = posterior.estimate_log_evidence(probes=24)
    # 4.7 to 5.1, by the seed of the pivots, which rounding may choose, too.
    assert 0.0 < found.standard_error < 15.0
    assert abs(found.value - exact) < 4.0 * found.standard_error + found.below + found.above
    with pytest.raises(gr.InputError, match="estimate_log_evidence"):
        posterior.log_evidence()


def test_derivatives_of_refits_do_not_depend_on_the_solver():
    data = duplicated(60)
    head = gr.Exact(gr.Matern32(), noise=0.1, solver=gr.CG(tolerance=1e-10))
    chi = gr.susceptibility(head.condition(data), gr.value(data.test.x), gr.reweight([3, 9]))
    refit = gr.refit_response(head, data, gr.value(data.test.x), gr.reweight([3, 9]))
    assert torch.allclose(chi.matrix, refit.matrix, rtol=1e-7, atol=1e-12)


@pytest.mark.skipif("GP_RESPONSE_DATA" not in os.environ, reason="GP_RESPONSE_DATA names no folder with the UCI sets")
@pytest.mark.parametrize("noise", NOISES)
def test_bounds_cover_and_are_sharp_on_a_set_of_which_most_inputs_are_duplicated(noise):
    data = gr.load("keggundirected", n=1500)
    head = gr.Exact(gr.Matern32(lengthscale=2.0), noise=noise, solver=gr.CG(tolerance=1e-4))
    data = gr.dataset(data.train.x, data.train.y, test_x=data.test.x[:20], test_y=data.test.y[:20], standardise=False)
    chi = response(head, data)
    off = (chi.matrix - truth(head, data)).abs()
    assert chi.converged
    assert bool((off <= chi.error).all())
    assert float((chi.error / off.clamp_min(1e-300)).median()) < 100.0
