"""How good predictions are: functions of tensors. Smaller is better, but for accuracy.

Regressions are scored by a Gaussian's `mean` (n,) and `variance` (n,) against targets y (n,); the variance is that of y, so it
includes the noise. Classifications are scored by `probabilities` against `labels` (n,), whole numbers 0, 1, ...: (n, C) of C
classes, or (n,) of class 1 out of two. Every score is a 0-dim tensor, the mean over rows, differentiable where it is smooth.
All raise InputError for shapes that do not fit, no rows, variances not positive, probabilities or labels out of range.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.shapes import Values

LEVELS = tuple(k / 20 for k in range(1, 20))
ROUNDING = 1e-4  # by which probabilities computed in float32 may miss a sum of 1


def rmse(mean: Values, y: Values) -> Tensor:
    """Root of the mean squared error, in the units of y."""
    _check_rows(mean=mean, y=y)
    return (mean - y).square().mean().sqrt()


def gaussian_nll(mean: Values, variance: Values, y: Values) -> Tensor:
    """Negative log density of y, in nats: `½ log 2πv + (y - m)²/2v`."""
    _check_gaussian(mean, variance, y)
    return (0.5 * (2.0 * math.pi * variance).log() + (y - mean).square() / (2.0 * variance)).mean()


def gaussian_crps(mean: Values, variance: Values, y: Values) -> Tensor:
    """Continuous ranked probability score `∫ (F(t) - [t >= y])² dt`, in the units of y.

    `s (z (2Φ(z) - 1) + 2φ(z) - 1/√π)` for z = (y - m)/s (Gneiting & Raftery 2007, "Strictly proper scoring rules", eq. 21).
    """
    _check_gaussian(mean, variance, y)
    scale = variance.sqrt()
    z = (y - mean) / scale
    density = (-0.5 * z.square()).exp() / math.sqrt(2.0 * math.pi)
    return (scale * (z * torch.erf(z / math.sqrt(2.0)) + 2.0 * density - 1.0 / math.sqrt(math.pi))).mean()


def interval_calibration_error(
    mean: Values, variance: Values, y: Values, *, levels: Sequence[float] = LEVELS
) -> Tensor:
    """Mean over levels p of |share of y inside the central interval of probability p, minus p|.

    0 is calibrated; n rows drawn from the prediction itself give about 0.3/√n. After Kuleshov, Fenner & Ermon 2018
    ("Accurate uncertainties for deep learning using calibrated regression"), with central intervals.

    Args:
        levels: probabilities strictly between 0 and 1; 0.05, 0.10, ..., 0.95 by default.
    """
    _check_gaussian(mean, variance, y)
    expected = torch.as_tensor(levels, dtype=mean.dtype, device=mean.device)
    if expected.dim() != 1 or not len(expected) or not bool(((expected > 0) & (expected < 1)).all()):
        raise InputError(f"levels={levels!r}; expected probabilities strictly between 0 and 1")
    # The smallest central interval that holds y has probability erf(|z|/√2).
    inside = torch.erf((y - mean).abs() / (2.0 * variance).sqrt())
    observed = (inside <= expected[:, None]).to(mean.dtype).mean(1)
    return (observed - expected).abs().mean()


def accuracy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Share of rows whose most probable class is their label; the first of equally probable classes counts."""
    p, true = _classes(probabilities, labels)
    return (p.argmax(1) == true).to(p.dtype).mean()


def log_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Minus the log probability of the label, in nats; probabilities below the dtype's eps count as eps."""
    p, true = _classes(probabilities, labels)
    return -p.gather(1, true[:, None]).clamp_min(torch.finfo(p.dtype).eps).log().mean()


def brier(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Squared distance of the probabilities to the label's indicator (Brier 1950).

    Probabilities (n, C) sum it over the classes, from 0 to 2; (n,) give `(p - y)²`, from 0 to 1, which is half as much.
    """
    p, true = _classes(probabilities, labels)
    score = (p - torch.nn.functional.one_hot(true, p.shape[1])).square().sum(1).mean()
    return score / 2.0 if probabilities.dim() == 1 else score


def expected_calibration_error(probabilities: Tensor, labels: Tensor, *, bins: int = 15) -> Tensor:
    """`Σ_b n_b/n |accuracy - mean confidence|` over bins of equally many rows, sorted by confidence.

    The confidence is the largest probability. Guo et al. 2017 ("On calibration of modern neural networks"), with the
    equal-mass bins of Nixon et al. 2019. Rows of one confidence share their accuracy, so their order does not matter.

    Args:
        bins: how many; at most one a row is used.
    """
    p, true = _classes(probabilities, labels)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise InputError(f"bins={bins!r}; expected a whole number, at least 1")
    confidence, chosen = p.max(1)
    _, group, size = confidence.unique(return_inverse=True, return_counts=True)
    correct = torch.zeros_like(size, dtype=p.dtype).index_add_(0, group, (chosen == true).to(p.dtype)) / size
    order = confidence.argsort()
    gap = (correct[group] - confidence)[order]
    return torch.stack([part.sum().abs() for part in gap.tensor_split(min(bins, len(gap)))]).sum() / len(gap)


def _classes(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities as (n, C) and labels as integers."""
    p = torch.stack([1.0 - probabilities, probabilities], 1) if probabilities.dim() == 1 else probabilities
    if p.dim() != 2 or labels.dim() != 1 or len(p) != len(labels) or not len(p) or p.shape[1] < 2:
        shapes = f"{tuple(probabilities.shape)} and {tuple(labels.shape)}"
        raise InputError(f"probabilities and labels have shapes {shapes}; expected (n, C) or (n,), and (n,), n >= 1")
    if not bool((p >= 0).all()) or not bool(((p.sum(1) - 1.0).abs() <= ROUNDING).all()):
        raise InputError(
            "probabilities are negative, NaN or do not sum to 1; pass them through softmax or sigmoid first"
        )
    wrong = ((labels != labels.round()) | (labels < 0) | (labels >= p.shape[1])).nonzero().flatten().tolist()
    if wrong:
        got = f"label {float(labels[wrong[0]]):g} in row {wrong[0]}"
        raise InputError(f"{got}; expected whole numbers from 0 to {p.shape[1] - 1}")
    return p, labels.long()


def _check_gaussian(mean: Tensor, variance: Tensor, y: Tensor) -> None:
    _check_rows(mean=mean, variance=variance, y=y)
    if not bool((variance > 0).all()):
        worst = float(variance.min())
        raise InputError(f"variance of {worst:g}; expected positive ones: that of y, with the noise, not of f alone")


def _check_rows(**tensors: Tensor) -> None:
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if len(set(shapes.values())) > 1 or any(t.dim() != 1 or not len(t) for t in tensors.values()):
        raise InputError(f"shapes are {', '.join(f'{k} {v}' for k, v in shapes.items())}; expected one (n,), n >= 1")


__all__ = [
    "accuracy",
    "brier",
    "expected_calibration_error",
    "gaussian_crps",
    "gaussian_nll",
    "interval_calibration_error",
    "log_loss",
    "rmse",
]
