"""Three hundred thousand flights: a deep sparse model on minibatches, and what every one of them does to a prediction.

Claim: SVGP on a network's features trains on more than 300,000 rows in at most 20 minutes on two cores within 6 GiB, and the
responses of 100 predictions to the weight of every row follow in at most 5 minutes, each with an error bound.

Command: gp-response run flights
Cost: 8 minutes on one core, below 6 GiB.
Expected: training in 6 minutes on one core, responses in 10 seconds, 4.7 GiB; bounds within 5e-6 of each prediction's largest
response, refits within 1e-6.

The responses are those of the model refitted with the features held fixed; a sample of them is checked against models
conditioned again with one weight changed.
"""

import time
from pathlib import Path
from typing import Any

import torch

import gp_response as gr
from gp_response.provenance import peak_memory
from gp_response.report import number

GRID: dict[str, list[Any]] = {"head": ["svgp"]}
SMOKE = {"rows": 3000, "inducing": 40, "steps": 80, "pretrain_steps": 60, "predictions": 10, "refits": 1}
ALONE = True
QUICK = {
    "rows": [20_000],
    "inducing": [128],
    "steps": [300],
    "pretrain_steps": [600],
    "predictions": [20],
    "refits": [1],
}


def main(
    head: str = "svgp", rows: int | None = None, inducing: int = 512, batch: int = 2048, steps: int = 2000,
    pretrain_steps: int = 6000, width: int = 128, outputs: int = 8, predictions: int = 100, refits: int = 3, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """head: "svgp". rows: of the set, all by default. refits: rows whose responses are checked by conditioning again."""
    data = gr.load("flights", n=rows)
    features = gr.MLP(data.dim, [width, width, outputs], activation="silu", seed=seed)
    model = gr.SVGP(gr.Matern32(ard=outputs).on(features), inducing, gr.Gaussian(0.5), seed=seed)
    training = gr.Training(rows=batch, steps=steps, pretrain_steps=pretrain_steps, patience=20, seed=seed)
    started = time.perf_counter()
    posterior = model.fit(data, training=training)
    fitted = time.perf_counter()
    memory = peak_memory()
    x = data.test.x[:predictions]
    chi = gr.susceptibility(posterior, gr.value(x), gr.reweight(), budget=1e9)
    responded = time.perf_counter()
    found = gr.predict(posterior, data.test.x[:20_000])
    y, variance = data.test.y[:20_000].double(), found.variance.double() + posterior.noise
    return {
        "training_rows": len(data.train), "columns": data.dim, "predictions": predictions,
        "rmse": float(gr.scores.rmse(found.mean.double(), y)),
        "nll": float(gr.scores.gaussian_nll(found.mean.double(), variance, y)),
        "train_nll": posterior.trace.train_nll, "held_out_nll": posterior.trace.held_out_nll,
        "fit_seconds": fitted - started, "response_seconds": responded - fitted,
        "fit_peak_memory_bytes": memory, "peak_memory_bytes": peak_memory(),
        "relative_error_max": float((chi.error.amax(dim=1) / chi.matrix.abs().amax(dim=1)).max()),
        "converged": bool(chi.converged), "refit_gap": checked(model, data, x, chi, refits, seed),
        "noise": float(posterior.noise), "message": posterior.trace.message,
    }  # fmt: skip


def checked(model: Any, data: gr.Dataset, x: torch.Tensor, chi: gr.Susceptibility, refits: int, seed: int) -> float:
    """The largest gap to central differences of models conditioned again, relative to each row's largest response."""
    at = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:refits]
    gaps, h = [], 0.1
    for row in at.tolist():
        up, down = (
            gr.refit_response(model, data, gr.value(x), gr.reweight([row]), h=step).matrix[:, 0].double()
            for step in (h, -h)
        )
        response = chi.matrix[:, row].double()
        gaps.append(float(((up - down) / (2.0 * h) - response).abs().max() / response.abs().max()))
    return max(gaps)


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """The numbers of the paper, of the run with all rows."""
    found: dict[str, str] = {}
    for record in sorted(results, key=lambda r: r["started_at"]):
        result = record["result"]
        if record["config"]["rows"] is not None:
            continue
        found |= {
            "FlightsRows": number(result["training_rows"]),
            "FlightsMinutes": number(result["fit_seconds"] / 60.0, digits=2),
            "FlightsMemory": number(result["peak_memory_bytes"] / 2**30, digits=2),
            "FlightsResponseMinutes": number(result["response_seconds"] / 60.0, digits=2),
            "FlightsError": number(result["relative_error_max"], digits=2),
            "FlightsRefitGap": number(result["refit_gap"], digits=2),
            "FlightsRmse": number(result["rmse"], digits=3),
        }
    return found
