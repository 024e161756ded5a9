"""From one's own table to the rows that its predictions rest on: load, fit, susceptibilities, tables and a figure."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from gp_response.data import Dataset, load
from gp_response.data.columns import Missing
from gp_response.errors import InputError, unknown_name
from gp_response.files import write_atomically
from gp_response.heads import Exact, Training
from gp_response.kernels import RBF, Kernel, Matern12, Matern32, Matern52, RationalQuadratic
from gp_response.plots import influential_rows, save
from gp_response.posterior import Posterior
from gp_response.provenance import versions
from gp_response.response import delete, finite_response, susceptibility, value
from gp_response.response.perturbations import reweight
from gp_response.sweep import plain

KERNELS: dict[str, type[Kernel]] = {
    "rbf": RBF,
    "matern12": Matern12,
    "matern32": Matern32,
    "matern52": Matern52,
    "rational_quadratic": RationalQuadratic,
}
MOST_ROWS = 20_000  # three float64 matrices of this size are 9.6 GB
MOST_PREDICTIONS = 100


@dataclass(frozen=True)
class Answer:
    """What `respond` found, in the units of the file.

    predictions: one row a prediction: row, predicted, deviation (of the noise-free value), observed.
    influence: one row a prediction and influential training row: row, rank, training_row, observed, per_weight (change
        of the prediction per unit of that row's weight), error (its bound), if_deleted (exact change without the row).
    facts: settings, fitted hyperparameters, held-out error, notes on the data, versions.
    """

    predictions: pd.DataFrame
    influence: pd.DataFrame
    facts: dict[str, Any]


def respond(
    file: Path | str,
    target: str,
    *,
    rows: Sequence[int] | None = None,
    kernel: str = "matern32",
    top: int = 10,
    seed: int = 0,
    n: int | None = None,
    test_fraction: float = 0.1,
    missing: Missing = "refuse",
    progress: bool = True,
) -> Answer:
    """Fit an exact Gaussian process to a table and find the training rows that move its predictions most.

    file: .csv, .tsv or .parquet, see `gp_response.load`. target: the column to predict.
    rows: file rows (from 0, below the header) whose predictions are asked about; the first three test rows by default.
    kernel: "rbf", "matern12", "matern32", "matern52" or "rational_quadratic", with one lengthscale a column.
    top: influential rows reported for each prediction. n: use only so many rows, drawn by `seed`.

    Raises InputError and DataError in one line for anything that cannot be used.
    """
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    if top < 1:
        raise InputError(f"top is {top}; ask for at least one influential row")
    data = load(Path(file), target=target, n=n, seed=seed, test_fraction=test_fraction, missing=missing)
    if len(data.train) > MOST_ROWS:
        gigabytes = 24 * len(data.train) ** 2 / 1e9
        raise InputError(f"{len(data.train)} training rows need {gigabytes:.0f} GB; use fewer by --n {MOST_ROWS // 2}")
    asked, points = _points(data, rows)
    head = Exact(KERNELS[kernel](ard=data.dim), noise=0.1)
    posterior = head.fit(data, training=Training(seed=seed, progress=progress))
    facts = {
        "file": str(file),
        "target": target,
        "kernel": kernel,
        "seed": seed,
        "training_rows": len(data.train),
        "test_rows": len(data.test),
        "test_row_numbers": data.test.rows.tolist(),
        "columns": list(data.names),
        **_fitted(head, posterior),
        "notes": list(data.notes),
        "versions": versions(),
    }
    return Answer(_predictions(posterior, asked, points), _influence(posterior, asked, points, top), facts)


def _points(data: Dataset, rows: Sequence[int] | None) -> tuple[list[int], torch.Tensor]:
    """The file rows asked about, and their standardised inputs."""
    both = torch.cat([data.test.rows, data.train.rows]).tolist()
    place = {row: i for i, row in enumerate(both)}
    asked = both[:3] if rows is None else list(rows)
    if not 1 <= len(asked) <= MOST_PREDICTIONS:
        raise InputError(f"{len(asked)} predictions asked; ask for 1 to {MOST_PREDICTIONS} file rows at a time")
    if len(set(asked)) < len(asked):
        raise InputError(f"row {next(row for row in asked if asked.count(row) > 1)} is asked twice; name each row once")
    for row in asked:
        if row not in place:
            why = "is beyond the last" if row > max(both) else "was not drawn or was left out"
            raise InputError(f"row {row} {why}; the {len(both)} rows in use lie between {min(both)} and {max(both)}")
    return asked, torch.cat([data.test.x, data.train.x])[[place[row] for row in asked]]


def _fitted(head: Exact, posterior: Posterior) -> dict[str, Any]:
    data = posterior.data
    scale = float(data.scaler.y_scale)
    lengthscales = torch.as_tensor(head.kernel.lengthscale).detach().flatten() * data.scaler.x_scale
    error = (posterior.mean(data.test.x) - data.test.y).square().mean().sqrt() if len(data.test) else math.nan
    return {
        "signal_deviation": float(torch.as_tensor(head.kernel.outputscale).detach().sqrt()) * scale,
        "lengthscales": dict(zip(data.names, lengthscales.tolist(), strict=True)),
        "noise_deviation": float(posterior.noise.detach().sqrt()) * scale,
        "held_out_rmse": float(error) * scale,
    }


def _predictions(posterior: Posterior, asked: list[int], points: torch.Tensor) -> pd.DataFrame:
    data = posterior.data
    rows, observed = (torch.cat([getattr(data.test, part), getattr(data.train, part)]) for part in ("rows", "y"))
    place = {row: i for i, row in enumerate(rows.tolist())}
    return pd.DataFrame(
        {
            "row": asked,
            "predicted": data.undo_y(posterior.mean(points)).tolist(),
            "deviation": (posterior.variance(points).sqrt() * data.scaler.y_scale).tolist(),
            "observed": data.undo_y(observed[[place[row] for row in asked]]).tolist(),
        }
    )


def _influence(posterior: Posterior, asked: list[int], points: torch.Tensor, top: int) -> pd.DataFrame:
    data, scale = posterior.data, float(posterior.data.scaler.y_scale)
    chi = susceptibility(posterior, value(points), reweight())
    best = chi.matrix.abs().topk(min(top, len(data.train)), dim=1).indices
    tables = []
    for k, row in enumerate(asked):
        exact = finite_response(posterior, value(points[k : k + 1]), delete(best[k].tolist(), each=True))
        columns = {
            "row": row,
            "rank": range(1, best.shape[1] + 1),
            "training_row": data.train.rows[best[k]].tolist(),
            "observed": data.undo_y(data.train.y[best[k]]).tolist(),
            "per_weight": (chi.matrix[k, best[k]] * scale).tolist(),
            "error": (chi.error[k, best[k]] * scale).tolist(),
            "if_deleted": (exact.matrix[0] * scale).tolist(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def write_answer(answer: Answer, folder: Path | str) -> list[Path]:
    """Write predictions.csv, influence.csv, answer.json and one figure a prediction into `folder`, each atomically."""
    folder, target = Path(folder), answer.facts["target"]
    written = [
        write_atomically(folder / f"{name}.csv", getattr(answer, name).to_csv(index=False))
        for name in ("predictions", "influence")
    ]
    for prediction in answer.predictions.to_dict("records"):
        mine = answer.influence[answer.influence["row"] == prediction["row"]]
        figure = influential_rows(
            [
                f"row {row} ({observed:.4g})"
                for row, observed in zip(mine["training_row"], mine["observed"], strict=True)
            ],
            mine["per_weight"],
            unit=f"change of the prediction of {target} per unit of weight",
            title=f"row {prediction['row']}: predicted {target} {prediction['predicted']:.4g}",
            top=len(mine),
        )
        written.append(save(figure, folder / f"row-{prediction['row']}.pdf"))
    record = {**answer.facts, "predictions": answer.predictions.to_dict("records")}
    record["influence"] = answer.influence.to_dict("records")
    text = json.dumps(plain(record), indent=1, allow_nan=False, ensure_ascii=False)
    return [*written, write_atomically(folder / "answer.json", text + "\n")]


def show(answer: Answer) -> str:
    """The answer as text: for each prediction the table of its most influential rows."""
    parts = []
    for prediction in answer.predictions.to_dict("records"):
        mine = answer.influence[answer.influence["row"] == prediction["row"]].drop(columns="row")
        row, mean, deviation, observed = (prediction[name] for name in ("row", "predicted", "deviation", "observed"))
        head = f"row {row}: predicted {mean:.5g} ± {deviation:.2g}, observed {observed:.5g}"
        parts.append(f"{head}\n{mine.to_string(index=False, float_format='{:.5g}'.format)}")
    return "\n\n".join(parts)


__all__ = ["Answer", "respond", "show", "write_answer"]
