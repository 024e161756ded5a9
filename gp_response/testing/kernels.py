"""The laws of a kernel, for ours and for an outsider's alike."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.features import Identity
from gp_response.kernels import Kernel, StationaryKernel
from gp_response.kernels.recompute import recomputed
from gp_response.kernels.symmetric import SymmetricBlocks
from gp_response.testing.report import assert_close

FINITE_DIFFERENCE = 1e-6  # what a central difference of step 1e-5 can confirm
SINGLE = 1e-4  # what single precision must reach, relative to the largest entry


def check_kernel(
    kernel: Kernel, dim: int = 3, *, n: int = 40, seed: int = 0, keops: bool = False, tolerance: float = 1e-10
) -> None:
    """Check every law of a kernel on random points, with a duplicate and a near-duplicate among them.

    Args:
        kernel: without a batch shape; a copy of it is checked, so that its gradients stay as they are.
        dim: columns of the points.
        keops: also the agreement of the KeOps backend in value and gradient (compiles some formulas, 10 s each).
        tolerance: of laws that hold to rounding, relative to the largest entry.

    Raises:
        AssertionError: the first law that fails, with the entries that fail most, both values and the tolerance.
        InputError: for a kernel with a batch shape.
    """
    if len(kernel.batch_shape):
        raise InputError(f"check_kernel got a kernel of batch shape {tuple(kernel.batch_shape)}; give one of the batch")
    kernel = deepcopy(kernel).double()
    x, y = example_points(n, dim, seed), example_points(n // 2, dim, seed + 1)
    close = partial(_close, tolerance=tolerance)
    for law in (_symmetry, _loop, _diagonal, _evaluations, _gradients, _transforms, _batches, _copies):
        law(kernel, x, y, close)
    _positive_semidefinite(kernel, x)
    _finite_differences(kernel, torch.randn(n // 4, dim, dtype=x.dtype, generator=torch.Generator().manual_seed(seed)))
    _single_precision(kernel, x)
    _blocked(kernel, x, y, close)
    if keops:
        _keops(kernel, x, y, close)


def _close(law: str, got: Tensor, expected: Tensor, *, tolerance: float, scale: float | None = None) -> float:
    return assert_close(law, got.detach(), expected.detach(), tolerance=tolerance, scale=scale)


def example_points(n: int, dim: int, seed: int) -> Tensor:
    """Normal points, the second equal to the first and the fourth 1e-9 away from the third."""
    x = torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[1], x[3] = x[0], x[2] + 1e-9
    return x


def _symmetry(kernel: Kernel, x: Tensor, y: Tensor, close: Callable[..., float]) -> None:
    close("k(x, y) = k(y, x)ᵀ", kernel.matrix(x, y), kernel.matrix(y, x).mT)
    _close("k(x) is exactly symmetric", kernel.matrix(x), kernel.matrix(x).mT, tolerance=0.0)
    close("k(x) = k(x, x)", kernel.matrix(x), kernel.matrix(x, x.clone()))


def _loop(kernel: Kernel, x: Tensor, y: Tensor, close: Callable[..., float]) -> None:
    with torch.no_grad():
        us, vs = ([kernel.coordinates(kernel.select(p[None])) for p in points] for points in (x, y[:10]))
        loop = torch.stack([torch.cat([kernel.pairs(u, v).reshape(1) for v in vs]) for u in us])
        close("matrix = double loop of formula over single points", kernel.matrix(x, y[:10]), loop)


def _diagonal(kernel: Kernel, x: Tensor, y: Tensor, close: Callable[..., float]) -> None:
    close("diagonal(x) = diag matrix(x)", kernel.diagonal(x), kernel.matrix(x).diagonal())
    close("kernel(x, diag=True) = diag matrix(x)", kernel(x, diag=True), kernel.matrix(x).diagonal())


def _evaluations(kernel: Kernel, x: Tensor, y: Tensor, close: Callable[..., float]) -> None:
    matrix = kernel.matrix(x, y)
    with torch.no_grad():
        close("matrix without gradients = matrix with", kernel.matrix(x, y), matrix)
    close("gpytorch's lazy kernel(x, y) = matrix(x, y)", kernel(x, y).to_dense(), matrix)
    v = torch.linspace(-1.0, 1.0, len(y), dtype=x.dtype)[:, None]
    close("operator(x, y) @ v = matrix(x, y) @ v", kernel.operator(x, y, backend="dense") @ v, matrix @ v)
    _close("On(Identity) = kernel", kernel.on(Identity()).matrix(x, y), matrix, tolerance=0.0)


def _gradients(kernel: Kernel, x: Tensor, y: Tensor, close: Callable[..., float]) -> None:
    """Finite everywhere, reaching every parameter, and the same by the route that recomputes tiles."""
    x = x.clone().requires_grad_()
    weights = torch.cos(torch.arange(len(x) ** 2, dtype=x.dtype)).reshape(len(x), len(x))
    plain = _all_gradients(kernel, x, (kernel.matrix(x) * weights).sum())
    coordinates = kernel.coordinates(kernel.select(x))
    again = recomputed(kernel, coordinates, coordinates, symmetric=True)
    tiled = _all_gradients(kernel, x, (again * weights).sum())
    for name, gradient in plain.items():
        close(f"recomputed gradient of {name} = plain gradient", tiled[name], gradient)


def _blocked(kernel: Kernel, x: Tensor, y: Tensor, close: Callable[..., float]) -> None:
    """Products by blocks, of two sets and of one, and their gradients; far from the origin, and in float32, too."""
    for far in (0.0, 1e4) if isinstance(kernel, StationaryKernel) else (0.0,):
        u, v = x + far, y + far
        left, right = (torch.cos(torch.arange(2 * len(t), dtype=x.dtype)).reshape(-1, 2) for t in (x, y))
        with torch.no_grad():
            kernel_uv, kernel_uu = kernel.matrix(u, v), kernel.matrix(u)
            size = max(float((k.abs() @ w.abs()).max()) for k, w in ((kernel_uv, right), (kernel_uu, left)))
            close("blocked = dense", kernel.operator(u, v, backend="blocked") @ right, kernel_uv @ right, scale=size)
            blocks = SymmetricBlocks(kernel, u, block=len(x) // 3, keep_bytes=8 * len(x) ** 2 // 4)
            close("symmetric blocks = dense", blocks.product(left), kernel_uu @ left, scale=size)
            close("blocks kept = blocks computed", blocks.product(left), kernel_uu @ left, scale=size)
            single = SymmetricBlocks(kernel, u, dtype=torch.float32, block=len(x) // 3).product(left)
            _close("float32 blocks = dense", single.double(), kernel_uu @ left, tolerance=SINGLE, scale=size)
    keep = torch.arange(len(x)) != 3  # a kink's gradient between near-duplicates is beyond every backend
    x, left = x[keep].requires_grad_(), left[keep]
    for name, points, w in (("(x, y)", (x, y), right), ("(x)", (x,), left)):
        ours, theirs = (
            _all_gradients(kernel, x, (left * (kernel.operator(*points, backend=backend) @ w)).sum())
            for backend in ("blocked", "dense")
        )
        scale = float((left.abs() * (kernel.matrix(*points).detach().abs() @ w.abs())).sum())
        for found, expected in theirs.items():
            size = scale + float(expected.abs().max())
            close(f"blocked{name} gradient of {found} = dense gradient", ours[found], expected, scale=size)


def _all_gradients(kernel: Kernel, x: Tensor, total: Tensor) -> dict[str, Tensor]:
    """Gradients by name; a parameter that gets none, or one that is not finite, breaks a law."""
    tensors = {name: p for name, p in kernel.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(total, [*tensors.values(), x], allow_unused=True) if total.requires_grad else ()
    named = dict(zip([*tensors, "x"], found or [None] * (len(tensors) + 1), strict=True))
    lost = [name for name in tensors if named[name] is None]
    if lost:
        raise AssertionError(f"gradients reach every parameter: none for {lost}; is a value taken by .item() or .data?")
    gradients = {name: g for name, g in named.items() if g is not None}
    for name, gradient in gradients.items():
        bad = (~gradient.isfinite()).nonzero().tolist()
        if bad:
            raise AssertionError(
                f"gradients are finite, also where points coincide: {name}{bad[0]} is {gradient[tuple(bad[0])].item()} "
                f"({len(bad)} such entries); take roots of r2 with gr.kernels.sqrt"
            )
    return gradients


def _transforms(kernel: Kernel, x: Tensor, y: Tensor, close: Callable[..., float]) -> None:
    """Forward mode under torch.func, which exact derivatives of refits are made of."""
    x = x[4:].clone().requires_grad_()  # distinct points: not every kernel has a derivative where two coincide
    direction = torch.sin(torch.arange(x.numel(), dtype=x.dtype)).reshape(x.shape)
    value, tangent = torch.func.jvp(lambda t: kernel.matrix(t, y), (x.detach(),), (direction,))[:2]
    close("matrix under torch.func.jvp = matrix", value, kernel.matrix(x, y))
    total = kernel.matrix(x, y).sum()
    (reverse,) = torch.autograd.grad(total, x, allow_unused=True) if total.requires_grad else (None,)
    slope = (reverse * direction).sum() if reverse is not None else torch.zeros((), dtype=x.dtype)
    close("forward derivative = reverse derivative", tangent.sum(), slope, scale=float(tangent.detach().abs().sum()))


def _batches(kernel: Kernel, x: Tensor, y: Tensor, close: Callable[..., float]) -> None:
    batch = torch.stack([x, 0.5 * x])
    apart = torch.stack([kernel.matrix(t, y) for t in batch])
    close("matrix of a batch = batch of matrices", kernel.matrix(batch, y), apart)
    close(
        "diagonal of a batch = batch of diagonals",
        kernel.diagonal(batch),
        torch.stack([kernel.diagonal(t) for t in batch]),
    )


def _copies(kernel: Kernel, x: Tensor, y: Tensor, close: Callable[..., float]) -> None:
    other = deepcopy(kernel)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1
    other.load_state_dict(kernel.state_dict())
    _close("state_dict round trip", other.matrix(x, y), kernel.matrix(x, y), tolerance=0.0)


def _positive_semidefinite(kernel: Kernel, x: Tensor) -> None:
    with torch.no_grad():
        eigenvalues = torch.linalg.eigvalsh(kernel.matrix(x))
    floor = -10.0 * len(x) * torch.finfo(x.dtype).eps * float(eigenvalues.abs().max())
    if not float(eigenvalues[0]) >= floor:
        raise AssertionError(
            f"matrix is positive semi-definite: eigenvalue 0 of {len(x)} is {float(eigenvalues[0]):.6g}, "
            f"expected at least {floor:.1e} (largest {float(eigenvalues[-1]):.6g})"
        )


def _finite_differences(kernel: Kernel, x: Tensor) -> None:
    """The derivative along a direction in each parameter, and in the points."""
    x = x.clone().requires_grad_()
    weights = torch.cos(torch.arange(len(x) ** 2, dtype=x.dtype)).reshape(len(x), len(x))
    tensors = {**{name: p for name, p in kernel.named_parameters() if p.requires_grad}, "x": x}

    def total() -> Tensor:
        return (kernel.matrix(x) * weights).sum()

    size = float(kernel.matrix(x).detach().abs().sum())
    gradients = _all_gradients(kernel, x, total())
    for name, tensor in tensors.items():
        direction = torch.cos(torch.arange(tensor.numel(), dtype=tensor.dtype)).reshape(tensor.shape)
        slope = _central_difference(total, tensor, direction)
        found = (gradients[name] * direction).sum() if name in gradients else torch.zeros_like(slope)
        scale = size + float(slope.abs())
        _close(f"gradient of {name} = finite difference", found, slope, tolerance=FINITE_DIFFERENCE, scale=scale)


def _central_difference(function: Callable[[], Tensor], at: Tensor, direction: Tensor, step: float = 1e-5) -> Tensor:
    start, values = at.detach().clone(), []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            at.copy_(start + sign * step * direction)
            values.append(function())
        at.copy_(start)
    return (values[0] - values[1]) / (2.0 * step)


def _single_precision(kernel: Kernel, x: Tensor) -> None:
    single = kernel.matrix(x.float())
    if single.dtype != torch.float32:
        raise AssertionError(f"matrix is in the dtype of the points: got {single.dtype} for float32 points")
    _close("float32 = float64", single.double(), kernel.matrix(x), tolerance=SINGLE)


def _keops(kernel: Kernel, x: Tensor, y: Tensor, close: Callable[..., float]) -> None:
    x = x.clone().requires_grad_()
    u, v = (torch.cos(torch.arange(len(t), dtype=x.dtype))[:, None] for t in (x, y))
    dense = kernel.operator(x, y, backend="dense") @ v
    lazy = kernel.operator(x, y, backend="keops") @ v
    size = kernel.matrix(x, y).detach().abs() @ v.abs()
    close("KeOps = dense", lazy, dense, scale=float(size.max()))
    expected = _all_gradients(kernel, x, (u * dense).sum())
    for name, gradient in _all_gradients(kernel, x, (u * lazy).sum()).items():
        scale = float(expected[name].abs().max()) + float((u.abs() * size).sum())
        close(f"KeOps gradient of {name} = dense gradient", gradient, expected[name], scale=scale)


__all__ = ["check_kernel", "example_points"]
