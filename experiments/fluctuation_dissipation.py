"""Closed-form susceptibilities of a deep-kernel GP equal what actual refits do, on real data, in double precision.

Claim: for 50 test predictions and all training weights and labels of at least 12,000 hourly weather records, the closed
form agrees with the derivative of a refit to a relative gap of 1e-6 or better on 200 random pairs (row, prediction), and
the exact deletion formula with refits that leave the row out to 1e-8 or better.

Command: gp-response run fluctuation_dissipation [--smoke]
Cost: 8 to 10 minutes and 6.2 GiB on two cores at full size (12,060 training rows); 10 seconds for the smoke run.
Expected: largest gaps about 1e-14 (weights and labels) and 1e-9 (deletions); from-scratch refits agree to 1e-10.

The refits of the 200 pairs order the chosen rows last and eliminate the unchanged rows once; what depends on the change
is then factorised anew for every refit, and differentiated automatically through that factorisation. It shares no
formula with the closed form: no posterior covariance of all rows, no residual, no leverage. A few rows are also deleted
and reweighted from scratch, with nothing shared, which proves the elimination itself.
"""

from pathlib import Path
from typing import Any

import torch
from gpytorch.priors import LogNormalPrior
from torch import Tensor
from torch.func import jacfwd, vmap

import gp_response as gr
from gp_response.linalg.extended import residual
from gp_response.plots import closed_vs_refit, histogram_of_gaps, influential_rows, save
from gp_response.report import number

GRID = {"seed": [0, 1, 2]}
SMOKE = {"rows": 900, "predictions": 8, "pairs": 40, "from_scratch": 3, "pretrain_steps": 200, "steps": 40}
QUICK = {
    "rows": [2000], "predictions": [20], "pairs": [100], "from_scratch": [3], "pretrain_steps": [600], "steps": [40],
}  # fmt: skip
DIFFERENCE = 0.02


def main(
    rows: int = 13_400, predictions: int = 50, pairs: int = 200, from_scratch: int = 12, pretrain_steps: int = 2000,
    steps: int = 100, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Train, respond, refit, compare. rows: of the table, a tenth of which are test rows."""
    data = gr.load("weather", n=rows, seed=seed)
    widths = [64, 64, 4]
    # Without a prior the evidence drifts to a nearly linear kernel (outputscale 300, lengthscale 400), whose system has
    # a condition number of 1e8: then neither the closed form nor a refit has more than 8 digits to compare.
    base = gr.Matern32(ard=widths[-1], outputscale_prior=LogNormalPrior(0.0, 0.5))
    head = gr.Exact(base.on(gr.MLP(data.dim, widths, seed=seed)), noise=0.1)
    training = gr.Training(pretrain_steps=pretrain_steps, steps=steps, seed=seed)
    posterior = head.fit(data, training=training)
    x = data.test.x[:predictions]
    chi = {
        "weight": gr.susceptibility(posterior, gr.value(x), gr.reweight()),
        "label": gr.susceptibility(posterior, gr.value(x), gr.relabel()),
    }
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data.train), generator=generator)[:pairs]
    asked = torch.randint(len(x), (len(chosen),), generator=generator)
    deleted = gr.finite_response(posterior, gr.value(x), gr.delete(chosen.tolist(), each=True))
    refit = refits(head, data, x, chosen)
    entry = torch.arange(len(chosen))
    table = {
        name: compare(closed, refit[name], chosen, asked, entry)
        for name, closed in {**chi, "deletion": deleted}.items()
    }
    strong = chi["weight"].matrix[:, chosen].abs().amax(dim=0).argsort(descending=True)[:from_scratch]
    scratch = refits_from_scratch(head, data, x, chosen[strong], chi["weight"], deleted.matrix[:, strong])
    best = most_moved(chi["weight"], asked)
    error = data.undo_y(posterior.mean(data.test.x)) - data.undo_y(data.test.y)
    return {
        "training_rows": len(data.train), "columns": data.dim, "features": widths[-1], "predictions": len(x),
        "pairs": len(chosen), **{f"{name}_gap_max": max(t["gap"]) for name, t in table.items()},
        **{f"{name}_gap_median": sorted(t["gap"])[len(chosen) // 2] for name, t in table.items()}, **scratch,
        "error_bound_covers": all(t["covered"] for t in table.values()), "converged": bool(chi["weight"].converged),
        "test_rmse": float(error.square().mean().sqrt()), "noise": float(head.noise.detach()),
        "train_nll": posterior.trace.train_nll, "held_out_nll": posterior.trace.held_out_nll,
        "objective": posterior.trace.objective, "table": table, "influential": influential(data, chi["weight"], best),
    }  # fmt: skip


def refits(head: gr.Exact, data: gr.Dataset, x: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """Predictions of refitted models with the chosen rows reweighted, relabelled or taken out.

    Returns derivatives by weight and label and changes by deletion, each (predictions, chosen).
    """
    n, noise = len(data.train), head.noise.detach().to(data.train.x)
    rest = torch.ones(n, dtype=torch.bool)
    rest[chosen] = False
    y = data.train.y
    with torch.no_grad():
        # Evaluated as a whole, as the posterior does it: the last bit of an exponential can depend on its neighbours.
        whole, toward = head.kernel.matrix(data.train.x), head.kernel.matrix(data.train.x, x)
        system, across, among = whole[rest][:, rest], whole[rest][:, chosen], whole[chosen][:, chosen]
        del whole
        system.diagonal().add_(noise)
        ahead = toward[rest]
        right = torch.cat([y[rest][:, None], across], dim=1)
        factor = gr.Cholesky(refine=2).factor(system)
        high = factor.solve(right).value
        low = factor.solve(residual(right, system, high)).value  # what does not fit into the digits of `high`
        del factor, system
        # What the unchanged rows leave to explain: of the chosen rows, of their labels, and of the predictions.
        left = left_over(among, across, high[:, 1:], low[:, 1:])
        labels = left_over(y[chosen][:, None], across, high[:, :1], low[:, :1])[:, 0]
        reach = left_over(toward[chosen].T, ahead, high[:, 1:], low[:, 1:])

    def predict(weights: Tensor, labels: Tensor) -> Tensor:
        """What the chosen rows add to the predictions of the rest."""
        return reach @ torch.linalg.solve(left + torch.diag(noise / weights), labels)

    def without(keep: Tensor) -> Tensor:
        system = left[keep][:, keep] + noise * torch.eye(len(keep), dtype=left.dtype)
        return reach[:, keep] @ torch.linalg.solve(system, labels[keep]) - base

    weights, every = torch.ones_like(labels), torch.arange(len(chosen))
    base = predict(weights, labels)
    kept = torch.stack([every[every != k] for k in every])
    return {
        "weight": jacfwd(predict, 0)(weights, labels),
        "label": jacfwd(predict, 1)(weights, labels),
        "deletion": vmap(without, out_dims=1)(kept),
    }


def left_over(part: Tensor, across: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """`part - acrossᵀ (high + low)`, a small difference of large numbers."""
    return residual(part, across.T, high) - across.T @ low


def compare(closed: gr.Susceptibility, refit: Tensor, chosen: Tensor, asked: Tensor, entry: Tensor) -> dict[str, Any]:
    """Closed form and refit at the random pairs, the gap of each relative to the refitted entry, and the error bound."""
    column = chosen if closed.shape[1] != len(chosen) else entry
    ours, bound, theirs = closed.matrix[asked, column], closed.error[asked, column], refit[asked, entry]
    gap = (ours - theirs).abs() / theirs.abs()
    everywhere = (closed.matrix[:, column] - refit).abs() / refit.abs().amax(dim=1, keepdim=True)
    return {
        "closed": ours.tolist(), "refit": theirs.tolist(), "bound": bound.tolist(), "gap": gap.tolist(),
        "gap_to_row_max": float(everywhere.max()), "covered": bool(((ours - theirs).abs() <= bound).all()),
    }  # fmt: skip


def refits_from_scratch(
    head: gr.Exact, data: gr.Dataset, x: Tensor, chosen: Tensor, weight: gr.Susceptibility, deleted: Tensor
) -> dict[str, Any]:
    """Whole refits, nothing shared: rows taken out, and weights changed by ±h and ±2h for a central difference."""
    rows = chosen.tolist()
    out = gr.refit_response(head, data, gr.value(x), gr.delete(rows, each=True), h=1.0, progress=True)
    slope = difference(head, data, x, rows[0])
    # A difference of two refits cannot resolve entries far below the largest one, so these gaps are relative to it.
    gap = (deleted - out).abs() / out.matrix.abs().amax()
    slope_gap = (weight.matrix[:, rows[0]] - slope).abs() / slope.abs().amax()
    return {
        "from_scratch_refits": len(rows) + 4,
        "from_scratch_deletion_gap_max": float(gap.max()),
        "from_scratch_difference_gap_max": float(slope_gap.max()),
    }


def difference(head: gr.Exact, data: gr.Dataset, x: Tensor, row: int) -> Tensor:
    """Fourth-order central difference of whole refits by the weight of one row, (predictions,)."""

    def refit(h: float) -> Tensor:
        return gr.response.expectation(head.condition(gr.reweight([row]).apply(data, h)), gr.value(x))

    near, far = (refit(s * DIFFERENCE) - refit(-s * DIFFERENCE) for s in (1, 2))
    return (8.0 * near - far) / (12.0 * DIFFERENCE)


def most_moved(chi: gr.Susceptibility, asked: Tensor) -> int:
    """The prediction, among those drawn, that a single training row can move most."""
    candidates = asked.unique()
    return int(candidates[chi.matrix[candidates].abs().amax(dim=1).argmax()])


def influential(data: gr.Dataset, chi: gr.Susceptibility, prediction: int) -> dict[str, Any]:
    """The rows that move one prediction most, told as hours of weather."""
    _values, where = chi.matrix[prediction].abs().topk(10)
    scale = float(data.scaler.y_scale)
    return {
        "prediction": describe(data, data.test.x[prediction], float(data.test.y[prediction])),
        "names": [describe(data, data.train.x[j], float(data.train.y[j])) for j in where],
        "values": (chi.matrix[prediction, where] * scale).tolist(),
        "unit": "degrees F per unit of the row's weight",
    }


def describe(data: gr.Dataset, x: Tensor, y: float) -> str:
    """Station, day of the year, hour and temperature of a row."""
    raw = dict(zip(data.names, data.undo_x(x[None])[0].tolist(), strict=True))
    station = max((name for name in raw if name.startswith("origin=")), key=lambda name: raw[name])
    angle = {k: torch.atan2(torch.tensor(raw[f"{k}_sin"]), torch.tensor(raw[f"{k}_cos"])) for k in ("hour", "year")}
    part = {k: float(a) / (2.0 * torch.pi) % 1.0 for k, a in angle.items()}
    temperature = float(data.undo_y(torch.tensor([y], dtype=data.train.y.dtype)))
    return f"{station[7:]}, day {round(part['year'] * 365)}, {round(part['hour'] * 24) % 24} h: {temperature:.0f} °F"


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """Figures and numbers of the paper, from the largest run on disk."""
    record = max(results, key=lambda r: (r["result"]["training_rows"], r["started_at"]))
    result = record["result"]
    table = result["table"]
    save(histogram_of_gaps({name: t["gap"] for name, t in table.items()}, tolerance=1e-6), figures / "fdt-gaps.pdf")
    scatter = closed_vs_refit(table["weight"]["closed"], table["weight"]["refit"], unit="per unit weight")
    save(scatter, figures / "fdt-scatter.pdf")
    told = result["influential"]
    bars = influential_rows(told["names"], told["values"], unit=told["unit"], title=f"prediction: {told['prediction']}")
    save(bars, figures / "fdt-rows.pdf")
    gaps = {
        f"Fdt{name.capitalize()}Gap{kind.capitalize()}": number(result[f"{name}_gap_{kind}"], digits=2)
        for name in table
        for kind in ("median", "max")
    }
    return {
        **gaps,
        "FdtGapMax": number(max(result["weight_gap_max"], result["label_gap_max"]), digits=2),
        "FdtRows": number(result["training_rows"]),
        "FdtColumns": number(result["columns"]),
        "FdtFeatures": number(result["features"]),
        "FdtPredictions": number(result["predictions"]),
        "FdtPairs": number(result["pairs"]),
        "FdtScratchRefits": number(result["from_scratch_refits"]),
        "FdtScratchGapMax": number(result["from_scratch_deletion_gap_max"], digits=2),
        "FdtScratchDifferenceGapMax": number(result["from_scratch_difference_gap_max"], digits=2),
        "FdtMinutes": number(record["seconds"] / 60.0, digits=2),
        "FdtPeakMemory": number(record["peak_memory_bytes"] / 2**30, digits=2),
        "FdtCores": number(record["machine"]["cores"]),
        "FdtRmse": number(result["test_rmse"]),
    }
