"""Networks with normalisations and attention: their gradients by the weights, differentiated by the inputs."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

import gp_response as gr

ROWS, NOISE, STEP = 40, 0.1, 1e-5
MIDDLES = {
    "layer norm": (lambda: nn.LayerNorm(6), (6,)),
    "layer norm of two axes": (lambda: nn.LayerNorm([2, 3], bias=False), (2, 3)),
    "instance norm": (lambda: nn.InstanceNorm1d(2, affine=True), (2, 3)),
    "group norm": (lambda: nn.GroupNorm(1, 2), (2, 3)),
    "RMS norm": (lambda: nn.RMSNorm(6), (6,)),
    "batch norm": (lambda: nn.BatchNorm1d(6), (6,)),
    "PReLU": (lambda: nn.PReLU(), (6,)),
    "transformer": (lambda: nn.TransformerEncoderLayer(3, 1, 4, dropout=0.0, batch_first=True), (2, 3)),
}


class Around(nn.Module):
    def __init__(self, middle, shape):
        super().__init__()
        self.first, self.middle, self.last, self.shape = nn.Linear(3, 6), middle, nn.Linear(6, 1), shape

    def forward(self, x):
        return self.last(torch.tanh(self.middle(self.first(x).reshape(-1, *self.shape)).flatten(1)))


def case(name):
    """A network, its data, points, and its gradients by all weights at rows (p, d) by plain autograd, (p, P)."""
    make, shape = MIDDLES[name]
    torch.manual_seed(0)
    net = Around(make(), shape).double().eval()
    for parameter in net.middle.parameters():
        nn.init.normal_(parameter)
    x, points = torch.randn(ROWS, 3).double(), torch.randn(4, 3).double()

    def gradients(rows):
        found = []
        for row in rows:
            weights = {key: p.detach().clone().requires_grad_() for key, p in net.named_parameters()}
            output = functional_call(net, weights, (row[None],)).sum()
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(output, list(weights.values()))]))
        return torch.stack(found)

    return net, x, x[:, 0].sin(), points, gradients


@pytest.mark.parametrize("name", MIDDLES)
def test_input_gradients_and_shifts_are_those_of_the_linearised_network(name):
    net, x, y, points, gradients = case(name)
    posterior = gr.laplace(
        net, (x, y), likelihood=gr.Gaussian(noise=NOISE), prior_precision=1.0, solver=gr.Dense()
    )  # fmt: skip
    with torch.no_grad():
        left = y - net(x)[:, 0]
    rows = gradients(x)

    def moved(inner, force):
        """Weights that a least-squares problem with these gradients moves to under a force on them."""
        return torch.linalg.solve(inner.T @ inner / NOISE + torch.eye(inner.shape[1]), force)

    slopes = torch.stack([(gradients(points + e) - gradients(points - e)) / (2 * STEP) for e in STEP * torch.eye(3)], 1)
    truth = (slopes @ moved(rows, rows.T * left / NOISE)).reshape(12, ROWS)
    chi = gr.susceptibility(posterior, gr.gradient(points), gr.reweight())
    assert float((chi.matrix - truth).abs().max()) < 1e-6 * float(truth.abs().max())

    direction, read, columns = torch.tensor([1.0, 0.5, -0.3]).double(), gradients(points), []
    for j in range(3):
        ends = []
        for sign in (1.0, -1.0):
            there = x.clone()
            there[j] += sign * STEP * direction
            with torch.no_grad():
                rest = y - net(there)[:, 0]
            inner = gradients(there)
            ends.append(read @ moved(inner, (inner.T @ rest - rows.T @ left) / NOISE))
        columns.append((ends[0] - ends[1]) / (2 * STEP))
    truth = torch.stack(columns, dim=1)
    chi = gr.susceptibility(posterior, gr.value(points), gr.shift_inputs(direction))
    assert float((chi.matrix[:, :3] - truth).abs().max()) < 1e-6 * float(truth.abs().max())
