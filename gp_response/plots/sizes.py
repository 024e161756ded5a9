"""What predictions of removals are worth, against how much is removed."""

from collections.abc import Mapping, Sequence

from gp_response.errors import InputError
from gp_response.plots.canvas import COLOURS, MARKS, PAGE, Figure, finite, house_style, literal, log_axis

Lines = Mapping[str, Sequence[tuple[float, float]]]


def size_curves(grid: Mapping[str, Mapping[str, Lines]], *, xlabel: str) -> Figure:
    """One row of panels a label of the y axis, one column a title, one line of (size, number) a name; sizes logarithmic."""
    if not grid or not all(panels and all(panels.values()) for panels in grid.values()):
        raise InputError("a panel without lines; give each at least one, as pairs (size, number)")
    names = list(dict.fromkeys(name for panels in grid.values() for lines in panels.values() for name in lines))
    columns = max(len(panels) for panels in grid.values())
    with house_style():
        figure = Figure(figsize=(PAGE, 0.6 + 1.5 * len(grid)), layout="constrained")
        rows = figure.subplots(len(grid), columns, sharex=True, sharey="row", squeeze=False)
        handles = {}
        for at, (axes, (label, panels)) in enumerate(zip(rows, grid.items(), strict=True)):
            for axis, (title, lines) in zip(axes, panels.items(), strict=True):
                for name, points in lines.items():
                    k = names.index(name)
                    x, y = (finite(f"{title}, {name}", part) for part in zip(*sorted(points), strict=True))
                    style = {"color": COLOURS[k % len(COLOURS)], "marker": MARKS[k % len(MARKS)], "ms": 3.0}
                    (handles[name],) = axis.plot(x, y, "-" if k < len(COLOURS) else "--", **style)
                log_axis(axis, "x")
                if at == 0:
                    axis.set_title(literal(title))
                if at == len(grid) - 1:
                    axis.set_xlabel(xlabel)
            axes[0].set_ylabel(label)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(names)))
    return figure


__all__ = ["size_curves"]
