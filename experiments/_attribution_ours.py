"""Ours, and gradient similarity: what taking rows away is said to change each asked output by, averaged over networks."""

import contextlib

import torch
from _attribution_nets import Case, Gradients, Parameters, gradients, slopes
from _attribution_scores import Guess, Table, additive
from torch import Tensor, nn

import gp_response as gr
from gp_response.errors import SolverError

LEAST = 1e-9  # noise of the likelihood beside the rows' own


def ours(
    case: Case, trained: Parameters, dampings: list[float], sets: list[Tensor], singles: Tensor
) -> dict[str, Table]:
    """First-order response by the Gauss-Newton matrix and by the Hessian, and the finite one, by multiples of the training's λ.

    sets: of rows taken away. The finite answer is exact for the linearised network and squared loss; a class's loss is replaced by
    its parabola at the trained network, so that it is one Gauss-Newton step of the retraining.
    """
    removed = torch.zeros(len(case.x), len(sets), dtype=torch.float64)
    for k, rows in enumerate(sets):
        removed[rows, k] = 1.0
    nets = [case.load(trained, which) for which in range(len(next(iter(trained.values()))))]
    apart = [[row] for row in singles.tolist()] + [rows.tolist() for rows in sets]
    finite = several(case, trained, nets, dampings, apart) if case.outputs > 1 else single(case, nets, dampings, apart)
    some = len(singles)
    found = {
        "finite": {name: Guess(change[:, some:], change[:, :some]) for name, change in finite.items()},
        "first order": additive(first_order(case, nets, dampings, "ggn"), removed, singles),
    }
    if (
        case.pair.noise is not None
    ):  # sites of classes move with the network, which a Hessian kept as it is does not follow
        found["first order, Hessian"] = additive(first_order(case, nets, dampings, "hessian"), removed, singles)
    return found


def first_order(case: Case, nets: list[nn.Module], dampings: list[float], curvature: str) -> dict[str, Tensor]:
    """(points, rows) by damping, without dampings that leave a Hessian indefinite."""
    found = {}
    for damping in dampings:
        with contextlib.suppress(SolverError):
            every = [response(case, net, damping * case.pair.precision, curvature) for net in nets]
            found[f"{damping:g}"] = torch.stack(every).mean(dim=0)
    return found


def single(case: Case, nets: list[nn.Module], dampings: list[float], sets: list[list[int]]) -> dict[str, Tensor]:
    """Finite changes, (points, sets), of networks of one output."""
    found, deletions = {}, gr.delete(sets)
    for damping in dampings:
        every = [parabolic(case, net, damping * case.pair.precision) for net in nets]
        changes = [gr.predict_change(p, gr.value(case.points), deletions, order="exact").matrix for p in every]
        found[f"{damping:g}"] = sign(case)[:, None] * torch.stack(changes).mean(dim=0)
    return found


def several(
    case: Case, trained: Parameters, nets: list[nn.Module], dampings: list[float], sets: list[list[int]]
) -> dict[str, Tensor]:
    """As `single` for several classes, which `predict_change` has no finite answer for: `J Λ_S⁻¹ Σ_removed ∇ℓ`."""
    found = {f"{d:g}": torch.zeros(len(case.points), len(sets), dtype=torch.float64) for d in dampings}
    for which, net in enumerate(nets):
        g = gradients(case, trained, which)
        for k, rows in enumerate(sets):
            kept = torch.ones(len(case.x), dtype=torch.bool)
            kept[rows] = False
            curvature = gr.ggn(net, (case.x[kept], case.y[kept]), likelihood=gr.Categorical(case.outputs)).dense()
            for damping in dampings:
                system = curvature + damping * case.pair.precision * torch.eye(len(curvature), dtype=curvature.dtype)
                step = torch.cholesky_solve(g.rows[rows].sum(dim=0)[:, None], torch.linalg.cholesky(system))
                found[f"{damping:g}"][:, k] += (g.points @ step)[:, 0] / len(nets)
    return found


def response(case: Case, net: nn.Module, precision: float, curvature: str) -> Tensor:
    """Minus the susceptibility of the asked outputs to the weights of the rows, (points, rows)."""
    likelihood = gr.Gaussian(noise=case.pair.noise) if case.pair.noise else gr.Bernoulli()
    if case.outputs > 1:
        likelihood = gr.Categorical(case.outputs)
    posterior = gr.laplace(net, (case.x, case.y), likelihood=likelihood, prior_precision=precision, curvature=curvature)
    chi = gr.susceptibility(posterior, gr.value(case.points), gr.reweight()).matrix
    return -torch.einsum("mc,mcn->mn", slopes(case, net), chi.reshape(len(case.points), case.outputs, -1))


def parabolic(case: Case, net: nn.Module, precision: float) -> gr.Posterior:
    """The posterior under Gaussian noise whose rows have the slopes and curvatures of their losses at the trained network."""
    with torch.no_grad():
        out = net(case.x)[:, 0]
    if case.pair.noise is not None:
        noise, targets = torch.full_like(out, case.pair.noise), case.y
    else:
        p = out.sigmoid()
        noise = 1.0 / (p * (1.0 - p))
        targets = out + noise * (case.y - p)
    data = gr.dataset(case.x, targets, standardise=False).with_train(noise=noise - LEAST)
    return gr.laplace(net, data, likelihood=gr.Gaussian(noise=LEAST), prior_precision=precision)


def sign(case: Case) -> Tensor:
    """Slope of what is asked by the network's only output, (points,)."""
    return torch.ones_like(case.targets) if case.pair.noise else 2.0 * case.targets - 1.0


def similarities(found: list[Gradients]) -> dict[str, Tensor]:
    """Gradients' dot products (TracIn's at the last checkpoint) and cosines, (points, rows)."""
    dot, cosine = 0.0, 0.0
    for g in found:
        unit_points, unit_rows = (nn.functional.normalize(part, dim=1) for part in (g.points, g.rows))
        dot, cosine = dot + g.points @ g.rows.T / len(found), cosine + unit_points @ unit_rows.T / len(found)
    return {"dot": dot, "cosine": cosine}
