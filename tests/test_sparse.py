"""Sparse heads and other likelihoods: against exact heads, dense formulas, refits and their derivatives."""

import math

import gpytorch
import numpy as np
import pytest
import torch
from refusals import assert_refused
from sparse_cases import DATA, LIKELIHOODS, X, Y, matern, observables, perturbations, relative
from torch.func import grad

import gp_response as gr
from gp_response.data.noise import row_noise
from gp_response.heads import latent, rows
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.testing import check_head, check_leave_one_out, check_perturbation, example_data
from gp_response.testing.posteriors import suited


class Slope(torch.nn.Module):
    def forward(self, x):
        return 0.3 * x[:, 0] - 0.2


# Inducing points at all rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "noise", "kernel"),
    [
        (40, 1e-1, matern()),
        (40, 1e-4, gr.RBF(lengthscale=0.9)),
        (400, 1e-2, matern()),
        (400, 1e-4, gr.Matern32(lengthscale=0.7)),
        (900, 1e-3, gr.RBF(lengthscale=1.1)),
    ],
    ids=str,
)
def test_with_every_row_an_inducing_point_sgpr_is_exact(n, noise, kernel):
    data = example_data(n=n)
    sparse = gr.SGPR(kernel, data.train.x.clone(), noise=noise, mean=0.1).condition(data)
    exact = gr.Exact(kernel, noise=noise, mean=0.1).condition(data)
    assert sparse.basis.jitter <= 1e-12
    # What the jitter moves grows as the noise falls.
    assert relative(sparse.mean(X), exact.mean(X)) < 1e-8 + 1e-11 / noise
    assert relative(sparse.predictive_cov(X), exact.cov(X)) < 1e-8
    assert relative(sparse.variance(X), exact.variance(X)) < 1e-8
    for observable in observables(data):
        for perturbation in (gr.reweight(), gr.delete([3, 17]), gr.relabel([[2, 4], [7]])):
            got, want = (gr.susceptibility(p, observable, perturbation) for p in (sparse, exact))
            scale = want.matrix.abs().max().clamp_min(1e-9)
            # Rows a hair apart with labels of their own: rounding of the inducing points' factor, over the noise.
            assert float((got.matrix - want.matrix).abs().max() / scale) < 1e-8 + 3e-9 / noise
            # What a point's own jitter leaves out does not respond.
            jitter = 1e-10 * scale / noise
            assert bool(((got.matrix - want.matrix).abs() <= got.error + want.error + jitter).all())


# The bound ---------------------------------------------------------------------------------------------------------------


def dense_bound(head, data):
    """Titsias (2009), eq. 9, with explicit n x n matrices, for Gibbs weights."""
    x, y = data.train.x, data.train.y
    noise = row_noise(data, head.noise).expand(len(y))
    power = head.beta * data.train.weights
    k = head.kernel.matrix
    q = k(x, head.points) @ torch.linalg.solve(k(head.points, head.points), k(head.points, x))
    cov = q + torch.diag(noise / power)
    r = y - prior_mean_at(head.prior_mean, x)
    fit = -0.5 * (r @ torch.linalg.solve(cov, r) + torch.linalg.slogdet(cov)[1] + len(y) * math.log(2.0 * math.pi))
    normaliser = 0.5 * ((1.0 - power) * (2.0 * torch.pi * noise).log() - power.log()).sum()
    return fit + normaliser - 0.5 * (power / noise * (head.kernel.diagonal(x) - q.diagonal())).sum()


@pytest.mark.parametrize("known", [False, True])
def test_the_collapsed_bound_is_the_dense_formula_below_the_evidence(known):
    data = example_data(known_noise=known)
    exact = gr.Exact(matern(), noise=0.2, mean=Slope(), beta=1.3)
    evidence, last = float(exact.log_evidence(data)), -float("inf")
    for m in (5, 12, 25):
        head = gr.SGPR(matern(), m, noise=0.2, mean=Slope(), beta=1.3, placement="greedy")
        bound = float(head.log_evidence(data))
        assert bound == pytest.approx(float(dense_bound(head, data)), rel=1e-10)
        assert last < bound < evidence
        last = bound
    whole = gr.SGPR(matern(), data.train.x.clone(), noise=0.2, mean=Slope(), beta=1.3)
    assert float(whole.log_evidence(data)) == pytest.approx(evidence, abs=1e-8)


def test_the_bounds_gradient_is_its_finite_difference_in_every_parameter():
    head = gr.SGPR(matern(), DATA.train.x[4:12] + 0.1, noise=0.2)
    parameters = [p for p in head.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(head.log_evidence(DATA), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for at in range(0, parameter.numel(), 5):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter.view(-1)[at] += step
                    values.append(float(head.log_evidence(DATA)))
                    parameter.view(-1)[at] -= step
            assert float(gradient.reshape(-1)[at]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-6)


# SVGP --------------------------------------------------------------------------------------------------------------------


def elbo(posterior, mean, root):
    """Hensman, Fusi & Lawrence (2013), eq. 4, for any likelihood: of N(mean, root rootᵀ) over f(Z) - m₀(Z), 120 nodes."""
    basis, train = posterior.basis, posterior.data.train
    k, x, z = posterior.kernel.matrix, train.x.double(), basis.points
    own = k(z, z)
    project = torch.linalg.solve(own, k(z, x)).T
    centre = prior_mean_at(posterior.prior_mean, x) + project @ mean
    spread = posterior.kernel.diagonal(x) - (project * k(x, z)).sum(dim=1) + (project @ root).square().sum(dim=1)
    at, weights = (torch.as_tensor(part) for part in _hermite())
    fields = centre[:, None] + spread.sqrt()[:, None] * at
    expected = posterior.law.log_prob(fields, train.y[:, None].double()) @ weights
    q = torch.distributions.MultivariateNormal(mean, scale_tril=root)
    prior = torch.distributions.MultivariateNormal(torch.zeros_like(mean), own)
    return (posterior.beta * train.weights * expected).sum() - torch.distributions.kl_divergence(q, prior)


def _hermite():
    at, weights = np.polynomial.hermite_e.hermegauss(120)
    return at, weights / weights.sum()


def optimal_q(posterior):
    """Mean less the prior mean, and root of the covariance, of the field at the inducing points."""
    lower = posterior.basis.lower
    covariance = lower @ torch.linalg.solve(posterior.fixed.precision, lower.T)
    return lower @ posterior.fixed.weights, torch.linalg.cholesky(0.5 * (covariance + covariance.T))


@pytest.mark.parametrize("known", [False, True])
def test_svgp_at_its_optimum_is_sgpr_and_its_bound_the_collapsed_one(known):
    data = example_data(known_noise=known)
    sgpr = gr.SGPR(matern(), 12, noise=0.2, mean=Slope(), beta=1.3)
    one = sgpr.condition(data)
    svgp = gr.SVGP(matern(), sgpr.points.detach(), gr.Gaussian(0.2), mean=Slope(), beta=1.3)
    two = svgp.condition(data)
    assert relative(two.mean(X), one.mean(X)) < 1e-12
    assert relative(two.predictive_cov(X), one.predictive_cov(X)) < 1e-12
    for perturbation in perturbations(data):
        got, want = (gr.susceptibility(p, gr.loss(X, Y), perturbation).matrix for p in (two, one))
        assert relative(got, want) < 1e-10
    if not known:
        assert float(elbo(one, *optimal_q(one))) == pytest.approx(float(sgpr.log_evidence(data)), rel=1e-9)


@pytest.mark.parametrize("likelihood", [*LIKELIHOODS[:3], gr.StudentT(0.5, 4.0)], ids=str)
def test_svgp_stands_where_an_independent_bound_has_no_slope(likelihood):
    data = suited(DATA, likelihood)
    posterior = gr.SVGP(matern(), DATA.train.x[4:14].clone(), likelihood, mean=0.1, beta=1.2).condition(data)
    mean, root = optimal_q(posterior)
    by_mean, by_root = grad(lambda m, r: elbo(posterior, m, r), argnums=(0, 1))(mean, root)
    size = posterior.problem.weight.sum()
    assert float(by_mean.abs().max() / size) < 1e-7
    assert float(by_root.tril().abs().max() / size) < 1e-7
    best = float(elbo(posterior, mean, root))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        noise = 0.05 * torch.randn(*root.shape, generator=generator, dtype=torch.float64)
        assert float(elbo(posterior, mean + noise[0], root)) < best
        assert float(elbo(posterior, mean, root @ torch.matrix_exp(noise.tril()))) < best


def test_laplace_in_features_is_the_textbooks_algorithm():
    """Rasmussen & Williams (2006), algorithms 3.1 and 3.2, with n x n matrices."""
    data = suited(DATA, gr.Bernoulli())
    head = gr.Exact(matern(4.0), likelihood=gr.Bernoulli())
    one = data.with_train(weights=torch.ones_like(data.train.y))
    x, y, k = one.train.x, one.train.y, head.kernel.matrix
    with torch.no_grad():
        own, cross, f = k(x), k(X, x), torch.zeros_like(y)
        for _ in range(40):
            p = torch.sigmoid(f)
            w = (p * (1.0 - p)).sqrt()
            lower = torch.linalg.cholesky(torch.eye(len(y)) + w[:, None] * own * w)
            b = w**2 * f + y - p
            a = b - w * torch.cholesky_solve((w * (own @ b))[:, None], lower)[:, 0]
            f = own @ a
        v = torch.linalg.solve_triangular(lower, w[:, None] * cross.T, upper=False)
        evidence = (
            -0.5 * a @ f + torch.nn.functional.logsigmoid((2.0 * y - 1.0) * f).sum() - lower.diagonal().log().sum()
        )
        mean, cov = cross @ (y - torch.sigmoid(f)), k(X) - v.T @ v
    posterior = head.condition(one)
    assert relative(posterior.mean(X), mean) < 1e-9
    assert relative(posterior.cov(X), cov) < 1e-9
    assert float(head.log_evidence(one)) == pytest.approx(float(evidence), rel=1e-9)


# Kernels, means, noise, precision --------------------------------------------------------------------------------------

HEADS = {
    "slope": lambda: gr.SGPR(matern(), 10, noise=0.2, mean=Slope(), beta=1.3),
    "deep": lambda: gr.SGPR(gr.Matern52(ard=2).on(gr.MLP(3, [8, 2])), 10, noise=0.2),
    "scaled deep": lambda: gr.SVGP(gr.Scale(gr.RBF(ard=2).on(gr.MLP(3, [8, 2])), outputscale=1.7), 9, gr.Bernoulli()),
    "foreign": lambda: gr.SGPR(
        gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(2.5, ard_num_dims=3)).double(), 10, noise=0.2
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_other_kernels_and_means_obey_the_laws(name):
    head = HEADS[name]()
    check_head(head)
    check_perturbation(gr.reweight([3, 4]), head=head, h=0.5)
    if name == "slope":
        check_perturbation(gr.delete([3, 17, 30]), head=head, tolerance=1e-9)
        check_perturbation(gr.insert(X[:2] + 0.2, Y[:2], each=True), head=head, h=2.0, tolerance=1e-9)


def test_features_see_inducing_points_where_they_lie():
    kernel = gr.Scale(gr.Matern52(ard=2).on(gr.MLP(3, [8, 2])), outputscale=1.7)
    head = gr.SGPR(kernel, 9, noise=0.2)
    head.condition(DATA)
    assert head.points.shape == (9, 2)
    with pytest.raises(gr.InputError):
        gr.SGPR(kernel, torch.zeros(4, 3, dtype=torch.float64)).condition(DATA)


def test_known_noise_is_that_of_the_rows():
    data = example_data(known_noise=True)
    for head in (gr.SGPR(matern(), 12, noise=0.1), gr.SVGP(matern(), 12, gr.Gaussian(0.1))):
        check_head(head, data=data)
        check_perturbation(gr.reweight([3, 5]), head=head, data=data)
        check_leave_one_out(head, data=data, rows=torch.arange(0, 40, 7))


def test_leaving_rows_out_holds_what_inducing_points_leave_out():
    weights = DATA.train.weights.clone()
    weights[::9] = 0.0
    check_leave_one_out(gr.SGPR(matern(), 10, noise=0.2, mean=0.1, beta=1.3), data=DATA.with_train(weights=weights))
    posterior = gr.SGPR(matern(), 10, noise=0.2).condition(DATA)
    assert bool((gr.leave_one_out(posterior).variance > posterior.variance(DATA.train.x)).all())


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_float32_data_lose_nothing_but_their_own_digits(likelihood):
    short = suited(example_data(n=24, dtype=torch.float32), likelihood)
    long, points = short.to(dtype=torch.float64), short.train.x[4:12]
    one, two = (gr.SVGP(matern(), points, likelihood).condition(data) for data in (short, long))
    for make in (lambda d: gr.loss(d.test.x, d.test.y), lambda d: gr.variance(d.test.x)):
        for perturb in (lambda d: gr.reweight(), lambda d: gr.insert(d.test.x[:2] + 1.0, d.test.y[:2])):
            got, want = (
                gr.susceptibility(one, make(short), perturb(short)),
                gr.susceptibility(two, make(long), perturb(long)),
            )
            assert got.matrix.dtype == torch.float32
            if perturb(short).kind == "reweight":  # a float32 point plus one is another point
                assert bool(((got.matrix - want.matrix).abs() <= got.error + want.error).all())
            assert relative(got.matrix, want.matrix) < 1e-6
            assert gr.fluctuation(one, make(short), perturb(short)).matrix.dtype == torch.float32


# Workings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", LIKELIHOODS[:2], ids=str)
def test_blocks_of_rows_change_nothing(likelihood, monkeypatch):
    data = suited(DATA, likelihood)
    head = gr.SVGP(matern(), 9, likelihood)
    whole = head.condition(data)
    asked = gr.loss(data.test.x, data.test.y)
    monkeypatch.setattr(rows, "BLOCK", 7)
    monkeypatch.setattr(rows, "SHARE", 0.0)
    pieces = head.condition(data)
    assert not pieces.rows._keeps
    assert len(list(pieces.rows.blocks())) == 6
    assert relative(pieces.mean(X), whole.mean(X)) < 1e-11
    assert relative(pieces.variance(X), whole.variance(X)) < 1e-11
    one, two = (gr.susceptibility(p, asked, gr.reweight()).matrix for p in (pieces, whole))
    assert relative(one, two) < 1e-10


def test_jitter_is_the_least_that_factors_and_is_told():
    few = gr.SGPR(matern(), DATA.train.x[4:9].clone()).condition(DATA)
    assert few.basis.jitter == 1e-13
    crowd = torch.linspace(0.0, 1e-3, 30, dtype=torch.float64)[:, None] * torch.ones(3, dtype=torch.float64)
    close = gr.SGPR(gr.RBF(lengthscale=2.0), crowd).condition(DATA)
    assert 1e-13 <= close.basis.jitter <= 1e-6
    assert gr.SGPR(matern(), 5, jitter=1e-4).condition(DATA).basis.jitter == 1e-4
    assert bool(torch.isfinite(gr.SGPR(matern(), DATA.train.x[:2].clone()).condition(DATA).mean(X)).all())


def test_predictions_have_the_covariance_whose_diagonal_is_their_variance():
    for head in (gr.SGPR(matern(), 9, noise=0.2), gr.Exact(matern(), likelihood=gr.StudentT())):
        posterior = head.condition(DATA)
        found, pieces = (
            gr.predict(posterior, X, covariance=True),
            gr.predict(posterior, X, covariance=True, budget=2000.0),
        )
        assert relative(found.covariance.diagonal(), posterior.variance(X)) < 1e-9
        assert relative(pieces.covariance, found.covariance) < 1e-12
        assert relative(found.covariance, posterior.predictive_cov(X)) < 1e-12


def test_stored_responses_know_everything_that_enters(tmp_path):
    data, asked = suited(DATA, gr.Bernoulli()), gr.pointwise(X, torch.sigmoid)
    points = DATA.train.x[4:12].clone()
    base = gr.SVGP(matern(), points, gr.Bernoulli())
    stored = gr.susceptibility(base.condition(data), asked, gr.reweight(), out=tmp_path / "chi")
    again = gr.susceptibility(base.condition(data), asked, gr.reweight(), out=tmp_path / "chi")
    memory = gr.susceptibility(base.condition(data), asked, gr.reweight()).matrix
    for one in (stored, again):
        assert torch.equal(torch.as_tensor(one.matrix[:]), memory)
    others = [
        (gr.SVGP(matern(), points, gr.Bernoulli(), approximation="laplace"), asked),
        (gr.SVGP(matern(), points + 0.1, gr.Bernoulli()), asked),
        (gr.SVGP(matern(), points, gr.Bernoulli(), jitter=1e-6), asked),
        (gr.SVGP(matern(), points, gr.StudentT(0.1)), asked),
        (gr.SVGP(matern(), points, gr.Bernoulli(), beta=1.1), asked),
        (base, gr.pointwise(X, torch.tanh)),
    ]
    for head, other in others:
        posterior = head.condition(data)
        assert_refused(lambda p=posterior, o=other: gr.susceptibility(p, o, gr.reweight(), out=tmp_path / "chi"), "chi")


def test_one_row_is_enough_to_condition_on():
    one = suited(DATA, gr.Bernoulli()).keep(torch.tensor([5]))
    for head in (
        gr.Exact(matern(), likelihood=gr.Bernoulli()),
        gr.SVGP(matern(), 3, gr.Bernoulli()),
        gr.SVGP(matern(), 3, gr.Bernoulli(), approximation="laplace"),
        gr.SGPR(matern(), 3),
    ):
        assert gr.susceptibility(head.condition(one), gr.value(X), gr.reweight()).shape == (len(X), 1)


def test_a_posterior_without_one_noise_variance_says_so():
    posterior = gr.Exact(matern(), likelihood=gr.Bernoulli()).condition(suited(DATA, gr.Bernoulli()))
    assert bool(posterior.noise.isnan())
    assert_refused(lambda: posterior.row_noise, "no noise variance; use posterior.likelihood.predictive")
    p, _ = posterior.likelihood.predictive(posterior.mean(X), posterior.variance(X))
    assert bool(((p > 0) & (p < 1)).all())


# Bad input ---------------------------------------------------------------------------------------------------------------


def classified():
    data = suited(DATA, gr.Bernoulli())
    return gr.SVGP(matern(), 8, gr.Bernoulli()).condition(data), data


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (lambda: gr.SVGP(matern(), 8, gr.Bernoulli()).condition(DATA), "expected 0 or 1"),
        (lambda: gr.Exact(matern(), likelihood=gr.Poisson()).condition(DATA), "expected a count"),
        (lambda: gr.SVGP(matern(), 8, gr.Poisson()).fit(DATA), "expected a count"),
        (lambda: gr.susceptibility(classified()[0], gr.loss(X, Y), gr.reweight()), "expected 0 or 1"),
        (lambda: gr.susceptibility(classified()[0], gr.value(X), gr.insert(X, Y)), "expected 0 or 1"),
        (
            lambda: gr.susceptibility(classified()[0], gr.loss(X, (Y > 0).double(), noise=Y**2), gr.reweight()),
            "leave noise out",
        ),
        (lambda: gr.susceptibility(classified()[0], gr.value(X), gr.relabel([1])), "use delete and insert"),
        (lambda: gr.finite_response(classified()[0], gr.value(X), gr.delete([1])), "use refit_response"),
        (lambda: gr.leave_one_out(classified()[0]), "leave_one_out needs a Gaussian likelihood"),
        (lambda: gr.SGPR(matern(), torch.zeros(3, dtype=torch.float64)), "inducing points of shape (3,)"),
        (lambda: gr.SGPR(matern(), 0), "expected their number"),
        (lambda: gr.SGPR(matern(), True), "expected their number"),
        (lambda: gr.SGPR(matern(), torch.zeros(3, 2).double()).condition(DATA), "(3, 2); expected (m, 3)"),
        (lambda: gr.SGPR(matern(), 5, noise=0.0), "positive finite variance"),
        (lambda: gr.SGPR(matern(), 5, beta=-1.0), "beta=-1.0"),
        (lambda: gr.SGPR("rbf", 5), "kernel of type str"),
        (lambda: gr.SVGP(matern(), 5, "bernoulli"), "likelihood of type str"),
        (lambda: gr.Exact(matern(), likelihood="bernoulli"), "likelihood of type str"),
        (lambda: gr.SVGP(matern(), 5, approximation="ep"), "approximation='ep'"),
        (lambda: gr.SGPR(matern(), 5, jitter=2.0).condition(DATA), "jitter=2.0"),
        (lambda: gr.SGPR(matern(), 5, placement="grid").condition(DATA), "grid"),
        (lambda: gr.SGPR(matern(), 5).fit(DATA.keep(torch.tensor([0]))), "at least 2"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(action, said):
    assert_refused(action, said, error=gr.InputError)


def test_more_rows_than_laplace_can_take_are_refused(monkeypatch):
    monkeypatch.setattr(latent, "MOST_ROWS", 30)
    head = gr.Exact(matern(), likelihood=gr.Bernoulli())
    assert_refused(lambda: head.condition(suited(DATA, gr.Bernoulli())), "use SVGP", error=gr.InputError)


def test_points_are_placed_before_anything_is_differentiated():
    head = gr.SGPR(matern(), 5)

    def moved(h):
        return head.condition(DATA.with_train(y=DATA.train.y + h)).mean(X).sum()

    with pytest.raises(gr.InputError, match="not placed yet"):
        grad(moved)(torch.zeros((), dtype=torch.float64))
