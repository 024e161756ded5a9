"""Means with their confidence intervals against a parameter."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gp_response.errors import InputError
from gp_response.plots.canvas import (
    COLOURS,
    COLUMN,
    MARKS,
    PAGE,
    Axes,
    Figure,
    LogLocator,
    finite,
    house_style,
    literal,
    log_axis,
)


class Mean(NamedTuple):
    """A point: place on the horizontal axis (a number, or a name), mean, half the width of the interval (NaN: none)."""

    x: float | str
    mean: float
    half: float


def ablation_curves(
    panels: Mapping[str, Mapping[str, Sequence[Mean]]], *, xlabel: str, ylabel: str, logarithmic: str = ""
) -> Figure:
    """One panel a title, one line a name through its means, with error bars; names on the horizontal axis stand evenly.

    logarithmic: axes that are so, "x", "y" or "xy".
    """
    if not panels or not all(lines and all(lines.values()) for lines in panels.values()):
        raise InputError("a panel without means; give each at least one line, and each line at least one mean")
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    places = [mean.x for lines in panels.values() for means in lines.values() for mean in means]
    labels = None if all(isinstance(x, int | float) for x in places) else list(dict.fromkeys(map(str, places)))
    width = COLUMN if len(panels) == 1 else PAGE
    with house_style():
        figure = Figure(figsize=(width, 2.4 if len(names) == 1 else 2.7), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        handles: dict[str, Any] = {}
        for axes, (title, lines) in zip(row, panels.items(), strict=True):
            for name, means in lines.items():
                handles[name] = _line(axes, name, means, names.index(name), labels, len(names))
            axes.set(xlabel=literal(xlabel), title=literal(title))
            _axes(axes, labels, logarithmic)
        row[0].set_ylabel(literal(ylabel))
        if len(names) > 1:
            figure.legend(
                list(handles.values()),
                [literal(name) for name in names],
                loc="outside lower center",
                ncols=min(len(names), 3 if width == COLUMN else 6),
            )
    return figure


class Panel(NamedTuple):
    """Runs along one choice: title, name of what is measured, (place, number) of each run; `log` as for `ablation_curves`."""

    title: str
    ylabel: str
    runs: Sequence[tuple[float | str, float]]
    log: str = ""


def ablation_panels(panels: Sequence[Panel], *, across: int = 5) -> Figure:
    """One small panel a choice with axes of its own, row by row: a dot a run, a line through the means."""
    if not panels or not all(panel.runs for panel in panels):
        raise InputError("a panel without runs; give at least one panel, and each at least one run")
    down = -(-len(panels) // across)
    with house_style():
        figure = Figure(figsize=(PAGE, 1.8 * down), layout="constrained")
        places = figure.subplots(down, min(across, len(panels)), squeeze=False).ravel()
        for axes, panel in zip(places, panels, strict=False):
            _panel(axes, panel)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
    return figure


def _panel(axes: Axes, panel: Panel) -> None:
    groups: dict[float | str, list[float]] = {}
    for place, number in panel.runs:
        groups.setdefault(place, []).append(number)
    names = None if all(isinstance(place, int | float) for place in groups) else list(map(str, groups))
    at = [float(place) for place in groups] if names is None else [float(k) for k in range(len(groups))]
    for x, numbers in zip(at, groups.values(), strict=True):
        axes.plot([x] * len(numbers), finite(panel.title, numbers), "o", ms=2.5, mew=0.0, alpha=0.5, color=COLOURS[1])
    means = [sum(numbers) / len(numbers) for numbers in groups.values()]
    axes.plot(at, means, "o-" if names is None else "_", ms=2.5 if names is None else 7.0, color=COLOURS[0])
    axes.set_title(literal(panel.title), fontsize=7.5)
    axes.set_ylabel(literal(panel.ylabel), fontsize=7.0)
    axes.tick_params(labelsize=6.0)
    for which in panel.log:
        if which == "y" or names is None:
            log_axis(axes, which)
            axis = axes.xaxis if which == "x" else axes.yaxis
            axis.set_major_locator(LogLocator(numticks=3 if which == "x" else 4))
    if names is not None:
        axes.set_xticks(at, [literal(name) for name in names], rotation=90)


def _line(axes: Axes, name: str, means: Sequence[Mean], k: int, labels: list[str] | None, count: int) -> Any:
    """Lines over names stand a little apart from each other, so that their bars can be told apart."""
    shift = 0.0 if labels is None or count == 1 else 0.3 * (k / (count - 1) - 0.5)
    x = [float(m.x) if labels is None else labels.index(str(m.x)) + shift for m in means]
    order = sorted(range(len(x)), key=x.__getitem__)
    y = finite(f"line {name}", [means[i].mean for i in order])
    half = [0.0 if means[i].half != means[i].half else means[i].half for i in order]
    style: dict[str, Any] = {
        "color": COLOURS[k % len(COLOURS)],
        "marker": MARKS[k % len(MARKS)],
        "ms": 3.0,
        "capsize": 2.0,
        "elinewidth": 0.7,
    }
    return axes.errorbar([x[i] for i in order], y, yerr=half, linestyle="-" if labels is None else "none", **style)


def _axes(axes: Axes, labels: list[str] | None, logarithmic: str) -> None:
    if labels is not None:
        slant: dict[str, Any] = {"rotation": 30, "ha": "right"} if sum(map(len, labels)) > 24 else {}
        axes.set_xticks(range(len(labels)), [literal(label) for label in labels], **slant)
    for which in logarithmic:
        if which == "y" or labels is None:
            log_axis(axes, which)


__all__ = ["Mean", "Panel", "ablation_curves", "ablation_panels"]
