"""The driver of a sweep: writes the plan, has an engine run workers, watches the disk. Its death loses nothing."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gp_response.errors import GPResponseError
from gp_response.experiment import Experiment, configure, unique
from gp_response.sweep.adaptive import adaptive
from gp_response.sweep.engines import Resources, crew
from gp_response.sweep.plan import Limits, Plan
from gp_response.sweep.spec import Spec
from gp_response.sweep.watch import How, Outcome, left_of, outcome_of, pause, progress, told


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
        raise GPResponseError(
            f"{len(found.failures)} of {total} runs of {experiment.name} failed; the first, {told(first)}"
        )
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
        return adaptive(experiment, configs, folder.resolve(), how, force)
    if isinstance(configs, Spec):
        chosen = configs.configs(experiment)
    else:
        chosen = unique(configure(experiment, config) for config in configs)
    plan = Plan(experiment.path, folder.resolve(), chosen, how.limits)
    plan.board.reopen(plan.names(), force=force)
    left = left_of(plan)
    with progress(plan) as bar:
        if left:
            plan.write()
            with crew(how.engine, plan.path, how.resources, left=len(left), options=how.options) as workers:
                while left:
                    workers.tend()
                    pause(plan)
                    left = left_of(plan)  # another driver may have a failed run tried again
                    bar.show(plan, workers, left)
    return outcome_of(plan)


__all__ = ["How", "Outcome", "conduct", "sweep"]
