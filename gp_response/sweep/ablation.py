"""An ablation: a sweep over one choice, in a file that says what it asks, what it costs and what it is expected to show.

Beside what a sweep file has (see `read_spec`), it has

* `title`, `question`, `cost`: words;
* `axis`: the parameters that tell its rows apart;
* `columns`: names of results by the headings of the table, and `figure: {value: …, label: …, log: xy}` for its panel;
* `smoke`: attributes of the sweep at a size of seconds, its axes over the others;
* `laws`: expectations at every size, `expected`: those at full size (see `expected`);
* `numbers`: quantities of the paper, `{mean: NAME, where: {…}}` by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from gp_response.errors import InputError, unknown_name
from gp_response.experiment import Experiment
from gp_response.scales import Scale
from gp_response.sweep.compare import means
from gp_response.sweep.expected import Verdict, check
from gp_response.sweep.frame import table_of
from gp_response.sweep.records import config_hash
from gp_response.sweep.show import Cell
from gp_response.sweep.spec import Spec, read_spec

ABOUT = ("title", "question", "cost", "axis", "columns", "figure", "smoke", "laws", "expected", "numbers")


@dataclass(frozen=True)
class Ablation:
    """What such a file says."""

    name: str
    experiment: str
    spec: Spec
    smoke: Spec
    title: str
    question: str
    cost: str
    axis: Sequence[str]
    columns: Mapping[str, str]
    figure: Mapping[str, str]
    laws: Sequence[Mapping[str, Any]] = ()
    expected: Sequence[Mapping[str, Any]] = ()
    numbers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def configs(self, experiment: Experiment, *, scale: Scale = "full") -> list[dict[str, Any]]:
        """Complete configurations of its runs; the quick ones are those of the first seed."""
        specs = {"smoke": self.smoke, "quick": replace(self.spec, seeds=1), "full": self.spec}
        return specs[scale].configs(experiment)

    def table(
        self,
        records: Sequence[Mapping[str, Any]],
        experiment: Experiment,
        *,
        smoke: bool = False,
        whole: bool = True,
    ) -> pd.DataFrame:
        """Its runs among the records of its experiment, as `frame` has them.

        Raises InputError where one is missing, or (whole=False) all are.
        """
        configs = self.configs(experiment, scale="smoke" if smoke else "full")
        done = {config_hash(record["config"]): record for record in records}
        own = [done[name] for name in map(config_hash, configs) if name in done]
        if len(own) < len(configs) and (whole or not own):
            size = " --smoke" if smoke else ""
            what = f"{len(configs) - len(own)} of {len(configs)} runs of ablation {self.name} have no result"
            raise InputError(f"{what}; run gp-response ablations {self.name}{size}")
        return table_of(own)

    def labels(self, table: pd.DataFrame) -> list[str]:
        """The label of each run."""
        return [" ".join(map(_text, row)) for row in zip(*(table[name] for name in self.axis), strict=True)]

    def means(self, table: pd.DataFrame, value: str) -> dict[str, Cell]:
        """Mean and interval of a number by label, in the order of the file."""
        summary = means(table, [value], by=list(self.axis))
        numbers = zip(summary["mean"], summary["half"], summary["runs"], strict=True)
        found = {label: Cell(*row) for label, row in zip(self.labels(summary), numbers, strict=True)}
        return {label: found[label] for label in dict.fromkeys(self.labels(table))}

    def claims(self, *, smoke: bool = False) -> list[Mapping[str, Any]]:
        """Its laws and, at full size, what else is expected."""
        return [*self.laws, *([] if smoke else self.expected)]

    def judged(self, table: pd.DataFrame, *, smoke: bool = False) -> list[Verdict]:
        """Its claims against its runs."""
        return [check(claim, table) for claim in self.claims(smoke=smoke)]


def _text(value: Any) -> str:
    """A value of a parameter as a label; a list of one as what is in it."""
    return f"{value:g}" if isinstance(value, float) else str(value).strip("[]")


def read_ablation(path: Path) -> Ablation:
    """The ablation in a file. Raises InputError for parts that are missing or unknown."""
    experiment, spec, rest = read_spec(path)
    for key in rest:
        if key not in ABOUT:
            raise unknown_name(f"part of ablation {path.name}", key, ABOUT)
    missing = [key for key in ABOUT if key not in rest and key not in ("smoke", "expected", "numbers")]
    if missing:
        raise InputError(f"ablation {path.name} lacks {', '.join(missing)}")
    small = dict(rest.pop("smoke", {}))
    axes = {**spec.axes, **small.pop("axes", {})}
    return Ablation(path.stem, experiment, spec, replace(spec, axes=axes, **small), **rest)


def ablations(folder: Path) -> dict[str, Ablation]:
    """All of a folder, by name; none where there is no such folder."""
    return {path.stem: read_ablation(path) for path in sorted(folder.glob("*.yaml"))}


__all__ = ["ABOUT", "Ablation", "ablations", "read_ablation"]
