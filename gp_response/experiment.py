"""Experiments: one importable file each, found by name, with a checked configuration.

An experiment file has a docstring (claim, command, cost, expected numbers), `GRID: dict[str, list]`, `SMOKE: dict`,
`main(**config) -> dict` (JSON-able) with annotated parameters that all have defaults, and, where the paper shows it,
`report(results, figures) -> dict` (see `gp_response.report`). `QUICK`, a grid like GRID, is what minutes allow (without it: the
smoke size), and `ALONE = True` says that its runs measure time or memory and share the machine with no other. Files of the
folder whose names begin with an underscore are no experiments; an experiment may import them at its top
(`from _nets import train`).
"""

import importlib.util
import inspect
import itertools
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from gp_response.errors import GPResponseError, InputError, unknown_name

WORDS = {"True": True, "False": False, "None": None, "nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Experiment:
    """A loaded experiment file; `defaults` and `hints` are the default values and types of the parameters of `main`."""

    name: str
    path: Path
    claim: str
    main: Callable[..., dict[str, Any]]
    report: Callable[[list[dict[str, Any]], Path], dict[str, str]] | None
    grid: dict[str, list[Any]]
    smoke: dict[str, Any]
    quick: dict[str, list[Any]]
    alone: bool
    defaults: dict[str, Any]
    hints: dict[str, Any]


def experiments(folder: Path | str) -> dict[str, Path]:
    """Name -> file of every experiment in `folder` (files that begin with an underscore are not experiments)."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder of experiments at {folder}; run inside the project or name one with --experiments")
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def project() -> Path:
    """The nearest folder, from the current one upward, that has experiments/ and pyproject.toml."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "experiments").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise InputError(f"{here} is not inside the project; change into it or name the folders (--experiments, --results)")


def load_experiment(name: str, folder: Path | str) -> Experiment:
    """The experiment `name` of `folder`; an unknown name is answered with the nearest ones."""
    known = experiments(folder)
    if name not in known:
        raise unknown_name("experiment", name, known)
    return read_experiment(known[name])


def read_experiment(path: Path | str) -> Experiment:
    """Import the experiment file at `path` and check that it has the parts named above."""
    path = Path(path).resolve()
    module = _import(path)
    for part in ("__doc__", "GRID", "SMOKE", "main"):
        if getattr(module, part, None) in (None, ""):
            raise InputError(f"experiment file {path.name} lacks {part}; it needs a docstring, GRID, SMOKE and main")
    for part in ("GRID", "SMOKE", "QUICK"):
        if not isinstance(getattr(module, part, {}), Mapping):
            raise InputError(f"{part} of {path.name} is {getattr(module, part)!r}; expected values by parameter")
    experiment = Experiment(
        name=path.stem,
        path=path,
        claim=str(module.__doc__).strip().partition("\n")[0],
        main=module.main,
        report=getattr(module, "report", None),
        grid=dict(module.GRID),
        smoke=dict(module.SMOKE),
        quick=dict(getattr(module, "QUICK", {key: [value] for key, value in module.SMOKE.items()})),
        alone=bool(getattr(module, "ALONE", False)),
        defaults=_defaults(module.main, path),
        hints=_hints(module.main, path),
    )
    for config in (*grid(experiment), *grid(experiment, experiment.quick), experiment.smoke):
        configure(experiment, config)
    return experiment


def _import(path: Path) -> types.ModuleType:
    name = f"gp_response_experiment_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the file look themselves up here
    sys.path.insert(0, str(path.parent))  # where its helpers are
    try:
        spec.loader.exec_module(module)
    except GPResponseError:
        raise
    except Exception as error:
        raise InputError(f"experiment file {path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _defaults(main: Callable[..., Any], path: Path) -> dict[str, Any]:
    parameters = inspect.signature(main).parameters
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty or parameter.annotation is parameter.empty:
            raise InputError(f"main of {path.name}: parameter {name!r} needs a type and a default value")
    return {name: parameter.default for name, parameter in parameters.items()}


def _hints(main: Callable[..., Any], path: Path) -> dict[str, Any]:
    try:
        return typing.get_type_hints(main)
    except (NameError, TypeError) as error:
        raise InputError(f"main of {path.name}: its annotations cannot be read: {error}") from error


def grid(experiment: Experiment, axes: Mapping[str, list[Any]] | None = None) -> list[dict[str, Any]]:
    """Every combination of the values in `axes` (GRID by default), in order; one empty configuration (all defaults) for none."""
    axes = experiment.grid if axes is None else axes
    for key, values in axes.items():
        if not isinstance(values, list | tuple) or not values:
            raise InputError(
                f"the grid of {experiment.name} has {key!r}: {values!r}; it must be a list of one value or more"
            )
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def configure(experiment: Experiment, config: Mapping[str, Any]) -> dict[str, Any]:
    """The complete configuration: `config` over the defaults of `main`, names and types checked."""
    for key in config:
        if key not in experiment.defaults:
            raise unknown_name(f"configuration key of {experiment.name}", key, experiment.defaults)
    chosen = {**experiment.defaults, **config}
    return {key: _checked(experiment, key, [value]) for key, value in chosen.items()}


def unique(configs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Configurations in their order, each once. 1 and 1.0 are two, for they hash differently."""
    return list({json.dumps(config, sort_keys=True, default=str): dict(config) for config in configs}.values())


def parse(experiment: Experiment, assignments: Iterable[str]) -> dict[str, Any]:
    """`["n=100", "kernel=rbf"]` as a configuration; main's annotation decides between JSON and plain text."""
    config = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"{assignment!r} is not of the form key=value; write for example n=100")
        if key not in experiment.defaults:
            raise unknown_name(f"configuration key of {experiment.name}", key, experiment.defaults)
        if key in config:
            raise InputError(f"{key} is given twice, the second time as {assignment!r}; give it once")
        config[key] = _checked(experiment, key, readings(text))
    return config


def readings(text: str) -> list[Any]:
    """What a text may mean: what it is in JSON (or Python's and the result files' word for that), and itself."""
    if text in WORDS:
        return [WORDS[text], text]
    try:
        return [json.loads(text), text]
    except json.JSONDecodeError:
        return [text]


def _checked(experiment: Experiment, key: str, meanings: list[Any]) -> Any:
    hint = experiment.hints[key]
    for value in meanings:
        accepted = _accept(value, hint)
        if accepted:
            return accepted[0]
    wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    got = meanings[-1]
    raise InputError(
        f"configuration key {key!r} of {experiment.name} must be {wanted}, got {got!r}; "
        f"write for example {key}={json.dumps(experiment.defaults[key], default=str)}"
    )


def _accept(value: Any, hint: Any) -> tuple[Any, ...]:
    """`(value,)` in the type that `hint` asks for, or `()`; numbers convert, for 1 and 1.0 must hash alike."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return (value,)
    if origin in (typing.Union, types.UnionType):
        return next((found for arm in arguments if (found := _accept(value, arm))), ())
    if origin is typing.Literal:
        same = [known for known in arguments if known == value and isinstance(known, bool) == isinstance(value, bool)]
        return tuple(same[:1])
    if origin in (list, tuple) or hint in (list, tuple):
        each = len(arguments) > 1 and Ellipsis not in arguments  # tuple[int, str]
        return _accept_sequence(
            value, arguments if each else itertools.repeat(arguments[0] if arguments else Any), each
        )
    return _accept_scalar(value, origin or hint)


def _accept_sequence(value: Any, hints: Iterable[Any], each: bool) -> tuple[Any, ...]:
    """`each`: there is one hint an item; otherwise they do not end."""
    if not isinstance(value, list | tuple) or (each and len(value) != len(tuple(hints))):
        return ()
    found = [_accept(item, hint) for item, hint in zip(value, hints, strict=False)]
    return ([item[0] for item in found],) if all(found) else ()


def _accept_scalar(value: Any, kind: Any) -> tuple[Any, ...]:
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, Real):
            return ()
        number = float(value)
        if kind is float:
            return (number,)
        return (int(value),) if number.is_integer() else ()  # type: ignore[call-overload]
    return (value,) if isinstance(value, kind) else ()


__all__ = [
    "Experiment",
    "configure",
    "experiments",
    "grid",
    "load_experiment",
    "parse",
    "project",
    "read_experiment",
    "readings",
    "unique",
]
