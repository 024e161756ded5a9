"""Results as a table: one row a run, its configuration and the numbers of its result as columns."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from gp_response.errors import InputError, unknown_name
from gp_response.experiment import readings
from gp_response.sweep.records import results

COST = ("seconds", "peak_memory_bytes")


def frame(folder: Path | str, experiment: str) -> pd.DataFrame:
    """All results of an experiment in `folder`.

    Columns are the parameters, the numbers, truths and texts of the result (those in dicts as `outer.inner`; lists are left out;
    `result.name` where a parameter has the same name), `seconds` and `peak_memory_bytes`. `frame.attrs["parameters"]` has
    the parameters' names. Raises InputError where there is no result.
    """
    return table_of(results(folder, experiment), f"of {experiment} in {folder}")


def table_of(records: Sequence[Mapping[str, Any]], what: str = "") -> pd.DataFrame:
    """The same of records that were read already."""
    if not records:
        raise InputError(f"no result {what}; run a sweep first: gp-response sweep")
    rows = [_row(record) for record in records]
    found = pd.DataFrame(rows)
    found.attrs["parameters"] = list(dict.fromkeys(key for record in records for key in record["config"]))
    return found


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    config = {key: _hashable(value) for key, value in record["config"].items()}
    numbers = {key if key not in config else f"result.{key}": value for key, value in flat(record["result"]).items()}
    return {**{key: record[key] for key in COST}, **numbers, **config}


def flat(result: Mapping[str, Any], outer: str = "") -> dict[str, Any]:
    """Scalars of a nested dict by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{outer}{key}.")
        elif isinstance(value, int | float | str | bool):
            found[f"{outer}{key}"] = _held(value)
    return found


def _held(value: Any) -> Any:
    """An integer of any size, which JSON may have, as what a column of numbers can hold."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value


def to_xarray(table: pd.DataFrame, value: str | Sequence[str], *, over: Sequence[str] = ()) -> xr.Dataset:
    """Numbers of a table on the grid of the parameters that vary (or of `over`); NaN where a run is missing.

    Raises InputError where two runs stand at one place of the grid.
    """
    values = [value] if isinstance(value, str) else list(value)
    for name in [*values, *over]:
        column(table, name)
    dims = list(over) or varying(table)
    if table.duplicated(dims).any():
        raise InputError(f"several runs have the same {', '.join(dims)}; name all parameters that tell them apart")
    return table.set_index(dims)[values].to_xarray()


def varying(table: pd.DataFrame) -> list[str]:
    """The parameters with more than one value."""
    return [name for name in table.attrs["parameters"] if table[name].nunique(dropna=False) > 1]


def matching(values: pd.Series, text: str) -> pd.Series:
    """Which values of a parameter a text means, as on a command line: 1 is 1.0, 1e-3 is 0.001, true is True, null is None."""
    return pd.Series(
        [any(_means(meaning, value) for meaning in readings(text)) for value in values], index=values.index
    )


def _means(meaning: Any, value: Any) -> bool:
    if meaning is None:  # pandas keeps None among numbers as NaN
        return bool(pd.isna(value))
    same = isinstance(meaning, bool) == isinstance(value, bool) and meaning == value
    return bool(same) or str(meaning) == str(value)


def column(table: pd.DataFrame, name: str) -> pd.Series:
    """A column, or an error with the nearest names."""
    if name not in table.columns:
        raise unknown_name("column of the results", name, table.columns)
    return table[name]


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


__all__ = ["column", "finite", "flat", "frame", "matching", "table_of", "to_xarray", "varying"]
