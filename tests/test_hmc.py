"""Hamiltonian Monte Carlo around the Laplace approximation: what it samples, what it costs, that it starts where it stopped."""

import pytest
import torch
from refusals import assert_refused
from test_sampler import DATA, EXACT, NOISE, PRIOR, Bent, features, grid_truth, killed_at, ridge
from torch import nn

import gp_response as gr
from gp_response.curvature import ggn
from gp_response.heads.sampling.reference import reference


def sampled(net=None, data=DATA, **kwargs):
    settings = {"likelihood": gr.Gaussian(noise=NOISE), "prior_precision": PRIOR, "method": gr.HMC(), "draws": 50}
    return gr.sample(ridge() if net is None else net, data, **{**settings, **kwargs})


def small_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


@pytest.mark.parametrize("rank", [1, 5, 17, 100])
def test_the_reference_is_whitened_by_the_curvature_that_it_saw(rank):
    curvature = ggn(small_net(), DATA, likelihood=gr.Gaussian(noise=NOISE))
    precision = torch.linspace(0.5, 3.0, 21, dtype=torch.float64)
    found = reference(curvature, precision, torch.ones(21, dtype=torch.float64), rank=rank)
    assert found.products == min(rank, 21)
    z = torch.randn(7, 21, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(found.white(found.place(z)), z, atol=1e-10)
    slope = torch.func.jacrev(lambda z: found.place(z[None])[0])(z[0])
    assert torch.allclose(found.pull(z), z @ slope, atol=1e-10)  # the chain rule
    if rank >= 21:
        whole = curvature.dense() + torch.diag(precision)
        assert torch.allclose(torch.linalg.inv(slope @ slope.T), whole, atol=1e-8)


def test_a_curvature_of_low_rank_ends_the_search_early():
    data = features(n=6)
    curvature = ggn(small_net(), data, likelihood=gr.Gaussian(noise=NOISE))
    found = reference(curvature, torch.full((21,), 2.0, dtype=torch.float64), torch.zeros(21).double(), rank=100)
    assert found.products == 7
    slope = torch.func.jacrev(lambda z: found.place(z[None])[0])(torch.zeros(21, dtype=torch.float64))
    whole = curvature.dense() + 2.0 * torch.eye(21, dtype=torch.float64)
    assert torch.allclose(torch.linalg.inv(slope @ slope.T), whole, atol=1e-8)


def test_of_a_linear_network_every_step_is_taken_and_a_quarter_turn_forgets():
    chains = sampled(method=gr.HMC(kicks=1, turn=torch.pi / 2), draws=4000, chains=4)
    assert chains.acceptance == 1.0
    x = DATA.train.x
    precision = x.T @ x / NOISE + PRIOR * torch.eye(3, dtype=torch.float64)
    flat = chains.theta.flatten(0, 1)
    white = (flat - ridge().weight.detach()[0]) @ torch.linalg.cholesky(precision)
    assert torch.allclose(torch.cov(white.T), torch.eye(3).double(), atol=0.06)  # five standard errors
    assert torch.allclose(white.mean(dim=0), torch.zeros(3).double(), atol=0.04)
    assert float(gr.effective_size(chains.theta).min()) > 0.9 * 16_000


def test_away_from_its_mode_a_linear_network_is_sampled_around_the_mode():
    net = ridge()
    net.weight.data += 0.5
    chains = sampled(net, draws=2000, burn_in=5)
    assert chains.acceptance == 1.0
    assert torch.allclose(chains.theta.mean(dim=(0, 1)), ridge().weight.detach()[0], atol=0.02)


@pytest.mark.parametrize(("rank", "kicks"), [pytest.param(1, 12, marks=pytest.mark.slow), (100, 2)])
def test_a_bent_network_is_sampled_without_bias_whatever_the_reference(rank, kicks):
    data = features(n=40, width=2, seed=3)
    net = Bent(torch.tensor([0.9, -0.4], dtype=torch.float64), 0.2)
    push = -torch.func.jacrev(lambda t: t @ data.train.x.T + 0.2 * (t @ data.train.x.T) ** 2)(net.weight.detach()).T @ (
        data.train.y - net(data.train.x).detach()
    ) / NOISE  # fmt: skip
    truth = grid_truth(net, data, net.weight.detach() + push / PRIOR)
    chains = sampled(
        net,
        data,
        stationary=True,
        method=gr.HMC(kicks, rank=rank),
        draws=3000,
        chains=8,
        burn_in=20,
        at=everywhere(data),
    )
    chi = gr.susceptibility(gr.draws(chains, data), gr.loss(data.test.x, data.test.y), gr.reweight())
    assert chains.acceptance > 0.8
    assert float((chi.matrix - truth).norm() / truth.norm()) < 0.05
    assert float(((chi.matrix - truth).abs() <= chi.error).double().mean()) > 0.85


def test_chains_that_stand_still_are_refused():
    data = features(n=40, width=2, seed=3)
    net = Bent(torch.tensor([0.9, -0.4], dtype=torch.float64), 0.2)
    assert_refused(lambda: sampled(net, data, stationary=True, method=gr.HMC(rank=1), draws=200), "more kicks")


def everywhere(data):
    return torch.cat([data.train.x, data.test.x])


def test_all_gradients_are_counted():
    chains = sampled(draws=10, chains=3, burn_in=5, thin=2, method=gr.HMC(kicks=4))
    assert chains.gradients == 3 * 25 * 4 + 3 + 1 + 3  # steps, Lanczos products, the mode's, the chains' first
    both = sampled(draws=10, chains=3, burn_in=5, thin=2, method=gr.HMC(kicks=4), twin=True)
    assert both.gradients == 2 * 3 * 25 * 4 + 3 + 1 + 6
    assert sampled(method=1e-3).acceptance is None


def test_the_twin_of_a_linear_network_is_the_chain_itself():
    chains = sampled(draws=40, twin=True)
    assert torch.allclose(chains.theta, chains.twin.theta, atol=1e-10)
    asked = gr.loss(DATA.test.x, DATA.test.y)
    found = gr.control_variate(gr.draws(chains, DATA), gr.draws(chains.twin, DATA), EXACT, asked, gr.reweight())
    truth = gr.susceptibility(EXACT, asked, gr.reweight()).matrix
    assert float((found.matrix - truth).norm()) < 1e-6 * float(truth.norm())


def test_classes_and_float32_are_sampled():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 2, generator=generator)
    data = gr.dataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5), standardise="x")
    chains = gr.sample(nn.Linear(2, 3), data, likelihood=gr.Categorical(3), method=gr.HMC(), draws=60, localise=5.0)
    assert chains.theta.dtype == torch.float32
    assert chains.acceptance > 0.7
    chi = gr.susceptibility(gr.draws(chains, data), gr.loss(data.train.x, data.train.y), gr.reweight())
    assert float(chi.matrix.diagonal().max()) < 0.0


def test_a_killed_run_goes_on_to_the_same_draws(tmp_path, monkeypatch):
    settings = {
        "net": small_net(),
        "stationary": True,
        "prior_precision": 20.0,
        "draws": 50,
        "burn_in": 7,
        "thin": 2,
        "block": 20,
    }
    whole = sampled(**settings)
    with killed_at(36, monkeypatch):
        sampled(**settings, out=tmp_path / "chains")
    back = sampled(**settings, out=tmp_path / "chains")
    assert torch.equal(back.theta, whole.theta)
    assert back.acceptance == whole.acceptance < 1.0


def test_what_cannot_be_sampled_is_refused():
    assert_refused(lambda: sampled(batch_size=4), "leave batch_size away")
    assert_refused(lambda: sampled(prior_precision=0.0), "pull on every parameter")
    assert_refused(lambda: sampled(method="nuts"), "gr.HMC()")
    assert_refused(lambda: gr.HMC(kicks=0), "1 or more")
    assert_refused(lambda: gr.HMC(rank=True), "1 or more")
    assert_refused(lambda: gr.HMC(turn=2.0), "at most π/2")
