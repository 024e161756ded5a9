"""What every loader returns: all rows of one source as numbers, before rows are drawn and split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Table:
    """`x` (N, d) and `y` (N,) in source units, float64; `rows` (N,) their row numbers in the source.

    `order` (N,) sorts the rows in time (equal values belong together); None: the rows are in order as they stand.
    `published` (N, k) marks the test rows of k published splits; None: the source publishes none.
    `classes` are the names of the classes that `y` numbers from 0; none: the target is a quantity.
    """

    x: np.ndarray
    y: np.ndarray
    names: tuple[str, ...]
    target: str
    rows: np.ndarray
    notes: tuple[str, ...] = ()
    order: np.ndarray | None = None
    published: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.y)


def class_table(
    source: str, x: np.ndarray, y: np.ndarray, *, names: tuple[str, ...], target: str, classes: Sequence[str]
) -> Table:
    """A table whose target numbers these classes, with a note that says how."""
    numbered = ", ".join(f"{k} {name}" for k, name in enumerate(classes))
    note = f"{source}: the target is one of {len(classes)} classes, numbered {numbered}; it is not standardised"
    y, rows = y.astype(np.float64), np.arange(len(y))
    return Table(x.astype(np.float64), y, names, target, rows, (note,), classes=tuple(map(str, classes)))
