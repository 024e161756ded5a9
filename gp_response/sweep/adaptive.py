"""A sweep whose points are chosen while it runs."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gp_response.errors import GPResponseError
from gp_response.experiment import Experiment
from gp_response.sweep.bayes import propose, spread, start_count
from gp_response.sweep.board import Board
from gp_response.sweep.engines import crew
from gp_response.sweep.frame import finite, flat
from gp_response.sweep.plan import Plan
from gp_response.sweep.records import read_result, run_name
from gp_response.sweep.spec import Spec, unique
from gp_response.sweep.watch import How, Outcome, left_of, outcome_of, pause, progress


def adaptive(experiment: Experiment, spec: Spec, folder: Path, how: How, force: bool) -> Outcome:
    """A plan that grows: whenever less than a worker's share of it is left, points are added from what is known."""
    space = spec.space(experiment)
    plan = Plan(experiment.path, folder, [], how.limits, growing=True, identity=spec.identity(experiment))
    points = unique(spread(space, min(start_count(space), spec.samples), spec.seed))
    if plan.path.exists() and not force:
        points = _points_of(Plan.read(plan.path), space.axes)
    plan = replace(plan, configs=_configs_of(experiment, spec, points))
    plan.board.reopen(plan.names(), force=force)
    plan.write()
    with (
        progress(plan) as bar,
        crew(how.engine, plan.path, how.resources, left=spec.samples, options=how.options) as workers,
    ):
        more = len(points) < spec.samples
        while more or left_of(plan):
            bar.show(plan, workers, left := left_of(plan))
            if more and len(left) < workers.count * (spec.seeds or 1):
                fresh = _next_points(experiment, spec, plan, points)
                points = [*points, *fresh]
                more = bool(fresh) and len(points) < spec.samples  # a space of few points is used up before
                plan = replace(plan, configs=_configs_of(experiment, spec, points))
                plan.write()
                continue
            workers.tend()
            pause(plan)
        bar.show(plan, workers, [])
        replace(plan, growing=False).write()
    return outcome_of(plan)


def _configs_of(experiment: Experiment, spec: Spec, points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return unique(config for point in points for config in spec.seeded(experiment, point))


def _points_of(plan: Plan, axes: Iterable[str]) -> list[dict[str, Any]]:
    """The points of a plan's configurations, in order, each once."""
    points = [{name: config[name] for name in axes} for config in plan.configs]
    return unique(points)


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


__all__ = ["adaptive"]
