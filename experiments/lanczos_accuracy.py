"""How far off is a low-rank inverse of a network's curvature, and does it know?

Claim: of two usual low-rank inverses, truncation `V(λ + δ)⁻¹Vᵀ` (from exact leading eigenpairs here) leaves out the response of
all other directions, and completion by `δ⁻¹(1 - VVᵀ)` overstates it, by factors; neither says by how much. The interval between
the two inverses on a Krylov basis covers the truth in every entry at every rank, and conjugate gradients that begin from the
basis close it.

A network (tanh, 2 x 32) is trained by ridge on real data; responses are covariances of 20 test predictions with every training row,
against a dense factor in float64. Errors are in units of the largest true entry of a row, the median over predictions.

Command: gp-response run lanczos_accuracy [--smoke]; one set: gp-response run lanczos_accuracy case=concrete
Cost: about two minutes a set on one thread, below 2 GiB.
Expected: `covered` 1.0 everywhere; conjugate gradients below 1e-4.

Data: from the folder named by GP_RESPONSE_DATA, or downloaded; weather is packaged.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gp_response as gr
from gp_response.plots import gap_curves, save
from gp_response.report import number

GRID = {"case": ["concrete", "airfoil", "elevators", "bike", "weather"]}
SMOKE = {"case": "weather", "rows": 60, "tests": 4, "width": 6, "ranks": (4, 16), "steps": 30}
QUICK = {**GRID, "rows": [200], "tests": [10], "width": [12], "ranks": [(4, 8, 16, 32, 64)], "steps": [100]}


def main(
    case: str = "concrete", rows: int = 800, tests: int = 20, width: int = 32, ranks: tuple[int, ...] = (4, 8, 16, 32, 64, 128),
    noise: float = 0.1, decay: float = 0.1, steps: int = 500, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """One data set. width: of both hidden layers. noise, decay: of the ridge objective. steps: of L-BFGS."""
    data = gr.load(case, n=2 * rows if case == "weather" else None).draw(rows, seed)
    net = trained(data, width, noise, decay, steps, seed)
    x = data.test.x[:tests]
    asked = {"likelihood": gr.Gaussian(noise=noise), "prior_precision": decay}
    exact = gr.laplace(net, data, solver=gr.Dense(), **asked)  # type: ignore[arg-type]
    truth, count = exact.probe(x).to_train().value, exact.system.n
    values, vectors = torch.linalg.eigh(exact.system.dense(torch.float64))
    gradients, whole = exact.probe(x).gradients, exact.probe(data.train.x).gradients
    table = []
    for rank in [rank for rank in ranks if rank < count]:
        top, lead = values[-rank:], vectors[:, -rank:]
        a, b = lead.T @ gradients, lead.T @ whole
        truncated = a.T @ (b / top[:, None])
        completed = truncated + gradients.T @ whole - a.T @ b
        bracketed = (
            gr.laplace(net, data, solver=gr.Lanczos(rank=rank, block=4, storage="float64"), **asked).probe(x).to_train()
        )  # type: ignore[arg-type]
        refined = gr.laplace(net, data, solver=gr.CG(tolerance=1e-4, rank=rank), **asked).probe(x)  # type: ignore[arg-type]
        closed = refined.to_train()
        rounding = 1e-12 * float(truth.abs().max())
        table.append({
            "rank": rank, "truncation": off(truncated, truth), "completion": off(completed, truth),
            "interval": off(bracketed.value, truth), "bound": size(bracketed.error, truth), "cg": off(closed.value, truth),
            "cg_bound": size(closed.error, truth), "cg_products": refined.solution.iterations,
            "covered": share(bracketed, truth, rounding), "cg_covered": share(closed, truth, rounding), "entries": truth.numel(),
        })  # fmt: skip
    return {
        "case": case, "rows": len(data.train), "parameters": count, "largest_eigenvalue": float(values[-1]),
        "test_rmse": float((exact.mean(data.test.x) - data.test.y).square().mean().sqrt()), "ranks": table, "last": table[-1],
    }  # fmt: skip


def trained(data: gr.Dataset, width: int, noise: float, decay: float, steps: int, seed: int) -> torch.nn.Module:
    """A network at (nearly) the mode of the ridge objective."""
    torch.manual_seed(seed)
    widths = [data.dim, width, width, 1]
    layers: list[torch.nn.Module] = []
    for before, after in pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.Tanh()]
    net = torch.nn.Sequential(*layers[:-1]).double()
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimiser.zero_grad()
        off = net(data.train.x)[:, 0] - data.train.y
        loss = off.square().sum() / (2 * noise) + 0.5 * decay * sum(p.square().sum() for p in net.parameters())  # type: ignore[misc]
        loss.backward()
        return loss

    optimiser.step(objective)  # type: ignore[arg-type]
    return net.eval()


def off(found: Tensor, truth: Tensor) -> float:
    """Root mean square error of a row over its largest entry, the median over rows."""
    return size((found - truth).abs(), truth)


def size(error: Tensor, truth: Tensor) -> float:
    return float((error.square().mean(dim=1).sqrt() / truth.abs().amax(dim=1)).median())


def share(found: Any, truth: Tensor, rounding: float) -> float:
    return float(((found.value - truth).abs() <= found.error + rounding).double().mean())


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """Errors against rank, and the numbers."""
    full = [r["result"] for r in results if len(r["result"]["ranks"]) > 2]
    if not full:
        return {}
    labels = {
        "truncation": "truncation", "completion": "completion", "interval": "interval, middle", "bound": "interval, half width",
        "cg": "conjugate gradients",
    }  # fmt: skip
    curves = {
        f["case"]: {label: [(row["rank"], row[key]) for row in f["ranks"]] for key, label in labels.items()}
        for f in full
    }
    save(gap_curves(curves, x="rank", y="error over the largest entry"), figures / "lanczos-accuracy.pdf")
    rows = [row for f in full for row in f["ranks"]]
    last = [f["ranks"][-1] for f in full]
    return {
        "LanczosCases": str(len(full)), "LanczosEntries": number(sum(row["entries"] for row in rows)),
        "LanczosCovered": number(100 * min(row["covered"] for row in rows), digits=4),
        "LanczosClosedCovered": number(100 * min(row["cg_covered"] for row in rows), digits=4),
        "LanczosParametersLow": number(min(f["parameters"] for f in full)),
        "LanczosParametersHigh": number(max(f["parameters"] for f in full)),
        "LanczosRank": str(last[0]["rank"]), "LanczosTruncation": number(max(r["truncation"] for r in last), digits=2),
        "LanczosCompletion": number(max(r["completion"] for r in last), digits=2),
        "LanczosMiddle": number(max(r["interval"] for r in last), digits=2),
        "LanczosWidth": number(max(r["bound"] for r in last), digits=2),
        "LanczosClosedMax": number(max(r["cg"] for r in rows), digits=2),
    }  # fmt: skip
