"""The features' part of total responses by its solvers: against dense inverses, refits, and a derivation by autograd alone."""

import copy

import pytest
import torch
from gpytorch.priors import LogNormalPrior
from total_cases import dense_moves, gap, localised_optimum, optimum

import gp_response as gr
from gp_response.response.total import localised, tiles
from gp_response.response.total.inverse import _least, responses
from gp_response.response.total.localised import Image
from gp_response.testing import example_data

DATA = example_data()
X, Y = DATA.test.x, DATA.test.y
EVERY = gr.reweight()


def deep(make):
    prior = LogNormalPrior(0.0, 0.5)
    kernel = gr.Matern52(lengthscale=1.0, outputscale=1.2, lengthscale_prior=prior, outputscale_prior=prior)
    head = make(kernel.on(gr.MLP(3, [4, 2])))
    head.fit(DATA, training=gr.Training(progress=False, pretrain_steps=100, steps=30))
    return optimum(head, DATA)


@pytest.fixture(scope="module")
def exact():
    return deep(lambda kernel: gr.Exact(kernel, noise=0.2))


@pytest.fixture(scope="module")
def sparse():
    return deep(lambda kernel: gr.SGPR(kernel, 9, 0.2))


@pytest.fixture(scope="module", params=["exact", "sparse"])
def head(request):
    return request.getfixturevalue(request.param)


def total(head, observable=None, change=EVERY, **options):
    return gr.total_susceptibility(head, DATA, observable or gr.value(X), change, features=True, **options)


def covered(got, truth):
    return bool(((got.matrix - truth.matrix).abs() <= got.error + truth.error).all())


@pytest.mark.parametrize("change", [gr.reweight([0, 5]), gr.relabel([3]), gr.delete([4, 6])])
def test_both_solvers_give_what_autograd_and_a_dense_inverse_give(exact, change):
    for solver in (None, gr.Lanczos(rank=40, storage="float64")):
        chi = total(exact, change=change, solver=solver)
        moved = chi.matrix - chi.parts["field"].matrix
        assert gap(moved, dense_moves(exact, DATA, X, change, chi.optimum.damping)) < 1e-8


@pytest.mark.parametrize("change", [EVERY, gr.insert(X[:2] + 0.1, Y[:2] - 0.3)])
def test_lanczos_at_full_rank_is_conjugate_gradients(head, change):
    one, other = total(head, change=change), total(head, change=change, solver=gr.Lanczos(rank=40, storage="float64"))
    assert gap(other, one.matrix) < 1e-8
    assert gap(other.hyperparameters, one.hyperparameters.matrix) < 1e-8
    assert other.converged
    assert float(other.error.max()) < 1e-6 * float(one.matrix.abs().max())


@pytest.fixture(scope="module")
def truth(head):
    return total(head, gr.loss(X, Y), solver=gr.CG(tolerance=1e-11))


@pytest.mark.parametrize("rank", [2, 5, 9, 14, 20])
@pytest.mark.parametrize("storage", ["float32", "float64"])
def test_intervals_of_any_rank_cover_every_entry(head, truth, rank, storage):
    chi = total(head, gr.loss(X, Y), solver=gr.Lanczos(rank=rank, storage=storage))
    assert covered(chi, truth)
    assert all(covered(part, truth.parts[name]) for name, part in chi.parts.items())
    assert covered(chi.hyperparameters, truth.hyperparameters)
    if rank == 2:
        assert not chi.converged
        assert gap(chi, truth.matrix) > 1e-3  # so that there is something to cover


def test_refits_of_the_localised_objective_lie_in_the_interval(head):
    step, delta = 2e-3, total(head, change=gr.reweight([5])).optimum.damping
    chi = {rank: total(head, gr.loss(X, Y), gr.reweight([5]), solver=gr.Lanczos(rank=rank)) for rank in (8, 26)}
    _, tilt, origin = localised_optimum(copy.deepcopy(head), DATA, delta)
    found = {}
    for k in (1, -1, 2, -2):
        changed = gr.reweight([5]).apply(DATA, k * step)
        model = localised_optimum(copy.deepcopy(head), changed, delta, tilt, origin)[0]
        found[k] = gr.response.expectation(model.condition(changed), gr.loss(X, Y))
    slope = ((8.0 * (found[1] - found[-1]) - (found[2] - found[-2])) / (12.0 * step))[:, None]
    assert gap(chi[26], slope) < 1e-6
    assert bool(((chi[8].matrix - slope).abs() <= chi[8].error + 1e-6 * float(slope.abs().max())).all())


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_conjugate_gradients_reach_the_tolerance_asked(head, truth, tolerance):
    chi = total(head, gr.loss(X, Y), solver=gr.CG(tolerance=tolerance, rank=6))
    assert chi.converged
    assert covered(chi, truth)
    assert gap(chi, truth.matrix) < tolerance


def test_a_column_or_an_observable_more_changes_nothing_of_the_others(exact):
    every = total(exact)
    assert gap(total(exact, change=gr.reweight([3])).matrix[:, 0], every.matrix[:, 3]) < 1e-8
    assert gap(total(exact, gr.value(X[:1])).matrix[0], every.matrix[0]) < 1e-8


def test_products_are_counted_and_shared(exact):
    few, many = total(exact, gr.value(X[:1])), total(exact)
    assert few.optimum.products < many.optimum.products < len(X) * few.optimum.products
    assert few.optimum.highest <= few.optimum.ceiling < few.optimum.damping


def test_an_interrupted_basis_goes_on_and_reads_its_columns_anew(exact, tmp_path):
    whole = total(exact, solver=gr.Lanczos(rank=12))
    first = total(exact, solver=gr.Lanczos(rank=12, checkpoint=tmp_path))
    again = total(exact, solver=gr.Lanczos(rank=12, checkpoint=tmp_path))
    for chi in (first, again):
        assert gap(chi, whole.matrix) < 1e-12
        assert gap(chi.error, whole.error) < 1e-12
    assert again.optimum.products > 0


def test_tiles_that_are_kept_and_tiles_that_are_not_are_the_same(exact, monkeypatch):
    changes = (EVERY, gr.shift_inputs(torch.tensor([1.0, 0.0, 0.0])))
    kept = [total(exact, change=change) for change in changes]
    monkeypatch.setattr(tiles, "KEPT", 0)
    monkeypatch.setattr(tiles, "ENTRIES", 20 * len(DATA.train))
    for one, change in zip(kept, changes, strict=True):
        assert gap(total(exact, change=change), one.matrix) < 1e-9


def test_a_damping_that_few_steps_cannot_tell_from_the_curvature_is_refused(exact, monkeypatch):
    highest = total(exact).optimum.highest
    near = total(exact, damping=1.1 * highest)
    assert near.converged
    monkeypatch.setattr(localised, "LANCZOS", 3)
    assert gap(total(exact, damping=1.1 * highest), near.matrix) < 1e-8  # goes on until it knows
    monkeypatch.setattr(localised, "MOST", 5)
    with pytest.raises(gr.InputError, match="5 Lanczos steps do not exclude"):
        total(exact, damping=1.1 * highest)


REFUSED = {
    "a factorisation": (gr.Cholesky(), True, r"solver=Cholesky.*products alone.*gr\.CG"),
    "a word": ("lanczos", True, r"solver='lanczos'.*gr\.Lanczos"),
    "a class": (gr.Lanczos, True, r"expected gr\.CG\(\.\.\.\), gr\.Lanczos"),
    "nothing to solve": (gr.Lanczos(), False, "features=True, or leave it out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_solvers_are_refused(exact, case):
    solver, features, said = REFUSED[case]
    with pytest.raises(gr.InputError, match=said):
        gr.total_susceptibility(exact, DATA, gr.value(X), EVERY, features=features, solver=solver)


class Made:
    """A curvature with the spectrum of a trained network's, H and b given, and no model behind it."""

    def __init__(self, width=150, columns=7, seed=0):
        made = torch.Generator().manual_seed(seed)
        q = torch.linalg.qr(torch.randn(width, width, generator=made, dtype=torch.float64)).Q
        values = torch.cat([-torch.logspace(4.5, 0, 40), torch.linspace(-1.0, 1.0, width - 40)]).double()
        self.curvature = (q * values) @ q.T
        self.b = self.curvature @ torch.randn(width, columns, generator=made, dtype=torch.float64)
        self.hyper = torch.zeros(5, 0).double()
        self.weights = (self.curvature @ torch.randn(width, 5, generator=made, dtype=torch.float64)).T
        self.damping, self.floor, self.width = 2.0, 0.49, width

    def right(self, hyper, weights):
        return weights.T

    def direct(self, hyper):
        return torch.zeros(len(hyper), self.b.shape[1]).double()

    def image(self, v):
        return Image(self.curvature @ v, v.T @ self.b)

    def truth(self):
        return self.weights @ torch.linalg.solve(2.0 * torch.eye(self.width).double() - self.curvature, self.b)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "solver", [gr.Lanczos(rank=r) for r in (1, 5, 12, 40, 90, 150)] + [gr.CG(tolerance=t) for t in (1e-2, 1e-6, 1e-9)], ids=repr
)  # fmt: skip
def test_bounds_hold_for_given_spectra(seed, solver):
    made = Made(seed=seed)
    found = responses(made, made.hyper, made.weights, solver)
    off = (found.found.value - made.truth()).abs()
    rounding = 1e-11 * float(made.truth().abs().max())
    assert bool((off <= found.found.error + rounding).all())
    if isinstance(solver, gr.CG):
        assert bool(found.converged.all())
        assert float(off.max()) < solver.tolerance * float(made.truth().abs().max())


def test_lengths_from_readings_fail_as_seldom_as_they_say():
    random = (
        torch.randn(16, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).square().sum(dim=0)
    )
    for chance in (0.1, 1e-2, 1e-3):
        failed = float((random < _least(16, chance)).double().mean())
        assert 1e-3 * chance < failed <= chance
