"""The residual network that keeps distances: norms, Jacobians, training, the kernel laws."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from refusals import assert_refused

from gp_response.data import dataset
from gp_response.errors import InputError
from gp_response.features import SpectralResNet
from gp_response.features.mlp import ACTIVATIONS
from gp_response.features.spectral import SLOPES, bounded, spectral_norm
from gp_response.heads import Exact
from gp_response.kernels import RBF, Matern32
from gp_response.testing import check_kernel

BOUND = 0.9


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=12, dim=3, seed=0):
    return torch.randn(n, dim, generator=rng(seed), dtype=torch.float64)


def stretched(net, factor=7.0):
    """Weights far beyond the bound, as training would leave them."""
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(factor).add_(0.05 * torch.randn(p.shape, generator=rng(9), dtype=p.dtype))
    return net


@pytest.mark.parametrize("shape", [(5, 5), (40, 7), (7, 40), (1, 6), (128, 128)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_spectral_norm_is_that_of_the_svd_from_above(shape, scale):
    w = scale * torch.randn(shape, generator=rng(), dtype=torch.float64)
    exact, found = float(torch.linalg.svdvals(w)[0]), float(spectral_norm(w))
    assert exact * (1 - 1e-12) <= found <= exact * 1.003
    assert float(spectral_norm((w / scale).float())) == pytest.approx(exact / scale, rel=3e-3)


def test_spectral_norm_of_equal_singular_values_and_of_zero():
    assert float(spectral_norm(torch.eye(64).double())) == pytest.approx(1.0, rel=3e-3)
    assert float(spectral_norm(torch.zeros(4, 4).double())) < 1e-100
    zero = torch.zeros(4, 4).double().requires_grad_()
    assert torch.equal(bounded(zero, 0.9), torch.zeros(4, 4).double())
    (found,) = torch.autograd.grad(bounded(zero, 0.9).sum(), zero)
    assert torch.equal(found, torch.ones(4, 4).double())


def test_gradient_of_the_norm_is_the_outer_product_of_the_singular_vectors():
    w = torch.randn(6, 4, generator=rng(), dtype=torch.float64).requires_grad_()
    (found,) = torch.autograd.grad(spectral_norm(w), w)
    u, _, vh = torch.linalg.svd(w.detach())
    assert torch.allclose(found, torch.outer(u[:, 0], vh[0]), atol=1e-8)
    assert torch.autograd.gradcheck(spectral_norm, (w,))
    tangent = torch.ones_like(w)
    slope = torch.func.jvp(spectral_norm, (w.detach(),), (tangent,))[1]
    assert torch.allclose(slope, found.sum())


@pytest.mark.parametrize("activation", SLOPES)
def test_slopes_are_the_largest_of_the_activations(activation):
    t = torch.linspace(-8, 8, 400_001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(ACTIVATIONS[activation]()(t).sum(), t)
    assert SLOPES[activation] - 1e-6 < float(slope.abs().max()) <= SLOPES[activation]


def jacobians(function, x):
    return torch.func.vmap(torch.func.jacfwd(function))(x)


def block(activation, weight, bias, x):
    return x + activation(x @ weight.mT + bias)


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("prepare", [lambda net: net, stretched], ids=["initial", "stretched"])
def test_jacobians_of_blocks_and_network_stay_within_the_bounds(activation, prepare):
    net = prepare(SpectralResNet(3, 8, 4, bound=BOUND, activation=activation))
    x = points(200)
    z = 3.0 * points(200, 8)
    for layer in net.residuals:
        weight = bounded(layer.weight.detach(), BOUND / SLOPES[activation])
        assert float(torch.linalg.matrix_norm(weight, 2)) <= BOUND * (1 + 1e-12)
        part = jacobians(partial(block, net.activation, weight, layer.bias.detach()), z)
        values = torch.linalg.svdvals(part)
        assert float(values.min()) >= 1 - BOUND
        assert float(values.max()) <= 1 + BOUND
    values = torch.linalg.svdvals(jacobians(net, x).detach())
    low, high = net.distortion()
    assert 0.0 < low <= float(values.min())
    assert float(values.max()) <= high <= BOUND * (1 + BOUND) ** 4 * (1 + 1e-12)


def test_distances_between_far_points_stay_within_the_distortion():
    net = stretched(SpectralResNet(3, 6, 5, bound=0.7, activation="relu"))
    x = 5.0 * points(80)
    with torch.no_grad():
        ratio = (torch.pdist(net(x)) / torch.pdist(x)).sort().values
    low, high = net.distortion()
    assert low <= float(ratio[0])
    assert float(ratio[-1]) <= high


def test_an_unbounded_network_breaks_these_bounds():
    net = stretched(SpectralResNet(3, 8, 4, bound=BOUND))
    weight = net.residuals[0].weight.detach()
    assert float(torch.linalg.matrix_norm(weight, 2)) > 2.0
    assert not torch.equal(bounded(weight, BOUND), weight)


def test_fewer_features_than_columns_have_no_lower_bound():
    assert SpectralResNet(5, 3, 2).distortion()[0] == 0.0
    net = SpectralResNet(3, 8, 2, out=2)
    assert net.distortion()[0] == 0.0
    assert net(points()).shape == (12, 2)


def test_small_weights_are_left_alone():
    net = SpectralResNet(3, 6, 2)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(0.1)
    z = net.first(points())
    for layer in net.residuals:
        z = z + torch.tanh(layer(z))
    assert torch.allclose(net(points()), z, rtol=1e-14)


def test_evaluation_changes_nothing_in_any_mode():
    net, x = stretched(SpectralResNet(3, 6, 3)), points()
    before = deepcopy(net.state_dict())
    first = net.train()(x)
    assert torch.equal(net.eval()(x), first)
    assert torch.equal(net(x), first)
    assert not list(net.buffers())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(deepcopy(net)(x), first)


def test_it_is_seeded_and_leaves_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    a, b, c = SpectralResNet(3, 6, 2), SpectralResNet(3, 6, 2), SpectralResNet(3, 6, 2, seed=1)
    assert torch.equal(a(points()), b(points()))
    assert not torch.equal(a(points()), c(points()))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_single_precision_agrees_with_double():
    net, x = stretched(SpectralResNet(3, 8, 4)), points()
    assert all(p.dtype == torch.float64 for p in net.parameters())
    single = deepcopy(net).float()(x.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), net(x), rtol=1e-4, atol=1e-4)
    for layer in deepcopy(net).float().residuals:
        assert float(torch.linalg.matrix_norm(bounded(layer.weight.detach(), BOUND), 2)) <= BOUND * (1 + 1e-5)


@pytest.mark.parametrize("out", [None, 2])
def test_the_kernel_on_it_obeys_every_law(out):
    check_kernel(Matern32().on(SpectralResNet(3, 5, 2, out=out)))
    check_kernel(RBF().on(stretched(SpectralResNet(3, 5, 2, out=out), 3.0)))


def test_training_moves_the_weights_and_keeps_the_bounds():
    x = points(120, 2)
    data = dataset(x, torch.sin(3.0 * x[:, 0]) * x[:, 1])
    head = Exact(Matern32().on(SpectralResNet(2, 6, 2, bound=BOUND)), noise=0.1)
    net, before = head.kernel.features, deepcopy(head.kernel.features.state_dict())
    start = float(head.log_evidence(data).detach())
    head.fit(data)
    assert float(head.log_evidence(data).detach()) > start + 10.0
    assert all(not torch.equal(before[name], p) for name, p in net.state_dict().items() if "weight" in name)
    values = torch.linalg.svdvals(jacobians(net, data.train.x).detach())
    low, high = net.distortion()
    assert 0.0 < low <= float(values.min()) <= float(values.max()) <= high


BAD = {
    "no width": (lambda: SpectralResNet(3, 0, 2), "positive integers"),
    "half a block": (lambda: SpectralResNet(3, 4, 1.5), "depth=1.5"),
    "out": (lambda: SpectralResNet(3, 4, 1, out=0), "out=0"),
    "bound of one": (lambda: SpectralResNet(3, 4, 1, bound=1.0), "bound=1.0"),
    "bound nan": (lambda: SpectralResNet(3, 4, 1, bound=float("nan")), "bound=nan"),
    "activation": (lambda: SpectralResNet(3, 4, 1, activation="tan"), "did you mean 'tanh'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_line(case):
    function, message = BAD[case]
    assert_refused(function, message, error=InputError)
