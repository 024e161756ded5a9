"""The small sets that come inside scikit-learn, offline."""

import numpy as np
from sklearn import datasets

from gp_response.data.source import Table
from gp_response.errors import unknown_name

LOADERS = {
    "breast_cancer": (datasets.load_breast_cancer, "malignant_or_benign"),
    "diabetes": (datasets.load_diabetes, "progression"),
    "digits": (datasets.load_digits, "digit"),
    "iris": (datasets.load_iris, "species"),
    "wine": (datasets.load_wine, "cultivar"),
}


def bundled(name: str, *, target: str | None = None) -> Table:
    """One of LOADERS. All but diabetes have classes as targets: whole numbers 0, 1, ..., here read as numbers."""
    loader, found = LOADERS[name]
    if target not in (None, found):
        raise unknown_name(f"target of {name!r}", str(target), [found])
    bunch = loader()
    y = np.asarray(bunch.target, dtype=np.float64)
    notes = (
        [] if name == "diabetes" else [f"{name}: the target is one of {len(np.unique(y))} classes, read as a number"]
    )
    columns = tuple(str(c) for c in bunch.feature_names)
    return Table(np.asarray(bunch.data, dtype=np.float64), y, columns, found, np.arange(len(y)), tuple(notes))
