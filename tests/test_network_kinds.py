"""Networks whose layers torch differentiates by halves, or not row beside row: held against plain autograd."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

import gp_response as gr

NOISE, PRIOR = 0.4, 2.0


class Padded(nn.Module):
    """Words, of which the first is padding, its vector the last layer's, too."""

    def __init__(self):
        super().__init__()
        self.embed, self.middle, self.out = nn.Embedding(6, 3, padding_idx=0), nn.Linear(3, 3), nn.Linear(3, 6)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(torch.tanh(self.middle(self.embed(x)).mean(dim=1)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.GRU(3, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x):
        return self.out(self.layer(x)[0][:, -1])


class Branching(nn.Module):
    """A row goes one of two ways."""

    def __init__(self):
        super().__init__()
        self.first, self.ways = nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])

    def forward(self, x):
        return torch.stack([self.ways[int(row.sum() > 0)](row.sin()) for row in self.first(x)])


class Masking(nn.Module):
    """Writes where a mask says."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        z = self.first(x).clone()
        z[z > 0.2] = z[z > 0.2].tanh()
        return self.last(z.cos())


class Scaled(nn.Module):
    """A parameter that is a number."""

    def __init__(self):
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.tensor(1.3)), nn.Linear(3, 1)

    def forward(self, x):
        return self.scale * torch.tanh(self.layer(x))


def weight_norm():
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(
        norm(nn.Linear(3, 4)), nn.Tanh(), norm(nn.Linear(4, 2)), nn.Tanh(), norm(nn.Linear(2, 1), dim=None)
    )


def padded_rows(n):
    """The first row, at which derivatives are tried, has no padding."""
    x = torch.randint(0, 6, (n, 4))
    x[0] = torch.tensor([1, 2, 5, 3])
    return x


def rows(*shape):
    return lambda n: torch.randn(n, *shape, dtype=torch.float64)


CASES = {
    "padding": (Padded, padded_rows), "recurrent": (Recurrent, rows(4, 3)), "branching": (Branching, rows(3)),
    "masking": (Masking, rows(3)), "number": (Scaled, rows(3)), "weight norm": (weight_norm, rows(3)),
}  # fmt: skip


def case(name, n=11):
    make, inputs = CASES[name]
    torch.manual_seed(2)
    net = make().double()
    x = inputs(n)
    return net, x, torch.randn_like(net(x)).detach()


def gradient(net, x, y, theta=None):
    """Of the loss by all parameters, (P,), by plain reverse mode."""
    if theta is not None:
        nn.utils.vector_to_parameters(theta, net.parameters())
    loss = (net(x) - y).square().sum() / (2 * NOISE)
    return nn.utils.parameters_to_vector(torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("name", CASES)
def test_hessians_are_differences_of_gradients(name):
    net, x, y = case(name)
    op = gr.hessian(net, (x, y), likelihood=gr.Gaussian(noise=NOISE))
    origin, step = nn.utils.parameters_to_vector(net.parameters()).detach(), 1e-5
    matrix, v = op.dense(), torch.randn(op.shape[0], dtype=torch.float64)
    if name == "padding":
        v[:3] = 0.0  # of the word that is held, as padding, though not as an output
    difference = (gradient(net, x, y, origin + step * v) - gradient(net, x, y, origin - step * v)) / (2 * step)
    torch.testing.assert_close(matrix @ v, difference, rtol=1e-6, atol=1e-6 * float(difference.abs().max()))
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-10, atol=1e-12 * float(matrix.abs().max()))


def rows_jacobian(net, x):
    """(n C, P) by plain reverse mode, an output at a time."""
    parameters = list(net.parameters())
    return torch.stack([
        nn.utils.parameters_to_vector(torch.autograd.grad(output, parameters, retain_graph=True, materialize_grads=True))
        for output in net(x).flatten()
    ])  # fmt: skip


@pytest.mark.parametrize("solver", [gr.Dense(), gr.CG(tolerance=1e-10)], ids=repr)
@pytest.mark.parametrize("name", CASES)
def test_posteriors_are_those_of_the_written_jacobian(name, solver):
    net, x, y = case(name)
    J = rows_jacobian(net, x)
    posterior = gr.laplace(net, (x, y), likelihood=gr.Gaussian(noise=NOISE), prior_precision=PRIOR, solver=solver)
    covariance = torch.linalg.inv(J.T @ J / NOISE + PRIOR * torch.eye(J.shape[1]))
    some = x[:3].reshape(3, -1).double()
    read = J.reshape(len(x), -1, J.shape[1])[:3].flatten(0, 1)
    expected = ((read @ covariance) * read).sum(dim=1)
    torch.testing.assert_close(posterior.variance(some).flatten(), expected, rtol=1e-9, atol=1e-12)
    left = (y - net(x).detach()).flatten()
    force = (J * left[:, None] / NOISE).reshape(len(x), -1, J.shape[1]).sum(dim=1)
    chi = gr.susceptibility(posterior, gr.value(some), gr.reweight())
    truth = read @ covariance @ force.T
    assert bool(((chi.matrix - truth).abs() <= chi.error + 1e-14).all())
    assert float((chi.matrix - truth).abs().max()) < 1e-9 * float(truth.abs().max())


@pytest.mark.parametrize("name", ["recurrent", "branching", "masking"])
def test_slopes_of_networks_that_take_one_row_at_a_time(name):
    net, x, y = case(name)
    posterior = gr.laplace(net, (x, y), likelihood=gr.Gaussian(noise=NOISE), prior_precision=PRIOR, solver=gr.Dense())
    point, step = x[:1].reshape(1, -1), 1e-5
    found = gr.susceptibility(posterior, gr.gradient(point), gr.reweight()).matrix
    for k in (0, 2):
        e = torch.zeros_like(point)
        e[0, k] = step
        ends = [gr.susceptibility(posterior, gr.value(point + s * e), gr.reweight()).matrix for s in (1.0, -1.0)]
        torch.testing.assert_close(found[[k]], (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_slopes_that_torch_has_not_are_refused():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Hardsigmoid(), nn.Linear(4, 1)).double()
    x, y = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    posterior = gr.laplace(net, (x, y), likelihood=gr.Gaussian(noise=NOISE), prior_precision=PRIOR)
    torch.testing.assert_close(posterior.mean(x), net(x)[:, 0].detach())
    with pytest.raises(gr.InputError, match="no slope of this network's gradients"):
        gr.susceptibility(posterior, gr.gradient(x[:1]), gr.reweight())


def test_words_that_are_frequent_in_a_batch_count_as_others():
    """`scale_grad_by_freq` is a way to train, and no derivative."""
    torch.manual_seed(0)
    x, y = torch.randint(0, 5, (9, 4)), torch.randn(9, dtype=torch.float64)
    nets = [
        nn.Sequential(nn.Embedding(5, 3, scale_grad_by_freq=on), nn.Flatten(), nn.Linear(12, 1)).double()
        for on in (True, False)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    found, expected = (gr.ggn(net, (x, y), likelihood=gr.Gaussian(noise=NOISE), batch_size=4).dense() for net in nets)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_what_torch_func_cannot_transform_is_answered_and_not_conditioned_again():
    class Saving(nn.Linear):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False).tanh()

    torch.manual_seed(0)
    x, y = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    net, plain = Saving(3, 1).double(), nn.Sequential(nn.Linear(3, 1), nn.Tanh()).double()
    plain[0].load_state_dict(net.state_dict())
    found, expected = (gr.laplace(module, (x, y), likelihood=gr.Gaussian(noise=NOISE)) for module in (net, plain))
    for answer in (gr.susceptibility, gr.finite_response):
        one, other = (answer(p, gr.value(x[:2]), gr.delete([1, 4])).matrix for p in (found, expected))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    for ask in (
        lambda: gr.refit_response(found.head, found.data, gr.value(x[:2]), gr.reweight([1])),
        lambda: gr.susceptibility(
            found, gr.value(x[:2]), gr.shift_inputs(torch.ones(3, dtype=torch.float64), rows=[1])
        ),
    ):
        with pytest.raises(gr.InputError, match=r"torch\.func cannot transform this network"):
            ask()
