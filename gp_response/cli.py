"""The command line: gp-response run | reproduce | sweep | ablations | table | plot | list | respond | report."""

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from gp_response.data.columns import Missing
from gp_response.errors import GPResponseError, InputError, unknown_name
from gp_response.experiment import (
    Experiment,
    configure,
    experiments,
    grid,
    load_experiment,
    parse,
    project,
    read_experiment,
    unique,
)
from gp_response.files import write_atomically
from gp_response.report import write_report
from gp_response.reproduce import print_report, reproduce
from gp_response.respond import respond, show, write_answer
from gp_response.scales import Scale, scale_folder
from gp_response.sweep import read_result, run, sweep
from gp_response.sweep.ablate import Ablations
from gp_response.sweep.commands import RESULTS, Plot, Sweep, Table


@dataclass(frozen=True)
class Run:
    """Run an experiment (or `all`): every configuration of its GRID that has no result yet, one result file each."""

    experiment: tyro.conf.Positional[str]
    """name of the experiment, see `gp-response list`; `all` for every one"""
    assignments: tyro.conf.Positional[tuple[str, ...]] = ()
    """key=value for any parameter of the experiment's main, in place of the grid's values"""
    smoke: bool = False
    """the small configuration that takes seconds"""
    force: bool = False
    """run again even where a result lies on disk"""
    results: Path | None = None
    """folder of result files [paper/results of the project; paper/build/smoke/results for --smoke]"""
    experiments: Path | None = None
    """folder of experiments [experiments of the project]"""

    def __call__(self) -> None:
        folder = self.experiments or project() / "experiments"
        target = self.results or project() / (scale_folder("smoke") if self.smoke else RESULTS)
        names = list(experiments(folder)) if self.experiment == "all" else [self.experiment]
        for name in names:
            experiment = load_experiment(name, folder)
            configs = _configs(experiment, self.assignments, self.smoke)
            for path in _run(experiment, configs, target, force=self.force):
                print(_summary(path))


@dataclass(frozen=True)
class Reproduce:
    """Run every experiment at one scale: prints a plan with costs, goes on where it was, and draws figures and numbers."""

    scale: Scale = "quick"
    """smoke, quick (half an hour) or full (everything that the paper claims)"""
    plan: bool = False
    """only print what is done, what is left, and what it will take"""
    workers: int | None = None
    """runs at a time [quick: one a core; full: one]"""
    record: bool = False
    """keep the seconds of this run as the next plan's estimates (paper/quick.json)"""

    def __call__(self) -> None:
        if not reproduce(self.scale, workers=self.workers, only_plan=self.plan, record=self.record):
            raise GPResponseError("runs failed, see above; the same command tries them again")


@dataclass(frozen=True)
class List:
    """List the experiments: name and claim."""

    experiments: Path | None = None
    """folder of experiments [experiments of the project]"""

    def __call__(self) -> None:
        for name, path in experiments(self.experiments or project() / "experiments").items():
            print(f"{name:28s} {read_experiment(path).claim}")


@dataclass(frozen=True)
class Respond:
    """Fit a Gaussian process to a table of one's own and find the training rows that move its predictions most."""

    file: tyro.conf.Positional[Path]
    """.csv, .tsv (.gz) or .parquet file with a header"""
    target: str
    """column to predict"""
    rows: str | None = None
    """file rows (from 0, below the header) whose predictions are asked about, as 0,5,9 [the first three test rows]"""
    out: Path | None = None
    """folder for the CSV files, figures and JSON [FILE-response in the current folder]"""
    kernel: str = "matern32"
    """rbf, matern12, matern32, matern52 or rational_quadratic; one lengthscale a column"""
    top: int = 10
    """influential rows shown for each prediction"""
    seed: int = 0
    """of the random test split, of the draw of --n rows and of training"""
    n: int | None = None
    """use only so many rows of the file, drawn at random"""
    test_fraction: float = 0.1
    """share of rows held out of the fit"""
    missing: Missing = "refuse"
    """what to do with rows that have empty or unreadable cells"""

    def __call__(self) -> None:
        out = self.out or Path(f"{self.file.name.split('.')[0]}-response")
        rows = None if self.rows is None else _row_numbers(self.rows)
        options = {name: getattr(self, name) for name in ("kernel", "top", "seed", "n", "test_fraction", "missing")}
        if self.file.is_file():
            _writable(out)  # before the fit, which may take minutes
        answer = respond(self.file, self.target, rows=rows, **options)
        written = write_answer(answer, out)
        for note in answer.facts["notes"]:
            print(f"note: {note}")
        print(show(answer))
        print(f"held-out root mean square error {answer.facts['held_out_rmse']:.4g}")
        print(f"written: {', '.join(path.name for path in written)} in {out}")


@dataclass(frozen=True)
class Report:
    """Draw the paper's figures and write its numbers (variables.tex) from all result files; list what is missing."""

    results: tuple[Path, ...] = ()
    """folders of result files, of each experiment the first that has any [paper/results of the project]"""
    out: Path | None = None
    """folder that gets figures/ and variables.tex [paper of the project]"""
    experiments: Path | None = None
    """folder of experiments [experiments of the project]"""

    def __call__(self) -> None:
        folder = self.experiments or project() / "experiments"
        out = self.out or project() / "paper"
        tex = None if self.experiments else project() / "paper" / "main.tex"
        print_report(write_report(folder, self.results or (project() / RESULTS,), out, tex=tex), out)


COMMANDS: dict[str, Callable[..., Any]] = {
    "run": Run,
    "sweep": Sweep,
    "ablations": Ablations,
    "table": Table,
    "plot": Plot,
    "reproduce": Reproduce,
    "list": List,
    "respond": Respond,
    "report": Report,
}


def _configs(experiment: Experiment, assignments: Sequence[str], smoke: bool) -> list[dict[str, Any]]:
    chosen = parse(experiment, assignments)
    bases = [experiment.smoke] if smoke else grid(experiment)
    return unique(configure(experiment, {**base, **chosen}) for base in bases)


def _run(experiment: Experiment, configs: list[dict[str, Any]], folder: Path, *, force: bool) -> list[Path]:
    """One configuration runs here, several one after another (some measure time), each in a process of its own."""
    if len(configs) == 1:
        return [run(experiment, configs[0], folder, force=force)]
    return sweep(experiment, configs, folder, force=force, workers=1)


def _summary(path: Path) -> str:
    """The numbers of a result file, one a line; long lists by their length."""
    record = read_result(path)
    if record is None:
        raise GPResponseError(f"result file {path} vanished after the run; run again")
    result = record["result"]
    width = max(map(len, [*result, "peak memory"]))
    lines = [f"{key:{width}s}  {_short(item)}" for key, item in result.items()]
    lines.append(f"{'seconds':{width}s}  {record['seconds']:.1f}")
    lines.append(f"{'peak memory':{width}s}  {record['peak_memory_bytes'] / 2**30:.2f} GiB")
    return "\n".join([f"{record['experiment']} {record['config']}", *(f"  {line}" for line in lines), f"  -> {path}"])


def _short(item: Any) -> str:
    if isinstance(item, float):
        return f"{item:.6g}"
    text = str(item)
    if len(text) <= 80:
        return text
    return f"{text[:60]}…" if isinstance(item, str) else f"({type(item).__name__} of {len(item)})"


def _row_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--rows {text!r} is not a list of row numbers; write for example --rows 0,5,9") from None


def _writable(folder: Path) -> None:
    write_atomically(folder / ".trial", "").unlink()


def _parse(arguments: Sequence[str]) -> Any:
    """The command as an object; tyro's boxed complaint becomes one line."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise unknown_name("command", arguments[0], COMMANDS)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="gp-response",
                description="Linear response of Gaussian-process models. --debug anywhere shows tracebacks.",
                args=list(arguments) or ["--help"],
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(_unboxed(complaint.getvalue())) from None


def _unboxed(text: str) -> str:
    """What tyro draws in a box, as one line: the first paragraph, and the suggestion where there is one."""
    lines = [line.strip("│ ") for line in text.splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs = [" ".join(part.split()) for part in re.split("─{3,}", "\n".join(lines))]
    kept = [part for i, part in enumerate(paragraphs) if i == 0 or part.startswith("Perhaps you meant")]
    return "; ".join(kept) or "the command line cannot be read; see gp-response --help"


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, MemoryError):
        return "out of memory; use fewer rows (--n for respond, n= for most experiments)"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        tqdm.write(f"gp-response: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for an error a user can act on, 1 for a fault of ours."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != "--debug"]
    try:
        with _plain_warnings():
            _parse(words)()
    except BrokenPipeError:  # the reader of our output has left, as in `gp-response list | head -1`
        sys.stderr.close()
        return 0
    except (GPResponseError, OSError, MemoryError, KeyboardInterrupt) as error:
        if "--debug" in given:
            raise
        print(f"gp-response: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        if "--debug" in given:
            raise
        text = f"{type(error).__name__}: {_one_line(error)}"
        print(f"gp-response: internal error: {text} (run again with --debug to see where)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["main", "project"]
