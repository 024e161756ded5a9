"""Which rows move what, and predictions of it against refits."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gp_response.errors import InputError
from gp_response.plots.canvas import (
    COLUMN,
    MARKS,
    NEGATIVE,
    PAGE,
    POINT,
    POSITIVE,
    STYLE,
    Figure,
    NullLocator,
    canvas,
    colours,
    finite,
    house_style,
    literal,
)


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
    array = finite("values", values)
    if len(names) != array.size:
        raise InputError(f"{len(names)} names for {array.size} values; give one name a value")
    order = np.argsort(-np.abs(array), kind="stable")[:top][::-1]
    power = _power(np.abs(array).max())
    shown = array[order] / 10.0**power
    with house_style():
        figure, axes = canvas(width, 0.55 + 0.17 * (len(order) + 1))
        axes.barh(range(len(order)), shown, color=np.where(shown >= 0, POSITIVE, NEGATIVE), height=0.7)
        axes.set_yticks(range(len(order)), [_shortened(names[i]) for i in order])
        axes.axvline(0.0, color="black", linewidth=0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
        axes.margins(x=0.08)
        scale = f" (× $10^{{{power}}}$)" if power else ""
        columns = int(18 * width)  # about as many characters as fit a line of this width
        figure.supxlabel(literal(textwrap.fill(unit, columns)) + scale, fontsize=STYLE["axes.labelsize"])
        if title:
            figure.suptitle(literal(textwrap.fill(title, columns)), fontsize=STYLE["axes.titlesize"])
    return figure


def _shortened(name: str, limit: int = 34) -> str:
    return literal(name if len(name) <= limit else f"{name[: limit - 1]}…")


def responses_against_refits(panels: Mapping[str, Mapping[str, Any]], *, of: str) -> Figure:
    """Predicted responses against those of refits, at fixed hyperparameters (open) and in total (filled), a panel each.

    panels: by title, arrays "refit", "fixed" and "total" of equal sizes. of: what responds, e.g. "loss".
    """
    if not panels:
        raise InputError("no panel; give each a title and arrays refit, fixed and total")
    with house_style():
        figure = Figure(figsize=(PAGE, 2.3), layout="constrained")
        for axes, (title, arrays) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            refit, fixed, total = (finite(f"{title}, {key}", arrays[key]) for key in ("refit", "fixed", "total"))
            ends = 1.05 * np.abs(np.concatenate([refit, fixed, total])).max() * np.array([-1.0, 1.0])
            axes.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
            open_: dict[str, Any] = {"facecolors": "none", "edgecolors": NEGATIVE, "clip_on": False}
            axes.scatter(refit, fixed, label="hyperparameters fixed", **POINT, **open_)
            axes.scatter(refit, total, color=POSITIVE, label="total", **{**POINT, "s": 5})
            # Most responses are small: near zero the axes are linear, beyond logarithmic.
            knee, top = (
                int(np.floor(np.log10(max(v, 1e-12 * ends[1])))) for v in (np.quantile(np.abs(refit), 0.5), ends[1])
            )
            for which, powers in (("x", [10.0**top]), ("y", [10.0 ** (knee + 1), 10.0**top][top - knee < 3 :])):
                getattr(axes, f"set_{which}scale")("symlog", linthresh=10.0**knee)
                getattr(axes, f"set_{which}ticks")([*(-power for power in powers[::-1]), 0.0, *powers])
                getattr(axes, f"set_{which}lim")(*ends)
                getattr(axes, f"{which}axis").set_minor_locator(NullLocator())
            axes.set(title=literal(title), xlabel="optimised again")
        figure.axes[0].set_ylabel(f"{of}, predicted response")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _power(largest: float) -> int:
    """The power of ten to take out of the axis: 0 where the plain numbers are short enough to read."""
    return 0 if largest == 0 or 1e-2 <= largest < 1e4 else int(np.floor(np.log10(largest)))


def steering(shares: Mapping[str, Sequence[float]]) -> Figure:
    """Shares of each wanted change that were achieved, observable by observable, one kind of mark for each way."""
    if not shares or not all(len(values) for values in shares.values()):
        raise InputError("a way without shares; give each at least one")
    with house_style():
        figure, axes = canvas(COLUMN, 2.4)
        axes.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
        for colour, mark, (name, values) in zip(colours(len(shares)), MARKS, shares.items(), strict=False):
            array = finite(name, values)
            axes.plot(range(1, array.size + 1), array, linestyle="", marker=mark, ms=3.5, color=colour, label=name)
        axes.set(xlabel="observable", ylabel="achieved share")
        figure.legend(loc="outside upper center", ncols=1)
    return figure


__all__ = ["influential_rows", "responses_against_refits", "steering"]
