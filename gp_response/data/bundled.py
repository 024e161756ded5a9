"""The small sets that come inside scikit-learn, offline."""

import numpy as np
from sklearn import datasets

from gp_response.data.source import Table, class_table
from gp_response.errors import unknown_name

LOADERS = {
    "breast_cancer": (datasets.load_breast_cancer, "malignant_or_benign"),
    "diabetes": (datasets.load_diabetes, "progression"),
    "digits": (datasets.load_digits, "digit"),
    "iris": (datasets.load_iris, "species"),
    "wine": (datasets.load_wine, "cultivar"),
}


def bundled(name: str, *, target: str | None = None) -> Table:
    """One of LOADERS. All but diabetes have classes as targets, numbered 0, 1, ... by scikit-learn."""
    loader, found = LOADERS[name]
    if target not in (None, found):
        raise unknown_name(f"target of {name!r}", str(target), [found])
    bunch = loader()
    x, columns = np.asarray(bunch.data, dtype=np.float64), tuple(str(c) for c in bunch.feature_names)
    if name != "diabetes":
        return class_table(name, x, bunch.target, names=columns, target=found, classes=bunch.target_names)
    return Table(x, np.asarray(bunch.target, dtype=np.float64), columns, found, np.arange(len(x)))
