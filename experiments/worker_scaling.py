"""How much faster do two workers finish a sweep of 40 small runs than one?

Claim: at least 1.7 times, on two cores that nothing else uses: workers import once, and each has its own share of the threads.

The same 40 runs of `ablation` (fits of 200 rows, one seed each) go through the local engine by one worker and by two, of one
thread each, start of the workers included, into folders of their own; the better of `repeats` each, in turns. What else was
running is told beside: the load average before each sweep, and `core_share`, the processor time of a sweep's processes over
its wall time and number of workers, which is 1 where each worker had a core to itself.

Command: gp-response run worker_scaling [--smoke]
Cost: 5 minutes on two cores.
Expected: `ratio` 1.7 or more where `core_share` is near 1; 1.87 on a quiet machine.
"""

import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from gp_response.report import number
from gp_response.scales import largest
from gp_response.sweep import How, Resources, Spec, conduct, read_experiment, results

GRID: dict[str, list[Any]] = {}
SMOKE = {"runs": 2, "n": 40, "repeats": 1}


def main(runs: int = 40, n: int = 400, workers: int = 2, repeats: int = 2, seed: int = 0) -> dict[str, Any]:
    """runs: of the sweep. n: training rows of each. workers: to compare with one."""
    small = {"n": n, "fit_rows": n // 2, "steps": 20, "refits": 1}
    spec = Spec({**small, "seed": list(range(seed, seed + runs))})
    found: dict[int, list[dict[str, float]]] = {1: [], workers: []}
    for _ in range(repeats):
        for count, timed in found.items():
            timed.append(one_sweep(spec, count, runs))
    one, many = (min(found[count], key=lambda f: f["seconds"]) for count in (1, workers))
    return {
        "runs": runs, "workers": workers, "cores": len(os.sched_getaffinity(0)), "seconds_one": one["seconds"],
        "seconds_many": many["seconds"], "ratio": one["seconds"] / many["seconds"], "core_share_one": one["core_share"],
        "core_share_many": many["core_share"], "load_one": one["load"], "load_many": many["load"], "sweeps": list(found.values()),
    }  # fmt: skip


def one_sweep(spec: Spec, workers: int, runs: int) -> dict[str, float]:
    """Seconds of a sweep into an empty folder, and what of the cores it had."""
    experiment = read_experiment(Path(__file__).with_name("ablation.py"))
    with tempfile.TemporaryDirectory() as name:
        folder, load, busy, started = Path(name), os.getloadavg()[0], processor_seconds(), time.perf_counter()
        outcome = conduct(experiment, spec, folder, How("local", Resources(workers, 1)))
        seconds = time.perf_counter() - started
        if outcome.failures or len(results(folder)) != runs:
            raise RuntimeError(f"{len(outcome.failures)} runs failed: {outcome.failures[:1]}")
        share = (processor_seconds() - busy) / seconds / workers
    return {"seconds": seconds, "core_share": share, "load": load}


def processor_seconds() -> float:
    """Of all processes that this one started and that are over, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """The numbers of the largest run."""
    last = largest(results, "runs")[-1]["result"]
    return {
        "WorkersRuns": str(last["runs"]), "WorkersRatio": number(last["ratio"], digits=3), "WorkersCores": str(last["cores"]),
        "WorkersLoad": number(max(last["load_one"], last["load_many"]), digits=2),
        "WorkersShareOne": number(last["core_share_one"], digits=2), "WorkersShareTwo": number(last["core_share_many"], digits=2),
    }  # fmt: skip
