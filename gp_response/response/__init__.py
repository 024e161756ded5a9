"""Response: observables, perturbations, and how the first move when the second do."""

from gp_response.response.convert import CONVENTIONS
from gp_response.response.finite import finite_response
from gp_response.response.fluctuation import fdt_gap, fluctuation
from gp_response.response.leave_one_out import LeaveOneOut, leave_one_out
from gp_response.response.observable import Marginals, Observable
from gp_response.response.observables import (
    Average,
    Contrast,
    Loss,
    Pointwise,
    Value,
    Variance,
    average,
    contrast,
    loss,
    pointwise,
    value,
    variance,
)
from gp_response.response.pattern import pattern
from gp_response.response.pattern_result import Pattern
from gp_response.response.perturbation import Energy, Perturbation
from gp_response.response.perturbations import Delete, Insert, Relabel, Reweight, delete, insert, relabel, reweight
from gp_response.response.predict import Prediction, predict
from gp_response.response.refit import expectation, refit_response
from gp_response.response.result import Modes, Susceptibility
from gp_response.response.stored import StoredSusceptibility
from gp_response.response.susceptibility import susceptibility

__all__ = [
    "CONVENTIONS",
    "Average",
    "Contrast",
    "Delete",
    "Energy",
    "Insert",
    "LeaveOneOut",
    "Loss",
    "Marginals",
    "Modes",
    "Pattern",
    "pattern",
    "Pointwise",
    "pointwise",
    "Observable",
    "Perturbation",
    "Prediction",
    "Relabel",
    "Reweight",
    "StoredSusceptibility",
    "Susceptibility",
    "Value",
    "Variance",
    "average",
    "contrast",
    "delete",
    "expectation",
    "fdt_gap",
    "fluctuation",
    "finite_response",
    "insert",
    "leave_one_out",
    "loss",
    "predict",
    "refit_response",
    "relabel",
    "reweight",
    "susceptibility",
    "value",
    "variance",
]
