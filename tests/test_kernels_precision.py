"""Fast entries are as right as promised: far from the origin, between near-duplicates, for profiles nobody knows."""

import math

import numpy as np
import pytest
import torch
from kernel_cases import ARD, awkward, entries, exact, points

from gp_response.kernels import RBF, Kernel, Matern12, Matern32, Matern52, RationalQuadratic, StationaryKernel
from gp_response.kernels.augmented import ENTRY_ERROR, too_near
from gp_response.kernels.symmetric import SymmetricBlocks

pytestmark = pytest.mark.usefixtures("way")
DTYPES = [torch.float64, torch.float32]
STATIONARY = {
    "RBF": lambda: RBF(lengthscale=ARD),
    "Matern12": lambda: Matern12(lengthscale=ARD),
    "Matern32": lambda: Matern32(lengthscale=ARD),
    "Matern52": lambda: Matern52(lengthscale=ARD),
    "RationalQuadratic": lambda: RationalQuadratic(alpha=0.7, lengthscale=ARD),
    "Cauchy": lambda: Cauchy(lengthscale=ARD),
    "Laplacian": lambda: Laplacian(lengthscale=ARD),
}


class Cauchy(StationaryKernel):
    """A profile that says nothing of itself."""

    def profile(self, r2):
        return 1.0 / (1.0 + r2)


class Laplacian(StationaryKernel):
    """One with a kink, which it does not mention."""

    def profile(self, r2):
        return 0.5 * (-r2.clamp_min(1e-36).sqrt()).exp()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [(0.0, 1.0), (1e4, 1.0), (0.0, 1e3), (1e6, 0.01)], ids=str)
@pytest.mark.parametrize("name", STATIONARY)
def test_every_entry_is_as_right_as_promised(name, place, dtype):
    """Also far from the origin, with lengthscales of a thousandth of the spread, and between near-duplicates."""
    far, spread = place
    kernel, x = STATIONARY[name](), awkward(300, far=far, spread=spread)
    error = (entries(kernel, x, dtype) - exact(kernel, x)).abs() / exact(kernel, x).abs().max()
    # The matrix itself is evaluated in float64, from coordinates rounded at the offset.
    assert float(error.max()) <= ENTRY_ERROR[dtype] * torch.finfo(dtype).eps
    assert float(error.square().mean().sqrt()) <= 0.1 * ENTRY_ERROR[dtype] * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_ornstein_uhlenbeck_kernel_sees_the_distance_of_near_duplicates(dtype):
    """The augmented product alone would put points 1e-5 apart at a distance of 1e-3 (float32) or 1e-8 (float64)."""
    x = awkward(64)
    k = entries(Matern12(lengthscale=1.0), x, dtype)
    for i, gap in enumerate((0.0, 1e-9, 1e-5, 1e-2)):
        expected = torch.exp(torch.tensor(-(3.0**0.5) * gap, dtype=torch.float64))
        assert float((k[i, 63 - i] - expected).abs()) <= 4 * torch.finfo(dtype).eps


def test_the_diagonal_is_exactly_that_of_distance_0():
    for name in ("RBF", "Matern12", "Matern52"):
        k = entries(STATIONARY[name](), awkward(300, far=1e5), torch.float32)
        assert torch.equal(k.diagonal(), torch.ones(300, dtype=torch.float64))


def test_the_precision_follows_from_the_profile_and_the_spread(way):
    def mode(kernel, spread, dtype):
        return SymmetricBlocks(kernel, spread * points(200), dtype=dtype).mode

    if way == "compiled":
        kernels = (RBF(), 0.5, torch.float32), (Matern12(), 0.5, torch.float32), (RBF(), 1e5, torch.float64)
        assert all(mode(*of) == "compiled" for of in kernels)
        # float32 would move these points by more than their kernel forgives.
        assert mode(RBF(), 1e5, torch.float32) == mode(Matern12(), 1e3, torch.float32) == "repaired"
        assert mode(Cauchy(), 0.5, torch.float32) == "product"
        return
    assert mode(RBF(), 0.5, torch.float32) == mode(Cauchy(), 0.5, torch.float32) == "product"
    assert mode(RBF(), 10.0, torch.float32) == mode(Matern12(), 0.5, torch.float32) == "double"
    assert mode(RBF(), 1.0, torch.float64) == "product"
    assert mode(Matern12(), 1.0, torch.float64) == mode(Laplacian(), 1.0, torch.float64) == "repaired"
    assert mode(RBF(), 1e5, torch.float64) == mode(Matern12(), 1e3, torch.float32) == "repaired"


def test_how_near_is_too_near_is_read_off_the_profile():
    assert too_near(lambda r2: (-0.5 * r2).exp(), 1e-8, 1e-7) is None
    assert too_near(lambda r2: (-0.5 * r2).exp(), 1e-6, 1e-7) == pytest.approx(2.0 * math.log(5.0), rel=0.4)
    # exp(-r) moves by error / 2r: more than the tolerance below r = error / (2 tolerance).
    assert too_near(lambda r2: (-r2.sqrt()).exp(), 1e-10, 1e-7) == pytest.approx(2.5e-7, rel=0.4)
    assert too_near(lambda r2: r2 * float("nan"), 1e-10, 1e-7) == float("inf")


LONG = {
    "RBF": lambda r2: np.exp(-r2 / 2),
    "Matern12": lambda r2: np.exp(-np.sqrt(r2)),
    "Matern32": lambda r2: (1 + np.sqrt(3 * r2)) * np.exp(-np.sqrt(3 * r2)),
}


@pytest.mark.parametrize("place", [(0.0, 1.0), (1e4, 1.0), (0.0, 1e3), (1e8, 1e4), (1.0, 0.01)], ids=str)
@pytest.mark.parametrize("name", LONG)
def test_exact_blocks_are_right_to_the_last_bits(name, place, way):
    """Against differences in extended precision, where x86 has it."""
    far, spread = place
    kernel = {"RBF": RBF, "Matern12": Matern12, "Matern32": Matern32}[name]()
    for dim in (1, 3, 20):
        x = awkward(200, far=far, spread=spread, dim=dim)
        long = x.numpy().astype(np.longdouble)
        expected = LONG[name](((long[:, None] - long[None]) ** 2).sum(-1))
        blocks = SymmetricBlocks(kernel, x, exact=True, block=97)
        assert blocks.mode == ("compiled" if way == "compiled" else "split")
        got = blocks.product(torch.eye(200, dtype=x.dtype)).numpy()
        assert float(np.abs(got - expected).max()) <= 4 * np.finfo(np.float64).eps


def test_a_formula_far_from_the_origin_is_not_rounded_before_its_differences():
    class Taxicab(Kernel):
        def formula(self, x, y):
            return (-(x - y).abs().sum(-1)).exp()

    kernel, x = Taxicab(), awkward(100, far=1e5)
    assert float((entries(kernel, x, torch.float32) - exact(kernel, x)).abs().max()) <= 1e-6


def test_coarse_matrix_products_of_the_caller_do_not_reach_the_distances(way):
    if way == "compiled":
        pytest.skip("no matrix products there")
    kernel, x = RBF(), points(100)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        blocks = SymmetricBlocks(kernel, x, dtype=torch.float32)
    finally:
        torch.set_float32_matmul_precision(before)
    assert blocks.mode == "double"
