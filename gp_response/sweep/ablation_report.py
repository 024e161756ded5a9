r"""All ablations in one table, one figure and the numbers that the paper has of them."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gp_response.errors import InputError, unknown_name
from gp_response.experiment import Experiment
from gp_response.plots import Panel, ablation_panels, save
from gp_response.sweep.ablation import Ablation, ablations
from gp_response.sweep.expected import check, mean_of
from gp_response.sweep.frame import column
from gp_response.sweep.records import run_name
from gp_response.sweep.show import Cell, escaped

Read = Mapping[str, tuple[Experiment, Sequence[Mapping[str, Any]]]]
HEADINGS = ("RMSE", "NLL", "error", "bound", "products")
SPREAD = HEADINGS[:2]  # whose intervals are printed
FIGURE = "ablations.pdf"


def ablation_report(files: Path, known: Read, figures: Path) -> dict[str, str]:
    r"""Draws `figures`/ablations.pdf; returns `\AblationTableLeft` and `…Right`, rows of a table, and `\Ablation…` numbers.

    Of each ablation in `files` the runs of full size among the records of its experiment are taken, else those of smoke size.
    Numbers about runs that are missing are left out, and expectations about them count as not held.

    Args:
        known: experiments and their records, by name.
    """
    parts: list[list[str]] = []
    panels: list[Panel] = []
    variables: dict[str, str] = {}
    runs: set[str] = set()  # ablations may share some
    claims = held = 0
    for ablation in ablations(files).values():
        if ablation.experiment not in known:
            raise unknown_name("experiment", ablation.experiment, known)
        found = _table(ablation, *known[ablation.experiment])
        if found is None:
            continue
        table, smoke = found
        parts.append(_rows(ablation, table))
        panels.append(_panel(ablation, table))
        said = ablation.claims(smoke=smoke)
        runs |= _runs(ablation, *known[ablation.experiment], smoke=smoke)
        claims, held = claims + len(said), held + sum(_holds(claim, table) for claim in said)
        variables |= {} if smoke else _numbers(ablation, table)
    if not parts:
        return {}
    save(ablation_panels(panels), figures / FIGURE)
    left, right = _halves(parts)
    counts = {"Files": len(parts), "Runs": len(runs), "Claims": claims, "Held": held}
    variables |= {f"Ablation{key}": _number(count) for key, count in counts.items()}
    return {**variables, "AblationTableLeft": "\n".join(left), "AblationTableRight": "\n".join(right)}


def _table(
    ablation: Ablation, experiment: Experiment, records: Sequence[Mapping[str, Any]]
) -> tuple[pd.DataFrame, bool] | None:
    """Its runs, and whether they are small."""
    for smoke in (False, True):
        try:
            return ablation.table(records, experiment, smoke=smoke, whole=False), smoke
        except InputError:
            continue
    return None


def _runs(ablation: Ablation, experiment: Experiment, records: Sequence[Mapping[str, Any]], *, smoke: bool) -> set[str]:
    """Names of its runs that are done."""
    configs = ablation.configs(experiment, scale="smoke" if smoke else "full")
    done = {run_name(experiment.name, record["config"]) for record in records}
    return done & {run_name(experiment.name, config) for config in configs}


def _holds(expectation: Mapping[str, Any], table: pd.DataFrame) -> bool:
    try:
        return check(expectation, table).holds
    except InputError:
        return False


def _numbers(ablation: Ablation, table: pd.DataFrame) -> dict[str, str]:
    found = {}
    for key, what in ablation.numbers.items():
        with contextlib.suppress(InputError):
            found[f"Ablation{ablation.name.capitalize()}{key}"] = _number(mean_of(what, table))
    return found


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
    digits = max(0, 1 - math.floor(math.log10(cell.half)))
    return rf"\num{{{cell.mean:.{digits}f}({round(cell.half * 10**digits)})}}"


def _number(value: float, digits: int = 3) -> str:
    if not math.isfinite(value):
        return "---"
    whole = isinstance(value, int) or 100.0 <= abs(value) < 1e5
    return rf"\num{{{value:.0f}}}" if whole else rf"\num{{{value:.{digits}g}}}"


def _panel(ablation: Ablation, table: pd.DataFrame) -> Panel:
    numbers = column(table, ablation.figure["value"]).astype(float)
    runs = [(_place(label), number) for label, number in zip(ablation.labels(table), numbers, strict=True)]
    return Panel(ablation.title, ablation.figure["label"], runs, ablation.figure.get("log", ""))


def _place(label: str) -> float | str:
    try:
        return float(label)
    except ValueError:
        return label


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
