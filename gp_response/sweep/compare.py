"""Means over runs with confidence intervals, and differences between runs that agree in all but one parameter."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from gp_response.errors import InputError, unknown_name
from gp_response.sweep.frame import column, matching, varying


def grouping(table: pd.DataFrame, rows: Sequence[str] | None, columns: str | None) -> tuple[list[str], list[str]]:
    """Parameters that tell the rows of a table apart, and those that are then averaged over.

    Rows default to the first parameter that varies, `seed` and `columns` aside.
    """
    for name in [*(rows or ()), *([columns] if columns else [])]:
        if name not in table.attrs["parameters"]:
            raise unknown_name("parameter", name, table.attrs["parameters"])
    free = [name for name in varying(table) if name not in ("seed", columns)]
    chosen = list(rows) if rows else free[:1]
    return chosen, [name for name in varying(table) if name not in chosen and name != columns]


def means(table: pd.DataFrame, values: Sequence[str], *, by: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """One row a group and value: the group, `value` (its name), `mean`, `half` (half the interval's width), `runs`.

    The interval is Student's t over the group's runs, and NaN for a single run. The mean is NaN
    where a value of the group is not finite.
    """
    _check_level(level)
    found = []
    for value in values:
        numbers = _numbers(table, value)
        groups = numbers.groupby([table[name] for name in by], dropna=False, sort=True) if by else [((), numbers)]
        for key, group in groups:
            place = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
            mean, half = interval(group.to_numpy(), level)
            found.append({**place, "value": value, "mean": mean, "half": half, "runs": len(group)})
    return pd.DataFrame(found)


def interval(numbers: np.ndarray, level: float) -> tuple[float, float]:
    """Mean, and half the width of Student's t interval."""
    count = len(numbers)
    mean = float(np.mean(numbers))
    if count < 2 or not np.isfinite(numbers).all():
        return mean if np.isfinite(numbers).all() else float("nan"), float("nan")
    quantile = float(stats.t.ppf(0.5 + level / 2, count - 1))
    return mean, quantile * float(np.std(numbers, ddof=1)) / count**0.5


def differences(table: pd.DataFrame, value: str, parameter: str, baseline: str, *, level: float = 0.95) -> pd.DataFrame:
    """Mean difference of each value of a parameter from the baseline's, over pairs of runs that agree in everything else.

    Columns: the parameter, `difference`, `half`, `p` (paired t test, two-sided), `pairs`. Runs without
    a partner are left out, which `pairs` shows.
    Raises InputError where the baseline does not occur, or nothing can be paired.
    """
    _check_level(level)
    if parameter not in table.attrs["parameters"]:
        raise unknown_name("parameter", parameter, table.attrs["parameters"])
    labels = table[parameter].map(str)  # astype keeps a NaN, by which pandas has None among numbers, as it is
    meant = labels[matching(table[parameter], baseline)]
    if meant.empty:
        raise InputError(f"no run has {parameter}={baseline}; there are {', '.join(sorted(set(labels)))}")
    baseline = meant.iloc[0]
    others = [name for name in varying(table) if name != parameter]
    keys = table[others].map(str).agg("\x1f".join, axis=1) if others else pd.Series("", index=table.index)
    wide = pd.DataFrame({"key": keys, "label": labels, "number": _numbers(table, value)})
    grid = wide.pivot(index="key", columns="label", values="number")
    found = []
    for label in grid.columns.drop(baseline):
        gaps = (grid[label] - grid[baseline]).dropna().to_numpy()
        if len(gaps):
            mean, half = interval(gaps, level)
            found.append({parameter: label, "difference": mean, "half": half, "p": _p_value(gaps), "pairs": len(gaps)})
    if len(grid.columns) == 1:
        raise InputError(f"every run has {parameter}={baseline}; there is nothing to compare it with")
    if not found:
        raise InputError(f"no run pairs with one at {parameter}={baseline}: none agrees in {', '.join(others)}")
    return pd.DataFrame(found)


def _p_value(gaps: np.ndarray) -> float:
    if len(gaps) < 2 or np.ptp(gaps) == 0.0:
        return float("nan")
    return float(stats.ttest_1samp(gaps, 0.0).pvalue)


def _numbers(table: pd.DataFrame, value: str) -> pd.Series:
    numbers = pd.to_numeric(column(table, value), errors="coerce").astype(float)
    if numbers.isna().all():
        raise InputError(f"{value} is no number in any of the {len(table)} runs; choose another --value")
    return numbers


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise InputError(f"level is {level}; it must be between 0 and 1, for example 0.95")


__all__ = ["differences", "grouping", "interval", "means"]
