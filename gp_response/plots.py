"""Arrays in, figures out: the one file that knows matplotlib.

Figures are made without pyplot and without touching the reader's rcParams, so nothing here needs a display or leaves
a trace. Widths are those of a two-column page: `COLUMN` and `PAGE` inches.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from gp_response.errors import InputError
from gp_response.files import write_atomically

COLUMN, PAGE = 3.3, 6.8
POSITIVE, NEGATIVE, THIRD = "#0072B2", "#D55E00", "#009E73"  # Okabe-Ito: told apart by colour-blind readers and in grey
COLOURS = (POSITIVE, NEGATIVE, THIRD, "#CC79A7", "#E69F00", "#56B4E9")
MARKS = "osD^vP"
POINT: dict[str, Any] = {"s": 9, "linewidths": 0.7}
STYLE: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "pdf.fonttype": 42,  # TrueType, embedded: journals refuse Type 3
    "ps.fonttype": 42,
    "savefig.dpi": 200,
}


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _finite(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=float).ravel()
    if array.size == 0 or not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise InputError(f"{name} has {array.size} values, {bad} of them not finite; a figure needs finite values")
    return array


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
    arrays = {name: np.abs(_finite(f"gaps {name}".strip(), values)) for name, values in series.items()}
    positive = [array[array > 0] for array in arrays.values()]
    everything = np.concatenate([*positive, [tolerance] if tolerance else []])
    if everything.size == 0:
        everything = np.array([np.finfo(float).eps])
    low, high = np.floor(np.log10(everything.min())), np.ceil(np.log10(everything.max()))
    edges = np.logspace(low, max(high, low + 1), bins + 1).tolist()
    with matplotlib.rc_context(STYLE):
        ncols = 1 if width <= COLUMN else 3
        figure, axes = _canvas(width, 1.75 + 0.16 * -(-(len(arrays) + 1) // ncols))
        for colour, (name, array) in zip(_colours(len(arrays)), arrays.items(), strict=True):
            axes.hist(array[array > 0], edges, color=colour, alpha=0.75, label=_counted(name, array))
        _log_axis(axes, "x")
        if tolerance:
            axes.axvline(tolerance, color="black", linestyle="--", linewidth=0.8, label=f"promised {tolerance:.0e}")
        axes.set(xlabel=label, ylabel="entries")
        if axes.get_legend_handles_labels()[1]:
            figure.legend(loc="outside upper center", ncols=ncols)
    return figure


def _colours(count: int) -> list[Any]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


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
    a, b = _finite("closed", closed), _finite("refit", refit)
    if a.shape != b.shape:
        raise InputError(f"closed has {a.size} entries and refit {b.size}; give one refit an entry")
    shown = (a != 0) & (b != 0)
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(width, width)
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
            _log_axis(axes, which)
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


def _log_axis(axes: Axes, which: str) -> None:
    """A logarithmic axis with at most six labelled decades: narrow columns have room for no more."""
    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_minor_locator(NullLocator())


def influential_rows(
    names: Sequence[str],
    values: Any,
    *,
    unit: str = "",
    title: str = "",
    top: int = 10,
    width: float = COLUMN,
) -> Figure:
    """Horizontal bars of the `top` entries of largest magnitude, the largest on top, both signs about zero."""
    array = _finite("values", values)
    if len(names) != array.size:
        raise InputError(f"{len(names)} names for {array.size} values; give one name a value")
    order = np.argsort(-np.abs(array), kind="stable")[:top][::-1]
    power = _power(np.abs(array).max())
    shown = array[order] / 10.0**power
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(width, 0.55 + 0.17 * (len(order) + 1))
        axes.barh(range(len(order)), shown, color=np.where(shown >= 0, POSITIVE, NEGATIVE), height=0.7)
        axes.set_yticks(range(len(order)), [_shortened(names[i]) for i in order])
        axes.axvline(0.0, color="black", linewidth=0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
        axes.margins(x=0.08)
        scale = f" (× $10^{{{power}}}$)" if power else ""
        columns = int(18 * width)  # about as many characters as fit a line of this width
        figure.supxlabel(_literal(textwrap.fill(unit, columns)) + scale, fontsize=STYLE["axes.labelsize"])
        if title:
            figure.suptitle(_literal(textwrap.fill(title, columns)), fontsize=STYLE["axes.titlesize"])
    return figure


def scaling_wall(records: Sequence[Mapping[str, Any]], *, names: Mapping[str, str]) -> Figure:
    """Seconds and memory against the number of rows, one line a method, both axes logarithmic.

    records: each with "method", "n", "seconds" and "memory_bytes". names: what methods are called, in their order.
    """
    methods = [m for m in names if any(r["method"] == m for r in records)]
    if not methods:
        raise InputError(f"no record of any of {', '.join(names)}; nothing to draw")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, 2.3), layout="constrained")
        panels = figure.subplots(1, 2)
        for i, method in enumerate(methods):
            mine = sorted((r for r in records if r["method"] == method), key=lambda r: r["n"])
            n, style = (
                [r["n"] for r in mine],
                {"color": _colours(len(methods))[i], "marker": MARKS[i % len(MARKS)], "ms": 3.5},
            )
            panels[0].plot(n, [r["seconds"] for r in mine], label=names[method], **style)
            panels[1].plot(n, [max(r["memory_bytes"], 2**20) / 2**30 for r in mine], **style)
        for axes, label in zip(panels, ("seconds", "memory, GiB"), strict=True):
            _log_axis(axes, "y")
            axes.set_xscale("log", base=2)
            sizes = sorted({r["n"] for r in records})
            axes.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=30)
            axes.set(xlabel="rows", ylabel=label)
        figure.legend(loc="outside right center")
    return figure


def gap_curves(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> Figure:
    """Gaps against M/N, inducing points a row, both logarithmic: by title of the panel, then name of the line.

    Of more than three lines the second half is dashed, in the colours of the first.
    """
    if not panels or not all(panels.values()):
        raise InputError("a panel without lines; give each at least one, as pairs (M/N, gap)")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, 3.3), layout="constrained")
        rows = figure.subplots(1, len(panels), sharey=True, squeeze=False)
        for axes, (title, lines) in zip(rows[0], panels.items(), strict=True):
            for i, (name, pairs) in enumerate(lines.items()):
                x, y = (_finite(f"{title}, {name}", part) for part in zip(*pairs, strict=True))
                half = (len(lines) + 1) // 2 if len(lines) > 3 else len(lines)
                style = {"linestyle": "-" if i < half else "--", "marker": MARKS[i % len(MARKS)], "ms": 3.0}
                axes.plot(x, y, color=COLOURS[i % half % len(COLOURS)], label=name, **style)
            for which in ("x", "y"):
                _log_axis(axes, which)
            axes.set(xlabel="M/N", title=title)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
        rows[0][0].set_ylabel("fluctuation–dissipation gap")
    return figure


def share_curves(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> Figure:
    """Shares of variance in the first mode against the inverse temperature: one panel a model, one line of (beta, share) a form."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, 2.3), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            for k, (name, points) in enumerate(lines.items()):
                beta, share = np.asarray(sorted(points), dtype=float).T
                style = "--" if k >= 2 else "-"
                axis.plot(beta, 100.0 * share, style, marker=MARKS[k], ms=3, color=COLOURS[k], label=_literal(name))
            axis.set(xscale="log", ylim=(0, 100), xlabel="inverse temperature β", title=_literal(title))
        axes[0].set_ylabel("first mode / %")
        axes[-1].legend()
    return figure


def _power(largest: float) -> int:
    """The power of ten to take out of the axis: 0 where the plain numbers are short enough to read."""
    return 0 if largest == 0 or 1e-2 <= largest < 1e4 else int(np.floor(np.log10(largest)))


def _literal(text: str) -> str:
    """Text of the reader's own, in which a dollar is a dollar and not the start of a formula."""
    return text.replace("$", r"\$")


def _shortened(name: str, limit: int = 34) -> str:
    return _literal(name if len(name) <= limit else f"{name[: limit - 1]}…")


def save(figure: Figure, path: Path | str) -> Path:
    """Write the figure to `path` (.pdf, .png or .svg), atomically and undated: equal figures are equal files."""
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise InputError(f"cannot draw {path.name}: no such figure format as {kind!r}; use .pdf, .png or .svg")
    undated: dict[str, Any] = {"pdf": {"CreationDate": None, "ModDate": None}, "svg": {"Date": None}}.get(kind, {})
    buffer = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "gp_response"}):
        figure.savefig(buffer, format=kind, metadata=undated)
    return write_atomically(path, buffer.getvalue())


__all__ = [
    "COLUMN",
    "PAGE",
    "closed_vs_refit",
    "gap_curves",
    "histogram_of_gaps",
    "influential_rows",
    "save",
    "scaling_wall",
]
