"""Spectra and principal components."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gp_response.plots.canvas import COLOURS, COLUMN, MARKS, PAGE, Figure, canvas, colours, finite, house_style, literal


def spectra(lines: Mapping[str, tuple[Sequence[float], float]]) -> Figure:
    """Leading eigenvalues in units of the trace, by name: (values, trace)."""
    with house_style():
        figure, axes = canvas(COLUMN, 2.1)
        for i, (name, (values, trace)) in enumerate(lines.items()):
            share = finite(name, values) / trace
            axes.plot(np.arange(1, share.size + 1), share, MARKS[i] + "-", color=colours(i + 1)[i], ms=3.0, label=name)
        axes.set(xlabel="mode", ylabel="eigenvalue / trace")
        axes.set_ylim(bottom=0.0)
        axes.legend()
    return figure


def left_after(lines: Mapping[str, tuple[Sequence[float], float]]) -> Figure:
    """Share of a trace left after each chosen row, by name: (shares, share after as many random rows, drawn as a cross)."""
    with house_style():
        figure, axes = canvas(COLUMN, 2.1)
        for i, (name, (left, chance)) in enumerate(lines.items()):
            share, colour = finite(name, left), colours(i + 1)[i]
            axes.plot(np.arange(1, share.size + 1), share, color=colour, label=name)
            axes.plot([share.size], [chance], "x", color=colour, ms=5.0)
        axes.plot([], [], "x", color="0.4", ms=5.0, label="random rows")
        axes.set(xlabel="rows chosen", ylabel="share of the trace left", ylim=(0.0, 1.02))
        axes.legend()
    return figure


def coloured_components(panels: Mapping[str, tuple[Any, Any, Sequence[float]]]) -> Figure:
    """Points in the plane of two components, coloured by a quantity, a panel a title: (coordinates (n, 2), colours, shares).

    Axes are symmetric-logarithmic, since few points carry much of a component. Colours run from the 2nd to the 98th percentile.
    """
    with house_style():
        figure = Figure(figsize=(PAGE, 2.4), layout="constrained")
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, (coordinates, colours, shares)) in zip(row, panels.items(), strict=True):
            at, colour = np.asarray(coordinates, dtype=float), finite(title, colours)
            low, high = np.percentile(colour, [2, 98])
            marks = axes.scatter(
                *at.T, c=colour, vmin=low, vmax=high, s=3, linewidths=0, cmap="viridis", rasterized=True
            )
            figure.colorbar(marks, ax=axes, location="bottom", aspect=30, pad=0.02)
            for set_scale, values in ((axes.set_xscale, at[:, 0]), (axes.set_yscale, at[:, 1])):
                set_scale("symlog", linthresh=max(float(np.percentile(np.abs(values), 50)), 1e-12))
            names = [f"component {k + 1} ({100.0 * share:.2g} %)" for k, share in enumerate(shares)]
            axes.set(title=literal(title), xlabel=names[0], ylabel=names[1], xticks=[], yticks=[])
            axes.minorticks_off()
    return figure


def share_curves(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> Figure:
    """Shares of variance in the first mode against the inverse temperature: one panel a model, one line of (beta, share) a form."""
    with house_style():
        figure = Figure(figsize=(PAGE, 2.3), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, lines) in zip(axes, panels.items(), strict=True):
            for k, (name, points) in enumerate(lines.items()):
                beta, share = np.asarray(sorted(points), dtype=float).T
                style = "--" if k >= 2 else "-"
                axis.plot(beta, 100.0 * share, style, marker=MARKS[k], ms=3, color=COLOURS[k], label=literal(name))
            axis.set(xscale="log", ylim=(0, 100), xlabel="inverse temperature β", title=literal(title))
        axes[0].set_ylabel("first mode / %")
        axes[-1].legend()
    return figure


__all__ = ["share_curves", "spectra", "left_after", "coloured_components"]
