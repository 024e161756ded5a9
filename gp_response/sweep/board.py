"""The state of a sweep, all of it on disk: what is done, what failed, who works on what. Any process reads it at any time.

Beside the result files in `folder` lies `folder/.sweep` with plans, claims, failures, logs, and results that `force` replaced.
A run is over when its result or its failure is there; both appear whole, and the first to appear stays.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gp_response.claims import LEASE, Claims
from gp_response.files import write_once
from gp_response.sweep.records import floats, plain, read_result


@dataclass(frozen=True)
class Board:
    """The folder of results and the lease of its claims, see `gp_response.claims`."""

    folder: Path
    lease: float = LEASE

    @property
    def own(self) -> Path:
        return self.folder / ".sweep"

    def claims(self) -> Claims:
        return Claims(self.own / "claims", lease=self.lease)

    def result(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def failure(self, name: str) -> Path:
        return self.own / "failures" / f"{name}.json"

    def log(self, name: str) -> Path:
        return self.own / "logs" / f"{name}.log"

    def plan(self, name: str) -> Path:
        return self.own / "plans" / f"{name}.json"

    def done(self, name: str) -> bool:
        return self.result(name).exists()

    def over(self, name: str) -> bool:
        """Whether the run has a result or failed."""
        return self.done(name) or self.failure(name).exists()

    def publish(self, name: str, text: str) -> bool:
        """Make a result known; False where there is one already, which stays."""
        return write_once(self.result(name), text)

    def fail(self, name: str, facts: dict[str, Any]) -> bool:
        """Make a failure known: experiment, config, error, message, traceback, attempts, seconds, log."""
        # A message may well be "nan", which `plain` keeps for numbers.
        return write_once(self.failure(name), json.dumps({**facts, "config": plain(facts["config"])}, indent=1) + "\n")

    def failures(self, names: Iterable[str]) -> list[dict[str, Any]]:
        found = (self.failure(name) for name in names if not self.done(name))
        known = [json.loads(path.read_text(encoding="utf-8")) for path in found if path.exists()]
        return [{**facts, "config": floats(facts["config"])} for facts in known]

    def reopen(self, names: Iterable[str], *, force: bool = False) -> None:
        """Before a sweep: forget failures, so that they are tried again, and set aside damaged results (all, if `force`)."""
        for name in names:
            self.failure(name).unlink(missing_ok=True)
            # A link to nowhere is no result, and yet in the way of one.
            if os.path.lexists(self.result(name)) and (force or read_result(self.result(name)) is None):
                aside = self.own / "replaced" / f"{name}.json"
                aside.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.result(name), aside)


__all__ = ["Board"]
