"""Response: observables, perturbations, and how the first move when the second do."""

from gp_response.response.clusters import Clusters, cluster
from gp_response.response.component import Component, component, component_covariance, components
from gp_response.response.control import control_variate
from gp_response.response.convert import CONVENTIONS
from gp_response.response.cumulant import ThirdCumulant, third_cumulant
from gp_response.response.energy import Energy
from gp_response.response.finite import finite_response
from gp_response.response.fluctuation import fdt_gap, fluctuation
from gp_response.response.influence import Components, Eigenmodes, Influence, Representatives, influence
from gp_response.response.jackknife import jackknife_covariance
from gp_response.response.leave_one_out import LeaveOneOut, leave_one_out
from gp_response.response.model_perturbations import (
    GlobalNoise,
    Hyperparameter,
    Mixture,
    Noise,
    ShiftInputs,
    Temperature,
    hyperparameter,
    mixture,
    noise,
    shift_inputs,
    temperature,
)
from gp_response.response.noise_response import NoiseResponse, noise_response
from gp_response.response.observable import Marginals, Observable
from gp_response.response.observables import (
    Average,
    Contrast,
    Gradient,
    Loss,
    Pointwise,
    Value,
    Variance,
    average,
    contrast,
    gradient,
    loss,
    pointwise,
    value,
    variance,
)
from gp_response.response.pattern import pattern
from gp_response.response.pattern_result import Pattern
from gp_response.response.perturbation import Perturbation
from gp_response.response.perturbations import Delete, Insert, Relabel, Reweight, delete, insert, relabel, reweight
from gp_response.response.predict import Prediction, predict
from gp_response.response.predict_change import ORDERS, predict_change
from gp_response.response.refit import expectation, refit_response
from gp_response.response.regime import Regime, regime
from gp_response.response.restricted import RestrictedPosterior, restrict
from gp_response.response.result import Modes, Susceptibility
from gp_response.response.sampled import SampledSusceptibility
from gp_response.response.second import SecondResponse, second_response
from gp_response.response.stored import StoredSusceptibility
from gp_response.response.structural import TwoChain, first_mode_share, structural, two_chain
from gp_response.response.structure import structure
from gp_response.response.susceptibility import susceptibility
from gp_response.response.total import Optimum, TotalSusceptibility, total_susceptibility
from gp_response.response.waic import InformationCriteria, waic
from gp_response.response.whole import (
    Evidence,
    LearningCoefficient,
    Parameter,
    Whole,
    evidence,
    learning_coefficient,
    parameter,
)

__all__ = [
    "SampledSusceptibility",
    "control_variate",
    "Component",
    "RestrictedPosterior",
    "TwoChain",
    "component",
    "component_covariance",
    "components",
    "first_mode_share",
    "restrict",
    "structural",
    "structure",
    "two_chain",
    "CONVENTIONS",
    "Average",
    "Clusters",
    "Components",
    "Contrast",
    "Delete",
    "Eigenmodes",
    "Energy",
    "Evidence",
    "GlobalNoise",
    "Gradient",
    "Hyperparameter",
    "LearningCoefficient",
    "Mixture",
    "Noise",
    "Parameter",
    "ShiftInputs",
    "Temperature",
    "Whole",
    "evidence",
    "gradient",
    "hyperparameter",
    "learning_coefficient",
    "mixture",
    "noise",
    "parameter",
    "shift_inputs",
    "temperature",
    "Influence",
    "InformationCriteria",
    "Insert",
    "LeaveOneOut",
    "Loss",
    "Marginals",
    "Modes",
    "NoiseResponse",
    "Pattern",
    "pattern",
    "Pointwise",
    "pointwise",
    "Observable",
    "Optimum",
    "Perturbation",
    "Prediction",
    "Relabel",
    "Representatives",
    "Reweight",
    "StoredSusceptibility",
    "TotalSusceptibility",
    "Susceptibility",
    "Value",
    "Variance",
    "average",
    "cluster",
    "contrast",
    "delete",
    "expectation",
    "fdt_gap",
    "fluctuation",
    "finite_response",
    "influence",
    "insert",
    "jackknife_covariance",
    "leave_one_out",
    "loss",
    "noise_response",
    "predict",
    "refit_response",
    "second_response",
    "SecondResponse",
    "ThirdCumulant",
    "third_cumulant",
    "ORDERS",
    "predict_change",
    "Regime",
    "regime",
    "relabel",
    "reweight",
    "susceptibility",
    "total_susceptibility",
    "value",
    "variance",
    "waic",
]
