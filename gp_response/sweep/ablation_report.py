r"""All ablations in one table, one figure and the numbers that the paper has of them."""

import math
from pathlib import Path

import pandas as pd

from gp_response.errors import InputError
from gp_response.experiment import load_experiment
from gp_response.plots import Mean, Panel, ablation_panels, save
from gp_response.sweep.ablation import Ablation, ablations
from gp_response.sweep.expected import mean_of
from gp_response.sweep.records import results
from gp_response.sweep.show import Cell, escaped

FOLDER = "ablations"
HEADINGS = ("RMSE", "NLL", "error", "bound", "products")
SPREAD = HEADINGS[:2]  # whose intervals are printed
FIGURE = "ablations.pdf"


def ablation_report(experiments: Path, folder: Path, figures: Path) -> dict[str, str]:
    r"""Draws `figures`/ablations.pdf; returns `\AblationTableLeft` and `…Right`, rows of a table, and `\Ablation…` numbers.

    Ablations of full size are taken where all their runs are in `folder`, else those of smoke size, else none.
    """
    parts: list[list[str]] = []
    panels: list[Panel] = []
    variables: dict[str, str] = {}
    runs = claims = held = 0
    for ablation in ablations(experiments / FOLDER).values():
        found = _table(ablation, experiments, folder)
        if found is None:
            continue
        table, smoke = found
        parts.append(_rows(ablation, table))
        panels.append(_panel(ablation, table))
        verdicts = ablation.judged(table, smoke=smoke)
        runs, claims, held = runs + len(table), claims + len(verdicts), held + sum(v.holds for v in verdicts)
        if not smoke:
            stem = f"Ablation{ablation.name.capitalize()}"
            variables |= {f"{stem}{key}": _number(mean_of(what, table), 2) for key, what in ablation.numbers.items()}
    if not parts:
        return {}
    save(ablation_panels(panels), figures / FIGURE)
    left, right = _halves(parts)
    counts = {"Files": len(parts), "Runs": runs, "Claims": claims, "Held": held}
    variables |= {f"Ablation{key}": _number(count) for key, count in counts.items()}
    return {**variables, "AblationTableLeft": "\n".join(left), "AblationTableRight": "\n".join(right)}


def _table(ablation: Ablation, experiments: Path, folder: Path) -> tuple[pd.DataFrame, bool] | None:
    """Its runs, and whether they are small."""
    experiment, records = load_experiment(ablation.experiment, experiments), results(folder, ablation.experiment)
    for smoke in (False, True):
        try:
            return ablation.table(records, experiment, smoke=smoke), smoke
        except InputError:
            continue
    return None


def _rows(ablation: Ablation, table: pd.DataFrame) -> list[str]:
    columns = {heading: ablation.means(table, value) for heading, value in ablation.columns.items()}
    labels = next(iter(columns.values()))
    lines = [rf"\multicolumn{{{len(HEADINGS) + 1}}}{{l}}{{\emph{{{escaped(ablation.title)}}}}} \\"]
    for label in labels:
        cells = [_cell(heading, columns[heading][label]) if heading in columns else "" for heading in HEADINGS]
        lines.append(" & ".join([escaped(label), *cells]) + r" \\")
    return lines


def _cell(heading: str, cell: Cell) -> str:
    return _spread(cell) if heading in SPREAD else _number(cell.mean, 2)


def _spread(cell: Cell) -> str:
    """Mean with half its interval in units of the last digit, in parentheses."""
    if not math.isfinite(cell.mean) or not math.isfinite(cell.half) or cell.half <= 0.0:
        return _number(cell.mean)
    digits = max(0, -math.floor(math.log10(cell.half)))
    return rf"\num{{{cell.mean:.{digits}f}({round(cell.half * 10**digits)})}}"


def _number(value: float, digits: int = 3) -> str:
    if not math.isfinite(value):
        return "---"
    return rf"\num{{{value}}}" if isinstance(value, int) else rf"\num{{{value:.{digits}g}}}"


def _panel(ablation: Ablation, table: pd.DataFrame) -> Panel:
    found, means = ablation.means(table, ablation.figure["value"]), []
    for label, cell in found.items():
        try:
            place: float | str = float(label)
        except ValueError:
            place = label
        means.append(Mean(place, cell.mean, cell.half))
    return Panel(ablation.title, ablation.figure["label"], means, ablation.figure.get("log", ""))


def _halves(parts: list[list[str]]) -> tuple[list[str], list[str]]:
    """Two columns of about as many lines, no ablation torn apart."""
    total, left = sum(map(len, parts)), 0
    cut = 0
    while cut < len(parts) - 1 and left + len(parts[cut]) / 2 <= total / 2:
        left += len(parts[cut])
        cut += 1
    halves = parts[:cut], parts[cut:]
    one, two = (
        [line for k, part in enumerate(half) for line in ([r"\addlinespace"] * (k > 0) + part)] for half in halves
    )
    return one, two


__all__ = ["ablation_report"]
