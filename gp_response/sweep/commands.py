"""The commands about sweeps: gp-response sweep | table | plot."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from gp_response.claims import LEASE
from gp_response.errors import GPResponseError, InputError, unknown_name
from gp_response.experiment import load_experiment, project
from gp_response.files import write_atomically
from gp_response.plots import save
from gp_response.sweep.ablation import ABOUT
from gp_response.sweep.compare import differences, grouping, means
from gp_response.sweep.draw import draw
from gp_response.sweep.drive import How, Outcome, conduct
from gp_response.sweep.engines import Resources
from gp_response.sweep.frame import frame, matching
from gp_response.sweep.plan import Limits
from gp_response.sweep.records import config_hash, results
from gp_response.sweep.show import as_latex, as_text, lay_out
from gp_response.sweep.space import assignments, pieces
from gp_response.sweep.spec import Kind, Spec, read_spec
from gp_response.sweep.watch import told

RESULTS = Path("paper", "results")
UNITS = {"": 1, "k": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Sweep:
    """Run many configurations of an experiment, on this machine, SLURM or Ray. Killed at any moment, the same command goes on."""

    experiment: tyro.conf.Positional[str]
    """name of the experiment, see `gp-response list`; or a .yaml, .toml or .json file that describes the sweep"""
    axes: tyro.conf.Positional[tuple[str, ...]] = ()
    """key=values: kernel=rbf,matern32 (each), seed=0..4 (integers), lr=1e-4..1e-1 or lr=log:1e-4..1e-1 (a range)"""
    search: Kind | None = None
    """grid (default): every combination; zip: the k-th values together; random; bayes: BoTorch chooses"""
    samples: int | None = None
    """points of a random or Bayesian search [20]"""
    seeds: int | None = None
    """run each point at seed=0 … seeds-1"""
    objective: str | None = None
    """number of the results that search bayes makes small"""
    maximise: bool = False
    """make the objective large instead"""
    search_seed: int | None = None
    """seed of a random or Bayesian search [0]"""
    engine: Literal["local", "slurm", "ray"] | None = None
    """where the runs run [local]"""
    workers: int | None = None
    """runs at a time [local: as many as fit on the cores at so many --threads; slurm: 2; ray: as many as fit]"""
    threads: int | None = None
    """threads of each worker [local: the cores shared out; else 1]"""
    gpus: int | None = None
    """GPUs of each worker [0]"""
    time_limit: str | None = None
    """of a run, as 90, 30m, 2h"""
    memory_limit: str | None = None
    """of a run, as 500M, 4G"""
    attempts: int | None = None
    """how often a run whose worker or node was killed is tried [10]"""
    lease: float | None = None
    """seconds of silence after which a worker on another machine counts as gone [60]"""
    option: tuple[str, ...] = ()
    """key=value for the engine: slurm partition=…, time=… (minutes), mem=…; ray address=…"""
    force: bool = False
    """run also what has a result"""
    dry: bool = False
    """only count what is done and what is left"""
    results: Path | None = None
    """folder of result files [paper/results of the project]"""
    experiments: Path | None = None
    """folder of experiments [experiments of the project]"""

    def __call__(self) -> None:
        name, spec, rest = self._asked()
        experiment = load_experiment(name, self.experiments or project() / "experiments")
        folder = self.results or project() / RESULTS
        if self.dry and spec.search == "bayes":
            raise InputError(
                "--dry cannot count a search bayes, whose points are chosen while it runs; leave out one of them"
            )
        if self.dry:
            return self._count(spec.configs(experiment), folder, name)
        outcome = conduct(experiment, spec, folder, self._how(rest), force=self.force)
        _tell(outcome, folder)
        return None

    def _asked(self) -> tuple[str, Spec, dict[str, Any]]:
        """Experiment, spec and settings of the file where there is one; what the command line says goes first."""
        name, spec = self.experiment, Spec()
        rest: dict[str, Any] = {}
        if Path(self.experiment).suffix:
            name, spec, rest = read_spec(self.experiment)
            rest = {key: value for key, value in rest.items() if key not in ABOUT}
        said: dict[str, Any] = {
            "search": self.search,
            "samples": self.samples,
            "seeds": self.seeds,
            "objective": self.objective,
        }
        said |= {"maximise": self.maximise or None, "seed": self.search_seed}
        changes = {key: value for key, value in said.items() if value is not None}
        return name, replace(spec, axes={**spec.axes, **assignments(self.axes)}, **changes), rest

    def _how(self, rest: Mapping[str, Any]) -> How:
        names = ("engine", "workers", "threads", "gpus", "time_limit", "memory_limit", "attempts", "lease", "option")
        for name in rest:
            if name not in names:
                raise unknown_name("setting of a sweep file", name, [*names, *(f.name for f in fields(Spec))])
        said = {name: value for name in names if (value := getattr(self, name)) not in (None, ())}
        get: dict[str, Any] = {
            "engine": "local",
            "gpus": 0,
            "attempts": Limits.attempts,
            "lease": LEASE,
            **rest,
            **said,
        }
        limits = Limits(
            quantity(get["time_limit"], TIMES, "90, 30m, 2h") if "time_limit" in get else None,
            int(quantity(get["memory_limit"], UNITS, "500M, 4G")) if "memory_limit" in get else None,
            get["attempts"], get["lease"],
        )  # fmt: skip
        given = get.get("option", ())
        options = given if isinstance(given, Mapping) else _options((given,) if isinstance(given, str) else given)
        return How(get["engine"], Resources(get.get("workers"), get.get("threads"), get["gpus"]), limits, options)

    def _count(self, configs: list[dict[str, Any]], folder: Path, name: str) -> None:
        known = {config_hash(record["config"]) for record in results(folder, name)}
        done = sum(config_hash(config) in known for config in configs)
        print(f"{len(configs)} runs: {done} done, {len(configs) - done} left")


def _tell(outcome: Outcome, folder: Path) -> None:
    print(f"{len(outcome.paths)} results in {folder}")
    for failure in outcome.failures[:5]:
        print(f"failed: {told(failure)}; log {failure['log']}")
    if outcome.failures:
        total = len(outcome.paths) + len(outcome.failures)
        raise GPResponseError(
            f"{len(outcome.failures)} of {total} runs failed; tracebacks in {folder / '.sweep' / 'failures'}"
        )


def quantity(text: Any, units: Mapping[str, int], example: str) -> float:
    """A number with a unit."""
    found = re.fullmatch(r"([\d.]+)\s*([a-zA-Z]?)i?[bB]?", str(text).strip())
    if not found or found.group(2) not in units or not re.fullmatch(r"\d*\.?\d+|\d+\.", found.group(1)):
        raise InputError(f"{text!r} is no quantity; write for example {example}")
    return float(found.group(1)) * units[found.group(2)]


def _options(words: Sequence[str]) -> dict[str, Any]:
    """key=value pairs, values as JSON where they are."""
    found: dict[str, Any] = {}
    for key, text in assignments(words).items():
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:
            found[key] = text
    return found


@dataclass(frozen=True)
class Compared:
    """What `table` and `plot` read."""

    experiment: tyro.conf.Positional[str]
    """name of the experiment"""
    value: str
    """number of the results; for a table several, as rmse,nll"""
    where: tuple[str, ...] = ()
    """key=values: only these runs"""
    results: Path | None = None
    """folder of result files [paper/results of the project]"""

    def table(self) -> Any:
        folder = self.results or project() / RESULTS
        found = frame(folder, self.experiment)
        for key, text in assignments(self.where).items():
            if key not in found.attrs["parameters"]:
                raise unknown_name(f"parameter of {self.experiment}", key, found.attrs["parameters"])
            found = found[np.any([matching(found[key], piece) for piece in pieces(text)], axis=0)]
        if not len(found):
            raise InputError(f"no result of {self.experiment} in {folder} is where {' '.join(self.where)}")
        return found


@dataclass(frozen=True)
class Table(Compared):
    """Means over seeds (and whatever else varies) with confidence intervals, the best in bold; paired differences."""

    rows: str | None = None
    """parameters down the side, as kernel,noise [the first that varies, `seed` aside]"""
    columns: str | None = None
    """parameter across the top"""
    best: Literal["min", "max", "none"] = "min"
    """which mean of a column is printed bold"""
    along: Literal["column", "row"] = "column"
    """the best of each column, or of each row"""
    baseline: str | None = None
    """key=value: also differences from it, pairing runs that agree in everything else"""
    level: float = 0.95
    """of the confidence intervals (Student's t over runs)"""
    latex: Path | None = None
    """file for the table as LaTeX (booktabs); CSV where it ends in .csv"""

    def __call__(self) -> None:
        table, values = self.table(), self.value.split(",")
        rows, averaged = grouping(table, self.rows.split(",") if self.rows else None, self.columns)
        by = [*rows, *([self.columns] if self.columns else [])]
        summary = means(table, values, by=by, level=self.level)
        grid = lay_out(summary, rows, self.columns, best=self.best, along=self.along)
        print(as_text(grid))
        starred = "; * best" if any(cell.best for cell in grid.cells.values()) else ""
        print(f"mean ± {self.level:.0%} interval over {' and '.join(averaged) or 'one run each'}{starred}")
        if self.latex:
            text = summary.to_csv(index=False) if self.latex.suffix == ".csv" else as_latex(grid)
            print(f"-> {write_atomically(self.latex, text)}")
        if self.baseline:  # last, for there may be nothing to pair
            self._differences(table, values)

    def _differences(self, table: Any, values: list[str]) -> None:
        [(key, text)] = assignments([str(self.baseline)]).items()
        for value in values:
            found = differences(table, value, key, text, level=self.level)
            print(f"\n{value}: difference from {self.baseline}, runs paired")
            print(found.to_string(index=False, float_format=lambda number: f"{number:.4g}"))


@dataclass(frozen=True)
class Plot(Compared):
    """One line a value of a parameter: means over seeds with confidence intervals, against another parameter."""

    x: str | None = None
    """parameter on the horizontal axis [the first that varies, `seed` aside]"""
    lines: str | None = None
    """parameter with one line a value"""
    panels: str | None = None
    """parameter with one panel a value"""
    log: str = ""
    """axes that are logarithmic: x, y or xy"""
    level: float = 0.95
    """of the confidence intervals"""
    out: Path | None = None
    """figure file: .pdf, .png or .svg [EXPERIMENT-VALUE.pdf here]"""

    def __call__(self) -> None:
        figure = draw(
            self.table(), self.value, x=self.x, lines=self.lines, panels=self.panels, log=self.log, level=self.level
        )
        print(f"-> {save(figure, self.out or Path(f'{self.experiment}-{self.value}.pdf'))}")


__all__ = ["RESULTS", "Plot", "Sweep", "Table"]
