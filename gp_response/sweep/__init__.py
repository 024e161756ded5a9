"""Sweeps: many runs of an experiment, on one machine or many, that survive the death of any process."""

from gp_response.experiment import Experiment, configure, experiments, grid, load_experiment, read_experiment
from gp_response.sweep.drive import How, Outcome, conduct, sweep
from gp_response.sweep.engines import ENGINES, Resources
from gp_response.sweep.frame import frame, table_of, to_xarray
from gp_response.sweep.plan import Limits, Plan
from gp_response.sweep.records import config_hash, plain, read_result, result_path, results
from gp_response.sweep.run import run
from gp_response.sweep.space import Range, Space, assignments, read_space
from gp_response.sweep.spec import Spec, read_spec

__all__ = [
    "ENGINES",
    "Experiment",
    "How",
    "Limits",
    "Outcome",
    "Plan",
    "Range",
    "Resources",
    "Space",
    "Spec",
    "assignments",
    "conduct",
    "config_hash",
    "configure",
    "experiments",
    "frame",
    "grid",
    "load_experiment",
    "plain",
    "read_experiment",
    "read_result",
    "read_space",
    "read_spec",
    "result_path",
    "results",
    "run",
    "sweep",
    "table_of",
    "to_xarray",
]
