"""Rank correlations and grouped scatters."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gp_response.errors import InputError
from gp_response.plots.canvas import COLOURS, MARKS, PAGE, POINT, STYLE, Axes, Figure, finite, house_style, log_axis

LOW = -0.05  # where no correlation is lower, the axis begins at zero


def rank_correlations(panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Figure:
    """Dots of rank correlations, one panel a title, one row a measure, one colour and mark a series; a bar at each row's mean.

    A measure that a panel lacks leaves its row empty there; panels without a number are left out.
    """
    panels = {
        title: rows for title, rows in panels.items() if any(any(map(len, dots.values())) for dots in rows.values())
    }
    measures = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    series = list(dict.fromkeys(s for rows in panels.values() for dots in rows.values() for s in dots))
    if not measures or not series:
        raise InputError("no rank correlation to draw; give each panel measures, and each measure series of numbers")
    with house_style():
        figure = Figure(figsize=(PAGE, 0.9 + 0.17 * len(measures)), layout="constrained")
        lowest = min(v for rows in panels.values() for dots in rows.values() for some in dots.values() for v in some)
        ends, ticks = ((-1.08, 1.08), (-1, 0, 1)) if lowest < LOW else ((2.0 * LOW, 1.08), (0, 0.5, 1))
        columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, rows) in zip(columns, panels.items(), strict=True):
            axes.axvline(0.0, color="0.6", linewidth=0.6, zorder=0)
            for row, name in enumerate(measures):
                _dots(axes, row, rows.get(name, {}), series)
            axes.set(xlim=ends, ylim=(len(measures) - 0.4, -0.6), title=textwrap.fill(title, 14))
            axes.set_xticks(ticks)
            axes.set_yticks(range(len(measures)), measures)
            axes.tick_params(axis="y", length=0)
        handles, labels = columns[0].get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True))
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(series), handletextpad=0.1)
    return figure


def _dots(axes: Axes, row: int, dots: Mapping[str, Sequence[float]], series: Sequence[str]) -> None:
    """One row of a panel: the series a little apart from each other, and the mean of all."""
    everything = [value for values in dots.values() for value in values]
    for i, name in enumerate(series):
        x = finite(name, dots[name]) if dots.get(name) else np.empty(0)
        off = row + 0.5 * (i + 0.5) / len(series) - 0.25
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)]}
        axes.scatter(x, np.full(len(x), off), label=name, s=6, linewidths=0, **style)
    if everything:
        axes.plot([np.mean(everything)] * 2, [row - 0.36, row + 0.36], color="black", linewidth=1.2)


def grouped_scatter(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, x: str, y: str, columns: int = 3
) -> Figure:
    """Points (x, y) by title of the panel and name of the group; x is logarithmic. x, y: labels of the axes."""
    groups = list(dict.fromkeys(name for parts in panels.values() for name in parts))
    if not groups:
        raise InputError("no group of points to draw; give each panel groups of pairs (x, y)")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with house_style():
        figure = Figure(figsize=(PAGE, 0.5 + 1.75 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (title, parts) in zip(grid, panels.items(), strict=False):
            for i, name in enumerate(groups):
                pairs = np.asarray(parts.get(name, []), dtype=float).reshape(-1, 2)
                style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)]}
                axes.scatter(pairs[:, 0], pairs[:, 1], label=name, **{**POINT, **style})
            log_axis(axes, "x")
            axes.set_title(textwrap.fill(title, 34))
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel(x, fontsize=STYLE["axes.labelsize"])
        figure.supylabel(y, fontsize=STYLE["axes.labelsize"])
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(groups))
    return figure


__all__ = ["rank_correlations", "grouped_scatter"]
