"""Result files: one a run, named by the hash of its configuration, so that a sweep is "the configurations not yet on disk".

A result is one strict JSON file `<experiment>-<hash of the configuration>.json`, renamed into place when it is whole.
JSON has no NaN or infinity: they are written as the strings "nan", "inf", "-inf" (DuckDB casts those back), which
`read_result` returns as floats.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from gp_response.errors import InputError

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
PARTS = (
    "experiment",
    "config",
    "result",
    "versions",
    "commit",
    "seconds",
    "peak_memory_bytes",
    "started_at",
    "machine",
)


def config_hash(config: Mapping[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of the configuration as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(plain(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_name(experiment: str, config: Mapping[str, Any]) -> str:
    """Name of a run: the experiment's, and the hash of the complete configuration."""
    return f"{experiment}-{config_hash(config)}"


def result_path(name: str, config: Mapping[str, Any], folder: Path | str) -> Path:
    """Where the result of a complete configuration lies."""
    return Path(folder) / f"{run_name(name, config)}.json"


def text_of(record: Mapping[str, Any]) -> str:
    """A record as the strict JSON of a result file."""
    return json.dumps(plain(record), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read_result(path: Path | str) -> dict[str, Any] | None:
    """The record in a result file; None where there is none, or (with a warning) where it is not whole."""
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        _disregard(path, "it is a folder")
        return None
    except ValueError as error:
        _disregard(path, f"it is not JSON ({error})")
        return None
    missing = [part for part in PARTS if part not in record] if isinstance(record, dict) else list(PARTS)
    if missing:
        _disregard(path, f"it lacks {', '.join(missing)}")
        return None
    if not isinstance(record["config"], dict) or not isinstance(record["result"], dict):
        _disregard(path, "its config or its result is no object")
        return None
    if result_path(record["experiment"], floats(record["config"]), path.parent) != path:
        _disregard(path, "its configuration does not hash to its name")
        return None
    return {**record, "config": floats(record["config"]), "result": floats(record["result"])}


def _disregard(path: Path, reason: str) -> None:
    warnings.warn(f"result file {path} is disregarded: {reason}; the run counts as not done", stacklevel=3)


def results(folder: Path | str, experiment: str | None = None) -> list[dict[str, Any]]:
    """All whole records in `folder` (of one experiment where named), in the order of their file names."""
    found = (read_result(path) for path in sorted(Path(folder).glob(f"{experiment or '*'}-????????????.json")))
    return [record for record in found if record is not None and experiment in (None, record["experiment"])]


def plain(value: Any, where: str = "") -> Any:
    """`value` as JSON can hold it: tensors, arrays and tuples as lists, NaN and infinities as their strings."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str | Path):
        return _text(str(value), where)
    if isinstance(value, Mapping):
        return {_key(key, where): plain(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise InputError(
        f"{where} is a {type(value).__name__}, which JSON cannot hold; give numbers, text, lists, dicts or arrays"
    )


def _text(value: str, where: str) -> str:
    if value in NOT_FINITE:
        raise InputError(f"{where} is the text {value!r}, which in result files stands for a number; choose another")
    return value


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise InputError(f"{where} has the key {key!r}; the keys of a result must be text")
    return key


def floats(value: Any) -> Any:
    """What was made `plain`, with its NaN and infinities as numbers again."""
    if isinstance(value, dict):
        return {key: floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [floats(item) for item in value]
    return NOT_FINITE[value] if isinstance(value, str) and value in NOT_FINITE else value


__all__ = ["PARTS", "config_hash", "floats", "plain", "read_result", "result_path", "results", "run_name", "text_of"]
