"""Inducing points of sparse models: which few points stand for all."""

from collections.abc import Callable

import gpytorch
import numpy as np
import pandas as pd
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from gp_response.errors import InputError, unknown_name
from gp_response.kernels import Foreign, Kernel, Scale
from gp_response.kernels.casting import call_in_dtype_of
from gp_response.kernels.on import On
from gp_response.shapes import Points

NEGLIGIBLE = 1e-12  # of the trace: what float64 leaves of a matrix that has been used up
PIVOTED = ("greedy", "pivoted")


def choose_inducing(
    kernel: Kernel,
    x: Points,
    count: int,
    *,
    method: str = "greedy",
    weights: Tensor | None = None,
    seed: int = 0,
    subset: int = 20_000,
) -> Tensor:
    """Inducing points (m, d) for points x (n, d), m = count or less.

    For a deep kernel they are chosen, and returned, in the space of its features (see `split_features`). Fewer than
    `count` come back where x has fewer distinct rows, or where the pivots leave nothing to explain. The same seed gives
    the same points; no global generator is read. Nothing is differentiated.

    Args:
        method: "greedy" takes the row of largest variance given those taken before (Burt, Rasmussen & van der Wilk 2020,
            "Convergence of sparse variational inference in Gaussian processes regression"): the pivots of a Cholesky
            factorisation of k(x, x), one column at a time, O(n m²) in float64. "pivoted" draws that row with
            probability proportional to its variance left (Chen, Epperly, Tropp & Webber 2024, "Randomly pivoted
            Cholesky"). "kmeans" gives centres of clusters (scikit-learn's MiniBatchKMeans; not rows of x, and blind to
            the kernel). "random" gives distinct rows. Greedy takes outliers first: until m has explained all but a few
            per cent of the variance it does worse than random rows, later far better; pivoted does well in both.
        weights: (n,), not negative; multiply the variance left of a row, or its chance, or its pull on a centre. Rows of
            weight 0 are never taken.
        subset: rows looked at by "greedy" and "pivoted", drawn at random where x has more.

    Raises:
        InputError: kernel, shape, count, method or weights unusable.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    base, features = split_features(kernel)
    _check(x, count, subset, weights)
    with torch.no_grad():
        z = x if features is None else call_in_dtype_of(x, features, lambda module: module(x))
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weights is None else weights.detach().double()
        generator = np.random.default_rng([seed, count])
        rows = (w > 0).nonzero().flatten()
        if method in PIVOTED and len(rows) > max(subset, count):
            drawn = generator.choice(len(rows), size=max(subset, count), replace=False)
            rows = rows[torch.from_numpy(np.sort(drawn)).to(z.device)]
        first = rows[_first_of_equals(z[rows])]
        rows, count = (rows if method == "kmeans" else first), min(count, len(first))
        chosen = METHODS[method](base, z[rows].double(), w[rows], count, generator)
    return chosen.to(x)


def split_features(kernel: Kernel | gpytorch.kernels.Kernel) -> tuple[Kernel, nn.Module | None]:
    """The kernel on features and the features: k(f(x), f(y)) gives k and f; without features, the kernel and None.

    Factors around the features move inside: `k.on(f) * 2` gives `k * 2` and f, and the factor is the same parameter, so
    that training one trains the other. Features on features are chained. Sums and products, whose parts may have
    features each of their own, are left whole, and so are kernels that pick columns first.

    Raises InputError when it is not a kernel.
    """
    if isinstance(kernel, gpytorch.kernels.Kernel) and not isinstance(kernel, Kernel):
        kernel = Foreign(kernel)
    if not isinstance(kernel, Kernel):
        raise InputError(f"got a kernel of type {type(kernel).__name__}; expected a gp_response Kernel")
    if type(kernel) not in (On, Scale) or kernel.active_dims is not None:
        return kernel, None
    inner, features = split_features(kernel.parts[0])
    if isinstance(kernel, On):
        features = kernel.features if features is None else nn.Sequential(kernel.features, features)
    if features is None:
        return kernel, None
    return (inner if kernel.outputscale is None else _scaled_alike(inner, kernel)), features


def _scaled_alike(inner: Kernel, outer: Kernel) -> Scale:
    """The inner kernel with the outer one's factor: the same parameter, constraint and prior."""
    scale = Scale(inner, batch_shape=outer.batch_shape)
    scale.raw_outputscale = outer.raw_outputscale
    scale.raw_outputscale_constraint = outer.raw_outputscale_constraint
    prior = getattr(outer, "outputscale_prior", None)
    if prior is not None:
        scale.register_prior("outputscale_prior", prior, "outputscale")
    return scale


def _first_of_equals(z: Tensor) -> Tensor:
    """A mask of the rows that equal none before them; equal inducing points would make their matrix singular."""
    repeated = pd.DataFrame(z.cpu().numpy()).duplicated().to_numpy()
    return torch.from_numpy(~repeated).to(z.device)


def _greedy(kernel: Kernel, z: Tensor, weights: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    return _pivots(kernel, z, weights, count, lambda left: int(left.argmax()))


def _pivoted(kernel: Kernel, z: Tensor, weights: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    return _pivots(kernel, z, weights, count, lambda left: _drawn(left, generator))


def _drawn(left: Tensor, generator: np.random.Generator) -> int:
    return int(generator.choice(len(left), p=(left / left.sum()).cpu().numpy()))


def _pivots(kernel: Kernel, z: Tensor, weights: Tensor, count: int, take: Callable[[Tensor], int]) -> Tensor:
    """Pivots of the Cholesky factorisation of W^½ K W^½, each taken by the diagonal left."""
    root = weights.sqrt()
    left = kernel.diagonal(z) * weights
    enough = NEGLIGIBLE * float(left.sum())
    factor = torch.empty(count, len(z), dtype=z.dtype, device=z.device)
    pivots: list[int] = []
    while len(pivots) < count and float(left.sum()) > enough:
        at, have = take(left), len(pivots)
        column = kernel.matrix(z, z[at : at + 1])[:, 0] * root * root[at]
        factor[have] = (column - factor[:have, at] @ factor[:have]) / left[at].sqrt()
        left = (left - factor[have].square()).clamp_min_(0.0)
        left[at] = 0.0
        pivots.append(at)
    return z[pivots]


def _kmeans(kernel: Kernel, z: Tensor, weights: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    clusters = MiniBatchKMeans(count, random_state=int(generator.integers(2**31)), n_init=3)
    fitted = clusters.fit(z.cpu().numpy(), sample_weight=weights.cpu().numpy())
    return torch.from_numpy(fitted.cluster_centers_)


def _random(kernel: Kernel, z: Tensor, weights: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    share = (weights / weights.sum()).cpu().numpy()
    return z[torch.from_numpy(generator.choice(len(z), size=count, replace=False, p=share)).to(z.device)]


METHODS: dict[str, Callable[[Kernel, Tensor, Tensor, int, np.random.Generator], Tensor]] = {
    "greedy": _greedy,
    "pivoted": _pivoted,
    "kmeans": _kmeans,
    "random": _random,
}


def _check(x: Tensor, count: int, subset: int, weights: Tensor | None) -> None:
    if not isinstance(x, Tensor) or x.dim() != 2 or not x.is_floating_point() or not len(x):
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"points are {got}; expected a floating tensor (n, d), n >= 1")
    if not bool(x.isfinite().all()):
        raise InputError("points are not all finite; drop the rows that are not")
    for name, value in (("count", count), ("subset", subset)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r}; expected a whole number, at least 1")
    if count > len(x):
        raise InputError(f"{count} inducing points asked for but there are only {len(x)} points; ask for fewer")
    if weights is None:
        return
    if weights.shape != (len(x),) or not bool((weights.isfinite() & (weights >= 0)).all() & (weights > 0).any()):
        raise InputError(
            f"weights of shape {tuple(weights.shape)}; expected ({len(x)},), finite, not negative and not all zero"
        )


__all__ = ["choose_inducing", "split_features"]
