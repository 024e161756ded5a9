"""The sizes at which experiments run: smoke (seconds, no meaning), quick (minutes, meaningful), full (what the paper claims).

Every experiment declares `GRID` (full) and `SMOKE`; `QUICK` is a grid like `GRID`, without it quick is the smoke size.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from gp_response.experiment import Experiment, configure, grid, unique

Scale = Literal["smoke", "quick", "full"]
SCALES: tuple[Scale, ...] = get_args(Scale)
OTHER = "other settings"


def configs_at(experiment: Experiment, scale: Scale) -> list[dict[str, Any]]:
    """The complete configurations that `scale` stands for, in order."""
    if scale == "smoke":
        chosen: Iterable[Mapping[str, Any]] = [experiment.smoke]
    else:
        chosen = grid(experiment, experiment.quick if scale == "quick" else None)
    return unique(configure(experiment, config) for config in chosen)


def scales_of(experiment: Experiment, configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each, "full", "quick", "smoke" or "other settings". Full is the grid, and what differs from it in the grid's keys alone.

    Parameters that main has got since a result was made count as their defaults; those that it has lost do not count.
    """
    defaults = experiment.defaults
    # In this order: where an experiment has no quick size, its smoke size is that.
    orders: tuple[Scale, ...] = ("full", "smoke", "quick")
    known = {scale: configs_at(experiment, scale) for scale in orders}
    found = []
    for given in configs:
        config = configure(experiment, {key: value for key, value in given.items() if key in defaults})
        odd = any(config[key] != value for key, value in defaults.items() if key not in experiment.grid)
        found.append(next((scale for scale in orders if config in known[scale]), OTHER if odd else "full"))
    return found


def largest(records: Sequence[Mapping[str, Any]], *names: str) -> list[Any]:
    """The records whose parameters `names` are the largest there are, taken in that order; None stands for all there is.

    So a report made for full size tells of quick runs where there are no others.
    """

    def size(record: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(math.inf if (value := record["config"][name]) is None else value for name in names)

    most = max(map(size, records), default=())
    return [record for record in records if size(record) == most]


def scale_folder(scale: Scale) -> Path:
    """Where the results of runs made to reproduce lie, within the project."""
    return Path("paper", "build", scale, "results")


__all__ = ["OTHER", "SCALES", "Scale", "configs_at", "largest", "scale_folder", "scales_of"]
