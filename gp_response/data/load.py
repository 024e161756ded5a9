"""`load`: a real data set by name, by file or from a DataFrame."""

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from gp_response.data import bundled, keel, nycflights, uci
from gp_response.data.build import Standardise, assemble
from gp_response.data.columns import Missing
from gp_response.data.dataset import Dataset, Split
from gp_response.data.files import looks_like_path, read_frame
from gp_response.data.partition import draw, split_mask
from gp_response.data.source import Table
from gp_response.data.table import frame_table
from gp_response.errors import InputError, unknown_name

Source = str | os.PathLike[str] | pd.DataFrame
PACKAGED = {"weather": nycflights.weather, "flights": nycflights.flights}


def names() -> tuple[str, ...]:
    """Every name `load` knows."""
    return tuple(sorted((*PACKAGED, *bundled.LOADERS, *keel.SETS, *uci.REGISTRY)))


def load(
    source: Source = "weather",
    *,
    target: str | None = None,
    n: int | None = None,
    seed: int = 0,
    split: int = 0,
    test_fraction: float = 0.1,
    standardise: Standardise = True,
    dtype: torch.dtype = torch.float64,
    missing: Missing = "refuse",
    keep_leaks: bool = False,
    blocked: bool = False,
) -> Dataset:
    """A Dataset by name, from a file (.csv, .csv.gz, .tsv, .tsv.gz, .parquet) or from a DataFrame.

    Names: "weather" (23,007 hours, target temperature, smooth) and "flights" (327,346 flights, target "air_time" or
    "arr_delay"), see `gp_response.data.nycflights` for their columns; "diabetes", "iris", "wine", "breast_cancer",
    "digits" from scikit-learn (classes, but for diabetes); "magic", "letter", "penbased" and "twonorm", classes too, see
    `gp_response.data.keel`; and the UCI benchmark sets of `gp_response.data.uci` with their published splits.

    The result's `notes` say what was dropped, filled or encoded and which traps the set has. `train.rows` and
    `test.rows` are row numbers of the source, from 0.

    Args:
        source: a name, a path, or a DataFrame.
        target: the column to predict; needed for files and frames.
        n: rows drawn at random, training and test together, in source order; all by default.
        seed: fixes that draw and the random split. No global random state is read or changed.
        split: which random split, or which published one. A published split is used as published, restricted to the n rows.
        test_fraction: share of test rows of a random split, 0 for none.
        blocked: test rows are whole blocks of time (of rows, for a file), so that neighbours in time do not leak.
        standardise: by training statistics; "x" leaves targets as they are, and so does True where they are classes: 0 and 1,
            or 0 to C - 1, whose names are in the notes.
        dtype: of the result, float64 or float32; columns are computed in float64.
        missing: "drop" leaves out rows of a file or frame with a missing or unreadable cell, noted; default is an error.
        keep_leaks: keeps columns that give the target away: bike 15 and 16, humid in weather, dep_delay in flights.

    Raises:
        InputError: unknown names and arguments.
        DataError: data that cannot be used (column and row named).
    """
    if dtype not in (torch.float64, torch.float32):
        raise InputError(f"dtype={dtype}; expected torch.float64 or torch.float32")
    table = _table(source, target, missing, keep_leaks)
    used = draw(table, n, seed=seed)
    test = split_mask(table, used, seed=seed, split=split, test_fraction=test_fraction, blocked=blocked)
    if standardise is True and table.classes:
        standardise = "x"
    splits = [_rows(table, used[mask]) for mask in (~test, test)]
    return assemble(
        *splits, names=table.names, target=table.target, standardise=standardise, dtype=dtype, notes=table.notes
    )


def _table(source: Source, target: str | None, missing: Missing, keep_leaks: bool) -> Table:
    if isinstance(source, pd.DataFrame):
        return frame_table(source, target=target, missing=missing)
    if isinstance(source, str) and source in PACKAGED:
        return PACKAGED[source](target=target, keep_leaks=keep_leaks)
    if isinstance(source, str) and source in bundled.LOADERS:
        return bundled.bundled(source, target=target)
    if isinstance(source, str) and source in keel.SETS:
        return keel.keel(source, target=target)
    if isinstance(source, str) and source in uci.REGISTRY:
        return uci.uci(source, target=target, keep_leaks=keep_leaks)
    if isinstance(source, str) and not looks_like_path(source):
        raise unknown_name("data set", source, names())
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"cannot load a {type(source).__name__}; expected a name, a path or a DataFrame")
    frame, notes = read_frame(Path(source).expanduser())
    table = frame_table(frame, target=target, missing=missing)
    return replace(table, notes=(*notes, *table.notes))


def _rows(table: Table, positions) -> Split:
    x, y, rows = (torch.from_numpy(a[positions]) for a in (table.x, table.y, table.rows))
    return Split(x, y, torch.ones_like(y), rows)
