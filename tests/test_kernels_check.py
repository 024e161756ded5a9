"""An outsider's kernel passes or fails by one call, and a failure names the law."""

import math

import pytest
import torch

from gp_response.errors import InputError
from gp_response.kernels import RBF, DotKernel, Kernel, StationaryKernel, sqrt
from gp_response.kernels.distance import squared_distance
from gp_response.testing import check_kernel


class Cauchy(StationaryKernel):
    """1 / (1 + r²/a): the whole of an outsider's file."""

    def __init__(self, *, a=1.0, **options):
        super().__init__(**options)
        self.register_positive("a", a)

    def profile(self, r2):
        return 1.0 / (1.0 + r2 / self.a)


class Laplace(Kernel):
    """exp(-|x - y|_1), through formula alone."""

    def formula(self, x, y):
        return (-(x - y).abs().sum(-1)).exp()


class Brownian(Kernel):
    """min(x, y) on positive numbers: neither stationary nor of the inner product."""

    def coordinates(self, x):
        return super().coordinates(x).exp()

    def formula(self, x, y):
        return (0.5 * (x + y - (x - y).abs())).sum(-1)


class Exponential(DotKernel):
    """exp(s)."""

    def profile(self, s):
        return s.exp()


class Asymmetric(Kernel):
    def formula(self, x, y):
        return (-((x - 1.1 * y) ** 2).sum(-1)).exp()


class Indefinite(StationaryKernel):
    def profile(self, r2):
        return (1.0 - r2) * (-0.1 * r2).exp()


class PlainRoot(StationaryKernel):
    def profile(self, r2):
        return (-r2.sqrt()).exp()


class SafeRoot(StationaryKernel):
    def profile(self, r2):
        return (-sqrt(r2)).exp()


class Unreached(Cauchy):
    def profile(self, r2):
        return 1.0 / (1.0 + r2 / self.a.item())


class HalfReached(Cauchy):
    def profile(self, r2):
        return 1.0 / (1.0 + r2 / self.a) + self.a.detach()


class WrongDiagonal(Laplace):
    def diagonal(self, x):
        return super().diagonal(x) * 1.001


class WrongBlock(Laplace):
    def block(self, x, y):
        return super().block(x, y) + 1e-8


class Promoting(Laplace):
    def formula(self, x, y):
        return super().formula(x, y).double()


class ForgetsBatches(StationaryKernel):
    def block(self, x, y):
        first = x.reshape(-1, x.shape[-1])[: x.shape[-2]]
        return self.scaled((-sqrt(squared_distance(first, y))).exp())

    def profile(self, r2):
        return (-sqrt(r2)).exp()


@pytest.mark.parametrize(
    "kernel",
    [Cauchy(a=0.6), Laplace(lengthscale=[0.5, 1.0, 2.0]), Brownian(), SafeRoot(), Exponential(lengthscale=2.0)],
    ids=repr,
)
def test_an_outsiders_kernel_passes_by_one_call(kernel):
    check_kernel(kernel)


@pytest.mark.parametrize(
    ("kernel", "law"),
    [
        (Asymmetric(), "k(x, y) = k(y, x)ᵀ"),
        (Indefinite(), "matrix is positive semi-definite: eigenvalue 0 of 40"),
        (PlainRoot(), "gradients are finite, also where points coincide"),
        (PlainRoot(), "gr.kernels.sqrt"),
        (Unreached(), "gradients reach every parameter: none for ['raw_a']"),
        (HalfReached(), "gradient of raw_a = finite difference"),
        (WrongDiagonal(), "= diag matrix(x)"),
        (WrongBlock(), "matrix = double loop of formula"),
        (Promoting(), "dtype of the points: got torch.float64"),
        (ForgetsBatches(), "a batch"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_broken_kernel_fails_by_the_law_it_breaks(kernel, law):
    with pytest.raises(AssertionError) as caught:
        check_kernel(kernel)
    assert law in str(caught.value)


def test_a_failure_prints_index_values_and_tolerance():
    with pytest.raises(AssertionError) as caught:
        check_kernel(WrongBlock())
    message = str(caught.value)
    assert "tolerance 1.0e-10" in message
    assert "got" in message
    assert "expected" in message
    assert "(" in message


def test_checking_leaves_the_kernel_as_it_was():
    kernel = RBF(lengthscale=0.3)
    before = {k: v.clone() for k, v in kernel.state_dict().items()}
    check_kernel(kernel, dim=2, n=12)
    assert all(torch.equal(before[k], v) for k, v in kernel.state_dict().items())
    assert all(p.grad is None for p in kernel.parameters())


def test_batches_of_kernels_are_refused():
    with pytest.raises(InputError, match="one of the batch"):
        check_kernel(RBF(batch_shape=[2]))


def test_formula_alone_reaches_sums_products_features_and_large_sizes():
    x = torch.rand(900, 2, dtype=torch.float64)
    kernel = Laplace(lengthscale=0.5) * RBF() + Laplace()
    with torch.no_grad():
        k = kernel.matrix(x)
    i, j = 3, 850
    l1, l2 = float((x[i] - x[j]).abs().sum()), float(((x[i] - x[j]) ** 2).sum())
    assert math.isclose(float(k[i, j]), math.exp(-2 * l1 - l2 / 2) + math.exp(-l1), rel_tol=1e-12)
