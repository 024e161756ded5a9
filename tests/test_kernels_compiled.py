"""Products in one compiled call: every size, shape and profile, and what happens without a compiler."""

import os
import platform
import subprocess
import sys
import warnings

import pytest
import torch
from kernel_cases import awkward, points

from gp_response.kernels import RBF, Matern12, Matern32, Matern52, RationalQuadratic, Scale, compiled
from gp_response.kernels.blocked import fast_matrix
from gp_response.kernels.blocks import blocks_of
from gp_response.kernels.compiled import Pairs
from gp_response.kernels.symmetric import SymmetricBlocks

MULTIPLES = {"rbf": (RBF, -0.5), "matern12": (Matern12, 1.0), "matern32": (Matern32, 3.0), "matern52": (Matern52, 5.0)}
DTYPES = [torch.float64, torch.float32]


def pairs(profile, x, y, dtype, *, expanded=False):
    return Pairs(x, y, dtype, profile=profile, multiple=MULTIPLES[profile][1], expanded=expanded)


def matrix(profile, x, y, dtype):
    with torch.no_grad():
        return MULTIPLES[profile][0]().matrix(x.to(dtype).double(), y.to(dtype).double())


@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("profile", MULTIPLES)
def test_products_are_those_of_the_matrix_whatever_the_size(profile, dtype, expanded):
    if expanded and profile == "matern12":
        pytest.skip("a kink at 0, where products cancel")
    for n, m, dim in ((1, 1, 1), (3, 700, 5), (257, 256, 3), (801, 33, 18), (65, 129, 64)):
        x, y = (points(k, dim, seed) / dim**0.5 for k, seed in ((n, 0), (m, 1)))
        k, square = matrix(profile, x, y, dtype), matrix(profile, x, x, dtype)
        for t in (1, 2, 3, 5, 8, 15, 16, 17, 31, 40):
            v, w = points(m, t, 2, dtype), points(n, t, 3, dtype)
            for product, exact in (
                (pairs(profile, x, y, dtype, expanded=expanded).product(v), k @ v.double()),
                (pairs(profile, x, x, dtype, expanded=expanded).product(w), square @ w.double()),
            ):
                assert product.dtype == dtype
                size = exact.abs().max() + m**0.5
                assert float((product.double() - exact).abs().max() / size) < 40 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("profile", MULTIPLES)
def test_differences_are_right_to_a_few_units_of_rounding(profile, dtype):
    """Near-duplicates and points so far apart that their covariance is nothing."""
    x = awkward(300, spread=3.0).to(dtype)
    x[7] = 1e4
    out = torch.empty(300, 300, dtype=dtype)
    k = pairs(profile, x, x, dtype).block(slice(0, 300), slice(0, 300), out).double()
    exact = matrix(profile, x, x, dtype)
    assert float((k - exact).abs().max()) <= 8 * torch.finfo(dtype).eps
    near = exact > 1e-3
    assert float(((k - exact) / exact)[near].abs().max()) <= 32 * torch.finfo(dtype).eps
    assert torch.equal(k, k.T)
    assert torch.equal(k.diagonal(), torch.ones(300, dtype=torch.float64))
    assert float(k[7, 8]) < 1e-28


def test_blocks_begin_anywhere():
    x, y = points(300, 4), points(200, 4, 1)
    k, made = matrix("matern52", x, y, torch.float64), pairs("matern52", x, y, torch.float64)
    for rows, columns in (
        (slice(0, 300), slice(0, 200)),
        (slice(17, 18), slice(31, 199)),
        (slice(299, 300), slice(1, 2)),
    ):
        out = torch.empty(rows.stop - rows.start, columns.stop - columns.start, dtype=torch.float64)
        assert float((made.block(rows, columns, out) - k[rows, columns]).abs().max()) < 1e-14


@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_blocks_and_the_number_of_threads_change_rounding_at_most(dtype, expanded, monkeypatch):
    monkeypatch.setattr(compiled, "KEPT_DIM", {dtype: 0})
    x, v = points(900, 6), points(900, 11, 1, dtype)
    products = []
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for keep in (0, 10**6, 10**8):
            made = pairs("matern32", x, x, dtype, expanded=expanded)
            made.keep(keep)
            first, again = made.product(v), made.product(v)
            assert torch.equal(first, again)
            assert made.kept <= keep
            products.append(first)
    exact = matrix("matern32", x, x, dtype) @ v.double()
    for product in products:
        assert float((product.double() - exact).norm() / exact.norm()) < 10 * torch.finfo(dtype).eps


def test_long_sums_in_float32_lose_few_digits():
    """Of 20,000 equal numbers a running sum in float32 would lose three digits; one thread adds more tiles in a row."""
    x, v = torch.zeros(20_000, 2), torch.ones(20_000, 3) / 3.0
    exact = float(v[:, 0].double().sum())
    for rows, columns in ((x, x), (x[:5], x)):
        made = pairs("rbf", rows, rows if rows is columns else columns, torch.float32)
        assert float((made.product(v).double() - exact).abs().max() / exact) < 6e-6


def test_numbers_that_are_none_stay_none():
    x = points(70, 3)
    x[5, 1] = float("nan")
    for dtype in DTYPES:
        product = pairs("matern32", x, x, dtype).product(torch.ones(70, 1, dtype=dtype))
        assert bool(product.isnan().all())


def test_nothing_to_multiply():
    x, none = points(5, 3), points(0, 3)
    assert (
        pairs("rbf", x, none, torch.float64).product(torch.ones(0, 2, dtype=torch.float64)).tolist() == [[0.0] * 2] * 5
    )
    assert pairs("rbf", none, x, torch.float64).product(torch.ones(5, 2, dtype=torch.float64)).shape == (0, 2)
    assert pairs("rbf", x, x, torch.float64).product(torch.ones(5, 0, dtype=torch.float64)).shape == (5, 0)


class Changed(Matern32):
    """A subclass with another profile, whose compiled name is its parent's."""

    def profile(self, r2):
        return (-r2).exp()


def test_only_profiles_that_are_known_are_compiled():
    x = points(600)
    assert blocks_of(Matern32(), x, x, torch.float64).pairs is not None
    assert blocks_of(Scale(Matern32(outputscale=None), outputscale=3.0), (x,), (x,), torch.float64).pairs is not None
    assert blocks_of(Changed(), x, x, torch.float64).pairs is None
    assert blocks_of(RationalQuadratic(), x, x, torch.float64).pairs is None
    kernel = Changed().requires_grad_(False)
    v = points(600, 2, 1)
    assert torch.allclose(SymmetricBlocks(kernel, x).product(v), kernel.matrix(x) @ v, rtol=1e-10)


def test_a_matrix_is_stored_by_the_same_blocks(way):
    x, y = points(700, 4), points(90, 4, 1)
    for kernel in (Matern32(outputscale=2.0), RBF() * RationalQuadratic(), 3.0 * Matern52(outputscale=None)):
        kernel = kernel.requires_grad_(False)
        assert float((fast_matrix(kernel, x, y) - kernel.matrix(x, y)).abs().max()) < 1e-12
        assert float((fast_matrix(kernel, y, x) - kernel.matrix(y, x)).abs().max()) < 1e-12


@pytest.mark.parametrize("compiler", ["/nowhere/g++", "false"])
def test_without_a_compiler_a_warning_says_so_and_torch_multiplies(compiler, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(compiled.pooch, "os_cache", lambda name: tmp_path / name)
    library = compiled.library.__wrapped__
    with pytest.warns(UserWarning, match="not compiled"):
        assert library() is None
    monkeypatch.setattr(compiled, "library", lambda: None)
    x, kernel = points(600), Matern32().requires_grad_(False)
    assert blocks_of(kernel, x, x, torch.float64).pairs is None
    assert torch.allclose(kernel.operator(x) @ x, kernel.matrix(x) @ x)


def test_it_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled.pooch, "os_cache", lambda name: tmp_path / name)
    library = compiled.library.__wrapped__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library() is not None
        (made,) = (tmp_path / "gp_response" / "compiled").iterdir()
        stamp = made.stat().st_mtime_ns
        assert library() is not None
    assert made.stat().st_mtime_ns == stamp


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86")
@pytest.mark.parametrize("flag", ["-mno-avx512f", "-mno-avx"])
def test_shorter_vectors_give_the_same(flag, monkeypatch, tmp_path):
    """What machines with narrower vectors compile."""
    x, v = points(300, 5), points(300, 11, 1)
    expected = {(name, t): pairs(name, x, x, t).product(v.to(t)) for name in MULTIPLES for t in DTYPES}
    monkeypatch.setattr(compiled.pooch, "os_cache", lambda name: tmp_path / name)
    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, flag))
    narrower = compiled.library.__wrapped__()
    monkeypatch.setattr(compiled, "library", lambda: narrower)
    for (name, dtype), product in expected.items():
        found = pairs(name, x, x, dtype).product(v.to(dtype))
        assert float((found - product).abs().max()) < 200 * torch.finfo(dtype).eps


def test_fewer_threads_than_asked_for_do_all_of_the_work():
    code = """
import torch
from gp_response.kernels.compiled import Pairs
torch.get_num_threads = lambda: 4
x, v = torch.randn(900, 3, dtype=torch.float64), torch.randn(900, 2, dtype=torch.float64)
product = Pairs(x, x, x.dtype, profile="rbf", multiple=-0.5, expanded=False).product(v)
assert torch.allclose(product, torch.exp(-0.5 * torch.cdist(x, x) ** 2) @ v)
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_THREAD_LIMIT": "1"}, check=True)
