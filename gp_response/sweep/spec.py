"""A sweep as one asks for it, in Python or in a YAML or TOML file."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from gp_response.errors import InputError, unknown_name
from gp_response.experiment import Experiment, configure, unique
from gp_response.sweep.records import config_hash
from gp_response.sweep.space import Space, read_space

Kind = Literal["grid", "zip", "random", "bayes"]


@dataclass(frozen=True)
class Spec:
    """What to run.

    Attributes:
        axes: by parameter of the experiment, see `read_space`; parameters that are not named stay at their defaults.
        search: "grid": every combination. "zip": the k-th values together. "random": `samples` points. "bayes": `samples` points,
            each chosen by BoTorch from what is known of `objective` by then.
        samples: points of a random or Bayesian search.
        seeds: each point runs with the experiment's `seed` at 0, 1, …, seeds - 1; None leaves seeds to `axes`.
        objective: a number of the results that a Bayesian search makes small, or large if `maximise`; its mean over seeds.
        seed: of the search itself.
    """

    axes: Mapping[str, Any] = field(default_factory=dict)
    search: Kind = "grid"
    samples: int = 20
    seeds: int | None = None
    objective: str | None = None
    maximise: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.search not in ("grid", "zip", "random", "bayes"):
            raise unknown_name("search", str(self.search), ("grid", "zip", "random", "bayes"))
        if not isinstance(self.axes, Mapping):
            raise InputError(
                f"axes are {self.axes!r}; expected values by parameter, such as {{kernel: [rbf, matern32]}}"
            )
        for name, kind in (("samples", int), ("seeds", int), ("seed", int), ("maximise", bool), ("objective", str)):
            value = getattr(self, name)
            if type(value) is not kind and not (value is None and name in ("seeds", "objective")):
                raise InputError(f"{name} is {value!r}; it must be {kind.__name__}")
        if self.samples < 1 or (self.seeds is not None and self.seeds < 1):
            raise InputError(f"samples is {self.samples} and seeds {self.seeds}; both must be at least 1")
        if (self.search == "bayes") != (self.objective is not None):
            raise InputError(
                "search bayes needs an objective, the name of a number of the results; other searches have none"
            )

    def identity(self, experiment: Experiment) -> str:
        """Hash of what is asked of an experiment."""
        asked = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "axes"}
        axes = {name: repr(axis) for name, axis in self.space(experiment).axes.items()}
        return config_hash({**asked, "axes": axes, "experiment": experiment.name})

    def space(self, experiment: Experiment) -> Space:
        if self.seeds is not None and ("seed" in self.axes or "seed" not in experiment.defaults):
            raise InputError(f"seeds={self.seeds} needs {experiment.name} to have a parameter seed that no axis names")
        return read_space(experiment, self.axes)

    def points(self, experiment: Experiment) -> list[dict[str, Any]]:
        """Points of a search that knows them beforehand, seeds aside."""
        space = self.space(experiment)
        if self.search == "grid":
            return space.grid()
        return space.zipped() if self.search == "zip" else space.random(self.samples, self.seed)

    def seeded(self, experiment: Experiment, point: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The complete configurations of a point: one a seed."""
        every = [{}] if self.seeds is None else [{"seed": seed} for seed in range(self.seeds)]
        return [configure(experiment, {**point, **one}) for one in every]

    def configs(self, experiment: Experiment) -> list[dict[str, Any]]:
        """All configurations, each once."""
        return unique(c for point in self.points(experiment) for c in self.seeded(experiment, point))


def read_spec(path: Path | str) -> tuple[str, Spec, dict[str, Any]]:
    """Experiment, spec and remaining settings (engine, workers, …) of a .yaml, .yml, .toml or .json file.

    The file has `experiment`, `axes`, and any other attribute of `Spec`.
    """
    path = Path(path)
    readers = {".yaml": yaml.safe_load, ".yml": yaml.safe_load, ".toml": tomllib.loads, ".json": json.loads}
    if path.suffix not in readers:
        raise InputError(f"{path} is no sweep file; expected .yaml, .toml or .json")
    try:
        found = readers[path.suffix](path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"sweep file {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or "experiment" not in found:
        raise InputError(f"sweep file {path} names no experiment; write for example experiment: fdt_gap")
    own = {f.name for f in fields(Spec)}
    rest = {key: value for key, value in found.items() if key not in own | {"experiment"}}
    return str(found["experiment"]), Spec(**{key: found[key] for key in own & found.keys()}), rest


__all__ = ["Spec", "read_spec"]
