"""Many points looked at from few perturbed rows: the same answers within their bounds, for a solve a row."""

import pytest
import torch
from networks import mlp

import gp_response as gr
from gp_response.response.from_sites import MANY
from gp_response.solvers import FactoredCG, FactoredCholesky

DATA = gr.load("weather", n=900)
X, Y = DATA.test.x[: MANY + 6], DATA.test.y[: MANY + 6]
SOLVERS = {"factor": gr.Cholesky(), "cg": gr.CG(tolerance=1e-9)}
OBSERVABLES = {
    "value": lambda: gr.value(X),
    "loss": lambda: gr.loss(X, Y),
    "variance": lambda: gr.variance(X),
    "contrast": lambda: gr.contrast(X[: MANY // 2], X[-(MANY // 2) :]),
    "average": lambda: gr.average(X, torch.linspace(-1.0, 1.0, len(X))),
    "gradient": lambda: gr.gradient(X[: MANY // 8]),
}
PERTURBATIONS = {
    "rows": lambda: gr.reweight([40, 3, 17]),
    "groups": lambda: gr.reweight({"a": [5, 1], "b": [5, 6, 700]}),
    "deletion": lambda: gr.delete([3, 17, 40]),
    "labels": lambda: gr.relabel([5, 9]),
    "noise of rows": lambda: gr.noise([8, 2]),
}


def kernel():
    return gr.Matern52(lengthscale=[4.0] * DATA.dim, outputscale=1.2)


def head(solver, noise=0.05):
    return gr.Exact(kernel(), noise=noise, solver=solver, beta=1.3, mean=0.2)


def posterior(solver, data=DATA, noise=0.05):
    return head(solver, noise).condition(data)


@pytest.fixture(scope="module")
def conditioned():
    return {name: posterior(solver) for name, solver in SOLVERS.items()}


@pytest.fixture
def solved(monkeypatch):
    """Columns that solvers have been asked to solve for."""
    asked = []

    def counted(solve):
        def counting(self, rhs, *args, **options):
            asked.append(1 if rhs.ndim == 1 else rhs.shape[1])
            return solve(self, rhs, *args, **options)

        return counting

    for kind in (FactoredCG, FactoredCholesky):
        monkeypatch.setattr(kind, "solve", counted(kind.solve))
    return asked


def assert_same(got, expected, *, within):
    gap = (got.matrix - expected.matrix).abs()
    scale = float(expected.matrix.abs().max())
    assert bool((gap <= got.error + expected.error + 1e-9 * scale).all())  # refits and the sum are rounded
    assert float(gap.max()) <= within * scale
    assert got.converged
    assert got.rows == expected.rows
    assert got.columns == expected.columns


@pytest.mark.parametrize("asked", OBSERVABLES)
@pytest.mark.parametrize("change", PERTURBATIONS)
def test_answers_are_those_of_refits_for_a_solve_a_row(solved, conditioned, asked, change):
    observable, perturbation = OBSERVABLES[asked](), PERTURBATIONS[change]()
    slope = gr.refit_response(head(gr.Cholesky()), DATA, observable, perturbation)
    change = gr.refit_response(head(gr.Cholesky()), DATA, observable, perturbation, h=0.7)
    for name, one in conditioned.items():
        solved.clear()
        assert_same(gr.susceptibility(one, observable, perturbation), slope, within=1e-6)
        assert sum(solved) <= 5
        solved.clear()
        assert_same(gr.finite_response(one, observable, perturbation, h=0.7), change, within=1e-6)
        assert sum(solved) <= 10, name  # the rows' own covariances, too


def test_a_row_says_as_much_at_tiny_noise_and_near_duplicates_as_the_points_do():
    """Solved for as points, rows would lose all digits in the difference of prior and what the data explain."""
    train = DATA.train
    near = train.x + 1e-5 * torch.randn(train.x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    twice = gr.dataset(torch.cat([train.x, near]), torch.cat([train.y, train.y]), standardise=False)
    one, two = (posterior(solver, twice, 1e-5) for solver in (gr.CG(tolerance=1e-8), gr.Cholesky()))
    few = slice(MANY // 4)  # which are looked at from themselves
    for many, some in ((gr.value(X), gr.value(X[few])), (gr.loss(X, Y), gr.loss(X[few], Y[few]))):
        expected = gr.susceptibility(two, some, gr.reweight([3, 1500]))
        for found in (gr.susceptibility(by, many, gr.reweight([3, 1500])) for by in (one, two)):
            gap = (found.matrix[few] - expected.matrix).abs()
            assert bool((gap <= found.error[few] + expected.error).all())
            assert float(gap.max()) <= 1e-3 * float(expected.matrix.abs().max())


def test_float32_data_are_read_in_float64():
    data = DATA.to(dtype=torch.float32)
    one, two = (posterior(solver, data) for solver in (gr.CG(tolerance=1e-8), gr.Cholesky()))
    x = data.test.x[: len(X)]
    assert_same(*(gr.susceptibility(p, gr.value(x), gr.reweight([3, 17])) for p in (one, two)), within=1e-5)
    assert_same(*(gr.finite_response(p, gr.value(x), gr.delete([3, 17])) for p in (one, two)), within=1e-5)


def test_what_the_rows_do_not_say_is_read_from_the_points(solved):
    by_cg, by_factor = posterior(gr.CG(tolerance=1e-9)), posterior(gr.Cholesky())
    unweighted = DATA.train.weights.clone()
    unweighted[3] = 0.0
    cases = [
        (by_cg, by_factor, gr.pointwise(X, torch.sigmoid), gr.reweight([3])),
        (by_cg, by_factor, gr.loss(X, Y), gr.noise()),
        (by_cg, by_factor, gr.value(X), gr.insert(DATA.test.x[-2:], DATA.test.y[-2:])),
        (by_cg.reweighted(unweighted), by_factor.reweighted(unweighted), gr.value(X), gr.reweight([3, 4])),
    ]
    for one, two, observable, perturbation in cases:
        solved.clear()
        found = gr.susceptibility(one, observable, perturbation)
        assert sum(solved) >= len(X)
        assert_same(found, gr.susceptibility(two, observable, perturbation), within=1e-6)


def test_a_component_is_seen_from_rows_too():
    data = gr.load("weather", n=500)

    def additive(solver):
        both = gr.RBF(lengthscale=3.0, active_dims=[0, 1, 2]) + gr.Matern32(lengthscale=2.0, active_dims=[3, 4])
        return gr.Exact(both, noise=0.1, solver=solver).condition(data)

    one, two = additive(gr.CG(tolerance=1e-9)), additive(gr.Cholesky())
    for c in range(2):
        assert_same(*(gr.susceptibility(p, gr.component(X, c), gr.reweight([3, 17])) for p in (one, two)), within=1e-6)
        assert_same(
            *(gr.susceptibility(gr.restrict(p, c), gr.value(X), gr.reweight([3, 17])) for p in (one, two)), within=1e-6
        )


def test_a_row_whose_solve_did_not_converge_flags_every_point():
    rough = posterior(gr.CG(tolerance=1e-12, max_iterations=2, preconditioner="none"))
    found = gr.susceptibility(rough, gr.value(X), gr.reweight([3]))
    assert not found.converged
    exact = gr.susceptibility(posterior(gr.Cholesky()), gr.value(X), gr.reweight([3]))
    assert bool(((found.matrix - exact.matrix).abs() <= found.error + exact.error).all())


def test_the_archive_holds_the_same(tmp_path):
    by_cg = posterior(gr.CG(tolerance=1e-9))
    stored = gr.susceptibility(by_cg, gr.value(X), gr.reweight([3, 17]), out=tmp_path / "chi.zarr", budget=2e5)
    torch.testing.assert_close(stored[:], gr.susceptibility(by_cg, gr.value(X), gr.reweight([3, 17])).matrix)


def test_a_network_is_asked_for_a_solve_a_row_too(monkeypatch):
    from gp_response.solvers import DeflatedCG

    net = mlp(DATA.dim, 6, 1)
    options = {"likelihood": gr.Gaussian(noise=0.1), "prior_precision": 2.0}
    by_cg = gr.laplace(net, DATA, solver=gr.CG(tolerance=1e-9), **options)
    dense = gr.laplace(net, DATA, solver=gr.Dense(), **options)
    asked, solve = [], DeflatedCG.solve
    monkeypatch.setattr(DeflatedCG, "solve", lambda self, rhs: asked.append(rhs.shape[1]) or solve(self, rhs))
    for observable in (gr.value(X), gr.loss(X, Y), gr.gradient(X[: MANY // 8])):
        asked.clear()
        found = gr.susceptibility(by_cg, observable, gr.reweight([3, 17]))
        assert sum(asked) <= 2
        assert_same(found, gr.susceptibility(dense, observable, gr.reweight([3, 17])), within=1e-6)
        found = gr.finite_response(by_cg, observable, gr.delete([3, 17]))
        assert_same(found, gr.finite_response(dense, observable, gr.delete([3, 17])), within=1e-6)
