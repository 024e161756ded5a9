"""One column of a table as numbers, or refused in one line that names the column and the row (counted from 0)."""

from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Literal

import numpy as np
import pandas as pd

from gp_response.data.check import not_finite
from gp_response.errors import DataError

MAX_LEVELS = 32  # one-hot columns a text column may become
DAY = pd.Timedelta(days=1)
EPOCH = pd.Timestamp("1970-01-01", tz="UTC")

Missing = Literal["refuse", "drop"]


@dataclass(frozen=True)
class Column:
    """A column read: numbers (NaN where missing) or, for a categorical one, levels as text (None where missing)."""

    name: str
    values: pd.Series
    kind: Literal["number", "date", "category"]


def read_column(series: pd.Series, name: str, *, missing: Missing) -> Column:
    """Numbers, booleans (0, 1), dates (days since 1970-01-01 UTC), spans (days), or text.

    Text is: numbers where all of it parses; an error where at least half does (with missing="drop" those cells count
    as missing); dates where all of it is ISO 8601; otherwise categories.
    """
    series = series.reset_index(drop=True)
    if isinstance(series.dtype, pd.CategoricalDtype):
        return _category(series.astype(object), name)
    if pd.api.types.is_datetime64_any_dtype(series):
        return Column(name, _days(series), "date")
    if pd.api.types.is_timedelta64_dtype(series):
        return Column(name, series.dt.total_seconds() / 86_400.0, "date")
    if pd.api.types.is_complex_dtype(series):
        raise DataError(f"column {name!r} is complex; give real and imaginary parts as separate columns")
    if pd.api.types.is_numeric_dtype(series):
        return Column(name, _finite(series.astype("Float64").astype(np.float64), name), "number")
    return _text(series.astype(object), name, missing)


def numbers(column: Column, *, levels: list[str]) -> pd.DataFrame:
    """A number column as it is; a category as one column `name=level` a level, 1 where the row has it."""
    if column.kind != "category":
        return pd.DataFrame({column.name: column.values})
    return pd.DataFrame({f"{column.name}={level}": (column.values == level).astype(np.float64) for level in levels})


def levels(column: Column) -> list[str]:
    """The levels of a categorical column, sorted; more than MAX_LEVELS are refused."""
    found = sorted(column.values.dropna().unique()) if column.kind == "category" else []
    if len(found) > MAX_LEVELS:
        example = f"such as {found[0][:30]!r}"
        advice = "drop the column, group its levels, or give numbers instead"
        raise DataError(f"column {column.name!r} has {len(found)} levels ({example}), at most {MAX_LEVELS}; {advice}")
    return found


def _text(series: pd.Series, name: str, missing: Missing) -> Column:
    present = series[series.notna()]
    _refuse_objects(present, name)
    parsed = pd.to_numeric(present.map(_plain), errors="coerce").astype(np.float64)
    bad = parsed.index[parsed.isna()]
    if len(bad) == 0 or 2 * len(bad) <= len(present):
        if len(bad) and missing == "refuse":
            text, row = str(present[bad[0]])[:40], bad[0]
            advice = "correct such cells, or pass missing='drop' to leave their rows out"
            raise DataError(f"column {name!r}, row {row}: {text!r} is not a number ({len(bad)} such cells); {advice}")
        return Column(name, _finite(parsed.reindex(series.index), name), "number")
    dates = pd.to_datetime(present, format="ISO8601", errors="coerce", utc=True) if len(bad) == len(present) else None
    if dates is not None and bool(dates.notna().all()):
        return Column(name, _days(dates).reindex(series.index), "date")
    return _category(series, name)


def _plain(cell: object) -> object:
    return float(cell) if isinstance(cell, bool | np.bool_ | Decimal) else cell


def _refuse_objects(present: pd.Series, name: str) -> None:
    for row, cell in present.items():
        if not isinstance(cell, str | Real | Decimal | np.bool_):
            got = f"a {type(cell).__name__} is neither number nor text"
            raise DataError(f"column {name!r}, row {row}: {got}; convert the column (dates: pandas.to_datetime)")


def _category(series: pd.Series, name: str) -> Column:
    return Column(name, series.map(str, na_action="ignore").where(series.notna(), None), "category")


def _days(dates: pd.Series) -> pd.Series:
    """Days since 1970-01-01 UTC; a date without a zone is taken as UTC."""
    dates = dates.dt.tz_localize("UTC") if dates.dt.tz is None else dates
    return (dates - EPOCH) / DAY


def _finite(values: pd.Series, name: str) -> pd.Series:
    infinite = np.isinf(values)
    if infinite.any():
        row, count = infinite.idxmax(), int(infinite.sum())
        raise DataError(f"column {name!r}, row {row} is {not_finite(np.inf)} ({count} in all); correct or remove it")
    return values
