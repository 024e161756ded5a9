"""Second derivatives of predictions by the weights of pairs of rows: their price beside the first ones, and their truth.

Claim: second responses of a hundred predictions to a thousand pairs of rows cost at most twice what their first ones to every
row do, conditioning the model included in neither (of twenty predictions up to four times: one factor serves all); they are
the derivative, by one weight, of first responses of models that are conditioned on the other.

Command: gp-response run second_order [rows=2223] [solver=cholesky|cg] [--smoke]
Cost: 2 seconds for the smoke run; a minute at 2,000 rows, ten minutes at 12,000 (and 3 GiB).
Expected: see the section on the influence operator in the paper, which is made from the result files.

Data: elevators from the folder named by GP_RESPONSE_DATA, or downloaded; the smoke run uses packaged data.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gp_response as gr
from gp_response.report import number

GRID = {"rows": [2223, 13_400], "solver": ["cholesky", "cg"]}
SMOKE = {"dataset": "weather", "rows": 200, "points": 4, "pairs": 30, "checked": 2, "steps": 3, "repeats": 1}
SOLVERS = {"cholesky": gr.Cholesky(), "cg": gr.CG(tolerance=1e-8)}


def main(
    dataset: str = "elevators", rows: int = 2223, solver: str = "cholesky", points: int = 100, pairs: int = 1000,
    checked: int = 8, steps: int = 30, trained_on: int = 1500, repeats: int = 3, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """rows: of the set, a tenth of which are test rows. checked: pairs whose derivative is taken by conditioning again."""
    data = gr.load(dataset, n=rows, seed=seed).to(dtype=torch.float64)
    few = data.keep(torch.arange(0, len(data.train), max(1, len(data.train) // trained_on)))
    fitted = gr.Exact(gr.Matern32(ard=data.dim, lengthscale=[data.dim**0.5] * data.dim), noise=0.1)
    fitted.fit(few, training=gr.Training(steps=steps, progress=False, seed=seed))
    head = gr.Exact(fitted.kernel, float(fitted.noise.detach()), solver=SOLVERS[solver], mean=fitted.prior_mean)
    posterior, asked = head.condition(data), gr.value(data.test.x[:points])
    chosen = torch.randint(len(data.train), (pairs, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.long)
    taken = medians(
        {
            "first": lambda: gr.susceptibility(posterior, asked, gr.reweight()),
            "second": lambda: gr.second_response(posterior, asked, gr.reweight(), pairs=chosen),
        },
        repeats,
    )
    found = gr.second_response(posterior, asked, gr.reweight(), pairs=chosen)
    gap, bound = checked_against(head, data, asked, found, chosen[:checked])
    return {
        "dataset": dataset, "training_rows": len(data.train), "solver": solver, "pairs": pairs, "predictions": points,
        "distinct_rows": len(chosen.unique()), "first_seconds": taken["first"], "second_seconds": taken["second"],
        "ratio": taken["second"] / taken["first"], "gap": gap, "bound": bound, "flagged": len(found.flagged),
    }  # fmt: skip


def medians(actions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of each, once unmeasured and then in turn, so that what else the machine does falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: sorted(taken)[len(taken) // 2] for name, taken in seconds.items()}


def checked_against(
    head: gr.Exact, data: gr.Dataset, asked: gr.Observable, found: Any, chosen: Tensor
) -> tuple[float, float]:
    """Largest gap to central differences of first responses by Cholesky, and the largest bound, in units of the largest entry."""
    exact, step = gr.Exact(head.kernel, float(head.noise.detach()), solver=gr.Cholesky(), mean=head.prior_mean), 1e-4
    size, gap = float(found.matrix.abs().max()), 0.0
    for k, (one, other) in enumerate(chosen.tolist()):
        sides = []
        for sign in (1.0, -1.0):
            weights = data.train.weights.clone()
            weights[other] += sign * step
            moved = exact.condition(data.with_train(weights=weights))
            sides.append(gr.susceptibility(moved, asked, gr.reweight([one])).matrix[:, 0])
        slope = (sides[0] - sides[1]).double() / (2.0 * step)
        gap = max(gap, float((slope - found.matrix[:, k].double()).abs().max()) / size)
    return gap, float(found.error[:, : len(chosen)].max()) / size


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """Ratios and gaps, by solver and size, and the worst of each."""
    whole = {
        (r["result"]["solver"], r["result"]["training_rows"]): r["result"]
        for r in results
        if r["config"]["pairs"] == 1000
    }
    if not whole:
        return {}
    variables = {"SecondPairs": number(1000), "SecondPredictions": number(next(iter(whole.values()))["predictions"])}
    sizes = sorted({n for _, n in whole})
    for solver in SOLVERS:
        for word, n in zip(("Small", "Large"), (sizes[0], sizes[-1]), strict=True):
            if (solver, n) in whole:
                r, stem = whole[solver, n], f"Second{solver.capitalize()}{word}"
                variables |= {f"{stem}Ratio": number(r["ratio"], digits=2), f"{stem}Gap": number(r["gap"], digits=1)}
    return variables | {"SecondSmallRows": number(sizes[0]), "SecondLargeRows": number(sizes[-1])}
