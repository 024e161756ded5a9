"""Time and memory against the size of a problem."""

from collections.abc import Mapping, Sequence
from typing import Any

from gp_response.errors import InputError
from gp_response.plots.canvas import MARKS, PAGE, Figure, colours, house_style, log_axis


def scaling_wall(records: Sequence[Mapping[str, Any]], *, names: Mapping[str, str], x: str = "rows") -> Figure:
    """Seconds and memory against the number of rows (or of what x says), one line a method, both axes logarithmic.

    records: each with "method", "n", "seconds" and "memory_bytes". names: what methods are called, in their order.
    """
    methods = [m for m in names if any(r["method"] == m for r in records)]
    if not methods:
        raise InputError(f"no record of any of {', '.join(names)}; nothing to draw")
    with house_style():
        figure = Figure(figsize=(PAGE, 2.3), layout="constrained")
        panels = figure.subplots(1, 2)
        for i, method in enumerate(methods):
            mine = sorted((r for r in records if r["method"] == method), key=lambda r: r["n"])
            n, style = (
                [r["n"] for r in mine],
                {"color": colours(len(methods))[i], "marker": MARKS[i % len(MARKS)], "ms": 3.5},
            )
            panels[0].plot(n, [r["seconds"] for r in mine], label=names[method], **style)
            panels[1].plot(n, [max(r["memory_bytes"], 2**20) / 2**30 for r in mine], **style)
        for axes, label in zip(panels, ("seconds", "memory, GiB"), strict=True):
            log_axis(axes, "y")
            axes.set_xscale("log", base=2)
            sizes = sorted({r["n"] for r in records})
            # Each ends below its tick, steeply enough that a size twice another is clear of it.
            axes.set_xticks(sizes, [_short(n) for n in sizes], rotation=45, ha="right", rotation_mode="anchor")
            axes.set(xlabel=x, ylabel=label)
        figure.legend(loc="outside right center")
    return figure


def _short(n: float) -> str:
    """12,060 as it is, from a hundred thousand on in two digits."""
    return f"{n:,}" if n < 10**5 else f"{n / 10**6:.2g} M"


__all__ = ["scaling_wall"]
