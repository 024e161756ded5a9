"""The command about ablations: gp-response ablations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from gp_response.errors import GPResponseError, InputError, unknown_name
from gp_response.experiment import Experiment, load_experiment, project
from gp_response.scales import Scale
from gp_response.sweep.ablation import Ablation, ablations
from gp_response.sweep.commands import RESULTS
from gp_response.sweep.drive import How, conduct
from gp_response.sweep.engines import Resources
from gp_response.sweep.records import results
from gp_response.sweep.run import run
from gp_response.sweep.show import Grid, as_text
from gp_response.sweep.watch import told

SMOKE_RESULTS = Path("paper", "build", "smoke", "results")
FOLDER = "ablations"


@dataclass(frozen=True)
class Ablations:
    """Run the ablations of experiments/ablations, print their tables, and check what each file expects of its numbers."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """names of files there [all]"""
    smoke: bool = False
    """the small sizes that take seconds, in this process"""
    check: bool = False
    """run nothing; check the results that are there"""
    force: bool = False
    """run also what has a result"""
    workers: int | None = None
    """runs at a time [as many as fit on the cores at so many --threads]"""
    threads: int | None = None
    """threads of each worker [the cores shared out]"""
    results: Path | None = None
    """folder of result files [paper/results of the project; paper/build/smoke/results for --smoke]"""
    experiments: Path | None = None
    """folder of experiments, with the folder ablations in it [experiments of the project]"""

    def __call__(self) -> None:
        folder = self.experiments or project() / "experiments"
        target = self.results or project() / (SMOKE_RESULTS if self.smoke else RESULTS)
        chosen = self._chosen(folder / FOLDER)
        known = {a.experiment: load_experiment(a.experiment, folder) for a in chosen}
        if not self.check:
            self._run(chosen, known, target)
        failed = [name for a in chosen for name in self._told(a, known[a.experiment], target)]
        if failed:
            raise GPResponseError(f"{len(failed)} expectations do not hold: {'; '.join(failed)}")

    def _chosen(self, folder: Path) -> list[Ablation]:
        there = ablations(folder)
        if not there:
            raise InputError(f"no ablation in {folder}; put a sweep file there")
        for name in self.names:
            if name not in there:
                raise unknown_name("ablation", name, there)
        return [there[name] for name in self.names or there]

    def _run(self, chosen: Sequence[Ablation], known: Mapping[str, Experiment], folder: Path) -> None:
        """All runs of an experiment at once, so that workers begin once; small ones here."""
        for name, experiment in known.items():
            scale: Scale = "smoke" if self.smoke else "full"
            configs = [c for a in chosen if a.experiment == name for c in a.configs(experiment, scale=scale)]
            if self.smoke:
                for config in configs:
                    run(experiment, config, folder, force=self.force)
                continue
            how = How("local", Resources(self.workers, self.threads))
            outcome = conduct(experiment, configs, folder, how, force=self.force)
            if outcome.failures:
                count, first = len(outcome.failures), outcome.failures[0]
                raise GPResponseError(f"{count} runs of {name} failed; the first, {told(first)}")

    def _told(self, ablation: Ablation, experiment: Experiment, folder: Path) -> list[str]:
        """Print table and verdicts; what does not hold."""
        table = ablation.table(results(folder, ablation.experiment), experiment, smoke=self.smoke)
        columns = {heading: ablation.means(table, value) for heading, value in ablation.columns.items()}
        rows: list[tuple[str, ...]] = [(label,) for label in next(iter(columns.values()))]
        cells = {(row, heading): found[row[0]] for heading, found in columns.items() for row in rows}
        shown = as_text(Grid((" ".join(ablation.axis),), rows, list(columns), cells))
        print(f"\n{ablation.title}: {ablation.question}\n{shown}")
        verdicts = ablation.judged(table, smoke=self.smoke)
        for verdict in verdicts:
            print(f"{'holds' if verdict.holds else 'FAILS'}: {verdict.claim}: {verdict.found}")
        return [f"{ablation.name}: {v.claim}, found {v.found}" for v in verdicts if not v.holds]


__all__ = ["Ablations"]
