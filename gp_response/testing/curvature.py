"""The laws of a curvature operator, against dense matrices written out by reverse mode alone."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, jacrev

from gp_response.curvature import GGN, Curvature, EmpiricalFisher, Fisher, Hessian, Network
from gp_response.curvature.loss import ClassLoss, Loss
from gp_response.curvature.modes import ReverseMode
from gp_response.curvature.rows import Labelled, Rows
from gp_response.errors import InputError
from gp_response.testing.report import assert_close

SINGLE = 1e-4  # what single precision must reach, relative to the largest entry
CHUNK = 256  # rows of a Jacobian at once


def check_curvature(
    factory: Callable[..., Curvature], module: nn.Module, data: Labelled, *, dense: Callable[..., Tensor] | None = None,
    tolerance: float = 1e-8, **given: Any,
) -> None:  # fmt: skip
    """Check every law of an operator: it is the dense matrix, symmetric, the same at every batch size, in single precision and
    by reverse mode alone, one vector at a time and again; and the module stays as it was.

    Args:
        factory: `gr.ggn`, `gr.hessian`, `gr.fisher` or one's own, called as they are.
        module: of at most a few thousand parameters; float32 or float64.
        dense: for one's own factory: (net, rows, loss) -> (P, P), without β.
        given: handed to the factory: likelihood, parameters, beta, …

    Raises:
        AssertionError: the first law that fails, with the entries that fail most, both values and the tolerance.
    """
    before = _state(module)
    net = Network(module, given.pop("parameters", "all"))
    double = net.double()
    op = factory(double, data, **given)
    matrix = op.dense()
    expected = op.beta * (dense or _oracle(op))(double, op.rows, op.loss).detach()
    assert_close("products with the identity = the dense matrix", matrix, expected, tolerance=tolerance)
    assert_close("C = Cᵀ", matrix, matrix.mT, tolerance=1e-10)
    if torch.linalg.eigvalsh(expected)[0] >= 0:
        lowest = float(torch.linalg.eigvalsh(0.5 * (matrix + matrix.mT))[0])
        if lowest < -1e-10 * float(expected.abs().max()):
            raise AssertionError(
                f"C is positive semi-definite where the dense matrix is: lowest eigenvalue {lowest:.3g}"
            )
    V = _directions(op)
    product = matrix @ V
    for size in (1, 7, len(op.rows)):
        again = factory(double, data, batch_size=size, **given)
        assert_close(f"batch size {size} = all rows", again @ V, op @ V, tolerance=1e-10)
    assert_close("a product again = the product", op @ V, op @ V, tolerance=0.0 if op.device.type == "cpu" else 1e-12)
    alone = torch.stack([op @ v for v in V.unbind(1)], dim=1)
    assert_close("several vectors = one at a time", op @ V, alone, tolerance=1e-10)
    assert_close("C V = the written matrix times V", op @ V, product, tolerance=1e-10)
    _reverse(op, double, product)
    _single(factory, module, data, given, net.names, V, product)
    _unchanged(module, before)


def _directions(op: Curvature, t: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(op.shape[0], t, dtype=torch.float64, generator=generator).to(op.device)


def _reverse(op: Curvature, net: Network, product: Tensor) -> None:
    usual = net.mode(op.rows.x)
    net.use(ReverseMode())
    assert_close("by reverse mode alone = by forward mode", op @ _directions(op), product, tolerance=1e-10)
    net.use(usual)


def _single(
    factory: Callable[..., Curvature], module: nn.Module, data: Labelled, given: dict[str, Any],
    names: tuple[str, ...], V: Tensor, product: Tensor,
) -> None:  # fmt: skip
    op = factory(deepcopy(module).float(), data, parameters=list(names), batch_size=7, **given)
    single = op @ V.float()
    if single.dtype != torch.float32:
        raise AssertionError(f"products are in the network's type: got {single.dtype} for a float32 network")
    assert_close("float32 = float64", single.double(), product, tolerance=SINGLE)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def _unchanged(module: nn.Module, before: dict[str, Tensor]) -> None:
    changed = [name for name, t in module.state_dict().items() if not torch.equal(t, before[name])]
    touched = [name for name, p in module.named_parameters() if p.grad is not None]
    if changed or touched:
        raise AssertionError(f"the module stays as it was: changed {changed}, gradients left in {touched}")


def _oracle(op: Curvature) -> Callable[[Network, Rows, Loss], Tensor]:
    found = {GGN: dense_ggn, Hessian: dense_hessian, Fisher: dense_fisher, EmpiricalFisher: dense_empirical_fisher}
    if type(op) not in found:
        raise InputError(f"no dense matrix of {type(op).__name__} is known; give dense=")
    return found[type(op)]


def jacobian(net: Network, x: Tensor) -> Tensor:
    """J (n, outputs of a row, P)."""
    found = jacrev(lambda theta: net.call(theta, x), chunk_size=CHUNK)(net.origin)
    return found.reshape(len(x), -1, net.count)


def dense_ggn(net: Network, rows: Rows, loss: Loss) -> Tensor:
    """`Σ ρ JᵀHJ` with H by differentiating each row's loss twice."""
    outputs = net.output(rows.x)

    def of_row(i: int) -> Tensor:
        here = rows[i : i + 1]
        slope = grad(lambda f: loss.rows(f.reshape(outputs[:1].shape), here.y).sum())
        return jacrev(slope)(outputs[i].flatten())

    return _sandwich(jacobian(net, rows.x), torch.stack([of_row(i) for i in range(len(rows))]), rows)


def dense_fisher(net: Network, rows: Rows, loss: Loss) -> Tensor:
    """`Σ ρ JᵀFJ`, F an average over labels that the likelihood makes: for classes over all of them, one by one."""
    outputs = net.output(rows.x)
    size = outputs[0].numel()
    if not isinstance(loss, ClassLoss):
        ones = torch.eye(size, dtype=outputs.dtype, device=outputs.device).reshape(size, 1, *outputs.shape[1:])
        each = loss.information(outputs, rows.y, ones.expand(size, *outputs.shape))
        return _sandwich(jacobian(net, rows.x), each.flatten(2).movedim(0, -1), rows)
    p = torch.softmax(outputs, dim=-1) * (rows.y >= 0)[..., None]
    classes = torch.eye(outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
    score = torch.softmax(outputs, dim=-1)[..., None, :] - classes  # of each label that might have been
    tokens = torch.einsum(
        "nlc,nlca,nlcb->nlab", *(t.reshape(len(t), -1, *t.shape[outputs.ndim - 1 :]) for t in (p, score, score))
    )
    return _sandwich(jacobian(net, rows.x), torch.stack([torch.block_diag(*row) for row in tokens]), rows)


def dense_empirical_fisher(net: Network, rows: Rows, loss: Loss) -> Tensor:
    """`Σ ρ g gᵀ` with the gradients g of every row's loss."""
    gradients = jacrev(lambda theta: loss.rows(net.call(theta, rows.x), rows.y), chunk_size=CHUNK)(net.origin)
    return gradients.mT @ (rows.weights[:, None] * gradients)


def dense_hessian(net: Network, rows: Rows, loss: Loss) -> Tensor:
    """`Σ ρ ∇²ℓ` by reverse mode twice: torch.func.hessian, forward over reverse, is wrong for layer norms (torch 2.13)."""
    slope = grad(lambda theta: (rows.weights * loss.rows(net.call(theta, rows.x), rows.y)).sum())
    return jacrev(slope, chunk_size=CHUNK)(net.origin)


def _sandwich(J: Tensor, H: Tensor, rows: Rows) -> Tensor:
    left = (H @ J) * rows.weights[:, None, None]
    return J.flatten(0, 1).mT @ left.flatten(0, 1)


__all__ = ["check_curvature", "dense_empirical_fisher", "dense_fisher", "dense_ggn", "dense_hessian", "jacobian"]
