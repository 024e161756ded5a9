"""Ours, and gradient similarity: what taking rows away is said to change each asked output by, averaged over networks."""

import torch
from _attribution_nets import Case, Gradients, Parameters, slopes
from _attribution_scores import Guess, Table, additive
from torch import Tensor, nn

import gp_response as gr
from gp_response.heads.laplace import laplace

LEAST = 1e-9  # noise of the likelihood beside the rows' own


def ours(case: Case, trained: Parameters, dampings: list[float], sets: list[Tensor], singles: Tensor) -> dict[str, Table]:
    """First-order response, and where the network has one output also the finite one, by multiples of the training's precision.

    sets: of rows taken away. The finite answer is exact for the linearised network and squared loss; a class's loss is replaced by
    its parabola at the trained network, so that it is one Newton step of the retraining.
    """
    first, finite = ({f"{d:g}": 0.0 for d in dampings} for _ in range(2))
    count = len(next(iter(trained.values())))
    deletions = gr.delete([[row] for row in singles.tolist()] + [rows.tolist() for rows in sets])
    for which in range(count):
        net = case.load(trained, which)
        for damping in dampings:
            precision = damping * case.pair.precision
            first[f"{damping:g}"] += response(case, net, precision) / count
            if case.outputs == 1:
                posterior = parabolic(case, net, precision)
                change = gr.predict_change(posterior, gr.value(case.points), deletions, order="exact").matrix
                finite[f"{damping:g}"] += sign(case)[:, None] * change / count
    removed = torch.zeros(len(case.x), len(sets), dtype=torch.float64)
    for k, rows in enumerate(sets):
        removed[rows, k] = 1.0
    found = {"first order": additive(first, removed, singles)}
    if case.outputs == 1:
        some = len(singles)
        found["finite"] = {name: Guess(change[:, some:], change[:, :some]) for name, change in finite.items()}
    return found


def response(case: Case, net: nn.Module, precision: float, curvature: str = "ggn") -> Tensor:
    """Minus the susceptibility of the asked outputs to the weights of the rows, (points, rows)."""
    likelihood = gr.Gaussian(noise=case.pair.noise) if case.pair.noise else gr.Bernoulli()
    if case.outputs > 1:
        likelihood = gr.Categorical(case.outputs)
    posterior = laplace(net, (case.x, case.y), likelihood=likelihood, prior_precision=precision, curvature=curvature)
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
    return laplace(net, data, likelihood=gr.Gaussian(noise=LEAST), prior_precision=precision)


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
