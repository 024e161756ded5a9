"""How far an approximate posterior's own covariance is from its response: zero for exact posteriors, not for sparse ones.

Claim: the gap `‖χ_refit - χ_fluctuation‖ / ‖χ_refit‖` of 30 test predictions to 40 training weights, χ_refit differentiated
through the refit and χ_fluctuation = -β Cov(O, V) of the posterior as claimed, (SGPR) falls below 1e-8 once every distinct row
is an inducing point and grows, with fewer, as noise falls; (SVGP) is not removed by training the inducing points; (Bernoulli)
stays where every row is one, under Laplace's approximation and the variational one, as neither covariance is a response.
The closed-form `gr.susceptibility` is the refit's in all of them.

Measured against the number of inducing points M, rows N and noise variance (of standardised targets), on weather, concrete,
airfoil (regression), breast_cancer and magic (Bernoulli). Kernels: Matérn-5/2, trained once by the exact evidence of the same
rows (Gaussian: a lengthscale a column, at most 30 steps of L-BFGS, the noise then set to what is asked; Bernoulli: one
lengthscale, Laplace's evidence, 20 steps) and then the same for every M. SGPR and Bernoulli take pivoted inducing points;
"svgp" trains their places by 300 minibatch steps with all else held (at M = N they are the rows); at the same points a conditioned
Gaussian SVGP is SGPR.

Command: gp-response run fdt_gap [--smoke]; one case: gp-response run fdt_gap case="sgpr weather 400 0.1"
Cost: 5 seconds to two minutes a case on one thread, three for a variational one, 22 cases, 20 minutes together, below 3 GiB.
Expected: SGPR at M = N at most 1e-9; at M = N/10 on weather 5, 46 and 450 for noise 0.1, 0.01 and 0.001 (1/noise), whatever N,
and half as much with trained points; at M = N 0.34 (magic) and 2 (breast_cancer) for Laplace, 0.04 and 0.2 for the variational
Gaussian, which are reached at M = 0.4 N. The closed form is within 1e-8 of the refit everywhere.

Data: concrete and airfoil from the folder named by GP_RESPONSE_DATA, or downloaded; all else is packaged.
"""

import time
from pathlib import Path
from typing import Any

import torch

import gp_response as gr
from gp_response.plots import gap_curves, save
from gp_response.report import number

ROWS, NOISES, SHARES = [200, 400, 800], [1e-1, 1e-2, 1e-3], (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
GRID = {
    "case": [f"sgpr weather {n} {s}" for n in ROWS for s in NOISES]
    + [f"sgpr {name} 400 {s}" for name in ("concrete", "airfoil") for s in NOISES]
    + [f"svgp weather 400 {s}" for s in NOISES]
    + [f"{kind} {name} 300" for kind in ("laplace", "variational") for name in ("breast_cancer", "magic")]
}  # fmt: skip
SMOKE = {"case": "sgpr weather 120 0.01", "shares": [0.1, 1.0], "predictions": 5, "perturbed": 6}
QUICK = {
    "case": [f"sgpr weather 400 {s}" for s in NOISES] + ["sgpr weather 200 0.01", "svgp weather 400 0.01"]
    + [f"{kind} {name} 120" for kind in ("laplace", "variational") for name in ("breast_cancer", "magic")],
    "predictions": [10], "perturbed": [8], "steps": [100],
}  # fmt: skip
BERNOULLI = ("laplace", "variational")


def main(
    case: str = "sgpr weather 400 0.1", shares: tuple[float, ...] = SHARES, predictions: int = 30, perturbed: int = 40,
    steps: int = 300, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The gap at every share M/N.

    case: "sgpr DATASET ROWS NOISE", "svgp DATASET ROWS NOISE", "laplace DATASET ROWS" or "variational DATASET ROWS". steps: of
    the training of svgp's points.
    """
    model, dataset, rows, *noise = case.split()
    if model not in ("sgpr", "svgp", *BERNOULLI) or len(noise) != (0 if model in BERNOULLI else 1):
        raise gr.InputError(
            f"case {case!r}; expected sgpr or svgp DATASET ROWS NOISE, laplace or variational DATASET ROWS"
        )
    data = gr.load(dataset).draw(int(rows), seed)
    n, x = len(data.train), data.test.x[:predictions]
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:perturbed].sort().values
    kernel = trained_kernel(data, bernoulli=model in BERNOULLI)
    variance = float(noise[0]) if noise else None
    gaps = []
    for share in shares:
        started = time.perf_counter()
        head = make(model, kernel, data, share, variance, seed)
        if model == "svgp" and share < 1.0:
            train_points(head, data, steps, seed)
        found = gap(head, data, x, chosen.tolist())
        gaps.append({"share": share, "inducing": len(head.points), **found, "seconds": time.perf_counter() - started})
    return {
        "model": model, "dataset": dataset, "rows": n, "distinct_rows": len(data.train.x.unique(dim=0)), "noise": variance,
        "predictions": len(x), "perturbed": len(chosen), "outputscale": float(kernel.outputscale.detach()), "gaps": gaps,
    }  # fmt: skip


def gap(head: Any, data: gr.Dataset, x: torch.Tensor, chosen: list[int]) -> dict[str, float]:
    """`gr.fdt_gap`, and how far the closed form is from the same refit."""
    asked, change = gr.value(x), gr.reweight(chosen)
    posterior = head.condition(data)
    real = gr.refit_response(head, data, asked, change).matrix
    claimed, closed = (f(posterior, asked, change).matrix for f in (gr.fluctuation, gr.susceptibility))
    return {
        "gap": float((real - claimed).norm() / real.norm()),
        "closed_gap": float((real - closed).norm() / real.norm()),
        "response": float(real.norm()),
    }


def trained_kernel(data: gr.Dataset, *, bernoulli: bool) -> gr.Kernel:
    """Hyperparameters at which the rows' exact evidence is high, not to be trained further."""
    start = data.dim**0.5
    if bernoulli:
        head = gr.Exact(gr.Matern52(lengthscale=start, outputscale=2.0), likelihood=gr.Bernoulli())
    else:
        head = gr.Exact(gr.Matern52(ard=data.dim, lengthscale=[start] * data.dim), noise=0.1)
    head.fit(data, training=gr.Training(steps=20 if bernoulli else 30, progress=False))
    return head.kernel.requires_grad_(False)


def make(model: str, kernel: gr.Kernel, data: gr.Dataset, share: float, noise: float | None, seed: int) -> Any:
    """A head whose inducing points are placed; all distinct rows for a share of 1."""
    points = data.train.x.unique(dim=0) if share == 1.0 else max(2, round(share * len(data.train)))
    if noise is None:
        return gr.SVGP(kernel, points, gr.Bernoulli(), approximation=model, seed=seed)
    head = gr.SGPR(kernel, points, noise, seed=seed) if model == "sgpr" else gr.SVGP(kernel, points, gr.Gaussian(noise))
    head.place(data)
    return head


def train_points(head: gr.SVGP, data: gr.Dataset, steps: int, seed: int) -> None:
    """Move the inducing points alone to where the bound is higher."""
    head.likelihood.requires_grad_(False)
    head.fit(data, training=gr.Training(steps=steps, rows=min(128, len(data.train)), seed=seed, progress=False))


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """Gaps against M/N in one figure, and the numbers of the largest N."""
    full = [r["result"] for r in results if len(r["result"]["gaps"]) == len(SHARES)]
    if not full:
        return {}
    regression = {
        f"{'SGPR' if model == 'sgpr' else 'SVGP, trained points'}, noise {noise:g}": curve(found)
        for model in ("sgpr", "svgp") for noise in NOISES
        if (found := one(full, model, "weather", noise, 400))
    }  # fmt: skip
    sizes = {f"SGPR, N = {n}": curve(found) for n in ROWS if (found := one(full, "sgpr", "weather", 1e-2, n))}
    classes = {
        f"{kind.capitalize()}, {name.replace('_', ' ')}": curve(found)
        for kind in BERNOULLI for name in ("breast_cancer", "magic") if (found := one(full, kind, name, None))
    }  # fmt: skip
    counts = " or ".join(sorted({str(f["rows"]) for f in full if f["model"] in BERNOULLI}))
    panels = {
        "weather, N = 400": regression,
        "weather, noise 0.01": sizes,
        f"Bernoulli, N = {counts}": classes,
    }
    drawn = {title: lines for title, lines in panels.items() if lines}
    if drawn:
        save(gap_curves(drawn), figures / "fdt-gap.pdf")
    return numbers(full)


def one(found: list[dict[str, Any]], model: str, dataset: str, noise: float | None, rows: int | None = None) -> Any:
    """The result of a case; None where it has not been run."""
    for f in found:
        if (f["model"], f["dataset"], f["noise"]) == (model, dataset, noise) and rows in (None, f["rows"]):
            return f
    return None


def curve(found: dict[str, Any]) -> list[tuple[float, float]]:
    return [(g["inducing"] / found["rows"], g["gap"]) for g in found["gaps"]]


def numbers(found: list[dict[str, Any]]) -> dict[str, str]:
    """Macros of the paper."""

    def at(result: dict[str, Any], share: float) -> float:
        return next(g["gap"] for g in result["gaps"] if g["share"] == share)

    sgpr, svgp = ([f for f in found if f["model"] == m] for m in ("sgpr", "svgp"))
    variables = {
        "GapCases": str(len(found)),
        "GapPredictions": number(max(f["predictions"] for f in found)),
        "GapPerturbed": number(max(f["perturbed"] for f in found)),
        "GapClosedMax": number(max(g["closed_gap"] for f in found for g in f["gaps"]), digits=2),
    }
    if sgpr:
        variables |= {
            "GapSgprFullMax": number(max(at(f, 1.0) for f in sgpr), digits=2),
            "GapSgprRowsMax": number(max(f["rows"] for f in sgpr)),
        }
    words = {1e-1: "HighNoise", 1e-2: "MiddleNoise", 1e-3: "LowNoise"}
    for f in sgpr + svgp:
        if f["dataset"] == "weather" and f["rows"] == 400 and f["noise"] in words:
            variables[f"Gap{f['model'].capitalize()}Tenth{words[f['noise']]}"] = number(at(f, 0.1), digits=2)
    for f in found:
        if f["model"] in BERNOULLI:
            stem = f"Gap{f['model'].capitalize()}{''.join(part.capitalize() for part in f['dataset'].split('_'))}"
            variables |= {f"{stem}Tenth": number(at(f, 0.1), digits=2), f"{stem}Full": number(at(f, 1.0), digits=2)}
    return variables
