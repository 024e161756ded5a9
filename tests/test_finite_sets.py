"""Exact finite changes of big sets: one symmetric factor a set, whose bounds hold and whose existence is the condition."""

import pytest
import torch

import gp_response as gr
from gp_response.posterior import Certified
from gp_response.response.set_change import change_of_set
from gp_response.testing import example_data


def random_problem(s=30, p=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(s + p, s + p, generator=generator, dtype=torch.float64)
    cov = root @ root.T / (s + p) + 0.1 * torch.eye(s + p, dtype=torch.float64)
    force = torch.randn(s, generator=generator, dtype=torch.float64)
    return cov[:p, p:], cov[p:, p:], cov[:p, :p], force


SIGNS = {
    "up": lambda d: d,
    "down": lambda d: -0.02 * d,
    "both": lambda d: torch.where(torch.arange(len(d)) % 3 == 0, -0.02 * d, d),
    "some stay": lambda d: torch.where(torch.arange(len(d)) % 4 == 0, 0.0 * d, d),
    "none": lambda d: 0.0 * d,
}


def certified(value, error=0.0):
    return Certified(value, torch.full_like(value, error))


@pytest.mark.parametrize("signs", SIGNS)
def test_a_set_of_any_signs_is_woodburys_identity(signs):
    seen, block, own, force = random_problem()
    delta = SIGNS[signs](0.1 + torch.rand(len(force), generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    change = change_of_set(certified(seen), certified(block), delta, certified(force))
    # The field conditioned on the changed precisions, with nothing but inverses of whole covariances.
    both = torch.cat([torch.cat([own, seen], 1), torch.cat([seen.T, block], 1)])
    precision = torch.linalg.inv(both)
    precision.diagonal()[len(seen) :].add_(delta)
    after = torch.linalg.inv(precision)
    mean, variance = (after[: len(seen), len(seen) :] @ force, (after - both).diagonal()[: len(seen)])
    for got, truth in ((change.mean, mean), (change.variance, variance)):
        assert torch.allclose(got.value, truth, atol=1e-11)
        assert bool(((got.value - truth).abs() <= got.error + 1e-11).all())
        assert float(got.error.max()) < 1e-9


@pytest.mark.parametrize("signs", ["up", "down", "both", "some stay"])
def test_bounds_cover_what_wrong_entries_do(signs):
    seen, block, _, force = random_problem()
    delta = SIGNS[signs](torch.ones(len(force), dtype=torch.float64))
    off = 1e-5
    change = change_of_set(certified(seen, off), certified(block, off), delta, certified(force, off))
    generator, worst = torch.Generator().manual_seed(2), 0.0
    for _ in range(20):
        wrong = [
            off * (2.0 * torch.rand(t.shape, generator=generator, dtype=torch.float64) - 1.0)
            for t in (seen, block, force)
        ]
        wrong[1] = 0.5 * (wrong[1] + wrong[1].T)
        other = change_of_set(
            certified(seen + wrong[0]), certified(block + wrong[1]), delta, certified(force + wrong[2])
        )
        for one, two in zip(change, other, strict=True):
            assert bool(((one.value - two.value).abs() <= one.error + two.error).all())
            worst = max(worst, float(((one.value - two.value).abs() / one.error).max()))
    assert worst > 0.01  # the bound is not idle


@pytest.mark.parametrize("signs", ["down", "both"])
def test_the_condition_is_that_every_eigenvalue_of_the_changed_precision_is_positive(signs):
    seen, block, _, force = random_problem()
    delta = SIGNS[signs](torch.ones(len(force), dtype=torch.float64))
    scale = 1.0
    values = torch.linalg.eigvals(torch.eye(len(force)) + delta[:, None] * block).real
    assert bool((values > 0).all())
    grown = torch.where(delta < 0, delta, 0.0 * delta)
    low = torch.linalg.eigvals(grown[:, None] * block).real.min()
    for factor, fits in ((0.999, True), (1.001, False)):
        scale = factor / -float(low)
        if signs == "both":  # what the others add holds more
            fits = bool(
                (
                    torch.linalg.eigvals(
                        torch.eye(len(force)) + (scale * grown + delta.clamp_min(0.0))[:, None] * block
                    ).real
                    > 0
                ).all()
            )
        changed = scale * grown + (delta.clamp_min(0.0) if signs == "both" else 0.0)
        if fits:
            change_of_set(certified(seen), certified(block), changed, certified(force))
            continue
        with pytest.raises(gr.SolverError, match="smaller amplitude"):
            change_of_set(certified(seen), certified(block), changed, certified(force))


def test_mixed_signs_beyond_the_limit_are_refused():
    seen, block, _, force = random_problem()
    delta = torch.where(torch.arange(30) % 3 == 0, -5.0, 1.0).double()
    assert not bool((torch.linalg.eigvals(torch.eye(30) + delta[:, None] * block).real > 0).all())
    with pytest.raises(gr.SolverError, match="smaller amplitude"):
        change_of_set(certified(seen), certified(block), delta, certified(force))


def half(n, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sets = [torch.randperm(n, generator=generator)[: n // 2] for _ in range(count)]
    return [torch.cat([s, torch.tensor([0, 1, 2, 3])]).unique().tolist() for s in sets]  # with the near-duplicates


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_of_the_rows_deleted_equals_the_refit_within_its_bound(noise, dtype):
    data = example_data(n=900, dim=2, dtype=dtype)
    head = gr.Exact(gr.Matern32(lengthscale=1.2, outputscale=1.5), noise=noise)
    posterior, sets = head.condition(data), half(900, 2)
    for observable in (gr.loss(data.test.x, data.test.y), gr.variance(data.test.x)):
        change = gr.finite_response(posterior, observable, gr.delete(sets))
        refit = gr.refit_response(head, data, observable, gr.delete(sets), h=1.0).matrix
        size = float(refit.abs().max())
        if noise == 1e-6:  # solves of single precision are too loose for it, and double has few digits to spare
            assert not change.converged
            limit = 0.1 if dtype == torch.float32 else 1e-6
        else:
            assert change.converged
            assert float(change.error.max()) < 1e-3 * size
            limit = 1e-5 if dtype == torch.float32 else 1e-9
        assert float((change.matrix - refit).abs().max()) <= limit * size
        assert bool(((change.matrix - refit).abs() <= change.error + 1e-9 * size).all())


def test_sets_of_a_set_by_conjugate_gradients_lie_within_their_bounds():
    data, sets = example_data(n=900, dim=2), half(900, 2)
    kernel = gr.Matern32(lengthscale=1.2, outputscale=1.5)
    posterior = gr.Exact(kernel, noise=0.05, solver=gr.CG(tolerance=1e-9)).condition(data)
    change = gr.finite_response(posterior, gr.loss(data.test.x, data.test.y), gr.delete(sets))
    refit = gr.refit_response(
        gr.Exact(kernel, noise=0.05), data, gr.loss(data.test.x, data.test.y), gr.delete(sets), h=1.0
    )
    assert float((change - refit).abs().max() / refit.matrix.abs().max()) < 1e-7
    assert bool(((change - refit).abs() <= change.error + 1e-12).all())


@pytest.mark.parametrize("solver", [gr.Cholesky(), gr.CG(tolerance=1e-9)], ids=["cholesky", "cg"])
@pytest.mark.parametrize("count", [100, 200])  # columns of the inverse, and all of it
def test_covariances_among_rows_are_the_same_by_a_factor_and_by_solves(solver, count):
    data = example_data(n=400, dim=2)
    kernel = gr.Matern32(lengthscale=1.2)
    posterior = gr.Exact(kernel, noise=1e-2, solver=solver).condition(data)
    many, few = torch.arange(count).flip(0), torch.arange(10)
    (whole, bound), converged = posterior.among(many, torch.arange(300))
    (part, part_bound), _ = posterior.among(few, many)
    assert bool(
        ((whole.flip(0)[:10, :count] - part.flip(1)).abs() <= bound.flip(0)[:10, :count] + part_bound.flip(1)).all()
    )
    prior = kernel.matrix(data.train.x).detach()
    dense = prior - prior @ torch.linalg.solve(prior + torch.diag(1e-2 / data.train.weights), prior)
    off = (whole - dense[many][:, :300]).abs()
    assert bool((off <= bound + 1e-11).all())
    assert float(bound.max()) < 1e-9  # a factor's, whatever the solver's tolerance
    assert converged.all()


def test_conjugate_gradients_solve_for_the_rows_where_no_factor_fits(monkeypatch):
    data = example_data(n=300, dim=2)
    posterior = gr.Exact(gr.Matern32(lengthscale=1.2), noise=1e-2, solver=gr.CG(tolerance=1e-9)).condition(data)
    many = torch.arange(150)
    factored, _ = posterior.among(many)
    monkeypatch.setattr("gp_response.heads.exact_posterior.byte_budget", lambda budget, device: 8 * 300**2)
    solved, converged = posterior.among(many)
    assert not torch.equal(solved.value, factored.value)
    assert bool(((solved.value - factored.value).abs() <= solved.error + factored.error).all())
    assert converged.all()


def test_a_row_of_weight_zero_among_the_deleted_changes_nothing():
    data = example_data()
    weights = data.train.weights.clone()
    weights[4] = 0.0
    posterior = gr.Exact(gr.Matern52(lengthscale=1.5), noise=0.2).condition(data.with_train(weights=weights))
    with_it, without = (
        gr.finite_response(posterior, gr.loss(data.test.x, data.test.y), gr.delete(r)) for r in ([1, 4, 9], [1, 9])
    )
    assert torch.allclose(with_it.matrix, without.matrix, atol=1e-13)
