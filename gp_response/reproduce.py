"""Run every experiment at one scale: a plan with its costs, steps that go on where they were, failures that stop nothing."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gp_response.errors import GPResponseError, InputError, brief
from gp_response.experiment import Experiment, experiments, project, read_experiment, unique
from gp_response.files import write_atomically
from gp_response.provenance import machine
from gp_response.report import Report, write_report
from gp_response.scales import Scale, configs_at, scale_folder
from gp_response.sources import machine_text
from gp_response.sweep import How, Outcome, Resources, conduct, read_result, result_path, results
from gp_response.sweep.ablation import ablations
from gp_response.sweep.commands import RESULTS
from gp_response.sweep.engines.crew import cores
from gp_response.sweep.records import run_name

TIMES = Path("paper", "quick.json")


@dataclass(frozen=True)
class Step:
    """One experiment of a plan: its configurations, those without a result, and what these will take.

    `seconds` is None where no run of the experiment has ever been recorded; `guessed` counts runs whose time is the
    mean of the experiment's recorded ones.
    """

    experiment: Experiment
    configs: list[dict[str, Any]]
    left: list[dict[str, Any]]
    seconds: float | None
    guessed: int
    workers: int

    def line(self) -> str:
        cost = "unknown" if self.seconds is None else f"{self.seconds / 60:.1f} min"
        note = f" ({self.guessed} of them guessed)" if self.guessed and self.seconds is not None else ""
        count = f"{len(self.configs) - len(self.left)}/{len(self.configs)}"
        return f"{self.experiment.name:26s} {count:>8s} {cost if self.left else 'done':>10s}{note if self.left else ''}"


def plan(folder: Path, scale: Scale, target: Path, known: Mapping[str, float], workers: int) -> list[Step]:
    """A step for every experiment in `folder`, its ablations included, given the seconds of runs by name (`known`)."""
    steps, asked = [], ablations(folder / "ablations").values()
    for path in experiments(folder).values():
        experiment = read_experiment(path)
        swept = [c for a in asked if a.experiment == experiment.name for c in a.configs(experiment, scale=scale)]
        configs = unique([*configs_at(experiment, scale), *swept])
        left = [config for config in configs if read_result(result_path(experiment.name, config, target)) is None]
        times = [seconds for name, seconds in known.items() if name.rpartition("-")[0] == experiment.name]
        found = [known.get(run_name(experiment.name, config)) for config in left]
        guessed = sum(seconds is None for seconds in found)
        at_once = 1 if experiment.alone else min(workers, max(1, len(left)))
        seconds = None
        if times or not guessed:
            mean = sum(times) / max(1, len(times))
            seconds = sum(mean if s is None else s for s in found) / at_once
        steps.append(Step(experiment, configs, left, seconds, guessed, at_once))
    return steps


def known_times(root: Path, scale: Scale) -> tuple[dict[str, float], str]:
    """Seconds of runs by name, and the machines that they were measured on."""
    if scale == "full":
        records = results(root / RESULTS)
        names = {run_name(r["experiment"], r["config"]): r["seconds"] for r in records}
        return names, "; ".join(sorted({machine_text(r["machine"]) for r in records})) or "no machine yet"
    path = root / TIMES
    if scale == "smoke" or not path.is_file():
        return {}, "no machine yet"
    facts = json.loads(path.read_text(encoding="utf-8"))
    return facts["seconds"], machine_text(facts["machine"])


def print_plan(steps: list[Step], scale: Scale, where: str) -> None:
    print(f"{scale} scale; seconds as measured on {where}")
    print(f"{'experiment':26s} {'done':>8s} {'left':>10s}")
    for step in steps:
        print(step.line())
    print(f"left in all: {_total(steps)}\n", flush=True)


def _total(steps: list[Step]) -> str:
    open_steps = [step for step in steps if step.left]
    unknown = [step.experiment.name for step in open_steps if step.seconds is None]
    total = sum(step.seconds or 0.0 for step in open_steps)
    text = f"{total / 60:.0f} min" if total < 7200 else f"{total / 3600:.1f} h"
    return f"{text}{f', and {len(unknown)} steps that have never been timed' if unknown else ''}"


def reproduce(
    scale: Scale, *, workers: int | None = None, only_plan: bool = False, record: bool = False, root: Path | None = None
) -> bool:
    """Run what has no result yet, experiment by experiment, then draw figures and numbers; True where nothing failed.

    Args:
        scale: "smoke", "quick" or "full"; results go to paper/build/SCALE/results of the project.
        workers: runs at a time; experiments that measure time run alone whatever it is. None: one a core for quick and
            smoke, one for full, whose runs take up to 15 GiB each.
        only_plan: print the plan and stop.
        record: keep the seconds of this machine as the next plan's estimates (quick scale, when all is done).
        root: of the project.
    """
    root = root or project()
    if record and scale != "quick":
        raise InputError("seconds are recorded for the quick scale only; at full size they are in the result files")
    target = root / scale_folder(scale)
    workers = workers or (1 if scale == "full" else cores())
    known, where = known_times(root, scale)
    steps = plan(root / "experiments", scale, target, known, workers)
    print_plan(steps, scale, where)
    if only_plan:
        return True
    started = time.monotonic()
    outcomes: dict[str, Outcome] = {}
    for at, step in enumerate(steps):
        begun = time.monotonic()
        threads = max(1, cores() // step.workers)
        how = How(resources=Resources(step.workers, threads))
        try:
            outcome = conduct(step.experiment, step.configs, target, how)
        except GPResponseError as error:  # workers that cannot start: the other steps may
            outcome = Outcome(
                [], [{"config": "all", "error": "Workers", "message": str(error), "log": target / ".sweep"}]
            )
        outcomes[step.experiment.name] = outcome
        print(
            f"[{at + 1}/{len(steps)}] {step.experiment.name}: {len(outcome.paths)} of {len(step.configs)} results, "
            f"{(time.monotonic() - begun) / 60:.1f} min; left: {_total(steps[at + 1 :])}",
            flush=True,
        )
        _tell(outcome)
    minutes = (time.monotonic() - started) / 60
    found = write_report(root / "experiments", target, target.parent, tex=root / "paper" / "main.tex", lenient=True)
    done = sum(len(outcome.paths) for outcome in outcomes.values())
    print(
        f"\n{scale} scale: {done} of {sum(len(s.configs) for s in steps)} runs have results; {minutes:.1f} min this time"
    )
    for name, outcome in outcomes.items():
        for failure in outcome.failures:
            print(f"without a result: {name} {failure['config']}: {_why(failure)}")
    print_report(found, target.parent)
    if record and all(step.left == step.configs for step in steps):
        _record(root, target, minutes)
    return all(_skipped(f) for outcome in outcomes.values() for f in outcome.failures)


def print_report(found: Report, out: Path) -> None:
    """What was written to `out`, and what is missing."""
    print(f"{len(found.variables)} numbers in {out / 'variables.tex'}, figures in {out / 'figures'}")
    lists = {"experiments": found.unrun, "figures": found.figures, "numbers": found.numbers}
    for kind, names in lists.items():
        if names:
            print(f"not run, {len(names)} {kind}: {', '.join(names)}")


def _skipped(failure: Mapping[str, Any]) -> bool:
    return failure["error"] == "MissingDependency"


def _why(failure: Mapping[str, Any]) -> str:
    return f"{'skipped' if _skipped(failure) else 'failed'}: {brief(failure['message'], 400)} (log {failure['log']})"


def _tell(outcome: Outcome) -> None:
    reasons = {_why(failure).partition(" (log")[0] for failure in outcome.failures}
    for reason in sorted(reasons):
        print(f"    {reason}", flush=True)


def _record(root: Path, target: Path, minutes: float) -> None:
    seconds = {run_name(r["experiment"], r["config"]): round(r["seconds"], 1) for r in results(target)}
    facts = {"minutes": round(minutes, 1), "machine": machine(), "seconds": seconds}
    print(f"-> {write_atomically(root / TIMES, json.dumps(facts, indent=1) + chr(10))}")


__all__ = ["Step", "known_times", "plan", "print_report", "reproduce"]
