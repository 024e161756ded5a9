"""A sweep whose points are chosen while it runs."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gp_response.claims import Claim
from gp_response.errors import GPResponseError, InputError
from gp_response.experiment import Experiment, unique
from gp_response.sweep.bayes import propose, spread, start_count
from gp_response.sweep.board import Board
from gp_response.sweep.engines import crew
from gp_response.sweep.frame import finite, flat
from gp_response.sweep.plan import Plan
from gp_response.sweep.records import read_result, run_name
from gp_response.sweep.spec import Spec
from gp_response.sweep.watch import How, Outcome, left_of, outcome_of, pause, progress


def adaptive(experiment: Experiment, spec: Spec, folder: Path, how: How, force: bool) -> Outcome:
    """A plan that grows: whenever less than a worker's share of it is left, points are added from what is known.

    Of several drivers of one search the one that holds the claim on its plan adds points; the others lend their workers,
    and one of them takes over when it is gone.
    """
    if not spec.axes:
        raise InputError("search bayes needs parameters to choose, got none; write for example rate=log:1e-4..1e-1")
    plan = Plan(experiment.path, folder, [], how.limits, growing=True, identity=spec.identity(experiment))
    claims = plan.board.claims()
    lead: Claim | None = claims.take(plan.name)
    try:
        if lead:
            plan = _begun(experiment, spec, plan, force)
        with (
            progress(plan) as bar,
            crew(how.engine, plan.path, how.resources, left=spec.samples, options=how.options) as workers,
        ):
            while plan.growing or left_of(plan):
                lead = lead if lead and lead.beat() else claims.take(plan.name)
                if lead:
                    if not plan.configs:
                        plan = _begun(experiment, spec, plan, force)
                    while plan.growing and len(left_of(plan)) < workers.count * (spec.seeds or 1):
                        plan = _grown(experiment, spec, plan, force)
                elif plan.path.exists():
                    plan = replace(Plan.read(plan.path), limits=how.limits)
                bar.show(plan, workers, left_of(plan))
                if plan.configs:
                    workers.tend()
                pause(plan)
            bar.show(plan, workers, [])
        for name in plan.names():  # a search so short that it asked for no objective must not hide that there is none
            _objective(plan.board, name, str(spec.objective))
    finally:
        if lead:
            lead.release()
    return outcome_of(plan)


def _begun(experiment: Experiment, spec: Spec, plan: Plan, force: bool) -> Plan:
    """With the points that were proposed before, or with evenly spread ones; written."""
    space = spec.space(experiment)
    points = unique(spread(space, min(start_count(space), spec.samples), spec.seed))
    if plan.path.exists() and not force:
        points = _points_of(Plan.read(plan.path), space.axes)
    plan = replace(plan, configs=_configs_of(experiment, spec, points))
    plan.board.reopen(plan.names(), force=force)
    plan.write()
    return plan


def _grown(experiment: Experiment, spec: Spec, plan: Plan, force: bool) -> Plan:
    """With one more point, or not growing any more; written."""
    points = _points_of(plan, spec.space(experiment).axes)
    fresh = _next_points(experiment, spec, plan, points) if len(points) < spec.samples else []
    added = [config for config in _configs_of(experiment, spec, fresh) if config not in plan.configs]
    plan.board.reopen([run_name(experiment.name, config) for config in added], force=force)
    # A space of few points is used up before.
    plan = replace(plan, configs=[*plan.configs, *added], growing=bool(added))
    plan.write()
    return plan


def _configs_of(experiment: Experiment, spec: Spec, points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return unique(config for point in points for config in spec.seeded(experiment, point))


def _points_of(plan: Plan, axes: Iterable[str]) -> list[dict[str, Any]]:
    """The points of a plan's configurations, in order, each once."""
    return unique({name: config[name] for name in axes} for config in plan.configs)


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
