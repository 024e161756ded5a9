"""Names for the shapes that pass between modules (jaxtyping; checked under test only)."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Points = Float[Tensor, "*batch n d"]
OtherPoints = Float[Tensor, "*batch m d"]
Values = Float[Tensor, "n"]
Matrix = Float[Tensor, "n m"]
Square = Float[Tensor, "n n"]
Indices = Int[Tensor, "k"]
Mask = Bool[Tensor, "n"]

__all__ = ["Indices", "Mask", "Matrix", "OtherPoints", "Points", "Square", "Values"]
