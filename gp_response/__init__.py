"""gp_response: ask of a trained model "what moves if the data move?" and get the answer with a bound on its error."""

import os

# gpytorch imports KeOps where it is installed, and KeOps prints to stdout on machines without CUDA.
os.environ.setdefault("KEOPS_VERBOSE", "0")

from gp_response import kernels, scores, testing
from gp_response.data import Dataset, Split, Standardiser, dataset, load, synthetic
from gp_response.errors import DataError, GPResponseError, InputError, MissingDependency, SolverError
<<<<<<< HEAD
from gp_response.features import MLP, Identity, UnitBox
from gp_response.heads import SGPR, SVGP, Exact, Trace, Training, from_gpytorch, head_from_gpytorch
=======
from gp_response.features import MLP, Identity, SpectralResNet, UnitBox
from gp_response.heads import Exact, Trace, Training, choose_inducing, split_features
>>>>>>> features
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
from gp_response.likelihoods import Bernoulli, Gaussian, Likelihood, Poisson, StudentT
from gp_response.posterior import Posterior
from gp_response.response import (
    Energy,
    LeaveOneOut,
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
    leave_one_out,
    loss,
    pointwise,
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
    "SGPR",
    "SVGP",
    "ArcCosine",
    "Bernoulli",
    "CG",
    "Cholesky",
    "Constant",
    "DataError",
    "Dataset",
    "DotKernel",
    "Energy",
    "Exact",
    "GPResponseError",
    "Gaussian",
    "Identity",
    "InputError",
    "Kernel",
    "LeaveOneOut",
    "Likelihood",
    "Linear",
    "Marginals",
    "Matern12",
    "Matern32",
    "Matern52",
    "MissingDependency",
    "Observable",
    "Periodic",
    "Poisson",
    "Perturbation",
    "Polynomial",
    "Posterior",
    "Prediction",
    "Product",
    "RationalQuadratic",
    "Scale",
    "Solution",
    "SolverError",
    "SpectralResNet",
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
    "choose_inducing",
    "contrast",
    "dataset",
    "delete",
    "finite_response",
    "from_gpytorch",
    "head_from_gpytorch",
    "insert",
    "kernels",
    "leave_one_out",
    "load",
    "loss",
    "pointwise",
    "predict",
    "refit_response",
    "relabel",
    "reweight",
    "scores",
    "split_features",
    "susceptibility",
    "synthetic",
    "testing",
    "value",
    "variance",
]
