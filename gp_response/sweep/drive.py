"""The driver of a sweep: writes the plan, has an engine run workers, watches the disk. Its death loses nothing."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tqdm

from gp_response.errors import GPResponseError
from gp_response.experiment import Experiment, configure
from gp_response.sweep.bayes import propose, spread, start_count
from gp_response.sweep.board import Board
from gp_response.sweep.engines import Crew, Resources, crew
from gp_response.sweep.frame import finite, flat
from gp_response.sweep.plan import Limits, Plan
from gp_response.sweep.records import config_hash, read_result, run_name
from gp_response.sweep.spec import Spec, unique

PAUSE = 0.1  # seconds between looks at the disk


@dataclass(frozen=True)
class How:
    """Where and within which limits runs run; see `Resources`, `Limits`, `engines`."""

    engine: str = "local"
    resources: Resources = field(default_factory=Resources)
    limits: Limits = field(default_factory=Limits)
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """Of a sweep: the result files of its configurations in their order, and what is known of those that failed."""

    paths: list[Path]
    failures: list[dict[str, Any]]


def sweep(
    experiment: Experiment, configs: "Iterable[Mapping[str, Any]] | Spec", folder: Path | str, *, force: bool = False,
    engine: str = "local", workers: int | None = None, threads: int | None = None, gpus: int = 0,
    limits: Limits | None = None, options: Mapping[str, Any] | None = None,
) -> list[Path]:  # fmt: skip
    """Run every configuration that has no result in `folder` yet, each in a process of its own, and show the progress.

    Killed at any moment, driver and workers alike, the same call goes on where it was. A run that fails does not stop the others.

    Args:
        configs: configurations, or a `Spec` that names a grid, a zip, or a random or Bayesian search.
        force: run also what has a result; the old ones are moved to `folder/.sweep/replaced`.
        engine: "local", "slurm" or "ray".
        workers, threads, gpus: see `Resources`.
        limits: of each run.
        options: of the engine, such as SLURM's partition.

    Returns:
        the result files.

    Raises:
        GPResponseError: runs failed; how many, and the first one. Tracebacks are in `folder/.sweep/failures`, all that
            a run printed is in `folder/.sweep/logs`.
    """
    how = How(engine, Resources(workers, threads, gpus), limits or Limits(), options)
    found = conduct(experiment, configs, Path(folder), how, force=force)
    if found.failures:
        first, total = found.failures[0], len(found.failures) + len(found.paths)
        what = f"{first['config']}: {first['error']}: {first['message']}"
        raise GPResponseError(f"{len(found.failures)} of {total} runs of {experiment.name} failed; the first, {what}")
    return found.paths


def conduct(
    experiment: Experiment,
    configs: "Iterable[Mapping[str, Any]] | Spec",
    folder: Path,
    how: How,
    *,
    force: bool = False,
) -> Outcome:
    """`sweep`, with the failures returned."""
    if isinstance(configs, Spec) and configs.search == "bayes":
        return _bayes(experiment, configs, folder.resolve(), how, force)
    if isinstance(configs, Spec):
        chosen = configs.configs(experiment)
    else:
        chosen = unique(configure(experiment, config) for config in configs)
    plan = Plan(experiment.path, folder.resolve(), chosen, how.limits)
    plan.board.reopen(plan.names(), force=force)
    left = _left(plan)
    with progress(plan) as bar:
        if left:
            plan.write()
            with crew(how.engine, plan.path, how.resources, left=len(left), options=how.options) as workers:
                while left:
                    workers.tend()
                    time.sleep(PAUSE)
                    left = [name for name in left if not plan.board.over(name)]
                    bar.show(plan, workers, left)
    return _outcome(plan)


def _left(plan: Plan) -> list[str]:
    return [name for name in plan.names() if not plan.board.over(name)]


def _outcome(plan: Plan) -> Outcome:
    names = plan.names()
    return Outcome([plan.board.result(n) for n in names if plan.board.done(n)], plan.board.failures(names))


class Bar:
    """Counts, failures and the time left, in one line; what was done before this call does not enter the rate."""

    def __init__(self, bar: Any):
        self.bar = bar

    def show(self, plan: Plan, workers: Crew, left: list[str]) -> None:
        self.bar.total = len(plan.configs)
        self.bar.update(len(plan.configs) - len(left) - self.bar.n)
        failed = sum(plan.board.failure(name).exists() for name in plan.names()) if left or self.bar.n else 0
        self.bar.set_postfix_str(f"{failed} failed, {workers.note()}")


@contextmanager
def progress(plan: Plan) -> Iterator[Bar]:
    done = len(plan.configs) - len(_left(plan))
    with tqdm.tqdm(total=len(plan.configs), initial=done, desc=plan.experiment.stem, unit="run") as bar:
        yield Bar(bar)


def _bayes(experiment: Experiment, spec: Spec, folder: Path, how: How, force: bool) -> Outcome:
    """A plan that grows: whenever less than a worker's share of it is left, points are added from what is known."""
    space = spec.space(experiment)
    plan = Plan(experiment.path, folder, [], how.limits, growing=True, identity=spec.identity(experiment))
    points = spread(space, min(start_count(space), spec.samples), spec.seed)
    if plan.path.exists() and not force:
        points = _points_of(Plan.read(plan.path), space.axes)
    plan = replace(plan, configs=_configs_of(experiment, spec, points))
    plan.board.reopen(plan.names(), force=force)
    plan.write()
    with (
        progress(plan) as bar,
        crew(how.engine, plan.path, how.resources, left=spec.samples, options=how.options) as workers,
    ):
        while True:
            left = _left(plan)
            bar.show(plan, workers, left)
            if len(points) < spec.samples and len(left) < max(1, getattr(workers, "count", 1)) * (spec.seeds or 1):
                fresh = _next_points(experiment, spec, plan, points)
                points = [*points, *fresh]
                plan = replace(plan, configs=_configs_of(experiment, spec, points))
                plan.write()
                if fresh:
                    continue
            if not left:
                break
            workers.tend()
            time.sleep(PAUSE)
    replace(plan, growing=False).write()
    return _outcome(plan)


def _configs_of(experiment: Experiment, spec: Spec, points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return unique(config for point in points for config in spec.seeded(experiment, point))


def _points_of(plan: Plan, axes: Iterable[str]) -> list[dict[str, Any]]:
    """The points of a plan's configurations, in order, each once."""
    points = [{name: config[name] for name in axes} for config in plan.configs]
    return list({config_hash(point): point for point in points}.values())


def _next_points(
    experiment: Experiment, spec: Spec, plan: Plan, points: list[dict[str, Any]]
) -> list[dict[str, Any]]:  # fmt: skip
    """One more point. Points of which a run failed are not proposed again, and teach nothing."""
    space, seen, waiting = spec.space(experiment), [], []
    for point in points:
        names = [run_name(experiment.name, config) for config in spec.seeded(experiment, point)]
        values = [_objective(plan.board, name, str(spec.objective)) for name in names]
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            seen.append((point, (1.0 if spec.maximise else -1.0) * sum(known) / len(known)))
        else:
            waiting.append(point)
    if len(seen) < 2:
        return [p for p in spread(space, 64, spec.seed, skip=len(points)) if p not in points][:1]
    return propose(space, seen, waiting, 1, spec.seed)


def _objective(board: Board, name: str, objective: str) -> float | None:
    """The objective of a run: None while it is not there. Raises GPResponseError where the result lacks it."""
    record = read_result(board.result(name))
    if record is None:
        return None
    numbers = flat(record["result"])
    if objective not in numbers:
        raise GPResponseError(f"results have no number {objective!r}; they have {', '.join(numbers)}")
    return float(numbers[objective]) if finite(numbers[objective]) else None


__all__ = ["How", "Outcome", "conduct", "sweep"]
