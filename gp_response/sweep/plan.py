"""What a sweep is to do, in one file that workers anywhere read: the experiment, its configurations, the limits of a run."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gp_response.claims import LEASE
from gp_response.errors import InputError
from gp_response.files import write_atomically
from gp_response.sweep.board import Board
from gp_response.sweep.records import config_hash, floats, plain, run_name


@dataclass(frozen=True)
class Limits:
    """Of one run.

    Attributes:
        seconds: wall time.
        memory: bytes of resident memory of its own process, as seen ten times a second, imports included.
        attempts: how often a run whose worker, node or process vanished is tried. An error of the experiment is final.
        lease: seconds of silence after which a worker on another machine counts as gone.
    """

    seconds: float | None = None
    memory: int | None = None
    attempts: int = 10
    lease: float = LEASE

    def __post_init__(self) -> None:
        for name in ("seconds", "memory", "attempts", "lease"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, str) or not value > 0):
                raise InputError(f"limit {name} is {value!r}; it must be a positive number")


@dataclass(frozen=True)
class Plan:
    """One sweep. `growing` says that more configurations may come; workers then wait for them."""

    experiment: Path
    folder: Path
    configs: Sequence[dict[str, Any]]
    limits: Limits = field(default_factory=Limits)
    growing: bool = False
    identity: str = ""

    @property
    def name(self) -> str:
        """The experiment's name and a hash of what the sweep asks for: the same sweep, begun again, is the same plan."""
        return f"{self.experiment.stem}-{self.identity or config_hash({'configs': list(self.configs)})}"

    @property
    def board(self) -> Board:
        return Board(self.folder, self.limits.lease)

    @property
    def path(self) -> Path:
        return self.board.plan(self.name)

    def names(self) -> list[str]:
        return self._names

    @cached_property
    def _names(self) -> list[str]:
        return [run_name(self.experiment.stem, config) for config in self.configs]

    def write(self) -> Path:
        facts = {**asdict(self), "experiment": str(self.experiment), "folder": str(self.folder)}
        return write_atomically(self.path, json.dumps(plain(facts)))

    @classmethod
    def read(cls, path: Path | str) -> "Plan":
        facts = floats(json.loads(Path(path).read_text(encoding="utf-8")))
        places = {key: Path(facts[key]) for key in ("experiment", "folder")}
        return cls(**{**facts, **places, "limits": Limits(**facts["limits"])})


__all__ = ["Limits", "Plan"]
