"""Quantities layer by layer, with their spread over repetitions."""

from collections.abc import Mapping, Sequence

import numpy as np

from gp_response.errors import InputError
from gp_response.plots.canvas import PAGE, Figure, colours, finite, house_style, literal


def layer_bars(names: Sequence[str], panels: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """A panel each of bars, a bar each for a layer: the mean over repetitions, which are points.

    panels: by title, for every layer the values of the repetitions.
    """
    if not panels or any(len(values) != len(names) for values in panels.values()):
        raise InputError(f"{len(names)} layers; give every panel values for each")
    with house_style():
        figure = Figure(figsize=(PAGE, 2.2), layout="constrained")
        panes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, colour, (title, values) in zip(panes, colours(len(panels)), panels.items(), strict=True):
            arrays = [finite(f"{title}, {name}", v) for name, v in zip(names, values, strict=True)]
            axes.barh(range(len(names)), [a.mean() for a in arrays], color=colour, height=0.7)
            for place, array in enumerate(arrays):
                axes.plot(array, np.full(array.size, place), linestyle="", marker="o", ms=2.0, color="black", alpha=0.6)
            axes.axvline(0.0, color="black", linewidth=0.6)
            axes.set_xlabel(literal(title))
            axes.locator_params(axis="x", nbins=4)
        panes[0].set_yticks(range(len(names)), [literal(name) for name in names])
        panes[0].invert_yaxis()
    return figure


__all__ = ["layer_bars"]
