"""The influence operator: the covariance of all training losses, and what is read off it."""

from gp_response.response.influence.build import influence
from gp_response.response.influence.components import Components
from gp_response.response.influence.eigenmodes import Eigenmodes
from gp_response.response.influence.operator import Influence
from gp_response.response.influence.representatives import Representatives
from gp_response.response.influence.squares import Estimated

__all__ = ["Components", "Eigenmodes", "Estimated", "Influence", "Representatives", "influence"]
