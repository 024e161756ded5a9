"""Langevin samplers on chosen parameters: what they sample, that they start again where they stopped, the control variate."""

import copy
from contextlib import contextmanager

import pytest
import torch
from refusals import assert_refused
from torch import nn

import gp_response as gr
from gp_response.curvature.loss import loss_of
from gp_response.curvature.rows import Rows
from gp_response.heads.sampling import Target, langevin
from gp_response.heads.sampling.langevin import advance
from gp_response.heads.sampling.run import mean_gradient
from gp_response.response.control import controlled
from gp_response.response.sampled import potentials, readings

NOISE, PRIOR = 0.5, 2.0


def features(n=24, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -0.5, 0.3][:width], dtype=torch.float64)
    y = y + NOISE**0.5 * torch.randn(n, generator=generator, dtype=torch.float64)
    test = torch.randn(5, width, generator=generator, dtype=torch.float64)
    return gr.dataset(x, y, test_x=test, test_y=test[:, 0], standardise=False)


DATA = features()
EXACT = gr.Exact(gr.Linear(outputscale=1.0 / PRIOR), noise=NOISE).condition(DATA)


def ridge(data=DATA):
    """A linear network at the mode of the posterior with precision PRIOR."""
    net = nn.Linear(data.dim, 1, bias=False, dtype=torch.float64)
    x, y = data.train.x, data.train.y
    system = x.T @ x / NOISE + PRIOR * torch.eye(data.dim, dtype=torch.float64)
    net.weight.data = torch.linalg.solve(system, x.T @ y / NOISE)[None]
    return net


def sampled(**kwargs):
    settings = {
        "likelihood": gr.Gaussian(noise=NOISE),
        "method": 2e-3,
        "prior_precision": PRIOR,
        "draws": 50,
        "chains": 3,
    }
    return gr.sample(ridge(), DATA, **{**settings, **kwargs})


def test_a_linear_network_is_sampled_from_its_exact_posterior():
    chains = sampled(method=2e-3, draws=600, chains=32, burn_in=80, thin=3)
    chi = gr.susceptibility(gr.draws(chains, DATA), gr.loss(DATA.test.x, DATA.test.y), gr.reweight())
    truth = gr.susceptibility(EXACT, gr.loss(DATA.test.x, DATA.test.y), gr.reweight())
    assert chi.converged
    assert float((chi.matrix - truth.matrix).norm() / truth.matrix.norm()) < 0.15
    bias = 0.1 * truth.matrix.abs()  # the step's: ε λ_max/4 is 0.04, and twice that for squares
    assert float(((chi.matrix - truth.matrix).abs() <= chi.error + bias).double().mean()) > 0.9
    assert chains.gradients == 32 * (80 + 3 * 600)


def test_a_localised_chain_has_the_covariance_of_curvature_and_both_pulls():
    chains = sampled(method=2e-3, draws=400, chains=64, burn_in=80, thin=2, localise=30.0, n_beta=12.0)
    x = DATA.train.x
    precision = 0.5 * x.T @ x / NOISE + (PRIOR + 30.0) * torch.eye(3, dtype=torch.float64)
    assert chains.beta == 0.5
    cov = torch.cov(chains.theta.flatten(0, 1).T)
    assert torch.allclose(cov, torch.linalg.inv(precision), atol=0.06 / 32.0)
    net = ridge().weight.detach()[0]
    pull = 0.5 * x.T @ DATA.train.y / NOISE + 30.0 * net
    assert torch.allclose(chains.theta.mean(dim=(0, 1)), torch.linalg.solve(precision, pull), atol=0.02)


def test_a_stationary_prior_puts_the_mode_where_the_network_is():
    net = ridge()
    net.weight.data += 0.3
    chains = gr.sample(net, DATA, likelihood=gr.Gaussian(noise=NOISE), method=3e-3, prior_precision=PRIOR, stationary=True,
                       draws=300, chains=64, burn_in=80, thin=2)  # fmt: skip
    assert torch.allclose(chains.theta.mean(dim=(0, 1)), net.weight.detach()[0], atol=0.03)


def test_minibatches_have_the_full_gradient_on_average_and_count_by_their_share():
    chains = sampled(batch_size=6, draws=10, burn_in=5)
    assert chains.gradients == 3 * 15 * 6 / 24
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(24, (20_000, 6), generator=generator)
    loss = loss_of(gr.Gaussian(noise=NOISE))
    rows = Rows(DATA.train.x, DATA.train.y[:, None], DATA.train.weights)
    gradient = mean_gradient(lambda t, x: (x @ t)[:, None], loss, rows)
    theta = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    some = gradient(theta.expand(20_000, 3), which).mean(dim=0)
    assert torch.allclose(some, gradient(theta[None], None)[0], atol=0.05)
    residual = DATA.train.x @ theta - DATA.train.y
    assert torch.allclose(gradient(theta[None], None)[0], DATA.train.x.T @ residual / NOISE / 24, atol=1e-12)


def test_preconditioned_steps_are_those_of_the_formula():
    method = gr.PreconditionedSGLD(0.01, decay=0.9, floor=0.2)
    target = Target(lambda theta, rows: 4.0 * theta, 3.0, 0.5, 1.0)
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    [found] = langevin(target, start, method=method, draws=2, chains=1, seed=3)
    generator = torch.Generator().manual_seed(3)
    theta, v = start.clone(), torch.zeros(2, dtype=torch.float64)
    for k in range(2):
        g = 4.0 * theta
        v = 0.9 * v + 0.1 * g**2
        step = 0.01 / ((v / (1 - 0.9 ** (k + 1))).sqrt() + 0.2)
        noise = torch.randn(1, 2, generator=generator, dtype=torch.float64)[0]
        theta = theta - 0.5 * step * (3.0 * g + 0.5 * (theta - 1.0)) + step.sqrt() * noise
        assert torch.allclose(found[0, k], theta, atol=1e-14)


def test_only_the_chosen_parameters_move_and_the_module_never_does():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    before = copy.deepcopy(net.state_dict())
    chains = gr.sample(
        net, DATA, likelihood=gr.Gaussian(noise=NOISE), method=1e-3, parameters="head", draws=4, localise=1.0
    )
    assert chains.theta.shape == (4, 4, 5)
    assert chains.settings["parameters"] == ["2.weight", "2.bias"]
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    kept = gr.sample(net, DATA, likelihood=gr.Gaussian(noise=NOISE), method=1e-3, parameters="head", draws=4, localise=1.0,
                     at=DATA.train.x)  # fmt: skip
    anywhere = gr.draws(chains, DATA)
    assert torch.allclose(kept.values, anywhere.field(DATA.train.x), atol=1e-12)


def test_classes_are_sampled_and_read():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    data = gr.dataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5), standardise="x")
    net = nn.Linear(2, 3).double()
    chains = gr.sample(net, data, likelihood=gr.Categorical(3), method=5e-3, draws=60, localise=5.0)
    chi = gr.susceptibility(gr.draws(chains, data), gr.loss(data.train.x, data.train.y), gr.reweight())
    assert chi.shape == (30, 30)
    assert float(chi.matrix.diagonal().max()) < 0.0


def test_the_same_seed_gives_the_same_draws_and_another_gives_others():
    assert torch.equal(sampled(seed=5).theta, sampled(seed=5).theta)
    assert not torch.allclose(sampled(seed=5).theta, sampled(seed=6).theta)
    assert not torch.allclose(sampled().theta[0], sampled().theta[1])


@contextmanager
def killed_at(call, monkeypatch):
    """Chains are interrupted when they are advanced for this time."""
    calls = []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return advance(*args, **kwargs)

    monkeypatch.setattr("gp_response.heads.sampling.run.advance", dies)
    with pytest.raises(KeyboardInterrupt):
        yield
    monkeypatch.undo()


@pytest.mark.parametrize("method", [gr.SGLD(2e-3), gr.PreconditionedSGLD(1e-3)])
def test_a_killed_run_goes_on_to_the_same_draws(tmp_path, monkeypatch, method):
    settings = {"method": method, "draws": 50, "batch_size": 4, "burn_in": 7, "thin": 2, "block": 20}
    whole = sampled(**settings)
    with killed_at(36, monkeypatch):
        sampled(**settings, out=tmp_path / "chains")
    assert sorted(p.name for p in (tmp_path / "chains").iterdir()) == ["draws-000000.safetensors"]
    back = sampled(**settings, out=tmp_path / "chains")
    assert torch.equal(back.theta, whole.theta)
    assert torch.equal(sampled(**settings, out=tmp_path / "chains").theta, whole.theta)
    assert_refused(
        lambda: sampled(**{**settings, "thin": 3}, out=tmp_path / "chains"), "another network, data or settings"
    )
    longer = sampled(**{**settings, "draws": 70}, out=tmp_path / "chains")
    assert torch.equal(longer.theta[:, :50], whole.theta)


def test_with_a_twin_a_linear_network_has_its_exact_response_from_few_draws():
    chains = sampled(draws=60, thin=2, twin=True)
    assert torch.allclose(chains.theta, chains.twin.theta, atol=1e-10)
    asked = gr.loss(DATA.test.x, DATA.test.y)
    post, twin = gr.draws(chains, DATA), gr.draws(chains.twin, DATA)
    found = gr.control_variate(post, twin, EXACT, asked, gr.reweight())
    plain = gr.susceptibility(post, asked, gr.reweight())
    truth = gr.susceptibility(EXACT, asked, gr.reweight()).matrix
    assert float((found.matrix - truth).norm()) < 1e-6 * float(truth.norm())
    assert float((plain.matrix - truth).norm()) > 0.05 * float(truth.norm())
    assert chains.gradients == 2 * sampled(draws=60, thin=2).gradients


class Bent(nn.Module):
    """Slightly nonlinear in two parameters, whose posterior a grid integrates."""

    def __init__(self, weight, bend):
        super().__init__()
        self.weight, self.bend = nn.Parameter(weight), bend

    def forward(self, x):
        line = x @ self.weight
        return line + self.bend * line**2


@pytest.mark.slow
def test_the_control_variate_has_at_most_a_third_of_the_plain_error_at_equal_cost():
    data = features(n=40, width=2, seed=3)
    net = Bent(torch.tensor([0.9, -0.4], dtype=torch.float64), 0.05)
    settings = {
        "likelihood": gr.Gaussian(noise=NOISE),
        "prior_precision": PRIOR,
        "stationary": True,
        "burn_in": 30,
        "thin": 2,
    }
    model = gr.sample(net, data, method=1e-3, draws=1, **settings)
    jacobian = torch.func.jacrev(lambda t: model.call(t, data.train.x))(net.weight.detach())
    everywhere = torch.cat([data.train.x, data.test.x])
    slopes = torch.func.jacrev(lambda t: model.call(t, everywhere))(net.weight.detach())
    mean = model.call(net.weight.detach(), everywhere).detach()
    covariance = torch.linalg.inv(jacobian.T @ jacobian / NOISE + PRIOR * torch.eye(2, dtype=torch.float64))
    exact = gaussian_response(slopes.detach() @ covariance @ slopes.detach().T, mean, data)
    push = -jacobian.T @ (data.train.y - mean[:40]) / NOISE
    centre = net.weight.detach() + push / PRIOR
    truth = grid_truth(net, data, centre)
    plain, controlled = [], []
    for seed in range(6):
        both = gr.sample(net, data, method=4e-3, draws=150, twin=True, seed=seed, **settings)
        alone = gr.sample(net, data, method=4e-3, draws=300, seed=seed, **settings)
        asked = gr.loss(data.test.x, data.test.y)
        plain.append(gr.susceptibility(gr.draws(alone, data), asked, gr.reweight()).matrix - truth)
        chi = control(both, data, asked, exact)
        controlled.append(chi - truth)
    ratio = torch.stack(controlled).square().mean().sqrt() / torch.stack(plain).square().mean().sqrt()
    assert float(ratio) < 1 / 3


def gaussian_response(cov, mean, data):
    """`-Cov(ℓ_a, ℓ_i)` of test losses with training losses under a Gaussian field."""
    n = len(data.train)
    off = torch.cat([data.train.y, data.test.y]) - mean
    whole = off[:, None] * off * cov / NOISE**2 + cov**2 / (2 * NOISE**2)
    return -whole[n:, :n]


def grid_truth(net, data, centre):
    """The grid's prior is centred where the network is stationary, its range where the network is."""
    here = net.weight.detach()
    at = torch.linspace(-1.2, 1.2, 401, dtype=torch.float64)
    theta = here + torch.cartesian_prod(at, at)

    def losses(x, y):
        line = theta @ x.T
        return 0.5 * (y - line - net.bend * line**2) ** 2 / NOISE

    train, left = losses(data.train.x, data.train.y), losses(data.test.x, data.test.y)
    log = -train.sum(dim=1) - 0.5 * PRIOR * (theta - centre).square().sum(dim=1)
    weight = torch.softmax(log, dim=0)[:, None]
    return -((left - (weight * left).sum(dim=0)) * weight).T @ (train - (weight * train).sum(dim=0))


def control(both, data, asked, exact):
    post, twin = gr.draws(both, data), gr.draws(both.twin, data)
    pairs = [(readings(p, asked)[1], potentials(p, gr.reweight())) for p in (post, twin)]
    return -controlled(*pairs[0], *pairs[1], -exact).value


def test_what_cannot_be_sampled_is_refused(tmp_path):
    assert_refused(lambda: sampled(method=-1.0), "positive finite")
    assert_refused(lambda: sampled(method=10.0, draws=400), "diverged")
    assert_refused(lambda: sampled(draws=0), "1 or more")
    assert_refused(lambda: sampled(beta=1.0, n_beta=3.0), "say the same")
    assert_refused(lambda: sampled(prior_precision=0.0, stationary=True), "pull on every parameter")
    assert_refused(lambda: sampled(localise=-1.0, prior_precision=0.0), "0 or more")
    assert_refused(lambda: sampled(likelihood=None), "gr.Likelihood")
    (tmp_path / "notes.txt").write_text("mine")

    class Masking(torch.nn.Linear):
        def forward(self, x):
            z = super().forward(x).clone()
            z[z > 0] = 2.0 * z[z > 0]
            return z

    data = (torch.randn(5, 2), torch.randn(5))
    assert_refused(
        lambda: gr.sample(Masking(2, 1), data, likelihood=gr.Gaussian(noise=0.1), method=1e-4, beta=1.0),
        "beside each other",
    )
    assert_refused(lambda: sampled(out=tmp_path), "other files")
