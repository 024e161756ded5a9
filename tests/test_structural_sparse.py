"""Restriction of sparse posteriors to a component: against the joint Gaussian of components, draws, refits and the exact head."""

import pytest
import torch
from refusals import assert_refused
from sparse_cases import relative

import gp_response as gr
from gp_response.response.structural import ComponentLoss
from gp_response.testing import example_data

DATA = example_data()
X, Y = DATA.test.x, DATA.test.y
Z = DATA.train.x[4:24:2].clone()
NOISE, BETA, MEAN = 0.2, 1.3, 0.1


def additive():
    smooth = gr.RBF(lengthscale=1.5, outputscale=0.8, active_dims=[0, 1]).named("smooth")
    rough = gr.Matern32(lengthscale=0.7, outputscale=0.4, active_dims=[2]).named("rough")
    return smooth + rough + gr.Linear()


def sparse(points=Z, data=DATA, noise=NOISE):
    return gr.SGPR(additive(), points, noise, beta=BETA, mean=MEAN).condition(data)


class Dense:
    """The model that a sparse posterior is the exact posterior of: rows see `A Σ_c f_c(Z)`, `A = K_XZ K_ZZ⁻¹`."""

    def __init__(self, x=X):
        kernel, train = additive(), DATA.train.x
        self.parts = [part.matrix(Z).detach() for part in kernel.kernels]
        self.cross = [part.matrix(x, Z).detach() for part in kernel.kernels]
        self.prior = [part.matrix(x).detach() for part in kernel.kernels]
        self.map = torch.linalg.solve(sum(self.parts), kernel.matrix(Z, train).detach()).T

    def joint(self):
        """Means and covariance of `f_c(Z)`, component by component, under the sparse posterior, (3 m,) and (3 m, 3 m)."""
        prior, seen = torch.block_diag(*self.parts), self.map.repeat(1, len(self.parts))
        system = seen @ prior @ seen.T + torch.diag(NOISE / (BETA * DATA.train.weights))
        gain = torch.linalg.solve(system, seen @ prior).T
        return gain @ (DATA.train.y - MEAN), prior - gain @ seen @ prior

    def labels(self, c):
        """What is left of the labels with the rest clamped at its mean at Z."""
        mean, _ = self.joint()
        rest = sum(part for d, part in enumerate(mean.split(len(Z))) if d != c)
        return DATA.train.y - MEAN - self.map @ rest

    def refit(self, c, *, weights=None, y=None, noise=None):
        """Mean and covariance of f_C(x), and those of what rows see of it, the rest clamped where it was."""
        weights = DATA.train.weights if weights is None else weights
        y, noise = self.labels(c) if y is None else y, torch.full_like(weights, NOISE) if noise is None else noise
        prior, cross = self.parts[c], self.cross[c]
        precision = BETA * weights / noise
        seen = self.map @ prior  # Cov(rows, f_C(Z))
        system = torch.eye(len(y), dtype=y.dtype) + precision[:, None] * (self.map @ seen.T)
        reach = cross @ torch.linalg.solve(prior, seen.T)
        gain = torch.linalg.solve(system.T, reach.T).T
        mean, cov = gain @ (precision * y), self.prior[c] - gain @ (precision[:, None] * reach.T)
        rows = torch.linalg.solve(system.T, self.map @ seen.T)
        return mean, cov, reach, rows


def test_where_all_rows_are_inducing_points_it_is_the_restriction_of_the_exact_posterior():
    every = torch.unique(DATA.train.x, dim=0)
    exact, found = gr.Exact(additive(), noise=NOISE, beta=BETA, mean=MEAN).condition(DATA), sparse(every)
    for c in range(3):
        one, two = gr.restrict(exact, c), gr.restrict(found, c)
        assert torch.allclose(one.mean(X), two.mean(X), atol=1e-8)
        assert torch.allclose(one.variance(X), two.variance(X), atol=1e-8)
        assert float(one.log_share()) == pytest.approx(float(two.log_share()), abs=1e-6)
        for asked in (gr.value(X), gr.loss(X, Y), gr.variance(X)):
            for change in (gr.reweight(), gr.relabel([2, 5]), gr.delete([0, 3, 5]), gr.noise(), gr.temperature()):
                a, b = (gr.susceptibility(part, asked, change) for part in (one, two))
                assert float((a.matrix - b.matrix).abs().max()) < 1e-6 * (float(a.matrix.abs().max()) + 1e-6)
    a, b = gr.two_chain(exact, X, Y), gr.two_chain(found, X, Y)
    for name in ("restricted", "two_chain"):
        assert relative(getattr(b, name).matrix, getattr(a, name).matrix) < 1e-6
    for clamped in (True, False):
        parts = [gr.structural(posterior, X, Y, clamped=clamped).matrix for posterior in (found, exact)]
        assert relative(*parts) < 1e-6


def test_a_restricted_component_is_the_joint_gaussian_conditioned_on_the_others_at_the_inducing_points():
    dense, posterior = Dense(), sparse()
    mean, cov = dense.joint()
    m = len(Z)
    for c in range(3):
        own = slice(c * m, (c + 1) * m)
        others = torch.cat([torch.arange(3 * m)[: c * m], torch.arange(3 * m)[(c + 1) * m :]])
        reach = dense.cross[c] @ torch.linalg.pinv(dense.parts[c], rtol=1e-13, hermitian=True)
        # f_C(x) given f_C(Z) knows nothing of data or of the others.
        outside = dense.prior[c] - reach @ dense.cross[c].T
        clamped = torch.linalg.pinv(cov[others][:, others], rtol=1e-11, hermitian=True)
        inside = cov[own, own] - cov[own][:, others] @ clamped @ cov[own][:, others].T
        part = gr.restrict(posterior, c)
        assert torch.allclose(part.mean(X), reach @ mean[own], atol=1e-7)
        assert torch.allclose(part.predictive_cov(X), outside + reach @ inside @ reach.T, atol=1e-6)
        assert torch.allclose(part.mean(X), gr.response.expectation(posterior, gr.component(X, c)), atol=1e-9)
        assert torch.allclose(part.residuals.value, posterior.residuals.value, atol=1e-10)
        assert bool((part.residuals.error < 1e-6).all())


def test_components_and_their_shares_of_what_rows_see_add_up():
    posterior = sparse()
    parts = [gr.restrict(posterior, c) for c in range(3)]
    total = sum(part.mean(X) for part in parts) + MEAN
    assert torch.allclose(total, posterior.mean(X), atol=1e-9)
    one = sum(part.turn.T @ part.turn for part in parts)
    assert torch.allclose(one, torch.eye(len(Z), dtype=one.dtype), atol=1e-9)
    for part in parts:
        rest = part.rest(X)
        assert torch.allclose(rest.value + part.mean(X), posterior.mean(X), atol=1e-9)


@pytest.mark.parametrize("name", ["smooth", "rough", "2"])
def test_structural_rows_are_covariances_of_draws(name):
    c = ["smooth", "rough", "2"].index(name)
    dense, posterior = Dense(torch.cat([X, Z])), sparse()
    part = gr.restrict(posterior, c)
    kernel = additive().kernels[c]
    root = torch.linalg.cholesky(kernel.matrix(Z).detach() + 1e-13 * torch.eye(len(Z), dtype=torch.float64))
    seen = (dense.map @ root).T  # rows by whitened f_C(Z)
    weight = BETA * DATA.train.weights / NOISE
    precision = torch.eye(len(Z), dtype=torch.float64) + (seen * weight) @ seen.T
    y = dense.labels(c)
    mean = torch.linalg.solve(precision, seen @ (weight * y))
    draw = torch.randn(400_000, len(Z), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = mean + torch.linalg.solve_triangular(torch.linalg.cholesky(precision).T, draw.T, upper=True).T
    there = torch.linalg.solve_triangular(root, kernel.matrix(Z, X).detach(), upper=False)
    phi = ((Y - part.rest(X).value - v @ there) ** 2 / (2 * NOISE)).mean(dim=1)
    losses = (y - v @ seen) ** 2 / (2 * NOISE)
    product = (phi - phi.mean())[:, None] * (losses - losses.mean(dim=0))
    found = gr.structural(posterior, X, Y).matrix[c]
    error = BETA * product.std(dim=0) / len(draw) ** 0.5
    assert bool(((found + BETA * product.mean(dim=0)).abs() < 6.0 * error).all())


@pytest.mark.parametrize("c", range(3))
def test_responses_are_those_of_refits_with_the_rest_where_it_was(c):
    dense, part = Dense(), gr.restrict(sparse(), c)
    assert torch.allclose(dense.refit(c)[0], part.mean(X), atol=1e-8)
    y, one, step = dense.labels(c), torch.eye(len(DATA.train), dtype=torch.float64), 1e-3

    def loss(found):
        mean, cov = found[:2]
        return (((Y - part.rest(X).value - mean) ** 2 + cov.diagonal()) / (2 * NOISE)).mean()

    asked = ComponentLoss(X, Y - part.rest(X).value, None, len(X))
    rows = [0, 3, 7]
    ways = {
        "reweight": (gr.reweight(rows), lambda i, s: {"weights": DATA.train.weights + s * one[i]}),
        "relabel": (gr.relabel(rows), lambda i, s: {"y": y + s * one[i]}),
        "noise": (gr.noise(rows), lambda i, s: {"noise": NOISE + s * one[i]}),
    }
    for change, changed in ways.values():
        chi = gr.susceptibility(part, asked, change).matrix[0]
        bend = gr.second_response(part, asked, change).matrix[0].diagonal()
        at = {s: torch.stack([loss(dense.refit(c, **changed(i, s * step))) for i in rows]) for s in (-2, -1, 0, 1, 2)}
        slope = (8.0 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12.0 * step)
        curve = (16.0 * (at[1] + at[-1]) - (at[2] + at[-2]) - 30.0 * at[0]) / (12.0 * step**2)
        assert relative(chi, slope) < 1e-6
        assert relative(bend, curve) < 1e-4
    keep = DATA.train.weights.clone()
    keep[[0, 3, 5]] = 0.0
    exact = gr.finite_response(part, asked, gr.delete([0, 3, 5])).matrix[0, 0]
    assert float(exact) == pytest.approx(float(loss(dense.refit(c, weights=keep)) - loss(dense.refit(c))), rel=1e-7)
    assert torch.allclose(part.reweighted(keep).mean(X), dense.refit(c, weights=keep)[0], atol=1e-8)


def test_what_rows_see_of_a_component_has_one_covariance():
    """Own variances, pairs of rows, the learning coefficient and the influence operator agree."""
    dense, part = Dense(), gr.restrict(sparse(), 1)
    rows = dense.refit(1)[3]
    every = torch.arange(len(DATA.train))
    assert torch.allclose(part.own_variance(every)[0].value, rows.diagonal(), atol=1e-8)
    assert torch.allclose(part.among(every)[0].value, rows, atol=1e-8)
    weight = BETA * DATA.train.weights / NOISE
    coefficient = gr.response.expectation(part, gr.learning_coefficient())
    assert float(coefficient[0]) == pytest.approx(0.5 * float((weight * rows.diagonal()).sum()), rel=1e-8)
    r = part.residuals.value
    expected = (r[:, None] * r * rows + 0.5 * rows**2) / NOISE**2
    assert torch.allclose(gr.influence(part).to_dense(), expected, atol=1e-7 * float(expected.abs().max()))


def test_float32_stays_within_its_bounds():
    single = example_data(n=300).to(dtype=torch.float32)
    double = single.to(dtype=torch.float64)
    points = double.train.x[:40].clone()
    got, expected = (gr.structural(sparse(points, data, 0.05), data.test.x, data.test.y) for data in (single, double))
    assert got.matrix.dtype == torch.float32
    assert bool(((got.matrix.double() - expected.matrix).abs() <= got.error.double() + expected.error).all())
    assert float(got.error.max()) < 0.1 * float(expected.matrix.abs().max())


@pytest.mark.parametrize(
    "head", [gr.SVGP(additive(), Z, gr.Gaussian(NOISE)), gr.CGLB(additive(), Z, NOISE)], ids=["svgp", "cglb"]
)
def test_other_sparse_heads_with_gaussian_noise_are_restricted_as_what_they_are(head):
    """SVGP's optimum is SGPR's posterior; CGLB's posterior is exact."""
    same = gr.SGPR(additive(), Z, NOISE) if isinstance(head, gr.SVGP) else gr.Exact(additive(), noise=NOISE)
    found, expected = (gr.structural(h.condition(DATA), X, Y).matrix for h in (head, same))
    assert relative(found, expected) < 1e-9


PART = gr.restrict(sparse(), 0)
CLASSIFIER = gr.SVGP(additive(), Z, gr.Bernoulli()).condition(DATA.with_train(y=(DATA.train.y > 0).double()))
BAD = {
    "another likelihood": (lambda: gr.restrict(CLASSIFIER, 0), "use component(x, which)"),
    "no sum": (lambda: gr.restrict(gr.SGPR(gr.RBF(), Z, NOISE).condition(DATA), 0), "no sum of kernels"),
    "new rows": (lambda: gr.susceptibility(PART, gr.value(X), gr.insert(X[:1], Y[:1])), "training rows"),
    "a mixture": (
        lambda: gr.susceptibility(PART, gr.value(X), gr.mixture(gr.dataset(X, Y, standardise=False))), "training rows",
    ),
    "shifts": (lambda: gr.susceptibility(PART, gr.value(X), gr.shift_inputs(0, [1])), "training rows"),
    "bends of shifts": (lambda: gr.second_response(PART, gr.value(X), gr.shift_inputs(0, [1])), "training rows"),
    "hyperparameters": (
        lambda: gr.susceptibility(PART, gr.value(X), gr.hyperparameter("lengthscale[0]")), "training rows",
    ),
    "fluctuation": (lambda: gr.fluctuation(PART, gr.value(X), gr.reweight()), "rows do not see"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_meaning_says_so(case):
    assert_refused(*BAD[case])
