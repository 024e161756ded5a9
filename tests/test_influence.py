"""The influence operator: every entry against 40 digits, against refits and responses, and its bounds."""

import pytest
import torch
from influence_cases import example_data, head, truth, unseen
from refusals import assert_refused

import gp_response as gr
from gp_response.testing import check_influence

V = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SOLVERS = [gr.Cholesky(), gr.CG(tolerance=1e-8)]
DATA = {
    "weights": example_data(),
    "noisy rows": example_data(known_noise=True),
    "unseen": unseen(example_data(), [4, 5, 30]),
    "hardly seen": example_data().with_train(weights=torch.logspace(-9, 0.5, 40, dtype=torch.float64)),
}


def covered(found, expected):
    return bool(((found.value.double() - expected).abs() <= found.error.double()).all())


def gap(found, expected):
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("solver", SOLVERS, ids=["cholesky", "cg"])
@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("which", DATA)
def test_products_and_rows_are_those_of_the_double_loop_within_their_bounds(which, noise, solver):
    model, data = head(noise, beta=1.7, solver=solver), DATA[which]
    w, expected = gr.influence(model.condition(data)), truth(model, data)
    product, rows = w.product(V), w.rows(range(40))
    assert covered(product, expected @ V)
    assert covered(rows, expected)
    assert covered(w.variances(), expected.diagonal())
    # Where rows are hardly seen, the residuals have no more digits than the solver's tolerance.
    tolerance = 1e-6 if solver == SOLVERS[0] else 1e-5
    assert gap(product.value, expected @ V) < tolerance
    assert gap(rows.value, expected) < tolerance
    # Means of rows of weight zero are read without solves of their own; at tiny noise that widens their bounds.
    wide = 1e-2 if which == "unseen" and noise < 1e-5 else 1e-3
    assert float(product.error.max() / (expected @ V).abs().max()) < wide
    assert bool(((w @ V - expected @ V).abs() <= 2.0 * product.error).all())
    alone = w.product(V[:, 0])
    assert bool(((alone.value - product.value[:, 0]).abs() <= alone.error + product.error[:, 0]).all())


@pytest.mark.parametrize("solver", SOLVERS, ids=["cholesky", "cg"])
@pytest.mark.parametrize("method", ["exact", "low-rank", "sampled"])
def test_operators_obey_their_law(method, solver):
    for data in (DATA["weights"], DATA["noisy rows"]):
        check_influence(gr.influence(head(0.1, beta=1.7, solver=solver).condition(data), method=method))


def test_a_broken_operator_is_found(monkeypatch):
    w = gr.influence(head().condition(DATA["weights"]))
    product = type(w).product
    monkeypatch.setattr(type(w), "product", lambda self, v, **options: product(self, 1.001 * v, **options))
    with pytest.raises(AssertionError, match="W v lie within their bounds"):
        check_influence(w)


def test_the_exact_matrix_is_a_psd_linear_operator_and_says_how_it_is_made():
    model, data = head(), DATA["weights"]
    w, expected = gr.influence(model.condition(data)), truth(model, data)
    dense = w.to_dense()
    assert w.method == "exact"
    assert repr(w) == "Influence(40 x 40, exact: S from the Cholesky factor)"
    assert w.shape == (40, 40)
    assert w.dtype == torch.float64
    assert torch.equal(w.T.to_dense(), dense)
    assert torch.allclose(dense, dense.T, rtol=1e-9, atol=1e-12)
    assert float(torch.linalg.eigvalsh(0.5 * (dense + dense.T))[0]) > -1e-10
    assert torch.allclose(w.diagonal(), expected.diagonal(), rtol=1e-9)
    assert torch.allclose(w[3:7, ::5].to_dense(), expected[3:7, ::5], rtol=1e-9, atol=1e-12)
    at = torch.tensor([3, 3, 9])
    assert torch.allclose(w[at, at.flip(0)], expected[at, at.flip(0)], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("which", ["weights", "noisy rows"])
def test_it_is_minus_the_response_of_losses_to_weights_also_of_refits(which):
    model, data = head(0.2, beta=1.7), DATA[which]
    w = gr.influence(model.condition(data)).to_dense()
    known = data.train.noise
    losses = gr.loss(data.train.x, data.train.y, noise=known)
    rows = [0, 1, 7, 39]
    refit = gr.refit_response(model, data, losses, gr.reweight(rows))
    assert torch.allclose(w[:, rows], -refit.matrix / model.beta, rtol=1e-8, atol=1e-10)
    chi = gr.susceptibility(model.condition(data), losses, gr.reweight()).to("kernel")
    assert torch.allclose(w, chi.matrix, rtol=1e-9, atol=1e-11)


def test_second_differences_of_the_log_evidence_are_beta_squared_times_it():
    """A derivation that knows no covariance: log Z is a sum of determinants and quadratic forms of whole refits."""
    model, data, step = head(0.3, beta=1.4), DATA["noisy rows"], 2e-3
    w = gr.influence(model.condition(data)).to_dense()

    def evidence(i, j, a, b):
        weights = data.train.weights.clone()
        weights[i] += a * step
        weights[j] += b * step
        return model.condition(data.with_train(weights=weights)).log_evidence()

    for i, j in [(0, 1), (2, 3), (5, 6), (20, 21), (8, 8)]:
        corners = [(1, 1), (-1, -1), (1, -1), (-1, 1)]
        up, down, left, right = (evidence(i, j, a, b) for a, b in corners)
        second = (up + down - left - right) / (4.0 * step**2)
        assert float(second) == pytest.approx(model.beta**2 * float(w[i, j]), rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("method", ["low-rank", "sampled"])
@pytest.mark.parametrize("solver", SOLVERS, ids=["cholesky", "cg"])
@pytest.mark.parametrize(
    ("which", "noise"), [("weights", 1e-1), ("noisy rows", 1e-3), ("unseen", 1e-6), ("hardly seen", 0.1)]
)
@pytest.mark.parametrize("rank", [1, 8, 40])
def test_low_rank_bounds_cover_every_entry_and_samples_scatter_as_they_say(which, noise, solver, rank, method):
    model, data = head(noise, beta=1.7, solver=solver), DATA[which]
    w = gr.influence(model.condition(data), method=method, rank=rank, tolerance=0.0)
    expected = truth(model, data)
    identity = torch.eye(40, dtype=torch.float64)
    found = w.product(identity)
    assert w.rank <= rank
    assert covered(w.variances(), expected.diagonal())
    if method == "low-rank":
        assert covered(found, expected)
        assert not bool(found.standard_error.any())
    else:
        off = (found.value - expected).abs() - found.error
        assert float((off / found.standard_error.clamp_min(1e-300)).clamp(0.0, 50.0).square().mean()) < 4.0
    assert torch.allclose(found.value, found.value.T, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_a_full_low_rank_part_is_exact():
    model, data = head(0.1), DATA["weights"]
    w = gr.influence(model.condition(data), method="low-rank", rank=40, tolerance=0.0)
    found, expected = w.product(V), truth(model, data) @ V
    assert gap(found.value, expected) < 1e-9
    assert float(found.error.max() / expected.abs().max()) < 1e-4


def test_samples_are_unbiased():
    model, data = head(0.1), DATA["weights"]
    posterior, expected = model.condition(data), truth(model, data) @ V
    drawn = torch.stack([
        gr.influence(posterior, method="sampled", rank=4, probes=16, seed=seed).product(V).value for seed in range(60)
    ])  # fmt: skip
    error = drawn.std(dim=0) / 60**0.5
    assert float(((drawn.mean(dim=0) - expected) / error).square().mean()) < 1.6


def test_rows_that_do_not_fit_are_made_anew_with_the_same_product():
    posterior = head(0.1).condition(DATA["unseen"])
    kept, anew = (gr.influence(posterior, method="exact", budget=b).product(V) for b in (None, 4000.0))
    assert gap(anew.value, kept.value) < 1e-10


@pytest.mark.parametrize("make", [gr.SGPR, gr.SVGP], ids=["sgpr", "svgp"])
@pytest.mark.parametrize("noise", [1e-1, 1e-4])
def test_sparse_posteriors_have_it_exactly_and_with_fewer_columns_within_bounds(make, noise):
    data = example_data()
    given = {"likelihood": gr.Gaussian(noise)} if make is gr.SVGP else {"noise": noise}
    model = make(gr.Matern52(lengthscale=[1.5] * 3, outputscale=1.3), data.train.x[::3].clone(), **given)
    posterior = model.condition(data)
    losses = gr.loss(data.train.x, data.train.y)
    chi = gr.susceptibility(posterior, losses, gr.reweight()).to("kernel").matrix
    refit = -gr.refit_response(model, data, losses, gr.reweight([0, 1, 30])).matrix
    w = gr.influence(posterior)
    found = w.product(V)
    assert gap(w.to_dense()[:, [0, 1, 30]], refit) < 1e-6
    assert (w.method, w.rank) == ("low-rank", 14)
    assert gap(found.value, chi @ V) < 1e-7
    assert bool(((found.value - chi @ V).abs() <= found.error + 1e-9 * chi.abs().max()).all())
    few = gr.influence(posterior, rank=5).product(torch.eye(40, dtype=torch.float64))
    assert bool(((few.value - chi).abs() <= few.error + 1e-9 * chi.abs().max()).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", SOLVERS, ids=["cholesky", "cg"])
def test_at_900_rows_it_is_the_response_in_either_precision(dtype, solver):
    data = example_data(n=900, dtype=dtype)
    posterior, direct = head(0.01, solver=solver).condition(data), head(0.01).condition(data)
    chi = gr.susceptibility(direct, gr.loss(data.train.x, data.train.y), gr.reweight()).to("kernel")
    v = torch.randn(900, 4, dtype=dtype, generator=torch.Generator().manual_seed(2))
    expected, slack = chi.matrix.double() @ v.double(), chi.error.double() @ v.double().abs()
    for method in ("exact", "low-rank"):
        w = gr.influence(posterior, method=method)
        found = w.product(v)
        assert found.value.dtype == (w @ v).dtype == w.dtype == dtype
        assert bool(((found.value.double() - expected).abs() <= found.error.double() + slack).all())
        if method == "exact":
            assert gap(found.value, expected) < (1e-7 if dtype == torch.float64 and solver == SOLVERS[0] else 1e-5)


def test_what_cannot_be_had_says_what_to_do():
    data, kernel = example_data(), gr.Matern52()
    signs = data.with_train(y=(data.train.y > 0).double())
    posterior = gr.Exact(kernel, likelihood=gr.Bernoulli()).condition(signs)
    assert_refused(lambda: gr.influence(posterior), "gr.fluctuation(")
    exact = head().condition(data)
    assert_refused(lambda: gr.influence(exact, method="exactly"), "did you mean 'exact'")
    assert_refused(lambda: gr.influence(exact, rank=0), "rank got 0")
    assert_refused(lambda: gr.influence(exact, probes=1), "probes got 1")
    assert_refused(lambda: gr.influence(exact, tolerance=2.0), "tolerance=2.0")
    assert_refused(lambda: gr.influence(exact).eigenmodes(41), "k got 41")
    assert_refused(lambda: gr.influence(exact).representatives(0), "k got 0")
