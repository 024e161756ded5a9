"""Kernels: one formula each. They are gpytorch kernels, and work in any gpytorch or BoTorch model."""

from .base import Kernel
from .composite import CompositeKernel
from .dot import DotKernel
from .foreign import Foreign
from .maths import sqrt
from .matern12 import Matern12
from .matern32 import Matern32
from .matern52 import Matern52
from .on import On
from .operator import KernelOperator
from .product import Product
from .rbf import RBF
from .scale import Scale
from .stationary import StationaryKernel
from .sum import Sum

__all__ = [
    "RBF",
    "CompositeKernel",
    "DotKernel",
    "Foreign",
    "Kernel",
    "KernelOperator",
    "Matern12",
    "Matern32",
    "Matern52",
    "On",
    "Product",
    "Scale",
    "StationaryKernel",
    "Sum",
    "sqrt",
]
