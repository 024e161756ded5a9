"""Which rows are used, and which of them test: seeded, and without touching any global generator."""

import numpy as np

from gp_response.data.source import Table
from gp_response.errors import InputError

BLOCKS = 50  # a year of hours in 50 blocks makes each about a week, longer than the weather remembers


def draw(table: Table, n: int | None, *, seed: int) -> np.ndarray:
    """Positions of n rows drawn without replacement by `default_rng([seed, 0])`, in source order; all rows for None."""
    if n is None:
        return np.arange(len(table))
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 2:
        raise InputError(f"n={n!r}; expected a whole number of rows, at least 2")
    if n > len(table):
        raise InputError(f"n={n} rows asked for but there are only {len(table)}; ask for at most that, or leave n out")
    return np.sort(_generator(seed, 0).choice(len(table), size=int(n), replace=False))


def split_mask(
    table: Table, used: np.ndarray, *, seed: int, split: int, test_fraction: float, blocked: bool
) -> np.ndarray:
    """A boolean over `used`: True for a test row.

    A published split is restricted to the rows used. Otherwise `round(test_fraction * rows)` rows (at least one,
    unless the fraction is 0) come from `default_rng([seed, 1, split])`; blocked, whole blocks of time do.
    """
    if isinstance(split, bool) or not isinstance(split, int | np.integer) or split < 0:
        raise InputError(f"split={split!r}; expected a whole number, 0 or more")
    if table.published is not None:
        return _published(table.published, split, test_fraction, blocked)[used]
    if not 0.0 <= test_fraction < 1.0:
        raise InputError(f"test_fraction={test_fraction}; expected a fraction, at least 0 and below 1")
    order = np.arange(len(table)) if table.order is None else table.order
    groups = _blocks(order[used]) if blocked else np.arange(len(used))
    return _chosen(groups, test_fraction, _generator(seed, 1, split))


def _published(masks: np.ndarray, split: int, test_fraction: float, blocked: bool) -> np.ndarray:
    count = masks.shape[1]
    if split >= count:
        raise InputError(f"split={split} does not exist; this set has {count} published splits, 0 to {count - 1}")
    if blocked or test_fraction != 0.1:
        raise InputError("this set has published splits; choose one by split=..., without test_fraction or blocked")
    return masks[:, split]


def _blocks(order: np.ndarray) -> np.ndarray:
    """A block number for each row; rows of the same time are never parted, so stations do not tell on each other."""
    ranks = np.searchsorted(np.sort(order), order, side="left")
    return ranks * min(BLOCKS, len(order)) // len(order)


def _chosen(groups: np.ndarray, fraction: float, generator: np.random.Generator) -> np.ndarray:
    found = np.unique(groups)
    count = min(max(1, round(fraction * len(found))), len(found) - 1) if fraction > 0 else 0
    return np.isin(groups, generator.choice(found, size=count, replace=False))


def _generator(seed: int, *stream: int) -> np.random.Generator:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed={seed!r}; expected a whole number, 0 or more")
    return np.random.default_rng([int(seed), *(int(s) for s in stream)])
