"""Heads and features on real sets: exact, CGLB, SGPR and SVGP on plain kernels, on networks and on residual networks.

Measured on a seeded two thirds of each set (tests on the rest): RMSE, negative log predictive density, CRPS and calibration
on standardised targets, the same density on training rows beside it (overfitting shows there first), time and memory.
Beside them published results on such splits: SVGP and CGLB of Bartels et al. 2023, tables 2 and 3; SVDKL of Ober, Rasmussen &
van der Wilk 2021, tables 3 to 7, on larger training sets (nine tenths).

Predictive variances of exact posteriors (exact, CGLB) come from one Cholesky factor, 11 GiB at peak for protein.

Command: gp-response run heads_uci; one run: gp-response run heads_uci dataset=kin40k head=svgp features=mlp
Cost: 8 to 20 minutes a run on one core, below 2 GiB but for that factor.
Expected: see the table of the paper, which is made from the result files (seed 0; times there are of a shared machine).

Data: the UCI sets (the folder named by GP_RESPONSE_DATA, or downloaded); the smoke run uses packaged weather data.
"""

import math
import time
from pathlib import Path
from typing import Any

from torch import Tensor

import gp_response as gr
from gp_response.data.two_thirds import two_thirds
from gp_response.heads.factored_predictions import factored_predictions
from gp_response.provenance import peak_memory
from gp_response.report import number
from gp_response.scales import largest

SETS = ["kin40k", "protein"]
GRID = {"dataset": SETS, "head": ["svgp"], "features": ["none", "mlp", "resnet"]}
SMOKE = {
    "dataset": "weather",
    "rows": 700,
    "head": "svgp",
    "features": "mlp",
    "inducing": 40,
    "steps": 60,
    "pretrain_steps": 60,
}
QUICK = {
    "dataset": SETS, "head": ["svgp"], "features": ["none", "mlp"], "rows": [3000], "inducing": [96], "width": [32],
    "steps": [300], "pretrain_steps": [500],
}  # fmt: skip
# RMSE and NLL with 1,024 inducing points: Bartels et al. 2023; deep: Ober et al. 2021.
PUBLISHED = {
    "kin40k": {"SVGP": (0.1394, -0.420), "CGLB": (0.0917, -0.713), "SVDKL": (0.03, -1.73)},
    "protein": {"SVGP": (0.6221, 0.941), "CGLB": (0.5758, 0.851), "SVDKL": (0.57, 1.29)},
}


def main(
    dataset: str = "kin40k", head: str = "svgp", features: str = "none", inducing: int = 1024, rows: int | None = None,
    width: int = 256, outputs: int = 16, steps: int | None = None, pretrain_steps: int = 12_000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """One fit and its scores.

    head: "exact", "cglb", "sgpr" or "svgp"; features: "none", "mlp" or "resnet". rows: of the set, all by default. width, outputs:
    of the network. steps: of the fit, the head's own number by default.
    """
    data = two_thirds(dataset, rows, seed)
    kernel = with_features(data.dim, features, width, outputs, seed)
    model = make(head, kernel, inducing, seed)
    deep = features != "none"
    training = gr.Training(steps=steps, pretrain_steps=pretrain_steps if deep else 0, patience=20, seed=seed)
    started = time.perf_counter()
    posterior = model.fit(data, training=training)
    fitted = time.perf_counter()
    y, (mean, variance) = data.test.y.double(), predictions(model, posterior, data)
    predicted = time.perf_counter()
    trace = posterior.trace
    return {
        "training_rows": len(data.train), "test_rows": len(data.test), "columns": data.dim,
        "rmse": float(gr.scores.rmse(mean, y)), "nll": float(gr.scores.gaussian_nll(mean, variance, y)),
        "crps": float(gr.scores.gaussian_crps(mean, variance, y)),
        "calibration_error": float(gr.scores.interval_calibration_error(mean, variance, y)),
        "train_nll": trace.train_nll, "held_out_nll": trace.held_out_nll, "fit_seconds": fitted - started,
        "prediction_seconds": predicted - fitted, "peak_memory_bytes": peak_memory(), "noise": float(posterior.noise),
        "steps": len(trace.steps), "message": trace.message, "objective": trace.objective,
        "published": {name: list(pair) for name, pair in PUBLISHED.get(dataset, {}).items()} if rows is None else {},
    }  # fmt: skip


def predictions(model: Any, posterior: Any, data: gr.Dataset) -> tuple[Tensor, Tensor]:
    """Mean and variance of the test targets."""
    if isinstance(model, gr.Exact | gr.CGLB):
        return factored_predictions(model, data, data.test.x)[:2]
    found = gr.predict(posterior, data.test.x)
    return found.mean.double(), found.variance.double() + posterior.noise


def with_features(dim: int, features: str, width: int, outputs: int, seed: int) -> gr.Kernel:
    """Matérn-3/2 on the columns, or on a network's outputs."""
    if features == "none":
        return gr.Matern32(ard=dim, lengthscale=[math.sqrt(dim)] * dim)
    base = gr.Matern32(ard=outputs)
    if features == "mlp":
        return base.on(gr.MLP(dim, [width, width, width, outputs], activation="silu", seed=seed))
    if features == "resnet":
        return base.on(gr.SpectralResNet(dim, width, 4, out=outputs, seed=seed))
    raise gr.InputError(f"features {features!r}; expected none, mlp or resnet")


def make(head: str, kernel: gr.Kernel, inducing: int, seed: int) -> Any:
    if head == "exact":
        return gr.Exact(kernel, noise=0.1)
    if head == "cglb":
        return gr.CGLB(kernel, inducing, noise=0.1, seed=seed)
    if head == "sgpr":
        return gr.SGPR(kernel, inducing, noise=0.1, seed=seed)
    if head == "svgp":
        return gr.SVGP(kernel, inducing, gr.Gaussian(0.1), seed=seed)
    raise gr.InputError(f"head {head!r}; expected exact, cglb, sgpr or svgp")


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """The numbers of the paper, of runs with the most rows."""
    found: dict[str, str] = {}
    for record in sorted(largest(results, "rows"), key=lambda r: r["started_at"]):
        result, config = record["result"], record["config"]
        if config["dataset"] not in SETS or config["seed"] != 0:
            continue
        place = "".join(part.capitalize() for part in (config["dataset"], config["head"], config["features"]))
        stem = "Heads" + place.replace("40k", "Forty")
        digits = {"rmse": 3, "nll": 3, "crps": 3, "calibration_error": 2, "train_nll": 3}
        found |= {
            stem + "".join(p.capitalize() for p in key.split("_")): number(result[key], digits=count)
            for key, count in digits.items() if result[key] is not None
        }  # fmt: skip
    return found
