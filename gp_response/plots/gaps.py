"""Gaps between closed forms and refits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gp_response.errors import InputError
from gp_response.plots.canvas import (
    COLOURS,
    COLUMN,
    MARKS,
    NEGATIVE,
    PAGE,
    POINT,
    POSITIVE,
    Figure,
    canvas,
    colours,
    finite,
    house_style,
    log_axis,
)


def histogram_of_gaps(
    gaps: Mapping[str, Any] | Any,
    *,
    tolerance: float | None = None,
    label: str = "relative gap",
    width: float = COLUMN,
    bins: int = 30,
) -> Figure:
    """Histogram, on a logarithmic axis, of non-negative gaps: one array, or several by name.

    Exact agreement (a gap of zero) has no place on the axis; such entries are counted in the legend. `tolerance` draws
    the promised bound as a dashed line.
    """
    series = gaps if isinstance(gaps, Mapping) else {"": gaps}
    arrays = {name: np.abs(finite(f"gaps {name}".strip(), values)) for name, values in series.items()}
    positive = [array[array > 0] for array in arrays.values()]
    everything = np.concatenate([*positive, [tolerance] if tolerance else []])
    if everything.size == 0:
        everything = np.array([np.finfo(float).eps])
    low, high = np.floor(np.log10(everything.min())), np.ceil(np.log10(everything.max()))
    edges = np.logspace(low, max(high, low + 1), bins + 1).tolist()
    with house_style():
        ncols = 1 if width <= COLUMN else 3
        figure, axes = canvas(width, 1.75 + 0.16 * -(-(len(arrays) + 1) // ncols))
        for colour, (name, array) in zip(colours(len(arrays)), arrays.items(), strict=True):
            axes.hist(array[array > 0], edges, color=colour, alpha=0.75, label=_counted(name, array))
        log_axis(axes, "x")
        if tolerance:
            axes.axvline(tolerance, color="black", linestyle="--", linewidth=0.8, label=f"promised {tolerance:.0e}")
        axes.set(xlabel=label, ylabel="entries")
        if axes.get_legend_handles_labels()[1]:
            figure.legend(loc="outside upper center", ncols=ncols)
    return figure


def _counted(name: str, array: np.ndarray) -> str | None:
    exact = int((array == 0).sum())
    text = f"{name} ({exact} exactly 0)" if exact else name
    return text.strip() or None


def closed_vs_refit(
    closed: Any,
    refit: Any,
    *,
    unit: str = "",
    labels: tuple[str, str] = ("refitted response", "closed form"),
    width: float = COLUMN,
) -> Figure:
    """Magnitude of the closed form against that of the refit, both logarithmic, over the line on which they agree.

    Filled circles are positive entries, open ones negative, red crosses those whose signs differ. Pairs with a zero
    have no place on the axes and are counted in the legend.
    """
    a, b = finite("closed", closed), finite("refit", refit)
    if a.shape != b.shape:
        raise InputError(f"closed has {a.size} entries and refit {b.size}; give one refit an entry")
    shown = (a != 0) & (b != 0)
    with house_style():
        figure, axes = canvas(width, width)
        if shown.any():
            span = np.abs(np.concatenate([a[shown], b[shown]]))
            ends = [span.min() / 2, span.max() * 2]
            axes.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
            axes.set(xlim=ends, ylim=ends)
        for name, mask, style in _by_sign(a, b):
            if mask.any():
                drawn = mask & shown
                axes.scatter(np.abs(b[drawn]), np.abs(a[drawn]), label=f"{name}: {mask.sum()}", **{**POINT, **style})
        for which in ("x", "y"):
            log_axis(axes, which)
        suffix = f" ({unit})" if unit else ""
        axes.set(xlabel=f"|{labels[0]}|{suffix}", ylabel=f"|{labels[1]}|{suffix}", aspect="equal")
        axes.legend(loc="upper left", handletextpad=0.2)
    return figure


def _by_sign(a: np.ndarray, b: np.ndarray) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    signs = np.sign(a) * np.sign(b)
    return [
        ("positive", (signs > 0) & (a > 0), {"marker": "o", "color": POSITIVE}),
        ("negative", (signs > 0) & (a < 0), {"marker": "o", "facecolors": "none", "edgecolors": NEGATIVE}),
        ("signs differ", signs < 0, {"marker": "x", "color": "red", "s": 40, "zorder": 3}),
        ("a zero (not shown)", signs == 0, {"marker": "", "color": "none"}),
    ]


def gap_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    *,
    x: str = "M/N",
    y: str = "fluctuation–dissipation gap",
) -> Figure:
    """Gaps (y) against a size (x), both logarithmic: by title of the panel, then name of the line.

    Panels with the same lines share one legend, below all of them; another panel's stands below it. Of more than three lines the
    second half is dashed, in the colours of the first.
    """
    if not panels or not all(panels.values()):
        raise InputError("a panel without lines; give each at least one, as pairs (size, gap)")
    alike = len({tuple(lines) for lines in panels.values()}) == 1
    most = max(map(len, panels.values()))
    with house_style():
        below = 0.17 * (-(-most // 3) if alike else most)
        figure = Figure(figsize=(PAGE, 2.45 + below), layout="constrained")
        rows = figure.subplots(1, len(panels), sharey=True, squeeze=False)
        for axes, (title, lines) in zip(rows[0], panels.items(), strict=True):
            for i, (name, pairs) in enumerate(lines.items()):
                sizes, gaps = (finite(f"{title}, {name}", part) for part in zip(*pairs, strict=True))
                half = (len(lines) + 1) // 2 if len(lines) > 3 else len(lines)
                style = {"linestyle": "-" if i < half else "--", "marker": MARKS[i % len(MARKS)], "ms": 3.0}
                axes.plot(sizes, gaps, color=COLOURS[i % half % len(COLOURS)], label=name, **style)
            for which in ("x", "y"):
                log_axis(axes, which)
            axes.set(xlabel=x, title=title)
            if not alike:
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
        if alike:
            handles, labels = rows[0][0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(3, most))
        rows[0][0].set_ylabel(y)
    return figure


__all__ = ["histogram_of_gaps", "closed_vs_refit", "gap_curves"]
