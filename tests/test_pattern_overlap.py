"""Patterning with groups that share rows: programs against SLSQP, rows against equal partitions, and targets met by refits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pattern_cases import assert_kept, refit_change
from refusals import assert_refused
from scipy.optimize import minimize

import gp_response as gr
from gp_response.linalg.box_program import BoxProgram, solve_box
from gp_response.linalg.span_program import solve_within
from gp_response.response.nearest_weights import Strengths, nearest
from gp_response.response.overlap import Overlap
from gp_response.response.pattern_strength import SPARSITIES, left_out_error
from gp_response.response.weight_room import weight_room
from gp_response.testing import example_data, example_head

N = 40
DATA = example_data(n=N)
HEAD = example_head()
POSTERIOR = HEAD.condition(DATA)
X = DATA.test.x[:2]
GROUPS = {"left": range(20), "right": range(10, 30), "even": range(0, 40, 2), "few": [1, 11, 12], "all": range(40)}
GROUPS = {name: list(rows) for name, rows in GROUPS.items()}


def chi(groups, posterior=POSTERIOR, observable=None):
    return gr.susceptibility(posterior, observable or gr.value(X), gr.reweight(groups))


def incidence(groups, n=N):
    rows = groups.values() if isinstance(groups, dict) else groups
    matrix = torch.zeros(n, len(groups), dtype=torch.float64)
    for c, group in enumerate(rows):
        matrix[list(group), c] = 1.0
    return matrix


def change_of_refit(found, head=HEAD, data=DATA, observable=None):
    return refit_change(found, head, data, observable or gr.value(X))


def assert_moves_by_its_groups(found, groups, start=DATA.train.weights):
    moved = incidence(groups, len(start)) @ found.change
    torch.testing.assert_close(found.weights, start + moved, rtol=0.0, atol=1e-14)


# Responses -----------------------------------------------------------------------------------------------------------

HEADS = {
    "exact": (HEAD, DATA),
    "cg": (gr.Exact(gr.Matern52(lengthscale=1.5), noise=0.2, solver=gr.CG(tolerance=1e-10)), DATA),
    "sgpr": (gr.SGPR(gr.Matern52(lengthscale=[1.5] * 3), 15, noise=0.2), DATA),
    "laplace": (
        gr.Exact(gr.Matern52(lengthscale=1.5), likelihood=gr.Bernoulli()),
        DATA.with_train(y=(DATA.train.y > 0).double()),
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_response_to_a_group_is_the_sum_of_its_rows_and_the_derivative_of_refits(name):
    head, data = HEADS[name]
    posterior = head.condition(data)
    groups = {**GROUPS, "again": GROUPS["few"]}
    found, rows = chi(groups, posterior), gr.susceptibility(posterior, gr.value(X), gr.reweight())
    torch.testing.assert_close(found.matrix, rows.matrix @ incidence(groups), rtol=1e-9, atol=1e-12)
    for c, group in enumerate(groups.values()):
        h, ends = 1e-4, []
        for sign in (1.0, -1.0):
            weights = data.train.weights.clone()
            weights[group] += sign * h
            ends.append(gr.response.expectation(head.condition(data.with_train(weights=weights)), gr.value(X)))
        torch.testing.assert_close(found.matrix[:, c], (ends[0] - ends[1]) / (2 * h), rtol=1e-4, atol=1e-8)


def test_finite_changes_of_groups_that_share_rows_are_refits_of_each_alone():
    found = gr.finite_response(POSTERIOR, gr.value(X), gr.reweight(GROUPS), h=0.5)
    for c, group in enumerate(GROUPS.values()):
        weights = DATA.train.weights.clone()
        weights[group] += 0.5
        there = HEAD.condition(DATA.with_train(weights=weights))
        refit = gr.response.expectation(there, gr.value(X)) - gr.response.expectation(POSTERIOR, gr.value(X))
        torch.testing.assert_close(found.matrix[:, c], refit, rtol=1e-9, atol=1e-12)


def test_amplitudes_of_groups_add_on_the_rows_they_share():
    h = torch.tensor([0.1, 0.2, 0.3, -0.1, 0.05], dtype=torch.float64)
    applied = gr.reweight(GROUPS).apply(DATA, h).train.weights
    torch.testing.assert_close(applied, DATA.train.weights + incidence(GROUPS) @ h, rtol=0.0, atol=1e-15)


# Programs ------------------------------------------------------------------------------------------------------------


def drawn(seed, *, mass="conserve", bounds=(0.0, 3.0), size=0.3, m=2):
    """A room of random overlapping groups, responses of its columns, an aim some change has, and B, sizes, box."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(4, 8))
    groups = [sorted(generator.choice(N, generator.integers(3, 25), replace=False).tolist()) for _ in range(count)]
    groups += [groups[0], list(range(N))][: seed % 3]  # one twice, one of all
    start = torch.ones(N, dtype=torch.float64) if seed % 2 else torch.as_tensor(generator.uniform(0.3, 1.7, N))
    data = DATA.with_train(weights=start)
    names = tuple(str(c) for c in range(len(groups)))
    room = weight_room(start, gr.reweight(groups), data, names, bounds=bounds, mass=mass)
    rows = torch.as_tensor(generator.standard_normal((m, N)))
    matrix = rows @ incidence(groups)
    aim = matrix @ torch.as_tensor(size * generator.standard_normal(len(groups)))
    return room, groups, matrix, aim


def by_slsqp(groups, room, matrix, aim, cost, *, sparsity, hard):
    """Independent: change of columns and, for the size of moves, a bound on each row's, n rows and all their bounds."""
    rows, c = incidence(groups).numpy(), len(groups)
    low, high = (room.lower - room.start).numpy(), (room.upper - room.start).numpy()
    conditions = [{"type": "ineq", "fun": lambda x: np.concatenate([rows @ x[:c] - low, high - rows @ x[:c]])}]
    if room.conserve:
        conditions.append({"type": "eq", "fun": lambda x: (rows @ x[:c]).sum() / N})
    if hard:
        conditions.append({"type": "eq", "fun": lambda x: matrix.numpy() @ x[:c] - aim.numpy()})
    if sparsity:
        sizes = {"type": "ineq", "fun": lambda x: np.concatenate([x[c:] - rows @ x[:c], x[c:] + rows @ x[:c]])}
        conditions.append(sizes)
    return minimize(
        lambda x: cost(rows @ x[:c], x[c:].sum() if sparsity else 0.0), np.zeros(c + (N if sparsity else 0)),
        method="SLSQP", constraints=conditions, options={"ftol": 1e-13, "maxiter": 400},
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("sparsity", [0.0, 0.3])
@pytest.mark.parametrize("mass", ["conserve", "free"])
def test_the_least_change_is_that_of_slsqp_on_all_rows(seed, ridge, sparsity, mass):
    room, groups, matrix, aim = drawn(seed, mass=mass)
    found = nearest(room, matrix, aim, Strengths(ridge, sparsity))
    rows = incidence(groups)
    hard = found.feasible and not ridge
    mapped = np.linalg.lstsq(rows.numpy().T, matrix.numpy().T, rcond=None)[0].T  # responses of rows
    faint = ridge or 1e-9 * float(torch.linalg.matrix_norm(room.by_u(matrix), 2)) ** 2

    def cost(moves, size):
        own = 0.5 * moves @ moves + sparsity * size
        return own if hard else 0.5 * np.sum((mapped @ moves - aim.numpy()) ** 2) + faint * own

    theirs = by_slsqp(groups, room, matrix, aim, cost, sparsity=sparsity, hard=hard)
    moves = (rows @ found.change).numpy()
    mine = cost(moves, np.abs(moves).sum())
    assert theirs.success
    assert mine <= theirs.fun + 1e-9 * (1.0 + abs(theirs.fun))
    if hard or ridge:
        assert mine >= theirs.fun - 1e-7 * (1.0 + abs(theirs.fun))
        assert np.abs(moves - rows.numpy() @ theirs.x[: len(groups)]).max() < 1e-4
    weights = room.weights(found.change, torch.float64)
    assert float((room.start + rows @ found.change - weights).abs().max()) < 1e-14
    assert bool(((weights >= 0) & (weights <= 3)).all())
    assert mass == "free" or abs(float(weights.sum() - room.start.sum())) < 1e-12
    assert not hard or float((matrix @ found.change - aim).abs().max()) < 1e-12 * (1.0 + float(aim.abs().max()))
    least = np.linalg.pinv(rows.numpy()) @ moves
    assert np.abs(found.change.numpy() - least).max() < 1e-11


def test_of_these_programs_some_can_be_met_and_some_cannot():
    kinds = set()
    for seed in range(6):
        room, _, matrix, aim = drawn(seed)
        found = nearest(room, matrix, aim, Strengths())
        weights = room.weights(found.change, torch.float64)
        kinds.add((found.feasible, bool(((weights < 1e-12) | (weights > 3 - 1e-12)).any())))
    assert {feasible for feasible, _ in kinds} == {True, False}
    assert {bound for _, bound in kinds} == {True, False}


def box_program(seed, *, slack, sparsity, moved=0.3, n=12, r=3):
    generator = np.random.default_rng(seed)
    rows = np.linalg.qr(generator.standard_normal((n, r)))[0].T
    along = np.sqrt(generator.integers(1, 5, n).astype(float))
    lower, upper = -generator.uniform(0.1, 0.6, n), generator.uniform(0.1, 0.8, n)
    aim = 0.3 * generator.standard_normal(r)
    return BoxProgram(rows, aim, np.full(r, slack), lower, upper, along, moved, 1.0, sparsity)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("slack", [0.0, 0.3])
@pytest.mark.parametrize("sparsity", [0.0, 0.1])
def test_confined_to_everything_it_is_the_program_of_the_box(seed, slack, sparsity):
    p = box_program(seed, slack=slack, sparsity=sparsity)
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((12, 12)))[0]
    expected = solve_box(p).value
    for span in (np.eye(12), turn):
        assert np.abs(solve_within(p, span) - expected).max() < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_confined_it_meets_the_conditions_of_karush_kuhn_and_tucker(seed):
    """Multipliers of held entries, from a least-squares fit, push outwards, and nothing is left in the span."""
    generator = np.random.default_rng(seed)
    span = np.linalg.qr(generator.standard_normal((12, 7)))[0]
    row = (span @ generator.standard_normal(7))[None]
    row /= np.linalg.norm(row)
    wide = np.full(12, np.inf)
    unbounded = BoxProgram(row, np.ones(1), np.zeros(1), -wide, wide, np.ones(12), None)
    reach = 0.8 * np.abs(solve_within(unbounded, span)).max()
    p = replace(unbounded, lower=np.full(12, -reach), upper=np.full(12, reach))
    u = solve_within(p, span)
    held = np.abs(u) == reach
    assert 1 <= held.sum() <= 5
    basis = np.concatenate([p.rows, np.eye(12)[held]]) @ span
    fit, *_ = np.linalg.lstsq(basis.T, span.T @ u, rcond=None)
    assert np.abs(basis.T @ fit - span.T @ u).max() < 1e-12
    assert bool((fit[1:] * np.sign(u[held]) <= 1e-12).all())
    assert np.abs(span @ (span.T @ u) - u).max() < 1e-14
    assert abs(p.rows[0] @ u - 1.0) < 1e-14


def test_conditions_that_exclude_each_other_are_none():
    span = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 2)))[0]
    assert solve_within(box_program(0, slack=0.0, sparsity=0.0), span) is None
    wide = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 8)))[0]
    p = box_program(0, slack=0.0, sparsity=0.0)
    far = BoxProgram(p.rows, 100.0 * p.aim, p.slack, p.lower, p.upper, p.along, p.moved)
    assert solve_within(far, wide) is None


# The same rows by other groups ---------------------------------------------------------------------------------------

TARGET = torch.tensor([0.02, -0.015], dtype=torch.float64)


def test_nested_groups_give_the_weights_of_the_parts_they_nest():
    nested = {"all": list(range(N)), "half": list(range(20)), "quarter": list(range(10)), "odd": list(range(21, 40, 2))}
    parts = [list(range(10)), list(range(10, 20)), list(range(20, 40, 2)), list(range(21, 40, 2))]
    for options in ({}, {"mass": "free"}, {"sparsity": 0.1}, {"ridge": 1e-3}, {"rank": 1}):
        one, other = (gr.pattern(chi(groups), TARGET, bounds=(0, 6), **options) for groups in (nested, parts))
        torch.testing.assert_close(one.weights, other.weights, rtol=0.0, atol=1e-9)
        assert one.reached == other.reached
        assert_kept(one)
        assert_moves_by_its_groups(one, nested)


def test_a_group_given_twice_shares_its_change():
    disjoint = [list(range(k, N, 5)) for k in range(5)]
    one, two = gr.pattern(chi(disjoint), TARGET), gr.pattern(chi([*disjoint, disjoint[2]]), TARGET)
    torch.testing.assert_close(one.weights, two.weights, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(two.change[[2, 5]], 0.5 * one.change[[2, 2]], rtol=0.0, atol=1e-10)


def test_every_row_and_a_group_beside_is_every_row():
    rows = [[k] for k in range(N)]
    one, two = gr.pattern(chi(None), TARGET), gr.pattern(chi([*rows, list(range(7, 30))]), TARGET)
    torch.testing.assert_close(one.weights, two.weights, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("strengths", [Strengths(), Strengths(0.01), Strengths(0.0, 0.1), Strengths(0.01, 0.1)])
@pytest.mark.parametrize("size", [0.2, 20.0])
def test_without_overlap_the_detour_leads_to_the_disjoint_answer(strengths, size):
    groups = [list(range(k, N, 7)) for k in range(7)]
    names = tuple("abcdefg")
    room = weight_room(DATA.train.weights, gr.reweight(groups), DATA, names, bounds=(0, 3), mass="conserve")
    assert room.overlap is None
    eye = torch.eye(7, dtype=torch.float64)
    found = Overlap.of(eye, room.sizes)
    assert found.span is None
    matrix = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    aim = size * matrix @ torch.linspace(-0.5, 0.5, 7, dtype=torch.float64)
    expected = nearest(room, matrix, aim, strengths)
    for overlap in (found, found._replace(span=eye)):
        other = nearest(replace(room, overlap=overlap), matrix, aim, strengths)
        assert other.feasible == expected.feasible == (size < 1)
        # Where the target is out of reach, what holds columns apart is faint, and so is the last of their digits.
        torch.testing.assert_close(other.change, expected.change, rtol=0.0, atol=1e-12 if expected.feasible else 1e-8)


# Targets met by refits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_targets_are_met_by_a_refit_of_groups_that_share_rows(name):
    head, data = HEADS[name]
    response = chi(GROUPS, head.condition(data))
    target = 0.1 * response.matrix.abs().max(dim=1).values * torch.tensor([1.0, -0.5], dtype=torch.float64)
    found = gr.pattern(response, target, bounds=(0, 4))
    refit = change_of_refit(found, head, data)
    assert found.reached
    assert found.feasible
    assert float(((refit - target) / target).abs().max()) <= found.tolerance
    assert bool(((refit - found.exact).abs() <= found.error + 1e-9).all())
    assert_kept(found, data.train.weights, within=1e-13)
    assert_moves_by_its_groups(found, GROUPS, data.train.weights)
    assert np.allclose(found.report(head, data)["refitted"], refit, atol=1e-12)


def test_many_random_groups_of_many_rows():
    data = example_data(n=1000, dim=2)
    head = gr.Exact(gr.Matern32(lengthscale=1.2, outputscale=1.5), noise=0.05)
    generator = torch.Generator().manual_seed(3)
    groups = {str(k): torch.randperm(1000, generator=generator)[:100].tolist() for k in range(30)}
    observable = gr.value(torch.randn(4, 2, generator=generator, dtype=torch.float64))
    response = chi(groups, head.condition(data), observable)
    target = 0.6 * response.matrix.norm(dim=1) * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    found = gr.pattern(response, target, bounds=(0.1, 3.0))
    refit = change_of_refit(found, head, data, observable)
    assert found.reached, found.history
    assert bool(
        ((refit - target).abs() <= 1e-3 * target.abs().clamp_min(float(target.abs().max()) * (target == 0))).all()
    )
    at, near = ([int(((found.weights - bound).abs() <= away).sum()) for bound in (0.1, 3.0)] for away in (0.0, 1e-9))
    assert at == near
    assert sum(at) > 0
    assert_kept(found, data.train.weights, within=1e-13)
    assert_moves_by_its_groups(found, groups, data.train.weights)


def test_single_precision_keeps_mass_and_bounds():
    data = example_data(n=400, dim=2, dtype=torch.float32)
    head = gr.Exact(gr.Matern32(lengthscale=1.2, outputscale=1.5), noise=0.05)
    generator = torch.Generator().manual_seed(1)
    groups = [torch.randperm(390, generator=generator)[:60].tolist() for _ in range(12)]
    observable = gr.value(torch.randn(3, 2, generator=generator))
    response = chi(groups, head.condition(data), observable)
    target = 0.3 * response.matrix.double().norm(dim=1) * torch.tensor([1.0, -1.0, 0.5])
    found = gr.pattern(response, target, bounds=(0.1, 2.9))
    assert found.weights.dtype == torch.float32
    assert found.reached
    assert_kept(found, data.train.weights)
    assert torch.equal(found.weights[390:], data.train.weights[390:])
    moved = incidence(groups, 400) @ found.change
    assert float((found.weights.double() - data.train.weights.double() - moved).abs().max()) < 1e-6


def test_sparsity_leaves_parts_of_groups_where_they_were():
    generator = np.random.default_rng(5)
    groups = [sorted(generator.choice(N, 9, replace=False).tolist()) for _ in range(12)]
    rows = incidence(groups)
    dense, sparse = (gr.pattern(chi(groups), TARGET, sparsity=s, bounds=(0, 9), iterations=30) for s in (0.0, 3.0))
    moved = [(found.weights - DATA.train.weights)[rows.sum(dim=1) > 0].abs() for found in (dense, sparse)]
    still = [int((rows < 1e-9).sum()) for rows in moved]
    assert still[1] > still[0] + 5
    assert sparse.reached
    sizes = [float((found.weights - DATA.train.weights).abs().sum()) for found in (dense, sparse)]
    assert sizes[1] < sizes[0]


def test_strengths_are_chosen_for_overlapping_groups_too():
    generator = np.random.default_rng(2)
    groups = [sorted(generator.choice(N, 12, replace=False).tolist()) for _ in range(10)]
    observable = gr.value(DATA.test.x[:7])
    response = chi(groups, observable=observable)
    cause = torch.as_tensor(0.2 * generator.standard_normal(10))
    target = response.matrix @ cause + 0.02 * torch.as_tensor(generator.standard_normal(7))
    options = {"mass": "free", "bounds": (-9.0, 9.0)}
    for name in ("ridge", "sparsity", "rank"):
        chosen = gr.pattern(response, target, iterations=0, **{name: "auto"}, **options).strengths
        assert getattr(chosen, name) >= (1 if name == "rank" else 0)
    room = weight_room(DATA.train.weights, gr.reweight(groups), DATA, response.columns, **options)
    largest = float(room.moves(nearest(room, response.matrix, target, Strengths()).change).abs().max())
    tried = [Strengths(sparsity=share * largest) for share in SPARSITIES]
    best = min(tried, key=lambda one: left_out_error(room, response.matrix, target, one))
    found = gr.pattern(response, target, iterations=0, sparsity="auto", **options)
    assert found.strengths.sparsity == pytest.approx(best.sparsity)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_rank_truncates_the_response_to_what_the_rows_move_by(rank):
    """The truncated pseudo-inverse of the responses of rows, restricted to what the groups can make of them."""
    found = gr.pattern(chi(GROUPS), TARGET, rank=rank, iterations=0, mass="free", bounds=(-np.inf, np.inf))
    basis = torch.linalg.qr(incidence(GROUPS))[0]
    rows = gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight()).matrix @ basis @ basis.T
    u, s, vh = torch.linalg.svd(rows, full_matrices=False)
    moves = vh[:rank].T @ ((u[:, :rank].T @ TARGET) / s[:rank])
    torch.testing.assert_close(found.weights, DATA.train.weights + moves, rtol=0.0, atol=1e-11)


# Out of reach, and refused -------------------------------------------------------------------------------------------


def test_a_target_out_of_reach_gives_the_nearest_and_says_so():
    response = chi(GROUPS)
    target = 50.0 * TARGET
    found = gr.pattern(response, target, iterations=30)
    assert not found.feasible
    assert not found.reached
    assert "infeasible" in repr(found)
    assert_kept(found, DATA.train.weights, within=1e-13)
    assert_moves_by_its_groups(found, GROUPS)
    torch.testing.assert_close(change_of_refit(found), found.exact, rtol=0.0, atol=1e-9)
    base = gr.response.expectation(POSTERIOR, gr.value(X))

    def missed(change):
        weights = (DATA.train.weights + incidence(GROUPS) @ change).clamp_min(0.0)
        return 0.5 * float(
            (gr.response.expectation(POSTERIOR.reweighted(weights), gr.value(X)) - base - target).square().sum()
        )

    best, sizes, generator, tried = (
        missed(found.change),
        incidence(GROUPS).sum(dim=0),
        torch.Generator().manual_seed(0),
        0,
    )
    for _ in range(200):  # small changes that keep mass, where they stay within the bounds
        way = torch.randn(5, generator=generator, dtype=torch.float64)
        way -= sizes * (sizes @ way) / (sizes @ sizes)
        weights = DATA.train.weights + incidence(GROUPS) @ (found.change + 0.02 * way)
        if bool(((weights >= -1e-12) & (weights <= 3)).all()):
            tried += 1
            assert missed(found.change + 0.02 * way) >= best * (1 - 1e-6)
    assert tried >= 10


@pytest.mark.parametrize("groups", [[list(range(N))], [list(range(N))] * 2, [list(range(N)), list(range(N)), []]])
def test_groups_of_all_rows_cannot_move_and_keep_the_mass(groups):
    groups = [group for group in groups if group]
    found = gr.pattern(chi(groups), TARGET)
    assert not found.feasible
    torch.testing.assert_close(found.weights, DATA.train.weights, rtol=0.0, atol=1e-12)
    free = gr.pattern(chi(groups, observable=gr.value(X[:1])), [0.01], mass="free")
    assert free.reached
    torch.testing.assert_close(free.change, free.change[:1].expand(len(groups)))


def test_rows_outside_the_bounds_are_brought_inside_by_their_groups():
    weights = DATA.train.weights.clone()
    weights[:30] = 1.0
    weights[:5] = 0.05
    data = DATA.with_train(weights=weights)
    groups = {
        "a": list(range(10)),
        "b": list(range(5, 20)),
        "c": list(range(5)) + list(range(15, 30)),
        "d": list(range(30)),
    }
    found = gr.pattern(chi(groups, HEAD.condition(data)), TARGET, bounds=(0.05 + 0.1, 3.0), iterations=20)
    assert float(found.weights[:30].min()) >= 0.15
    assert_kept(found, weights, within=1e-13)
    assert_moves_by_its_groups(found, groups, weights)


def outside(start, bounds, groups, mass="conserve"):
    weights = torch.ones(N, dtype=torch.float64)
    weights[list(start)] = torch.tensor(list(start.values()), dtype=torch.float64)
    return gr.pattern(chi(groups, HEAD.condition(DATA.with_train(weights=weights))), TARGET, bounds=bounds, mass=mass)


AB = {"a": [0, 1, 2, 3], "b": [2, 3, 4, 5]}
ABC = {**AB, "c": [0, 1, 2, 3, 4, 5]}


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (lambda: outside({2: 0.1, 3: 5.0}, (0.5, 2), ABC), "columns ['a', 'b', 'c'] alone have"),
        (lambda: outside({0: 0.1, 1: 5.0}, (0.5, 2), {"a": [0, 1, 2], "b": [2, 3]}), "column 'a' alone has"),
        (lambda: outside({0: 0.1, 1: 0.1, 4: 0.1, 5: 0.1, 2: 2.0, 3: 2.0}, (0.5, 2), AB), "these overlapping"),
        (lambda: outside(dict.fromkeys(range(6), 0.1), (0.5, 2), ABC), "every weight vector of mass"),
        (lambda: outside({9: 0.1}, (0.5, 2), ABC), "in no column"),
        (lambda: chi([[0, 1], [1, 1 - N]]), "twice in one group"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(action, said):
    assert_refused(action, said, error=gr.InputError)


def test_too_many_parts_of_too_many_columns_are_refused(monkeypatch):
    monkeypatch.setattr("gp_response.response.overlap.LARGEST", 20)
    assert_refused(lambda: gr.pattern(chi(GROUPS), TARGET), "more than patterning can factor", error=gr.InputError)
