"""How a broken law is told: the law, where, the two values, the tolerance."""

import torch
from torch import Tensor


def assert_close(law: str, got: Tensor, expected: Tensor, *, tolerance: float, scale: float | None = None) -> float:
    """Raise AssertionError naming the worst entry when `|got - expected| > tolerance · scale`.

    Args:
        law: sentence that should hold, e.g. "S = Sᵀ".
        scale: what the tolerance is relative to; None takes the largest |expected| (1 when that is zero).

    Returns:
        the largest gap relative to the scale.
    """
    if got.shape != expected.shape:
        raise AssertionError(f"{law}: shapes differ, {tuple(got.shape)} against {tuple(expected.shape)}")
    if not got.numel():
        return 0.0
    reference = float(expected.detach().abs().max()) if scale is None else scale
    reference = reference if reference > 0 else 1.0
    gap = ((got - expected).abs() / reference).detach()
    gap = torch.where(torch.isnan(gap), torch.full_like(gap, float("inf")), gap)
    worst = float(gap.max())
    if worst > tolerance:
        raise AssertionError(f"{law}: {_worst_entries(got, expected, gap, tolerance)}")
    return worst


def _worst_entries(got: Tensor, expected: Tensor, gap: Tensor, tolerance: float, shown: int = 5) -> str:
    order = gap.flatten().argsort(descending=True)[:shown].tolist()
    wrong = int((gap > tolerance).sum())
    lines = [f"{wrong} of {gap.numel()} entries beyond relative tolerance {tolerance:.1e}; the worst:"]
    for flat in order:
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), gap.shape))
        lines.append(
            f"  {index}: got {float(got[index]):.12g}, expected {float(expected[index]):.12g}, gap {float(gap[index]):.2e}"
        )
    return "\n".join(lines)


__all__ = ["assert_close"]
