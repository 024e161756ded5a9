"""One run of an experiment in this process, and what is recorded with its result."""

import contextlib
import random
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gp_response.errors import InputError
from gp_response.experiment import Experiment, configure
from gp_response.files import write_atomically
from gp_response.provenance import commit, machine, peak_memory, versions
from gp_response.sweep.records import config_hash, read_result, result_path, text_of


def run(experiment: Experiment, config: Mapping[str, Any], folder: Path | str, *, force: bool = False) -> Path:
    """Run `experiment.main(**config)` in this process and return the path of its result file in `folder`.

    `config` is completed by main's defaults. A whole result already on disk is not run again unless `force`. Recorded
    with the result: versions, git commit, seconds, peak memory (bytes, of the process), start (UTC), machine.
    """
    config = configure(experiment, config)
    path = result_path(experiment.name, config, folder)
    if not force and read_result(path) is not None:
        return path
    return write_atomically(path, text_of(record_of(experiment, config)))


def record_of(experiment: Experiment, config: Mapping[str, Any]) -> dict[str, Any]:
    """Run a complete configuration, and all that its result file holds. Random numbers are seeded by its hash."""
    started, clock = datetime.now(UTC), time.perf_counter()
    with seeded(int(config_hash(config), 16)):
        result = experiment.main(**config)
    if not isinstance(result, dict):
        raise InputError(f"main of {experiment.name} returned {type(result).__name__}; it must return a dict")
    return {
        "experiment": experiment.name,
        "config": config,
        "result": result,
        "versions": versions(),
        "commit": commit(experiment.path.parent),
        "seconds": time.perf_counter() - clock,
        "peak_memory_bytes": peak_memory(),
        "started_at": started.isoformat(timespec="seconds"),
        "machine": machine(),
    }


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch, numpy and Python begin at `seed`, and afterwards (CUDA aside) are as they were before.

    So a run whose experiment forgot to seed gives the same numbers wherever, and after whatever, it runs.
    """
    # numpy's old generator is meant: it is the one that an experiment may use without a seed.
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


__all__ = ["record_of", "run", "seeded"]
