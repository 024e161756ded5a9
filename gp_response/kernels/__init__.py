"""Kernels: one formula each. They are gpytorch kernels, and work in any gpytorch or BoTorch model."""

from gp_response.kernels.arc_cosine import ArcCosine
from gp_response.kernels.base import Kernel
from gp_response.kernels.composite import CompositeKernel
from gp_response.kernels.constant import Constant
from gp_response.kernels.dot import DotKernel
from gp_response.kernels.families import families, family
from gp_response.kernels.foreign import Foreign
from gp_response.kernels.linear import Linear
from gp_response.kernels.matern12 import Matern12
from gp_response.kernels.matern32 import Matern32
from gp_response.kernels.matern52 import Matern52
from gp_response.kernels.maths import sqrt, with_slope
from gp_response.kernels.on import On
from gp_response.kernels.operator import KernelOperator
from gp_response.kernels.periodic import Periodic
from gp_response.kernels.polynomial import Polynomial
from gp_response.kernels.product import Product
from gp_response.kernels.rational_quadratic import RationalQuadratic
from gp_response.kernels.rbf import RBF
from gp_response.kernels.scale import Scale
from gp_response.kernels.stationary import StationaryKernel
from gp_response.kernels.sum import Sum
from gp_response.kernels.symmetric import SymmetricBlocks, symmetric_bilinear

# A kernel is public by its import above; modules, and what was imported for them, are not.
__all__ = [name for name, thing in vars().items() if getattr(thing, "__module__", "").startswith(f"{__name__}.")]
