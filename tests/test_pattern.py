"""Patterning: quadratic programs against dense solutions, mass and bounds to the last digit, and targets met by refits."""

import numpy as np
import pytest
import torch
from pattern_cases import assert_kept, refit_change
from refusals import assert_refused
from scipy.optimize import minimize

import gp_response as gr
from gp_response.linalg.box_program import BoxProgram, solve_box
from gp_response.response.certified_expectation import certified_expectation
from gp_response.response.nearest_weights import Strengths, nearest
from gp_response.response.pattern_strength import RIDGES, left_out_error
from gp_response.response.weight_room import weight_room
from gp_response.testing import example_data, example_head

DATA = example_data()
HEAD = example_head()
POSTERIOR = HEAD.condition(DATA)
X = DATA.test.x[:4]
CHI = gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight())
TARGET = torch.tensor([0.05, -0.04, 0.03, 0.0], dtype=torch.float64)
EVERYWHERE = {"mass": "free", "bounds": (-np.inf, np.inf)}


def change_of_refit(found, head=HEAD, data=DATA, observable=None):
    return refit_change(found, head, data, gr.value(X) if observable is None else observable)


def points(k, dtype=torch.float64):
    return torch.randn(k, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


def gp(n, *, seed=0, dtype=torch.float64, noise=0.05, k=5):
    data = example_data(n=n, dim=2, seed=seed, dtype=dtype)
    head = gr.Exact(gr.Matern32(lengthscale=1.2, outputscale=1.5), noise=noise)
    chi = gr.susceptibility(head.condition(data), gr.value(points(k, dtype)), gr.reweight())
    return data, head, chi


# The quadratic program -----------------------------------------------------------------------------------------------


def program(seed=0, *, n=12, r=3, size=0.6, slack=0.0, moved=0.3, curvature=1.0, sparsity=0.0):
    generator = np.random.default_rng(seed)
    rows = np.linalg.qr(generator.standard_normal((n, r)))[0].T
    along = np.sqrt(generator.integers(1, 5, n).astype(float))
    aim, lower = size * generator.standard_normal(r), -generator.uniform(0.1, 0.6, n)
    upper = generator.uniform(0.1, 0.8, n)
    return BoxProgram(rows, aim, np.full(r, slack), lower, upper, along, moved, curvature, sparsity)


def objective(p, u):
    own = p.curvature * (0.5 * u @ u + p.sparsity * p.along @ np.abs(u))
    return own + (0.0 if not p.slack.any() else 0.5 * np.sum((p.rows @ u - p.aim) ** 2 / p.slack))


def by_slsqp(p):
    conditions = [] if p.moved is None else [{"type": "eq", "fun": lambda u: p.along @ u - p.moved}]
    if not p.slack.any():
        conditions.append({"type": "eq", "fun": lambda u: p.rows @ u - p.aim})
    box = list(zip(p.lower, p.upper, strict=True))
    return minimize(
        lambda u: objective(p, u), np.zeros(len(p.along)), method="SLSQP", bounds=box, constraints=conditions,
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("slack", [0.0, 0.3])
@pytest.mark.parametrize("moved", [None, 0.3])
def test_the_program_is_that_of_slsqp_and_meets_its_conditions_to_rounding(seed, slack, moved):
    p = program(seed, slack=slack, moved=moved, size=0.3)
    found, theirs = solve_box(p), by_slsqp(p)
    assert theirs.success
    assert np.abs(found.value - theirs.x).max() < 1e-6
    assert objective(p, found.value) <= theirs.fun + 1e-9
    assert bool(((found.value >= p.lower) & (found.value <= p.upper)).all())
    assert moved is None or abs(p.along @ found.value - moved) < 1e-14
    assert slack or np.abs(p.rows @ found.value - p.aim).max() < 1e-14


def test_without_active_bounds_it_is_the_dense_kkt_solution():
    p = program(size=0.05, moved=0.02)
    rows = np.concatenate([p.rows, p.along[None]])
    n, r = len(p.along), len(rows)
    system = np.block([[np.eye(n), rows.T], [rows, np.zeros((r, r))]])
    truth = np.linalg.solve(system, np.concatenate([np.zeros(n), p.aim, [p.moved]]))[:n]
    assert np.abs(solve_box(p).value - truth).max() < 1e-14


@pytest.mark.parametrize("slack", [0.0, 0.3])
def test_sparsity_gives_the_subgradient_conditions(slack):
    p = program(size=0.3, n=40, sparsity=0.2, slack=slack, curvature=0.5)
    found = solve_box(p)
    u, rows = found.value, p.conditions()[0]
    pull = found.multipliers @ rows
    still = u == 0
    assert 5 < still.sum() < 40
    assert bool((np.abs(pull[still]) <= p.curvature * p.sparsity * p.along[still] + 1e-12).all())
    free = ~still & (u > p.lower) & (u < p.upper)
    slope = p.curvature * (u + p.sparsity * p.along * np.sign(u))
    assert np.abs(slope - pull)[free].max() < 1e-12
    assert bool(((slope - pull)[u == p.upper] <= 1e-12).all())
    assert bool(((slope - pull)[u == p.lower] >= -1e-12).all())


def test_a_program_without_solution_is_none():
    assert solve_box(program(size=30.0)) is None


@pytest.mark.parametrize("feasible", [True, False])
def test_twenty_thousand_columns_and_fifteen_rows(feasible):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(15, 20_000, generator=generator, dtype=torch.float64)
    matrix *= torch.logspace(-3, 0, 15, dtype=torch.float64)[:, None]
    target = (
        matrix.norm(dim=1) * torch.randn(15, generator=generator, dtype=torch.float64) * (5.0 if feasible else 90.0)
    )
    room = weight_room(torch.ones(20_000), None, None, (), bounds=(0.2, 3.0), mass="conserve")
    found = nearest(room, matrix, target, Strengths())
    weights = room.weights(found.change, torch.float64)
    assert found.feasible is feasible
    assert abs(float(weights.sum()) - 20_000) < 1e-9
    assert float(weights.min()) >= 0.2
    assert float(weights.max()) <= 3.0
    missed = (matrix @ found.change - target) / matrix.norm(dim=1)
    assert feasible == (float(missed.abs().max()) < 1e-11)
    # Least squares: no move within the room comes nearer, by the linear program over box and sum, solved by sorting.
    slope = matrix.T @ (matrix @ found.change - target)
    order = slope.argsort()
    best, left = torch.full_like(weights, 0.2), 20_000 - 0.2 * 20_000
    for k in order.tolist():
        step = min(2.8, left)
        best[k] += step
        left -= step
        if left <= 0:
            break
    promised = float(slope @ (weights - best))
    assert feasible or promised < 1e-4 * float(0.5 * (matrix @ found.change - target).square().sum())


# Linear patterning ---------------------------------------------------------------------------------------------------


def test_asked_for_nothing_else_it_is_the_published_pseudo_inverse():
    found = gr.pattern(CHI, TARGET, iterations=0, **EVERYWHERE)
    published = CHI.matrix.T @ torch.linalg.solve(CHI.matrix @ CHI.matrix.T, TARGET)
    assert torch.allclose(found.change, torch.linalg.pinv(CHI.matrix) @ TARGET, atol=1e-11)
    assert torch.allclose(found.change, published, atol=1e-8)
    assert torch.allclose(found.weights, DATA.train.weights + found.change, atol=1e-15)
    assert torch.allclose(found.predicted, TARGET, atol=1e-13)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_rank_truncates_the_pseudo_inverse(rank):
    found = gr.pattern(CHI, TARGET, rank=rank, iterations=0, **EVERYWHERE)
    u, s, vh = torch.linalg.svd(CHI.matrix, full_matrices=False)
    truth = vh[:rank].T @ ((u[:, :rank].T @ TARGET) / s[:rank])
    assert torch.allclose(found.change, truth, atol=1e-12)
    assert not found.reached


def test_a_ridge_is_the_textbook_one():
    found = gr.pattern(CHI, TARGET, ridge=1e-3, iterations=0, **EVERYWHERE)
    gram = CHI.matrix @ CHI.matrix.T
    truth = CHI.matrix.T @ torch.linalg.solve(gram + 1e-3 * torch.eye(4, dtype=gram.dtype), TARGET)
    assert torch.allclose(found.change, truth, atol=1e-11)


def test_mass_alone_is_the_pseudo_inverse_of_the_centred_response():
    found = gr.pattern(CHI, TARGET, iterations=0, bounds=(-np.inf, np.inf))
    centred = CHI.matrix - CHI.matrix.mean(dim=1, keepdim=True)
    assert torch.allclose(found.change, torch.linalg.pinv(centred) @ TARGET, atol=1e-11)
    assert_kept(found, DATA.train.weights, within=1e-13)


def test_strengths_are_chosen_by_what_they_predict_of_observables_left_out():
    """Targets that some weights really cause, plus noise: the chosen ridge does best, and both extremes do worse."""
    data, head, _ = gp(150)
    chi = gr.susceptibility(head.condition(data), gr.value(0.2 * points(12)), gr.reweight())
    generator = torch.Generator().manual_seed(1)
    cause = 0.3 * torch.randn(150, generator=generator, dtype=torch.float64)
    target = chi.matrix @ cause
    target = target + 0.2 * target.std() * torch.randn(12, generator=generator, dtype=torch.float64)
    options = {"mass": "free", "bounds": (-50.0, 50.0)}
    found = gr.pattern(chi, target, ridge="auto", iterations=0, **options)
    room = weight_room(data.train.weights, None, None, (), **options)
    scale = float(torch.linalg.matrix_norm(chi.matrix, 2)) ** 2
    errors = [left_out_error(room, chi.matrix, target, Strengths(ridge=share * scale)) for share in RIDGES]
    assert found.strengths.ridge == pytest.approx(RIDGES[int(np.argmin(errors))] * scale)
    assert min(errors) < min(errors[0], errors[-1])
    for name in ("rank", "sparsity"):
        chosen = getattr(gr.pattern(chi, target, iterations=0, **{name: "auto"}, **options).strengths, name)
        assert chosen >= (1 if name == "rank" else 0)


def test_sparsity_moves_fewer_weights_further():
    dense, sparse = (gr.pattern(CHI, TARGET, sparsity=s, bounds=(0, 5)) for s in (0.0, 1.0))
    assert dense.reached
    assert sparse.reached
    assert int((sparse.change != 0).sum()) < 0.6 * int((dense.change != 0).sum())
    assert float(sparse.change.abs().sum()) < float(dense.change.abs().sum())
    unmoved = sparse.change == 0
    assert torch.equal(sparse.weights[unmoved], DATA.train.weights[unmoved])


# Re-linearised, and what a refit says --------------------------------------------------------------------------------


def test_the_exact_change_meets_the_target_and_is_the_refit():
    found = gr.pattern(CHI, 4.0 * TARGET)
    refit = change_of_refit(found)
    assert found.reached
    assert found.feasible
    assert float((found.exact - 4.0 * TARGET).abs().max()) <= 1e-3 * 0.2
    assert torch.allclose(refit, found.exact, atol=1e-10)
    assert bool(((refit - found.exact).abs() <= found.error + 1e-12).all())
    assert_kept(found, DATA.train.weights, within=1e-11)
    assert len(found.history) > 1
    residuals = [round_.residual for round_ in found.history]
    assert residuals == sorted(residuals, reverse=True)
    # First order alone is not enough here.
    assert float((found.predicted - found.exact).abs().max()) > 1e-3


@pytest.mark.parametrize(("n", "noise", "size"), [(60, 0.002, 0.5), (150, 0.02, 0.8)])
def test_a_strongly_bent_response_is_followed_by_shorter_ways(n, noise, size):
    """Rows that decide much by themselves: the first linear solution leads away from the target."""
    data = example_data(n=n, dim=2, seed=3)
    head = gr.Exact(gr.Matern32(lengthscale=0.5, outputscale=1.5), noise=noise)
    chi = gr.susceptibility(head.condition(data), gr.value(points(4)), gr.reweight())
    target = size * chi.matrix.abs().sum(dim=1) * torch.tensor([1.0, -1.0, -1.0, 1.0])
    found = gr.pattern(chi, target)
    assert min(round_.step for round_ in found.history) < 0.5
    assert found.reached, found.history
    refit = change_of_refit(found, head, data, gr.value(points(4)))
    assert torch.allclose(refit, found.exact, atol=1e-9)


def test_more_rounds_come_as_near_as_asked():
    found = gr.pattern(CHI, 2.0 * TARGET, tolerance=1e-9, iterations=30)
    assert found.reached
    assert float((change_of_refit(found) - 2.0 * TARGET).abs().max()) < 1e-9


def test_the_weights_are_a_stationary_point_of_the_whole_problem():
    """At the solution the least change is a combination of the responses there (and of mass), where no bound is active."""
    found = gr.pattern(CHI, 2.0 * TARGET, tolerance=1e-8, iterations=30)
    there = gr.susceptibility(found.posterior, gr.value(X), gr.reweight()).matrix
    free = (found.weights > 0) & (found.weights < 3)
    basis = torch.cat([there, torch.ones(1, len(free), dtype=there.dtype)])[:, free].T
    left = found.change[free] - basis @ torch.linalg.lstsq(basis, found.change[free][:, None]).solution[:, 0]
    assert float(left.norm() / found.change.norm()) < 1e-3


def sparse_head(likelihood=None):
    kernel = gr.Matern52(lengthscale=[1.5] * 3, outputscale=1.3)
    return gr.SGPR(kernel, 15, noise=0.2) if likelihood is None else gr.SVGP(kernel, 15, likelihood)


def labelled(kind):
    """The example rows with labels that a likelihood can have made."""
    y = DATA.train.y
    labels = {"bernoulli": (y > 0).to(y), "poisson": y.abs().round(), "classes": (y > 0).to(y) + (y > 0.7).to(y)}
    return DATA.with_train(y=labels[kind])


HEADS = {
    "cg": (gr.Exact(gr.Matern52(lengthscale=1.5), noise=0.2, solver=gr.CG(tolerance=1e-9)), DATA),
    "sgpr": (sparse_head(), DATA),
    "svgp gaussian": (sparse_head(gr.Gaussian(0.2)), DATA),
    "svgp bernoulli": (sparse_head(gr.Bernoulli()), labelled("bernoulli")),
    "svgp poisson": (sparse_head(gr.Poisson()), labelled("poisson")),
    "laplace bernoulli": (
        gr.Exact(gr.Matern52(lengthscale=1.5), likelihood=gr.Bernoulli()),
        labelled("bernoulli"),
    ),
    "prior mean, beta": (gr.Exact(gr.RBF(lengthscale=1.5), noise=0.1, mean=0.3, beta=0.7), DATA),
    "classes": (gr.Exact(gr.Matern52(lengthscale=1.5), likelihood=gr.Categorical(3)), labelled("classes")),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_steered_and_the_refit_agrees(name):
    head, data = HEADS[name]
    observable = gr.value(X)
    chi = gr.susceptibility(head.condition(data), observable, gr.reweight())
    size = 0.08 * chi.matrix.double().abs().sum(dim=1)
    if name == "classes":  # the fields of all classes sum to nothing, so that their changes must, too
        target = size.reshape(4, 3).mean(dim=1).repeat_interleave(3) * torch.tensor([1.0, -1.0, 0.0] * 4)
    else:
        target = size * torch.tensor([1.0, -1.0, 1.0, 0.5])
    found = gr.pattern(chi, target)
    refit = change_of_refit(found, head, data, observable)
    assert found.reached, found.history
    assert torch.allclose(refit, found.exact, atol=1e-8)
    assert_kept(found, data.train.weights, within=1e-11)


def test_losses_and_variances_can_be_targets_too():
    for observable in (gr.loss(X, DATA.test.y[:4]), gr.variance(X), gr.pointwise(X, torch.sigmoid)):
        chi = gr.susceptibility(POSTERIOR, observable, gr.reweight())
        target = 0.1 * chi.matrix.abs().sum(dim=1) * torch.tensor([1.0, -1.0, 1.0, -1.0])
        found = gr.pattern(chi, target)
        assert found.reached
        assert torch.allclose(change_of_refit(found, observable=observable), found.exact, atol=1e-9)


def test_known_noise_and_rows_of_weight_zero():
    data = example_data(known_noise=True)
    weights = data.train.weights.clone()
    weights[:3] = 0.0
    data = data.with_train(weights=weights)
    chi = gr.susceptibility(HEAD.condition(data), gr.value(X), gr.reweight())
    found = gr.pattern(chi, 2.0 * TARGET)
    assert found.reached
    assert bool((found.weights[:3] != 0).any())
    assert torch.allclose(change_of_refit(found, data=data), found.exact, atol=1e-10)


@pytest.mark.parametrize("solver", [gr.Cholesky(), gr.CG(tolerance=1e-3, rank=2)])
def test_rows_of_weight_zero_need_no_solve_of_their_own(solver):
    weights = DATA.train.weights.clone()
    weights[:5] = 0.0
    data = DATA.with_train(weights=weights)
    posterior = gr.Exact(gr.Matern52(lengthscale=1.5), noise=0.01, solver=solver).condition(data)
    truth = gr.Exact(gr.Matern52(lengthscale=1.5), noise=0.01).condition(data)
    there = truth.probe(data.train.x[:5])
    off = (posterior.residuals.value[:5] - (data.train.y[:5] - there.mean.value)).abs()
    assert bool((off <= posterior.residuals.error[:5] + there.mean.error).all())
    got, solved = posterior.probe(X).to_train(), truth.probe(X).to(there)
    assert bool(((got.value[:, :5] - solved.value).abs() <= got.error[:, :5] + solved.error).all())
    assert isinstance(solver, gr.CG) or float(got.error[:, :5].max()) < 1e-11


@pytest.mark.parametrize("n", [801, 1500])
def test_beyond_800_rows(n):
    data, head, chi = gp(n, k=8)
    target = 0.2 * chi.matrix.abs().sum(dim=1) * torch.tensor([1.0, -1.0] * 4)
    found = gr.pattern(chi, 0.2 * target)
    assert found.reached
    refit = change_of_refit(found, head, data, gr.value(points(8)))
    assert torch.allclose(refit, found.exact, atol=1e-8 * float(target.abs().max()))
    assert_kept(found, data.train.weights, within=1e-12)


def test_single_precision_keeps_mass_and_bounds():
    data, head, chi = gp(1000, dtype=torch.float32)
    target = 0.05 * chi.matrix.double().abs().sum(dim=1) * torch.tensor([1.0, -1.0, 1.0, 0.0, 0.5])
    found = gr.pattern(chi, target, bounds=(0.1, 2.9))
    assert found.weights.dtype == torch.float32
    assert found.reached
    assert_kept(found, data.train.weights)
    new = data.with_train(weights=found.weights)
    x = gr.value(points(5, torch.float32))
    refit = certified_expectation(head.condition(new), x).value - certified_expectation(head.condition(data), x).value
    assert torch.allclose(refit, found.exact, atol=1e-12)


# Groups, subsets, names -----------------------------------------------------------------------------------------------


def test_groups_move_as_one_and_other_rows_keep_their_weights():
    groups = {name: list(range(k, 36, 6)) for k, name in enumerate("abcdef")}
    chi = gr.susceptibility(POSTERIOR, gr.value(X[:2]), gr.reweight(groups))
    target = torch.tensor([0.02, -0.02], dtype=torch.float64)
    found = gr.pattern(chi, target, bounds=(0, 4))
    assert found.columns == tuple("abcdef")
    assert found.reached
    moved = found.weights - DATA.train.weights
    for k, rows in enumerate(groups.values()):
        assert torch.allclose(moved[rows], found.change[k].expand(len(rows)), atol=1e-15)
    assert torch.equal(moved[36:], torch.zeros(4, dtype=torch.float64))
    assert abs(float(moved.sum())) < 1e-12
    assert torch.allclose(change_of_refit(found, observable=gr.value(X[:2])), found.exact, atol=1e-11)


def test_groups_of_unequal_size_weigh_their_rows():
    """Least change of rows, not of columns: that of the rows' own problem with the groups as a condition."""
    groups = {"a": [0], "b": list(range(1, 20)), "c": list(range(20, 40))}
    chi = gr.susceptibility(POSTERIOR, gr.value(X[:1]), gr.reweight(groups))
    found = gr.pattern(chi, [0.01], mass="free", bounds=(-9, 9), iterations=0)
    size = torch.tensor([1.0, 19.0, 20.0], dtype=torch.float64)
    row = chi.matrix[0] / size
    assert torch.allclose(found.change, 0.01 * row / (chi.matrix[0] @ row), atol=1e-13)


def test_some_samples_alone_move():
    rows = list(range(5, 30))
    chi = gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(rows))
    found = gr.pattern(chi, TARGET)
    still = [k for k in range(40) if k not in rows]
    assert torch.equal(found.weights[still], DATA.train.weights[still])
    assert found.reached


def test_a_target_by_name_leaves_the_others_free_and_reports_them():
    named = gr.pattern(CHI, {"value[2]": 0.03, "value[0]": -0.01})
    assert named.observables == ("value[0]", "value[2]")
    assert named.target.tolist() == [-0.01, 0.03]
    assert named.reached
    aside = named.side_effects()
    assert list(aside.index) == ["value[1]", "value[3]"]
    refit = change_of_refit(named)
    assert np.allclose(aside["exact"], refit[[1, 3]], atol=1e-11)
    assert np.allclose(aside["predicted"], (CHI.matrix @ named.change)[[1, 3]], atol=1e-13)
    still = gr.pattern(CHI, {"value[2]": 0.03, "value[0]": -0.01, "value[1]": 0.0, "value[3]": 0.0})
    assert float(still.exact[[1, 3]].abs().max()) < 1e-3 * 0.03


def test_side_effects_are_those_of_a_refit():
    found = gr.pattern(CHI, TARGET)
    loss = gr.loss(DATA.test.x, DATA.test.y)
    table = found.side_effects(loss)
    assert len(table) == len(DATA.test)
    assert np.allclose(table["exact"], change_of_refit(found, observable=loss), atol=1e-10)
    predicted = gr.susceptibility(POSTERIOR, loss, gr.reweight()).matrix @ found.change
    assert np.allclose(table["predicted"], predicted, atol=1e-12)


def test_the_report_has_predicted_exact_and_refitted_change():
    found = gr.pattern(CHI, TARGET)
    table = found.report(HEAD, DATA)
    assert list(table.index) == list(CHI.rows)
    assert np.allclose(table["refitted"], change_of_refit(found), atol=1e-14)
    assert np.allclose(table["share"][:3], table["refitted"][:3] / TARGET[:3].numpy())
    assert np.isnan(table["share"].iloc[3])
    assert found.report()["refitted"].isna().all()
    assert_refused(lambda: found.report(HEAD), "both", error=gr.InputError)


# Certificates, infeasible targets, refusals ---------------------------------------------------------------------------


def test_the_bound_of_the_prediction_is_that_of_the_response():
    rough = gr.Exact(gr.Matern52(lengthscale=1.5), noise=0.05, solver=gr.CG(tolerance=1e-3, rank=2))
    fine = gr.Exact(gr.Matern52(lengthscale=1.5), noise=0.05)
    observable = gr.value(X)
    chi, truth = (gr.susceptibility(h.condition(DATA), observable, gr.reweight()) for h in (rough, fine))
    found = gr.pattern(chi, TARGET)
    assert bool(((truth.matrix @ found.change - found.predicted).abs() <= found.predicted_error).all())
    refit = change_of_refit(found, fine)
    assert bool(((refit - found.exact).abs() <= found.error + 1e-12).all())
    assert torch.allclose(found.predicted_error, chi.error @ found.change.abs(), rtol=1e-2, atol=1e-13)


def test_a_target_out_of_reach_gives_the_nearest_and_says_so():
    found = gr.pattern(CHI, 100.0 * TARGET, iterations=20)
    assert not found.feasible
    assert not found.reached
    assert "infeasible" in repr(found)
    assert_kept(found, DATA.train.weights, within=1e-11)
    assert torch.allclose(change_of_refit(found), found.exact, atol=1e-9)

    def missed(weights):
        return 0.5 * float((expected(weights) - 100.0 * TARGET).square().sum())

    base = gr.response.expectation(POSTERIOR, gr.value(X))

    def expected(weights):
        return gr.response.expectation(POSTERIOR.reweighted(weights), gr.value(X)) - base

    best = missed(found.weights)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):  # moves of weight between two rows, within the bounds
        one, two = torch.randperm(40, generator=generator)[:2].tolist()
        size = 0.2 * min(3.0 - float(found.weights[one]), float(found.weights[two]))
        moved = found.weights.clone()
        moved[one] += size
        moved[two] -= size
        assert missed(moved) >= best * (1 - 1e-5)


def test_a_loaded_response_is_inverted_once_and_says_so(tmp_path):
    CHI.save(tmp_path / "chi.safetensors")
    loaded = gr.Susceptibility.load(tmp_path / "chi.safetensors")
    found = gr.pattern(loaded, TARGET, weights=DATA.train.weights)
    assert found.exact is None
    assert found.history == ()
    assert any("linear" in note for note in found.notes)
    assert torch.allclose(found.change, gr.pattern(CHI, TARGET, iterations=0).change, atol=1e-13)
    assert torch.allclose(found.predicted, TARGET, atol=1e-12)
    assert found.reached
    assert "linear" in repr(found)
    for action in (lambda: found.posterior, found.side_effects, lambda: found.report(HEAD, DATA)):
        assert_refused(action, "posterior", error=gr.InputError)


def test_a_stored_response_is_read(tmp_path):
    linear = gr.pattern(CHI, TARGET, iterations=0).change
    stored = gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(), out=tmp_path / "chi.zarr")
    assert torch.allclose(gr.pattern(stored, TARGET, weights=DATA.train.weights).change, linear, atol=1e-13)


def test_iterations_zero_takes_the_linear_answer_and_still_says_what_it_does():
    found = gr.pattern(CHI, 4.0 * TARGET, iterations=0)
    assert torch.allclose(found.predicted, 4.0 * TARGET, atol=1e-12)
    assert torch.allclose(found.exact, change_of_refit(found), atol=1e-10)
    assert not found.reached
    assert found.feasible


def test_weights_outside_the_bounds_are_brought_inside():
    found = gr.pattern(CHI, TARGET, bounds=(0.7, 1.6), mass="free", iterations=20)
    assert bool((DATA.train.weights < 0.7).any())
    assert_kept(found)


def test_effective_sample_size_and_repeatability():
    found, again = gr.pattern(CHI, TARGET), gr.pattern(CHI, TARGET)
    assert torch.equal(found.weights, again.weights)
    w = found.weights
    assert found.effective_sample_size == pytest.approx(float(w.sum() ** 2 / (w @ w)))


def test_nothing_wanted_changes_nothing():
    found = gr.pattern(CHI, torch.zeros(4))
    assert torch.equal(found.weights, DATA.train.weights)
    assert found.reached


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (lambda: gr.pattern(gr.susceptibility(POSTERIOR, gr.value(X), gr.relabel()), TARGET), "relabel"),
        (lambda: gr.pattern(CHI.to("bif"), TARGET), "convention"),
        (lambda: gr.pattern(gr.finite_response(POSTERIOR, gr.value(X), gr.reweight()), TARGET), "finite"),
        (lambda: gr.pattern(CHI.matrix, TARGET), "Tensor"),
        (lambda: gr.pattern(CHI, TARGET[:3]), "shape (3,)"),
        (lambda: gr.pattern(CHI, TARGET / 0), "finite"),
        (lambda: gr.pattern(CHI, {"value[9]": 1.0}), "value[9]"),
        (lambda: gr.pattern(CHI, TARGET, mass="keep"), "mass"),
        (lambda: gr.pattern(CHI, TARGET, bounds=(2, 1)), "no number between"),
        (lambda: gr.pattern(CHI, TARGET, bounds=(0, float("nan"))), "no number between"),
        (lambda: gr.pattern(CHI, TARGET, bounds=3), "bounds"),
        (lambda: gr.pattern(CHI, TARGET, bounds=(torch.zeros(3), 3)), "bounds"),
        (lambda: gr.pattern(CHI, TARGET, bounds=(2, 3)), "every weight vector of mass"),
        (lambda: gr.pattern(CHI, TARGET, bounds=(-1, 3)), "iterations=0"),
        (lambda: gr.pattern(CHI, TARGET, ridge=-1.0), "ridge"),
        (lambda: gr.pattern(CHI, TARGET, sparsity="much"), "sparsity"),
        (lambda: gr.pattern(CHI, TARGET, rank=5), "rank"),
        (lambda: gr.pattern(CHI, TARGET, tolerance=0.0), "tolerance"),
        (lambda: gr.pattern(CHI, TARGET, iterations=-1), "iterations"),
        (lambda: gr.pattern(CHI, TARGET, weights=torch.ones(40)), "weights"),
        (lambda: gr.pattern(gr.susceptibility(POSTERIOR, gr.value(X[:1]), gr.reweight()), [0.1], ridge="auto"), "auto"),
        (
            lambda: gr.pattern(gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight([3, 4])), TARGET, bounds=(0.9, 3)),
            "in no column",
        ),
        (lambda: POSTERIOR.reweighted(torch.ones(3)), "shape (3,)"),
        (lambda: POSTERIOR.reweighted(-DATA.train.weights), "0 or more"),
    ],
)
def test_what_cannot_be_is_refused(action, said):
    assert_refused(action, said, error=gr.InputError)
