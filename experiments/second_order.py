"""Second derivatives of predictions by the weights of pairs of rows: their price beside the first ones, and their truth.

Claim: second responses of a hundred predictions to a thousand pairs of rows cost at most twice what their first ones to every
row do, conditioning the model included in neither (of twenty predictions up to four times: one factor serves all); they are
the derivative, by one weight, of first responses of models that are conditioned on the other.

Command: gp-response run second_order [rows=2223] [solver=cholesky|cg] [--smoke]
Cost: 2 seconds for the smoke run; two minutes at 2,000 rows on a busy machine, 1.1 GiB; 23 minutes at 12,000 by Cholesky, 8.3 GiB.
Expected: 1.6 and 1.7 times by Cholesky and CG on 1,992 rows, gaps of 3e-12 and 2e-6; 1.4 times by Cholesky on 12,065, 1e-11;
CG has not been run there.

Data: elevators from the folder named by GP_RESPONSE_DATA, or downloaded; the smoke run uses packaged data.
"""

from pathlib import Path
from typing import Any

import torch
from _clock import clocked
from torch import Tensor

import gp_response as gr
from gp_response.report import number
from gp_response.scales import largest

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
    actions = {
        "first": lambda: gr.susceptibility(posterior, asked, gr.reweight()),
        "second": lambda: gr.second_response(posterior, asked, gr.reweight(), pairs=chosen),
    }
    _, found = (action() for action in actions.values())  # what is computed once is then no part of the times
    taken = clocked(actions, repeats)
    gap, bound = checked_against(head, data, asked, found, chosen[:checked])
    return {
        "dataset": dataset, "training_rows": len(data.train), "solver": solver, "pairs": pairs, "predictions": points,
        "distinct_rows": len(chosen.unique()), "first_seconds": taken["first"], "second_seconds": taken["second"],
        "ratio": taken["second"] / taken["first"], "gap": gap, "bound": bound, "flagged": len(found.flagged),
    }  # fmt: skip


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
    """Ratio and gap by solver, on the fewest rows that were run and on the most."""
    whole = [r["result"] for r in largest(results, "pairs")]
    sizes = sorted({f["training_rows"] for f in whole})
    variables: dict[str, str] = {}
    for word, rows in zip(("Small", "Large"), (sizes[0], sizes[-1]), strict=True):
        if word == "Large" and len(sizes) == 1:
            continue
        variables |= {f"Second{word}Rows": number(rows)}
        for found in (f for f in whole if f["training_rows"] == rows):
            stem = f"Second{found['solver'].capitalize()}{word}"
            variables |= {
                "SecondPairs": number(found["pairs"]), "SecondPredictions": number(found["predictions"]),
                f"{stem}Ratio": number(found["ratio"], digits=2), f"{stem}Gap": number(found["gap"], digits=1),
            }  # fmt: skip
    return variables
