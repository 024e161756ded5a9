"""What every loader returns: all rows of one source as numbers, before rows are drawn and split."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Table:
    """`x` (N, d) and `y` (N,) in source units, float64; `rows` (N,) their row numbers in the source.

    `order` (N,) sorts the rows in time (equal values belong together); None: the rows are in order as they stand.
    `published` (N, k) marks the test rows of k published splits; None: the source publishes none.
    """

    x: np.ndarray
    y: np.ndarray
    names: tuple[str, ...]
    target: str
    rows: np.ndarray
    notes: tuple[str, ...] = ()
    order: np.ndarray | None = None
    published: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)
