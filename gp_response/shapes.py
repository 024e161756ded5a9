"""Names for the shapes that pass between modules (jaxtyping; checked under test only)."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Points = Float[Tensor, "*batch n d"]
OtherPoints = Float[Tensor, "*others m d"]  # batches broadcast with those of Points
Values = Float[Tensor, "*batch n"]
Matrix = Float[Tensor, "*both n m"]
Indices = Int[Tensor, "k"]
Mask = Bool[Tensor, "n"]

__all__ = ["Indices", "Mask", "Matrix", "OtherPoints", "Points", "Values"]
