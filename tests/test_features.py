"""Features: any module from points to points."""

from copy import deepcopy

import pytest
import torch
from refusals import assert_refused
from torch import nn

from gp_response.errors import InputError
from gp_response.features import MLP, Identity, UnitBox
from gp_response.kernels import RBF, Matern52


def points(n=10, dim=3):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_mlp_is_the_textbook_network():
    net, x = MLP(3, [5, 4, 2]), points()
    weights = [(layer.weight, layer.bias) for layer in net.layers if isinstance(layer, nn.Linear)]
    assert [tuple(w.shape) for w, _ in weights] == [(5, 3), (4, 5), (2, 4)]
    z = x
    for i, (w, b) in enumerate(weights):
        z = z @ w.mT + b
        z = torch.tanh(z) if i < 2 else z
    assert torch.allclose(net(x), z, rtol=1e-14)
    assert all(p.dtype == torch.float64 for p in net.parameters())


def test_mlp_is_seeded_and_leaves_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    a, b, c = MLP(3, [8, 2]), MLP(3, [8, 2]), MLP(3, [8, 2], seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(a(points()), b(points()))
    assert not torch.equal(a(points()), c(points()))


def test_mlp_starts_with_outputs_of_the_size_of_its_inputs():
    x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = MLP(8, [64, 64, 4])(x)
    assert 0.1 < float(z.detach().std()) < 2.0


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", "gelu"])
def test_mlp_activations_differ_and_smooth_ones_have_second_derivatives(activation):
    net = MLP(3, [6, 2], activation=activation)
    assert any(type(layer).__name__.lower() == activation for layer in net.layers)
    x = points(4).requires_grad_()
    if activation != "relu":
        assert torch.autograd.gradgradcheck(lambda t: RBF().on(net).matrix(t), (x,))


def test_unit_box_maps_to_the_unit_box_and_keeps_constant_columns_finite():
    x = points(50)
    x[:, 1] = 7.0
    box = UnitBox.of(x)
    z = box(x)
    assert torch.allclose(z.amin(0), torch.zeros(3, dtype=x.dtype))
    assert torch.allclose(z.amax(0), torch.tensor([1.0, 0.0, 1.0], dtype=x.dtype))
    assert torch.allclose(box(x + 1.0)[:, 1], torch.ones(50, dtype=x.dtype))
    assert not list(box.parameters())
    assert box(x.float()).dtype == torch.float32


def test_unit_box_bounds_are_saved_with_the_model():
    x = points()
    kernel = RBF().on(nn.Sequential(UnitBox.of(x), MLP(3, [2])))
    other = RBF().on(nn.Sequential(UnitBox(torch.zeros(3), torch.ones(3)), MLP(3, [2], seed=9)))
    other.load_state_dict(kernel.state_dict())
    assert torch.equal(other.matrix(x), kernel.matrix(x))


def test_identity_changes_nothing():
    x = points()
    assert Identity()(x) is x


@pytest.mark.parametrize("net", [nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.LayerNorm(3)], ids=repr)
def test_any_module_serves_as_features(net):
    kernel, x = Matern52().on(net), points()
    k = kernel.matrix(x)
    assert torch.allclose(k, Matern52().matrix(deepcopy(net).double()(x)), rtol=1e-13)
    k.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_features_are_evaluated_once_however_many_tiles(monkeypatch):
    calls = []
    net = MLP(3, [2])
    net.register_forward_hook(lambda *_: calls.append(1))
    kernel, x = RBF().on(net), points(40)
    monkeypatch.setattr("gp_response.kernels.recompute.TILE", 50)
    monkeypatch.setattr("gp_response.kernels.dense.RECOMPUTE", 1)
    kernel.matrix(x).sum().backward()
    assert len(calls) == 1


class Flatten(nn.Module):
    def forward(self, x):
        return x.sum(-1)


class Count(nn.Module):
    def forward(self, x):
        return (x > 0).long()


BAD = {
    "flat features": (lambda: RBF().on(Flatten()).matrix(points()), "Flatten maps points (10, 3) to (10,)"),
    "integer features": (lambda: RBF().on(Count()).matrix(points()), "features must be floating"),
    "ard of features": (lambda: RBF(ard=5).on(MLP(3, [4])).matrix(points()), "use ard=4"),
    "no widths": (lambda: MLP(3, []), "positive integers"),
    "width of zero": (lambda: MLP(3, [8, 0]), "positive integers"),
    "widths as a number": (lambda: MLP(3, 8), "positive integers"),
    "activation": (lambda: MLP(3, [2], activation="rely"), "did you mean 'relu'"),
    "box upside down": (lambda: UnitBox(torch.ones(2), torch.zeros(2)), "low <= high"),
    "box with nan": (lambda: UnitBox.of(points() * float("nan")), "finite"),
    "box of nothing": (lambda: UnitBox.of(points(0)), "at least one"),
    "box of other width": (lambda: UnitBox.of(points())(points(4, 2)), "this box has 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_line(case):
    function, message = BAD[case]
    assert_refused(function, message, error=InputError)
