"""From a table of results to a figure of means."""

from typing import Any

import pandas as pd

from gp_response.errors import InputError
from gp_response.plots import Mean, ablation_curves
from gp_response.sweep.compare import grouping, means


def draw(
    table: pd.DataFrame, value: str, *, x: str | None = None, lines: str | None = None, panels: str | None = None,
    log: str = "", level: float = 0.95,
) -> Any:  # fmt: skip
    """A figure: means of `value` over runs against `x`, one line a value of `lines`, one panel a value of `panels`.

    Raises InputError where nothing varies, or no mean is finite.
    """
    if set(log) - set("xy"):
        raise InputError(f"log is {log!r}; expected x, y or xy")
    named = [name for name in (lines, panels) if name]
    across, _ = grouping(table.pipe(_without, named) if not x else table, [x] if x else None, None)
    grouping(table, named, None)
    if not across:
        raise InputError("no parameter but seed varies; run a sweep over one first, or name one by --x")
    summary = means(table, [value], by=[across[0], *named], level=level)
    summary = summary[summary["mean"].notna()]
    if summary.empty:
        raise InputError(f"no mean of {value} is finite; choose another value, or leave runs out by --where")
    grid: dict[str, dict[str, list[Mean]]] = {}
    for _, line in summary.iterrows():
        panel = f"{panels} = {line[panels]}" if panels else ""
        name = f"{lines} = {line[lines]}" if lines else value
        where = line[across[0]]
        place = float(where) if isinstance(where, int | float) and not isinstance(where, bool) else str(where)
        grid.setdefault(panel, {}).setdefault(name, []).append(Mean(place, line["mean"], line["half"]))
    return ablation_curves(grid, xlabel=across[0], ylabel=value, logarithmic=log)


def _without(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The table as if these parameters did not vary."""
    found = table.copy()
    found.attrs = {**table.attrs, "parameters": [name for name in table.attrs["parameters"] if name not in names]}
    return found


__all__ = ["draw"]
