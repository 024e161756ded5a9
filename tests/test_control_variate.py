"""Sampled responses drawn towards a Gaussian's: smaller errors, an interval that holds, and nothing lost as draws grow."""

import math

import pytest
import torch
from refusals import assert_refused
from scipy.stats import norm
from test_sampler import DATA, EXACT, NOISE, PRIOR, Bent, features, grid_truth, ridge
from torch import nn

import gp_response as gr
from gp_response.heads.sampling import SampledCovariance, sampled_covariance
from gp_response.response.shrinkage import FARTHEST, shrunk, threshold

ASKED = gr.loss(DATA.test.x, DATA.test.y)
TRUTH = gr.susceptibility(EXACT, ASKED, gr.reweight()).matrix


def linear_draws(draws=200, seed=0, **kwargs):
    chains = gr.sample(ridge(), DATA, likelihood=gr.Gaussian(noise=NOISE), prior_precision=PRIOR, draws=draws, burn_in=5,
                       method=gr.HMC(), seed=seed, at=torch.cat([DATA.train.x, DATA.test.x]), **kwargs)  # fmt: skip
    return gr.draws(chains, DATA)


def covered(found, truth):
    return float(torch.stack([((f.matrix - truth).abs() <= f.error).double() for f in found]).mean())


def rms(errors):
    return float(torch.stack(errors).square().mean().sqrt())


def test_without_a_twin_draws_of_the_gaussian_itself_lose_half_of_their_error():
    plain, drawn = [], []
    for seed in range(8):
        post = linear_draws(seed=seed)
        plain.append(gr.susceptibility(post, ASKED, gr.reweight()).matrix - TRUTH)
        drawn.append(gr.control_variate(post, None, EXACT, ASKED, gr.reweight()).matrix - TRUTH)
    assert rms(drawn) < 0.55 * rms(
        plain
    )  # three parameters: chance has few dimensions, and now and then looks like bias


def far_off(temperature=2.0):
    """The same model with another noise: an exact posterior that is wrong."""
    return gr.Exact(gr.Linear(outputscale=1.0 / PRIOR), noise=temperature * NOISE).condition(DATA)


@pytest.mark.slow
def test_what_is_drawn_towards_a_wrong_answer_tends_to_the_right_one():
    wrong = far_off()
    off = float((gr.susceptibility(wrong, ASKED, gr.reweight()).matrix - TRUTH).norm() / TRUTH.norm())
    errors = []
    for chains, draws in ((4, 50), (16, 200), (64, 800)):
        posts = [linear_draws(draws, seed, chains=chains) for seed in range(8)]
        found = [gr.control_variate(post, None, wrong, ASKED, gr.reweight()) for post in posts]
        errors.append(rms([f.matrix - TRUTH for f in found]) / float(TRUTH.square().mean().sqrt()))
        plain = [gr.susceptibility(post, ASKED, gr.reweight()) for post in posts]
        assert covered(found, TRUTH) > covered(plain, TRUTH) - 0.02
        assert covered(found, TRUTH) > 0.85
    assert off > 0.3
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1 * off
    assert errors[2] < 0.05


def bent_problem(bend):
    data = features(n=40, width=2, seed=3)
    net = Bent(torch.tensor([0.9, -0.4], dtype=torch.float64), bend)
    slopes = torch.func.jacrev(lambda t: torch.func.functional_call(net, {"weight": t}, (data.train.x,)))(net.weight)
    push = -slopes.detach().T @ (data.train.y - net(data.train.x).detach()) / NOISE
    truth = grid_truth(net, data, net.weight.detach() + push / PRIOR)
    post = gr.laplace(net, data, likelihood=gr.Gaussian(noise=NOISE), prior_precision=PRIOR)
    return data, net, post, truth


def test_of_a_bent_network_the_interval_covers_and_the_error_is_less_than_that_of_draws():
    data, net, laplace, truth = bent_problem(0.05)
    asked = gr.loss(data.test.x, data.test.y)
    plain, drawn = [], []
    for seed in range(12):
        chains = gr.sample(net, data, likelihood=gr.Gaussian(noise=NOISE), prior_precision=PRIOR, stationary=True,
                           method=gr.HMC(), draws=150, burn_in=5, seed=seed, at=torch.cat([data.train.x, data.test.x]))  # fmt: skip
        post = gr.draws(chains, data)
        plain.append(gr.susceptibility(post, asked, gr.reweight()))
        drawn.append(gr.control_variate(post, None, laplace, asked, gr.reweight()))
    # Chains that accept and reject are others on other processors: over five sets of seeds the ratio is 0.57 to 0.77, the interval
    # (of 95 %) covers 94 to 99 %, and the tenth entry in a hundred 10 or 11 times in 12.
    assert rms([c.matrix - truth for c in drawn]) < 0.9 * rms([c.matrix - truth for c in plain])
    assert covered(drawn, truth) > 0.9
    each = torch.stack([((c.matrix - truth).abs() <= c.error).double() for c in drawn]).mean(dim=0)
    assert float(each.quantile(0.1)) > 0.7  # entry by entry, not on average alone


def test_classes_and_draws_of_losses_alone_are_drawn_towards_a_laplace_approximation():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    data = gr.dataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5), standardise="x")
    torch.manual_seed(0)
    net, law, asked = nn.Linear(2, 3).double(), gr.Categorical(3), gr.loss(data.train.x, data.train.y)

    def post(**kwargs):
        chains = gr.sample(net, data, likelihood=law, method=gr.HMC(), prior_precision=5.0, stationary=True, burn_in=5,
                           at=data.train.x, **kwargs)  # fmt: skip
        return gr.draws(chains, data)

    laplace = gr.laplace(net, data, likelihood=law, prior_precision=5.0)
    truth = gr.susceptibility(post(chains=64, draws=500, seed=99), asked, gr.reweight()).matrix
    posts = [post(draws=100, seed=seed) for seed in range(6)]
    plain = [gr.susceptibility(p, asked, gr.reweight()) for p in posts]
    drawn = [gr.control_variate(p, None, laplace, asked, gr.reweight()) for p in posts]
    assert rms([c.matrix - truth for c in drawn]) < 0.8 * rms([c.matrix - truth for c in plain])
    assert covered(drawn, truth) > 0.9
    losses = posts[0].losses(data.train.x, data.train.y)
    alone = gr.draws(losses, data, of="losses")
    found = gr.control_variate(alone, None, laplace, asked, gr.reweight())
    assert torch.allclose(found.matrix, drawn[0].matrix, atol=1e-12)


@pytest.mark.parametrize("d", [0.0, 0.3, 0.6, 1.0, 2.0, 3.0, 4.0])
def test_the_interval_has_its_level_however_far_the_known_answer_is(d):
    z = torch.linspace(-8.0, 8.0, 16_001, dtype=torch.float64)
    weight = torch.as_tensor(norm.pdf(z.numpy())) * float(z[1] - z[0])
    for bias in torch.linspace(0.0, 8.0, 161, dtype=torch.float64):
        shift = (bias + z).clamp(-d, d)
        covered = (z - shift).abs() <= 1.96 * (1.0 + shift.square()).sqrt()
        assert float((weight * covered).sum()) > 0.948


def test_the_threshold_is_the_one_of_least_error_to_first_order():
    generator = torch.Generator().manual_seed(0)
    bias = 3.0 * (torch.rand(300, 300, generator=generator, dtype=torch.float64) < 0.1)
    apart = bias + torch.randn(300, 300, generator=generator, dtype=torch.float64)
    d = threshold(apart, torch.ones_like(apart))
    tried = torch.linspace(0.0, FARTHEST, 81, dtype=torch.float64)
    risks = torch.stack([(apart - apart.clamp(-t, t) - bias).square().mean() for t in tried])
    chosen = (apart - apart.clamp(-d, d) - bias).square().mean()
    assert 0.5 < d < 2.5
    assert float(chosen) < 1.02 * float(risks.min())
    far = torch.full_like(apart, 50.0) + apart
    assert threshold(far, torch.ones_like(far)) == 0.0


def test_entries_that_do_not_vary_stay_and_no_entry_moves_further_than_the_threshold():
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(4, 100, 5, generator=generator, dtype=torch.float64)
    left[..., 2] = 1.0
    found = sampled_covariance(left, left)
    drawn = shrunk(found, torch.zeros_like(found.value))
    d = threshold(found.value, found.standard_error)
    assert torch.equal(drawn.value[2], found.value[2])
    assert bool(((drawn.value - found.value).abs() <= d * found.standard_error + 1e-12).all())
    assert torch.allclose(drawn.shift, (drawn.value - found.value).abs())
    assert bool((drawn.half_width(0.95) >= found.half_width(0.95)).all())


def test_bounds_of_what_is_known_widen_the_interval():
    ones = torch.ones(3, 3, dtype=torch.float64)
    plain = SampledCovariance(ones, torch.stack([0.9 * ones, 1.1 * ones]), ones)
    wide = SampledCovariance(ones, plain.batches, ones, bound=0.5 * ones)
    assert torch.allclose(wide.half_width(0.95) - plain.half_width(0.95), 0.5 * ones)


def test_units_of_the_response_are_those_of_draws():
    found = gr.control_variate(linear_draws(), None, EXACT, ASKED, gr.reweight())
    plain = gr.susceptibility(linear_draws(), ASKED, gr.reweight())
    assert (found.unit, found.order, found.columns, found.rows) == (plain.unit, "sampled", plain.columns, plain.rows)
    assert math.isclose(found.beta, plain.beta)


def test_what_does_not_fit_is_refused():
    post, other = linear_draws(40), linear_draws(50)
    assert_refused(lambda: gr.control_variate(post, other, EXACT, ASKED, gr.reweight()), "paired one to one")
    warm = gr.Exact(gr.Linear(outputscale=1.0 / PRIOR), noise=NOISE, beta=0.5).condition(DATA)
    assert_refused(lambda: gr.control_variate(post, None, warm, ASKED, gr.reweight()), "give one beta")
    assert_refused(lambda: gr.control_variate(EXACT, None, EXACT, ASKED, gr.reweight()), "expected gr.draws")
