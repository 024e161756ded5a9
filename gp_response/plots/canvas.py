"""Arrays in, figures out: what all of them share, in the one file that knows matplotlib.

Figures are made without pyplot and without touching the reader's rcParams, so nothing here needs a display or leaves
a trace. Widths are those of a two-column page: `COLUMN` and `PAGE` inches.
"""

import io
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


def house_style() -> Any:
    """The house style, for the time of a `with`."""
    return matplotlib.rc_context(STYLE)


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def finite(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=float).ravel()
    if array.size == 0 or not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise InputError(f"{name} has {array.size} values, {bad} of them not finite; a figure needs finite values")
    return array


def colours(count: int) -> list[Any]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def log_axis(axes: Axes, which: str) -> None:
    """A logarithmic axis with at most six labelled decades: narrow columns have room for no more."""
    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_minor_locator(NullLocator())


def literal(text: str) -> str:
    """Text of the reader's own, in which a dollar is a dollar and not the start of a formula."""
    return text.replace("$", r"\$")


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
    "COLOURS",
    "COLUMN",
    "MARKS",
    "NEGATIVE",
    "PAGE",
    "POINT",
    "POSITIVE",
    "STYLE",
    "THIRD",
    "Axes",
    "Figure",
    "LogLocator",
    "NullLocator",
    "canvas",
    "colours",
    "finite",
    "literal",
    "log_axis",
    "save",
    "house_style",
]
