"""Moments of inducing features: values and gradients against a tape, over more rows than a block."""

import gpytorch
import pytest
import torch
from torch.autograd import gradcheck

import gp_response as gr
from gp_response.heads import feature_moments as module
from gp_response.heads.basis import Basis
from gp_response.heads.feature_moments import feature_moments
from gp_response.heads.inducing import split_features
from gp_response.heads.vector import read, read_gradient, write
from gp_response.kernels import Foreign


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KERNELS = {
    "matern": lambda: gr.Matern32(ard=3, lengthscale=[1.0, 2.0, 1.5], outputscale=1.3),
    "own profile": lambda: gr.RationalQuadratic(lengthscale=1.2, outputscale=0.7),
    "dot and sum": lambda: 0.5 * gr.Linear() + gr.RBF(ard=3) * gr.Matern12(lengthscale=2.0),
    "columns": lambda: gr.Matern52(ard=2, active_dims=[0, 2]),
    "foreign": lambda: Foreign(gpytorch.kernels.ScaleKernel(gpytorch.kernels.RQKernel()).double()),
    "deep": lambda: (gr.Matern32(ard=2) * 1.4).on(gr.MLP(3, [8, 2], seed=1)),
}


def tape(basis, x, weight, target):
    features = basis.at(x)
    return (features * weight) @ features.T, features @ (weight * target)


def case(name, monkeypatch, n=150, m=7, **settings):
    for key, value in {"ROWS": 64, "STRIP": 3, **settings}.items():
        monkeypatch.setattr(module, key, value)
    base, features = split_features(KERNELS[name]().double())
    points = numbers(m, 3 if features is None else 2, seed=1).requires_grad_()
    weight, target = (0.1 + numbers(n, seed=2).square()).requires_grad_(), numbers(n, seed=3).requires_grad_()
    leaves = [points, weight, target, *base.parameters(), *(features.parameters() if features else ())]
    return (
        (lambda: Basis(base, features, points)),
        numbers(n, 3),
        weight,
        target,
        [t for t in leaves if t.requires_grad],
    )


@pytest.mark.parametrize("room", [0.25, 0.0], ids=["kept", "made again"])
@pytest.mark.parametrize("name", KERNELS)
def test_values_and_gradients_are_those_of_a_tape(name, room, monkeypatch):
    basis, x, weight, target, leaves = case(name, monkeypatch, SHARE=room)
    by_gram, by_pulled = numbers(7, 7, seed=4), numbers(7, seed=5)
    found, want = (f(basis(), x, weight, target) for f in (feature_moments, tape))
    gradients = []
    for gram, pulled in (found, want):
        value = (by_gram * gram).sum() + by_pulled.dot(pulled)
        gradients.append(torch.autograd.grad(value, leaves, allow_unused=True))
    torch.testing.assert_close(found.gram, want[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.pulled, want[1], rtol=1e-10, atol=1e-10)
    for one, other in zip(*gradients, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8 * max(scale, 1.0))


def test_gradients_are_finite_differences(monkeypatch):
    basis, x, weight, target, _ = case("matern", monkeypatch, n=70, m=4)
    made = basis()

    def of(points, weight, target):
        return feature_moments(Basis(made.kernel, None, points), x, weight, target)

    assert gradcheck(of, (made.points.detach().requires_grad_(), weight, target), atol=1e-5)


def test_a_transform_goes_by_the_formula_itself(monkeypatch):
    basis, x, weight, target, _ = case("matern", monkeypatch)
    made, along = basis(), numbers(150, seed=6)
    _, tangent = torch.func.jvp(
        lambda w: feature_moments(made, x, w, target.detach()).gram, (weight.detach(),), (along,)
    )
    features = made.at(x)
    torch.testing.assert_close(tangent, (features * along) @ features.T)


def test_without_gradients_nothing_is_kept(monkeypatch):
    basis, x, weight, target, _ = case("matern", monkeypatch)
    with torch.no_grad():
        gram, _ = feature_moments(basis(), x, weight, target)
    assert not gram.requires_grad


def test_points_enter_the_vector_in_their_own_unit():
    points, other = (torch.nn.Parameter(3.0 * numbers(9, 2, seed=s)) for s in (0, 1))
    before = points.detach().clone(), other.detach().clone()
    vector = read([points, other], points)
    torch.testing.assert_close(vector[:18], before[0].flatten() / 3.0)
    loss = (points**3).sum() + (other**3).sum()
    loss.backward()
    slope, step = read_gradient([points, other], points), 1e-6 * numbers(36, seed=2)
    values = []
    for sign in (1.0, -1.0):
        write([points, other], vector + sign * step, points)
        values.append(float(((points**3).sum() + (other**3).sum()).detach()))
    assert values[0] - values[1] == pytest.approx(2.0 * float(slope.dot(step)), rel=1e-5)
    write([points, other], vector, points)
    torch.testing.assert_close(points.detach(), before[0])
    torch.testing.assert_close(other.detach(), before[1])
