"""The tangent kernel: a kernel like any other, whose process is the linearised network."""

import pytest
import torch
from networks import jacobian, mlp
from test_cells import OBSERVABLES, PERTURBATIONS

import gp_response as gr
from gp_response.curvature import Network
from gp_response.heads.tangent_map import Inputs, TangentMap
from gp_response.testing import check_head, example_data

DATA = example_data(n=40)
NET = mlp(3, 6, 1)
CELLS = [pair for name, pair in PERTURBATIONS.items() if name not in ("lengthscale", "outputscale", "mean")]


def head():
    network = Network(NET)
    move = torch.linspace(-0.2, 0.2, network.count).double()
    mean = gr.TangentMean(TangentMap(network, Inputs((3,))), move)
    return gr.Exact(gr.TangentKernel(network, 2.0), noise=0.2, mean=mean)


def test_it_is_the_product_of_jacobians():
    rows = jacobian(NET, DATA.train.x)[:, 0]
    kernel = gr.TangentKernel(Network(NET), 2.0)
    torch.testing.assert_close(kernel.matrix(DATA.train.x), 0.5 * rows @ rows.T, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(kernel.diagonal(DATA.train.x), 0.5 * rows.square().sum(dim=1), rtol=1e-12, atol=1e-13)
    short = kernel.matrix(DATA.train.x.float())
    assert short.dtype == torch.float32
    torch.testing.assert_close(short.double(), 0.5 * rows @ rows.T, rtol=1e-4, atol=1e-4)
    own = torch.linspace(0.5, 2.0, 31).double()
    torch.testing.assert_close(gr.TangentKernel(Network(NET), own).matrix(DATA.train.x), (rows / own) @ rows.T)
    with pytest.raises(gr.InputError, match="expected a positive number"):
        gr.TangentKernel(Network(NET), -1.0)


def test_its_head_obeys_the_laws():
    check_head(head(), data=DATA)


@pytest.mark.parametrize("observable", ["value", "loss", "variance", "gradient"])
def test_cells_are_derivatives_of_refits(observable):
    posterior, asked = head().condition(DATA), OBSERVABLES[observable]
    for perturbation, _ in [*CELLS, (gr.hyperparameter("prior_precision"), None)]:
        chi = gr.susceptibility(posterior, asked, perturbation)
        refit = gr.refit_response(head(), DATA, asked, perturbation)
        size, off = float(refit.matrix.abs().max()), (chi.matrix - refit.matrix).abs()
        assert float(off.max()) <= 1e-7 * size, perturbation
        assert bool((off <= chi.error + 30.0 * refit.error + 1e-8 * size).all()), perturbation


def test_groups_are_parts_of_the_sum():
    net = mlp(3, 6, 4, 1)
    kernel = gr.TangentKernel(Network(net), 2.0)
    parts = [kernel.part(c).matrix(DATA.train.x) for c in range(3)]
    assert kernel.component_names() == ["0", "2", "4"]
    torch.testing.assert_close(sum(parts), kernel.matrix(DATA.train.x))
    posterior = gr.Exact(kernel, noise=0.2).condition(DATA)
    for perturbation in (gr.reweight([3]), gr.hyperparameter("prior_precision")):
        split = (
            gr.susceptibility(posterior, gr.components(DATA.test.x), perturbation).matrix.reshape(3, 7, -1).sum(dim=0)
        )
        whole = gr.susceptibility(posterior, gr.value(DATA.test.x), perturbation).matrix
        torch.testing.assert_close(split, whole, rtol=1e-8, atol=1e-10)
    with pytest.raises(gr.InputError, match="no components"):
        gr.TangentKernel(Network(net, "4")).part(0)


class Opaque(torch.autograd.Function):
    """A square that torch.func knows nothing of."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, slope):
        return 2.0 * ctx.saved_tensors[0] * slope


class OpaqueNet(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return Opaque.apply(self.inner(x))


class ClearNet(OpaqueNet):
    def forward(self, x):
        return self.inner(x).square()


def test_networks_beyond_torch_func():
    found, clear = (
        gr.laplace(kind(mlp(3, 6, 1)), DATA, likelihood=gr.Gaussian(0.2), solver=gr.Dense())
        for kind in (OpaqueNet, ClearNet)
    )
    x = DATA.test.x
    torch.testing.assert_close(found.cov(x), clear.cov(x), rtol=1e-9, atol=1e-12)
    one, other = (gr.susceptibility(p, gr.value(x), gr.reweight()).matrix for p in (found, clear))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    with pytest.raises(gr.InputError, match="slopes are not at hand"):
        gr.susceptibility(found, gr.gradient(x), gr.reweight())


def test_results_of_networks_stream_to_disk(tmp_path):
    found = gr.laplace(NET, DATA, likelihood=gr.Gaussian(0.2))
    whole = gr.susceptibility(found, gr.value(DATA.test.x), gr.reweight())
    stored = gr.susceptibility(found, gr.value(DATA.test.x), gr.reweight(), out=tmp_path / "chi.zarr")
    torch.testing.assert_close(stored[:], whole.matrix)
    other = gr.laplace(mlp(3, 6, 1, seed=9), DATA, likelihood=gr.Gaussian(0.2))
    with pytest.raises(gr.InputError):
        gr.susceptibility(other, gr.value(DATA.test.x), gr.reweight(), out=tmp_path / "chi.zarr")
