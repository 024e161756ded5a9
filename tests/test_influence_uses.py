"""Jackknife covariances, information criteria and clusters, against bootstraps, Monte Carlo and what is left out."""

import math

import pytest
import torch
from influence_cases import example_data, head, unseen
from refusals import assert_refused

import gp_response as gr

DATA = example_data()
X = DATA.test.x


def test_jackknife_covariance_is_the_sum_over_samples_with_a_bound(tmp_path):
    chi = gr.susceptibility(head(0.2, beta=1.7).condition(DATA), gr.value(X), gr.reweight())
    moved = chi.matrix * DATA.train.weights
    expected = sum(torch.outer(c, c) for c in (moved - moved.mean(dim=1, keepdim=True)).T)
    found = gr.jackknife_covariance(chi)
    assert bool(((found.value - expected).abs() <= found.error).all())
    assert float((found.error / expected.abs().max()).max()) < 1e-9
    assert float(torch.linalg.eigvalsh(found.value)[0]) > -1e-12
    again = gr.jackknife_covariance(
        gr.Susceptibility.load(chi.save(tmp_path / "chi.safetensors")), weights=DATA.train.weights
    )
    assert torch.equal(again.value, found.value)
    loose = gr.susceptibility(head(0.2, solver=gr.CG(tolerance=1e-4)).condition(DATA), gr.value(X), gr.reweight())
    tight = gr.susceptibility(head(0.2).condition(DATA), gr.value(X), gr.reweight())
    rough, sharp = gr.jackknife_covariance(loose), gr.jackknife_covariance(tight)
    assert bool(((rough.value - sharp.value).abs() <= rough.error + sharp.error).all())
    ij = tight.to("ij").matrix * DATA.train.weights
    ij = ij - ij.mean(dim=1, keepdim=True)
    assert torch.allclose(40 * sharp.value, ij @ ij.T / 40, rtol=1e-10)


@pytest.mark.parametrize("wrong_noise", [False, True], ids=["right model", "wrong noise"])
def test_jackknife_covariance_is_that_of_a_bootstrap_of_refits_also_where_the_model_is_wrong(wrong_noise):
    generator = torch.Generator().manual_seed(3)
    x = 3.0 * torch.rand(400, 1, generator=generator, dtype=torch.float64)
    y = torch.sin(2.0 * x[:, 0]) + (0.5 + 0.5 * x[:, 0]) * torch.randn(400, generator=generator, dtype=torch.float64)
    data = gr.dataset(
        x, y, test_x=torch.tensor([[0.4], [1.5], [2.6]]).double(), test_y=torch.zeros(3), standardise=False
    )
    model = gr.Exact(gr.RBF(lengthscale=1.0), noise=0.05 if wrong_noise else 1.5)
    chi = gr.susceptibility(model.condition(data), gr.value(data.test.x), gr.reweight())
    found = gr.jackknife_covariance(chi).value
    draws = []
    for _ in range(400):
        copies = torch.bincount(torch.randint(400, (400,), generator=generator), minlength=400).double()
        draws.append(model.condition(data.with_train(weights=copies)).mean(data.test.x))
    bootstrap = torch.cov(torch.stack(draws).T)
    # 400 draws know a standard deviation to 1/√800 = 3.5 %.
    ratio = (found.diagonal() / bootstrap.diagonal()).sqrt()
    assert float((ratio - 1.0).abs().max()) < 0.15
    bayes = model.condition(data).variance(data.test.x)
    assert (float((found.diagonal() / bayes).mean()) > 3.0) == wrong_noise


def test_jackknife_covariance_refuses_other_responses():
    posterior = head().condition(DATA)
    other = gr.susceptibility(posterior, gr.value(X), gr.relabel())
    assert_refused(lambda: gr.jackknife_covariance(other), "gr.reweight()")
    some = gr.susceptibility(posterior, gr.value(X), gr.reweight([1, 2]))
    assert_refused(lambda: gr.jackknife_covariance(some), "2 columns")
    chi = gr.susceptibility(posterior, gr.value(X), gr.reweight())
    assert_refused(lambda: gr.jackknife_covariance(chi.to("bif")), "'bif'")
    assert_refused(lambda: gr.jackknife_covariance(chi, weights=torch.ones(3)), "(40,)")


@pytest.mark.parametrize("known", [False, True], ids=["one noise", "noisy rows"])
def test_criteria_are_those_of_draws_from_the_posterior(known):
    data = unseen(example_data(known_noise=known), [4, 30])
    posterior = head(0.2, beta=1.7).condition(data)
    found = gr.waic(posterior)
    cov, mean = posterior.cov(data.train.x), posterior.mean(data.train.x)
    values, vectors = torch.linalg.eigh(cov)
    z = torch.randn(100_000, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    field = mean + z @ (vectors * values.clamp_min(0.0).sqrt()).T
    noise = gr.data.row_noise(data, posterior.noise).expand(40)
    log = torch.distributions.Normal(field, noise.sqrt()).log_prob(data.train.y)
    draws = len(log)
    assert torch.allclose(found.functional_variance, log.var(dim=0), rtol=0.05)
    assert torch.allclose(found.loss, -log.mean(dim=0), atol=6.0 * float(log.std(dim=0).max()) / draws**0.5)
    assert torch.allclose(found.log_density, torch.logsumexp(log, dim=0) - math.log(draws), atol=0.02)
    assert torch.allclose(found.correction, 1.7 * data.train.weights * found.functional_variance)
    assert torch.allclose(found.functional_variance, gr.influence(posterior).diagonal(), rtol=1e-9)
    assert found.p_waic == pytest.approx(float(found.correction.sum()))
    assert found.waic == pytest.approx(float(found.correction.sum() - found.log_density.sum()))


def test_criteria_stand_for_what_is_left_out_the_better_the_less_a_row_says():
    """WAIC is a truncated expansion: its gap to leave-one-out falls as the square of the rows' leverage."""
    gaps = {}
    for n in (200, 1600):
        data = example_data(n=n, dim=1).with_train(weights=torch.ones(n, dtype=torch.float64))
        posterior = gr.Exact(gr.RBF(lengthscale=1.0), noise=0.1).condition(data)
        out = gr.leave_one_out(posterior).log_density
        found = gr.waic(posterior)
        gaps[n] = float((found.elpd - out).abs().mean())
        assert gaps[n] < 0.2 * float((found.log_density - out).abs().mean())
    assert gaps[1600] < gaps[200] / 8.0


@pytest.mark.parametrize("solver", [gr.Cholesky(), gr.CG(tolerance=1e-6)], ids=["cholesky", "cg"])
@pytest.mark.parametrize("noise", [1e-1, 1e-4])
def test_bounds_of_the_criteria_cover_what_a_better_solver_finds(solver, noise):
    truth = gr.waic(head(noise, beta=1.7).condition(DATA))
    short = example_data(dtype=torch.float32)
    found, rough = (gr.waic(head(noise, beta=1.7, solver=solver).condition(d)) for d in (DATA, short))
    same = gr.waic(head(noise, beta=1.7).condition(short.to(dtype=torch.float64)))
    for name in ("log_density", "functional_variance", "loss", "correction", "elpd", "pcic"):
        for got, expected in ((found, truth), (rough, same)):
            off = (getattr(got, name).double() - getattr(expected, name)).abs()
            assert bool((off <= getattr(got, f"{name}_error").double() + getattr(expected, f"{name}_error")).all()), (
                name
            )


def test_criteria_of_sparse_posteriors_count_what_they_leave_out():
    data = example_data()
    posterior = gr.SGPR(gr.Matern52(lengthscale=[1.5] * 3), data.train.x[::4].clone(), noise=0.2).condition(data)
    found, w = gr.waic(posterior), gr.influence(posterior)
    total = posterior.variance(data.train.x)
    residual = data.train.y - posterior.mean(data.train.x)
    expected = total * residual**2 / 0.04 + total**2 / 0.08
    assert torch.allclose(found.functional_variance, expected, rtol=1e-8)
    assert bool((found.functional_variance >= w.diagonal() - 1e-12).all())


def test_criteria_refuse_other_likelihoods():
    signs = DATA.with_train(y=(DATA.train.y > 0).double())
    posterior = gr.Exact(gr.Matern52(), likelihood=gr.Bernoulli()).condition(signs)
    assert_refused(lambda: gr.waic(posterior), "Bernoulli")


def three_groups():
    generator = torch.Generator().manual_seed(0)
    centre = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
    group = torch.arange(90) % 3
    group[group == 0] = torch.where(torch.arange(30) < 20, 0, 1)  # of sizes 20, 40 and 30
    x = centre[group] + 0.4 * torch.randn(90, 2, generator=generator, dtype=torch.float64)
    y = torch.sin(x.sum(dim=1)) + 1.0
    return gr.dataset(x, y, test_x=centre, test_y=torch.zeros(3), standardise=False), group


def test_clusters_of_responses_are_the_groups_that_move_the_same_predictions():
    data, group = three_groups()
    posterior = gr.Exact(gr.RBF(lengthscale=2.0), noise=1.0).condition(data)
    chi = gr.susceptibility(posterior, gr.value(data.test.x), gr.relabel())
    found = gr.cluster(chi, 3)
    assert found.sizes.tolist() == [40, 30, 20]
    for k in range(3):
        assert len(group[found.labels == k].unique()) == 1
    assert found.explained > 0.9
    again = gr.cluster(chi, 3)
    assert torch.equal(again.labels, found.labels)
    assert found.centres.shape == (3, 3)


def test_clusters_of_an_influence_operator_do_not_mix_groups_that_share_no_fluctuation():
    data, group = three_groups()
    w = gr.influence(gr.Exact(gr.RBF(lengthscale=2.0), noise=0.3).condition(data))
    found = gr.cluster(w, 6, components=12)
    strong = w.diagonal() > 0.1 * w.diagonal().max()
    purity = sum(int(torch.bincount(group[(found.labels == k) & strong], minlength=3).max()) for k in range(6))
    assert int(found.sizes.sum()) == 90
    assert bool((found.sizes.diff() <= 0).all())
    assert purity >= 0.8 * int(strong.sum())
    assert torch.equal(gr.cluster(w, 6, components=12).labels, found.labels)


def test_clusters_refuse_what_they_cannot_group():
    chi = gr.susceptibility(head().condition(DATA), gr.value(X), gr.reweight())
    assert_refused(lambda: gr.cluster(chi, 41), "k got 41")
    assert_refused(lambda: gr.cluster(chi.matrix, 2), "Tensor")


def test_blocks_under_other_likelihoods_are_had_as_the_refusal_says():
    """Covariances of Bernoulli losses under the posterior's own Gaussian, against draws from it."""
    data = DATA.with_train(y=(DATA.train.y > 0).double())
    posterior = gr.Exact(gr.Matern52(lengthscale=[1.5] * 3), likelihood=gr.Bernoulli()).condition(data)
    rows = [0, 1, 5, 9]
    asked = gr.loss(data.train.x[rows], data.train.y[rows])
    block = gr.fluctuation(posterior, asked, gr.reweight()).to("kernel").matrix
    cov, mean = posterior.cov(data.train.x), posterior.mean(data.train.x)
    values, vectors = torch.linalg.eigh(cov)
    z = torch.randn(200_000, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    losses = -gr.Bernoulli().log_prob(mean + z @ (vectors * values.clamp_min(0.0).sqrt()).T, data.train.y)
    drawn = torch.cov(losses.T)[rows]
    assert torch.allclose(block, drawn, atol=0.02 * float(drawn.abs().max()))
    assert torch.allclose(block[:, rows], block[:, rows].T, atol=1e-10)
