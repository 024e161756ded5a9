"""Total response: what the data do to a model whose hyperparameters and features are optimised again."""

from gp_response.response.total.optimum import Optimum
from gp_response.response.total.result import TotalSusceptibility
from gp_response.response.total.total import total_susceptibility

__all__ = ["Optimum", "TotalSusceptibility", "total_susceptibility"]
