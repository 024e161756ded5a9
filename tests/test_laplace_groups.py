"""Groups of a network's parameters: components of its field, and what each does alone."""

import re

import pytest
import torch
from networks import jacobian, mlp

import gp_response as gr
from gp_response.testing import example_data

DATA = example_data(n=40)
X, Y = DATA.test.x, DATA.test.y
NET = mlp(3, 6, 4, 1)


def both():
    found = gr.laplace(NET, DATA, likelihood=gr.Gaussian(0.2), prior_precision=2.0)
    return found, found.head.condition(DATA)


def test_layers_are_components_that_add_up():
    found, process = both()
    assert list(found.groups) == ["0", "2", "4"]
    parts = gr.susceptibility(found, gr.components(X), gr.reweight())
    whole = gr.susceptibility(found, gr.value(X), gr.reweight())
    torch.testing.assert_close(parts.matrix.reshape(3, len(X), -1).sum(dim=0), whole.matrix)
    other = gr.susceptibility(process, gr.components(X), gr.reweight())
    assert parts.rows == other.rows
    torch.testing.assert_close(parts.matrix, other.matrix, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gr.component_covariance(found, X), gr.component_covariance(process, X))


@pytest.mark.parametrize("clamped", [True, False])
def test_structural_susceptibilities_are_those_of_the_tangent_kernel(clamped):
    one, other = (gr.structural(p, X, Y, clamped=clamped) for p in both())
    assert one.rows == other.rows == ("0", "2", "4")
    off = (one.matrix - other.matrix).abs()
    assert float(off.max()) <= 1e-9 * float(other.matrix.abs().max())
    assert bool((off <= one.error + other.error).all())


def test_two_chains_on_a_network():
    one, other = (gr.two_chain(p, X, Y) for p in both())
    torch.testing.assert_close(one.two_chain.matrix, other.two_chain.matrix, rtol=1e-8, atol=1e-11)


def test_a_restricted_network_is_laplace_on_its_parameters():
    found, process = both()
    for which, parameters in ((1, "2"), ("4", "4"), (re.compile("bias"), re.compile("bias"))):
        part = gr.restrict(found, which)
        alone = gr.laplace(NET, DATA, likelihood=gr.Gaussian(0.2), prior_precision=2.0, parameters=parameters)
        asked = gr.loss(X, Y)
        one, other = (gr.susceptibility(p, asked, gr.reweight()).matrix for p in (part, alone))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
    rows = jacobian(NET, DATA.train.x, ["2.weight", "2.bias"])[:, 0]
    precision = rows.T @ (DATA.train.weights[:, None] / 0.2 * rows) + 2.0 * torch.eye(28).double()
    exact = rows @ torch.linalg.solve(precision, rows.T)
    torch.testing.assert_close(gr.restrict(found, "2").cov(DATA.train.x), exact, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gr.restrict(process, "2").cov(DATA.train.x), exact, rtol=1e-9, atol=1e-12)


def test_groups_may_be_chosen():
    found, _ = both()
    grouped = found.grouped({"weights": [re.compile("weight")], "biases": re.compile("bias")})
    assert gr.structural(grouped, X, Y).rows == ("weights", "biases")
    assert list(found.groups) == ["0", "2", "4"]
    with pytest.raises(gr.InputError, match="share the parameter"):
        found.grouped({"a": "2", "b": "2.bias"})
    with pytest.raises(gr.InputError, match="none of the"):
        gr.restrict(gr.restrict(found, "2"), "4")
    with pytest.raises(gr.InputError, match="numbers 0 to 2"):
        gr.restrict(found, 3)
    with pytest.raises(gr.InputError, match="not the trained network"):
        gr.restrict(found.reweighted(DATA.train.weights), "2")


def test_precisions_of_their_own_go_with_the_parameters():
    precision = torch.linspace(0.5, 2.0, sum(p.numel() for p in NET.parameters())).double()
    found = gr.laplace(NET, DATA, likelihood=gr.Gaussian(0.2), prior_precision=precision)
    one, other = (gr.structural(p, X, Y).matrix for p in (found, found.head.condition(DATA)))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_classes_are_restricted_to_parameters():
    net, data = mlp(3, 6, 3), DATA.with_train(y=torch.arange(40).remainder(3).double())
    found = gr.laplace(net, data, likelihood=gr.Categorical(3))
    part = gr.restrict(found, "2")
    alone = gr.laplace(net, data, likelihood=gr.Categorical(3), parameters="2")
    asked = gr.loss(X, torch.arange(len(X)).remainder(3))
    one, other = (gr.susceptibility(p, asked, gr.reweight()).matrix for p in (part, alone))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
