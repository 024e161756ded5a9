"""Tables from CSV, TSV and Parquet files; whatever is wrong with a file is one line."""

import difflib
import warnings
import zlib
from pathlib import Path
from typing import NoReturn

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gp_response.data.check import refuse_duplicates
from gp_response.errors import DataError, InputError

SEPARATORS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
SUFFIXES = (*SEPARATORS, ".parquet")
UNREADABLE = (
    pd.errors.EmptyDataError,
    pd.errors.ParserError,
    pd.errors.ParserWarning,
    UnicodeDecodeError,
    EOFError,
    zlib.error,
    OSError,
    pa.ArrowException,
    ValueError,
)


def read_frame(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table in a file, and notes. Row 0 is the first line below the header (CSV, UTF-8, header required).

    Raises InputError for a missing file or another format, DataError for a broken one.
    """
    suffix = _suffix(path)
    if not path.exists():
        near = difflib.get_close_matches(path.name, _siblings(path), n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "check the path"
        raise InputError(f"no file {str(path)!r}; {hint}")
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; expected a file ({', '.join(SUFFIXES)})")
    try:
        return _parquet(path) if suffix == ".parquet" else _separated(path, SEPARATORS[suffix])
    except (DataError, MemoryError):
        raise
    except UNREADABLE as error:
        _unreadable(path, suffix, error)


def looks_like_path(text: str) -> bool:
    """Names of sets have neither a dot nor a slash; anything else that is not on disk is a misspelt name."""
    return "." in text or "/" in text or "\\" in text or Path(text).exists()


def _suffix(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"{str(path)!r} is not a format that can be read; expected {', '.join(SUFFIXES)}")


def _siblings(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []


def _parquet(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    # ignore_metadata: an index that pandas stored is a plain column or nothing, never silently lost or a label.
    frame = pq.read_table(path).to_pandas(ignore_metadata=True)
    stored = [str(c) for c in frame.columns if str(c).startswith("__index_level_")]
    return frame.drop(columns=stored), tuple(f"column {c!r} dropped: a stored row index" for c in stored)


def _separated(path: Path, separator: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
    refuse_duplicates([name for name in header.iloc[0] if name])
    with warnings.catch_warnings():
        # Rows longer than the header would otherwise be cut, or shift the columns, with no more than this warning.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(path, sep=separator, index_col=False, low_memory=False)
    unnamed = [j for j, name in enumerate(header.iloc[0]) if not name]
    notes = tuple(f"column {j} dropped: it has no name in the header (a saved row index?)" for j in unnamed)
    return frame.drop(columns=frame.columns[unnamed]), notes


def _unreadable(path: Path, suffix: str, error: Exception) -> NoReturn:
    lines = str(error).splitlines()
    reason = lines[0].strip() if lines else type(error).__name__
    if isinstance(error, pd.errors.EmptyDataError):
        reason = "the file is empty"
    if isinstance(error, UnicodeDecodeError):
        reason = f"not UTF-8 text (byte {error.start})"
    raise DataError(f"{str(path)!r} cannot be read as {suffix}: {reason}") from error
