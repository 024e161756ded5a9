"""Products by blocks: what the matrix gives, to the last digits that were promised, whatever the blocks."""

import subprocess
import sys

import pytest
import torch
from kernel_cases import ARD, KERNELS, awkward, exact, points

from gp_response.errors import InputError
from gp_response.features import MLP
from gp_response.kernels import RBF, Linear, Matern32, Matern52, RationalQuadratic
from gp_response.kernels.blocked import product
from gp_response.kernels.blocks import blocks_of
from gp_response.kernels.casting import call_in_dtype_of
from gp_response.kernels.symmetric import SymmetricBlocks, symmetric_bilinear
from gp_response.kernels.tiles import Tile, tiles

pytestmark = pytest.mark.usefixtures("way")
DTYPES = [torch.float64, torch.float32]


def agrees(got, expected, size, dtype):
    """To a few roundings of a sum, beside the error of the entries."""
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    assert float((got.double() - expected).abs().max()) <= tolerance * float(size)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_products_of_one_and_two_sets_are_those_of_the_matrix(name, dtype, depth, monkeypatch):
    """Also by stacks of blocks, as deep as a machine has cores."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: depth)
    monkeypatch.setattr("gp_response.kernels.blocks.SIDE", 128)
    kernel, x, y = KERNELS[name](), awkward(801, dtype), points(130, seed=1, dtype=dtype)
    v, w = points(130, 3, 2, dtype), points(801, 3, 3, dtype)
    with torch.no_grad():
        for operator, k, u in (
            (kernel.operator(x, y, backend="blocked"), exact(kernel, x, y), v),
            (kernel.operator(x, backend="blocked"), exact(kernel, x), w),
            (kernel.operator(y, x, backend="blocked"), exact(kernel, y, x), w),
        ):
            product = operator @ u
            assert product.dtype == dtype
            agrees(product, k @ u.double(), (k.abs() @ u.double().abs()).max(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_gradients_are_those_of_the_dense_backend(name, dtype, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr("gp_response.kernels.blocks.SIDE", 30)
    kernel, x, y = KERNELS[name](), points(100, dtype=dtype), points(70, seed=1, dtype=dtype)
    x[1] = x[0]
    u, v, w = points(100, 2, 2, dtype), points(70, 2, 3, dtype), points(100, 2, 4, dtype)

    def gradients(backend):
        one, two, right = (t.clone().requires_grad_() for t in (x, y, w))
        total = (u * (kernel.operator(one, two, backend=backend) @ v)).sum()
        total = total + (u * (kernel.operator(one, backend=backend) @ right)).sum()
        found = torch.autograd.grad(total, [one, two, right, *kernel.parameters()], allow_unused=True)
        return [torch.zeros(1) if g is None else g.double() for g in found]

    scale = float((u.double().abs() * (exact(kernel, x).abs() @ w.double().abs())).sum())
    for got, expected in zip(gradients("blocked"), gradients("dense"), strict=True):
        tolerance = {torch.float64: 1e-11, torch.float32: 1e-4}[dtype]
        assert float((got - expected).abs().max()) <= tolerance * float(expected.abs().max()) + 0.01 * tolerance * scale


@pytest.mark.parametrize(
    "name", ["RBF ard", "Matern12", "Matern52", "RationalQuadratic", "Polynomial", "Product", "nest"]
)
def test_quadratic_forms_and_their_gradients_are_finite_differences(name, monkeypatch):
    monkeypatch.setattr("gp_response.kernels.blocks.SIDE", 16)
    kernel, x, u, w = KERNELS[name](), points(41).requires_grad_(), points(41, 3, 1), points(41, 3, 2)
    value = symmetric_bilinear(kernel, x, u, w)
    assert value.shape == ()
    assert float(value) == pytest.approx(float((u * (exact(kernel, x) @ w)).sum()), rel=1e-12)
    tensors = [x, *(p for p in kernel.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(value, tensors)
    size = float((u.abs() * (exact(kernel, x).abs() @ w.abs())).sum())
    for tensor, gradient in zip(tensors, gradients, strict=True):
        direction, start = torch.randn_like(tensor), tensor.detach().clone()
        ends = []
        with torch.no_grad():
            for h in (1e-5, -1e-5):
                tensor.copy_(start + h * direction)
                ends.append(float(symmetric_bilinear(kernel, x, u, w)))
            tensor.copy_(start)
        slope = (ends[0] - ends[1]) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(slope, abs=1e-6 * (abs(slope) + size))


def test_float32_gradients_of_many_points_are_those_of_float64():
    kernel, x, u = Matern32(lengthscale=ARD, outputscale=1.3).on(MLP(3, [8, 3])), points(1500), points(1500, 4, 1)
    results = []
    for dtype in (torch.float32, torch.float64):
        total = symmetric_bilinear(kernel, x.to(dtype), u, u)
        results.append([total, *torch.autograd.grad(total, list(kernel.parameters()))])
    size = float((u.abs() * (exact(kernel, x).abs() @ u.abs())).sum())
    for got, expected in zip(*results, strict=True):
        assert float((got.double() - expected).abs().max()) <= 1e-5 * float(expected.abs().max()) + 1e-7 * size


def by_blocks(kernel, x, v):
    def multiply(kernel):
        coordinates = kernel.coordinates(kernel.select(x))
        return product(kernel, coordinates, coordinates, v)

    return call_in_dtype_of(x, kernel, multiply)


def by_matrix(kernel, x, v):
    return kernel.matrix(x) @ v


def test_second_derivatives_are_those_of_the_matrix():
    kernel, x, v = KERNELS["nest"](), points(20), points(20, 2, 1)

    def twice(multiply):
        total = (multiply(kernel, x, v) ** 2).sum()
        gradients = torch.autograd.grad(total, list(kernel.parameters()), create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in gradients), list(kernel.parameters()))

    for got, expected in zip(twice(by_blocks), twice(by_matrix), strict=True):
        assert torch.allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_tangents_of_either_kind_are_not_dropped():
    kernel, x, v = KERNELS["Matern52"]().requires_grad_(False), points(12), points(12, 2, 1)
    direction = v[:, :1] * x
    tangent = torch.func.jvp(lambda t: by_blocks(kernel, t, v), (x,), (direction,))[1]
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        plain = torch.autograd.forward_ad.unpack_dual(by_blocks(kernel, dual, v)).tangent
    slope = (exact(kernel, x + 1e-6 * direction) @ v - exact(kernel, x - 1e-6 * direction) @ v) / 2e-6
    assert torch.allclose(tangent, slope, rtol=1e-6, atol=1e-8)
    assert torch.allclose(plain, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 799, 800, 801])
def test_nothing_depends_on_the_block_or_on_what_is_kept(n, dtype, way, monkeypatch):
    monkeypatch.setattr("gp_response.kernels.compiled.KEPT_DIM", {dtype: 0})
    kernel, x, v = Matern32(lengthscale=ARD, outputscale=2.0), points(n), points(n, 5, 1)
    k = exact(kernel, x)
    size = (k.abs() @ v.abs()).max()
    for block in (None, 1 if n < 3 else 64, 255, 800, 10_000):
        for keep in (0, 10**6, 10**9):
            blocks = SymmetricBlocks(kernel, x, dtype=dtype, block=block, keep_bytes=keep)
            first, again = blocks.product(v), blocks.product(v)
            assert torch.equal(first, again)
            assert first.dtype == dtype
            assert blocks.kept <= keep
            agrees(first, k @ v, size, dtype)
    if way == "torch":
        assert blocks.kept == n * n * dtype.itemsize  # one block, kept whole
    else:
        assert 0.5 * n * n * dtype.itemsize <= blocks.kept


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("n", [0, 1, 7, 64, 65, 200])
def test_tiles_cover_every_entry_once(n, symmetric):
    for m in {n} if symmetric else {0, 1, 5, 130}:
        for size in (1, 16, 64, 1000):
            for depth in (1, 2, 5):
                covered = torch.zeros(n, m)
                for tile in tiles(n, m, size, depth, symmetric=symmetric):
                    blocks = covered[tile.rows, tile.columns]
                    assert blocks.shape[1] % tile.depth == 0
                    assert blocks.shape[0] <= size
                    blocks += 1
                    if symmetric:
                        first = blocks.shape[1] // tile.depth if tile.starts_on_diagonal else 0
                        covered[tile.columns, tile.rows][first:] += 1
                assert torch.equal(covered, torch.ones(n, m))


def test_columns_come_out_alone_as_they_do_together_and_in_any_order():
    kernel, x, v = RBF(lengthscale=ARD), points(801), points(801, 130, 1)
    blocks = SymmetricBlocks(kernel, x, dtype=torch.float32)
    whole, order = blocks.product(v), torch.randperm(130, generator=torch.Generator().manual_seed(0))
    size = float((exact(kernel, x).abs() @ v.abs()).max())
    assert float((blocks.product(v[:, order]) - whole[:, order]).abs().max()) <= 1e-6 * size
    assert float((blocks.product(v[:, 7:8]) - whole[:, 7:8]).abs().max()) <= 1e-6 * size
    agrees(whole, exact(kernel, x) @ v, size, torch.float32)


THREADS = """
import sys, torch
from gp_response.kernels import Matern32
from gp_response.kernels.tiles import Tile, tiles
from gp_response.kernels.symmetric import SymmetricBlocks
generator = torch.Generator().manual_seed(0)
x, v = (torch.randn(1200, d, dtype=torch.float64, generator=generator) for d in (3, 4))
print(torch.get_num_threads(), *SymmetricBlocks(Matern32(), x, dtype=torch.float32).product(v).double().flatten().tolist())
"""


def test_nothing_depends_on_the_number_of_threads():
    results = []
    for threads in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", THREADS],
            env={"OMP_NUM_THREADS": threads, "KEOPS_VERBOSE": "0"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        count, *numbers = out.stdout.split()
        assert count == threads
        results.append(torch.tensor([float(s) for s in numbers]))
    assert float((results[0] - results[1]).abs().max()) <= 1e-5 * float(results[0].abs().max())


def test_blocks_keep_the_hyperparameters_they_were_made_with():
    kernel, x, v = RationalQuadratic(lengthscale=ARD), points(50), points(50, 2, 1)
    expected = exact(kernel, x) @ v
    for options in ({}, {"exact": True}):
        blocks = SymmetricBlocks(kernel, x, **options)
        with torch.no_grad():
            kernel.alpha, kernel.outputscale = 9.0, 7.0
        assert torch.allclose(blocks.product(v), expected, rtol=1e-12)
        kernel.alpha, kernel.outputscale = 1.0, 1.0


def test_no_points_and_no_columns():
    kernel = KERNELS["Matern32"]()
    for one in (kernel, KERNELS["nest"](), KERNELS["ArcCosine 1"]()):
        for x, y in ((0, 5), (5, 0), (0, 0), (1, 5), (5, 1)):
            product = one.operator(points(x), points(y), backend="blocked") @ points(y, 2, 1)
            assert product.shape == (x, 2)
            assert torch.allclose(product, exact(one, points(x), points(y)) @ points(y, 2, 1))
    assert SymmetricBlocks(kernel, points(0)).product(points(0, 2)).shape == (0, 2)
    assert SymmetricBlocks(kernel, points(6)).product(points(6, 0)).shape == (6, 0)
    x = points(0).requires_grad_()
    (gradient,) = torch.autograd.grad(symmetric_bilinear(kernel, x, points(0, 2), points(0, 2)), x)
    assert gradient.shape == (0, 3)


class Overridden(RBF):
    """Its profile is another one than that which RBF puts in place."""

    def profile(self, r2):
        return 1.0 / (1.0 + r2)


class OwnBlock(Matern32):
    def block(self, x, y):
        return super().block(x, y) ** 2


class Twisted(type(RBF() + RBF())):
    """A sum that joins in its own way."""

    def join(self, values):
        return values[0] + 3.0 * values[1]


@pytest.mark.parametrize("make", [Overridden, OwnBlock, lambda: Twisted(RBF(), Linear(outputscale=2.0))])
def test_a_subclass_that_redefines_part_of_a_kernel_is_believed(make):
    kernel, x, v = make(), points(60), points(60, 2, 1).requires_grad_()
    total = (kernel.operator(x, backend="blocked") @ v).sum()
    expected = (kernel.operator(x, backend="dense") @ v).sum()
    assert float(total) == pytest.approx(float(expected), rel=1e-12)
    assert torch.allclose(torch.autograd.grad(total, v)[0], torch.autograd.grad(expected, v)[0])


def test_what_symmetric_blocks_cannot_take_is_refused():
    with pytest.raises(InputError, match="kernel of batch shape"):
        SymmetricBlocks(RBF(batch_shape=[2]), points(4))
    with pytest.raises(InputError, match="block = 0"):
        SymmetricBlocks(RBF(), points(4), block=0)
    with pytest.raises(InputError, match=r"expected \(4, t\)"):
        SymmetricBlocks(RBF(), points(4)).product(points(5, 2))


MEMORY = """
import resource, torch
from gp_response.kernels import Matern32
from gp_response.kernels.tiles import Tile, tiles
from gp_response.kernels.symmetric import symmetric_bilinear
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
kernel, n = Matern32(ard=4), 5000
x, u = torch.randn(n, 4, dtype=torch.float64), torch.randn(n, 2, dtype=torch.float64)
symmetric_bilinear(kernel, x[:1100], u[:1100], u[:1100]).backward()
before = peak()
symmetric_bilinear(kernel, x, u, u).backward()
print((peak() - before) / (8 * n * n))
"""


def test_memory_of_a_gradient_is_that_of_blocks():
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(out.stdout.split()[-1]) < 0.1


def test_blocks_of_a_stack_stand_side_by_side():
    kernel, x, y = Matern52(lengthscale=ARD), points(50), points(40, seed=1)
    with torch.no_grad():
        blocks = call_in_dtype_of(x, kernel, lambda k: blocks_of(k, k.coordinates(x), k.coordinates(y), x.dtype))
        block = blocks(Tile(slice(10, 30), slice(5, 35), 3)) * blocks.factor
    expected = exact(kernel, x, y)[10:30, 5:35]
    assert torch.allclose(block, torch.stack(expected.split(10, dim=1)), rtol=1e-12)
