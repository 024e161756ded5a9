"""gp_response: ask of a trained model "what moves if the data move?" and get the answer with a bound on its error."""

import os

# gpytorch imports KeOps where it is installed, and KeOps prints to stdout on machines without CUDA.
os.environ.setdefault("KEOPS_VERBOSE", "0")

from gp_response import kernels, testing
from gp_response.data import Dataset, Split, Standardiser, dataset, load, synthetic
from gp_response.errors import DataError, GPResponseError, InputError, MissingDependency, SolverError
from gp_response.features import MLP, Identity, UnitBox
from gp_response.heads import Exact, Trace, Training
from gp_response.kernels import (
    RBF,
    ArcCosine,
    Constant,
    DotKernel,
    Kernel,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    Polynomial,
    Product,
    RationalQuadratic,
    Scale,
    StationaryKernel,
    Sum,
)
from gp_response.posterior import Posterior
from gp_response.response import (
    Energy,
    Marginals,
    Observable,
    Perturbation,
    Prediction,
    StoredSusceptibility,
    Susceptibility,
    average,
    contrast,
    delete,
    finite_response,
    insert,
    loss,
    predict,
    refit_response,
    relabel,
    reweight,
    susceptibility,
    value,
    variance,
)
from gp_response.solvers import CG, Cholesky, Solution

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "RBF",
    "ArcCosine",
    "CG",
    "Cholesky",
    "Constant",
    "DataError",
    "Dataset",
    "DotKernel",
    "Energy",
    "Exact",
    "GPResponseError",
    "Identity",
    "InputError",
    "Kernel",
    "Linear",
    "Marginals",
    "Matern12",
    "Matern32",
    "Matern52",
    "MissingDependency",
    "Observable",
    "Periodic",
    "Perturbation",
    "Polynomial",
    "Posterior",
    "Prediction",
    "Product",
    "RationalQuadratic",
    "Scale",
    "Solution",
    "SolverError",
    "Split",
    "Standardiser",
    "StationaryKernel",
    "StoredSusceptibility",
    "Sum",
    "Susceptibility",
    "Trace",
    "Training",
    "UnitBox",
    "average",
    "contrast",
    "dataset",
    "delete",
    "finite_response",
    "insert",
    "kernels",
    "load",
    "loss",
    "predict",
    "refit_response",
    "relabel",
    "reweight",
    "susceptibility",
    "synthetic",
    "testing",
    "value",
    "variance",
]
