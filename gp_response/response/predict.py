"""Predictions with their error bounds, in blocks within a budget of bytes, to memory or to disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.errors import InputError
from gp_response.linalg.blocks import block_size, byte_budget, point_bytes
from gp_response.linalg.memory import free_bytes
from gp_response.posterior import Posterior, Probe, rounded
from gp_response.response.fingerprint import fingerprint
from gp_response.response.store import BlockStore, Layout, open_store, take_up

VECTORS = ("mean", "variance", "mean_error", "variance_error", "converged")
MATRICES = ("covariance", "covariance_error")
MOST_POINTS = 2048  # points written together


@dataclass(frozen=True)
class Prediction:
    """The field at p points: tensors, or zarr arrays (which read what is asked for) when it lies on disk.

    Attributes:
        mean, variance: (p,), noise excluded, in the units of `data.train.y` and their square.
        mean_error, variance_error: absolute bounds on their errors, (p,).
        converged: bool (p,), whether each point's solve reached its tolerance.
        covariance, covariance_error: (p, p), None where it was not asked for.
        path: the archive's folder, None in memory.
    """

    mean: Any
    variance: Any
    mean_error: Any
    variance_error: Any
    converged: Any
    covariance: Any = None
    covariance_error: Any = None
    path: Path | None = None

    @classmethod
    def open(cls, path: Path | str) -> "Prediction":
        """Open what `predict(..., out=path)` wrote. Raises InputError where there is no such thing or a part is missing."""
        store = open_store(path)
        if store.attributes.get("gp_response_holds") != "prediction":
            raise InputError(f"{path} holds no prediction but {store.attributes.get('gp_response_holds')!r}")
        if left := len(store.pending()):
            raise InputError(f"{path} lacks {left} blocks; call predict again with the same arguments to go on")
        names = VECTORS + (MATRICES if store.attributes["covariance"] else ())
        return cls(**{name: store.array(name) for name in names}, path=store.path)

    def to_xarray(self) -> xr.Dataset:
        """One variable an attribute over `point` (and `other`); read from disk where it is used if it lies there."""
        if self.path is not None:
            return xr.open_zarr(self.path, consolidated=False, chunks=None)
        found = {name: value for name in VECTORS + MATRICES if (value := getattr(self, name)) is not None}
        return xr.Dataset({k: (("point", "other")[: v.ndim], v.cpu().numpy()) for k, v in found.items()})


def predict(
    posterior: Posterior,
    x: Any,
    *,
    covariance: bool = False,
    budget: float | None = None,
    out: Path | str | None = None,
    progress: bool = False,
) -> Prediction:
    """Mean and variance of the field at x (p, d), each with a bound on its error.

    Of the field, whatever the likelihood: `posterior.likelihood.predictive(mean, variance)` are mean and variance of an
    observation where the likelihood is not Gaussian, such as the probability of class 1; for Gaussian noise add `posterior.noise`.

    Args:
        covariance: also the predictive covariance of the points with one another, (p, p), whose diagonal is the variance;
            what of it responds to data is `posterior.cov`. Points that do not fit the
            budget together are then solved once for each block of points they meet.
        budget: bytes to work in beside the result; None takes a quarter of what is free.
        out: folder of a zarr archive to write to, block by block. Called again with the same arguments, an interrupted
            computation goes on from the blocks that are there.
        progress: show a bar over points.

    Raises:
        InputError: points of the wrong shape; a covariance that does not fit into memory; `out` holds something else.
    """
    with torch.no_grad():
        points = posterior.points(x)
        if not len(points):
            raise InputError("predict got no points; expected (p, d) with p of at least 1")
        room, n, p = byte_budget(budget, points.device), posterior.width, len(points)
        step = block_size(point_bytes(n, points, columns=p if covariance else 0), room // (1 + covariance), most=p)
        if out is None:
            _refuse_what_does_not_fit(p, points, covariance)
            blocks = [(start, min(start + step, p)) for start in range(0, p, step)]
            parts = list(_blocks(posterior, points, blocks, step, covariance, progress))
            whole: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            return Prediction(**whole)
        store = _store(Path(out), posterior, points, covariance, min(step, MOST_POINTS))
        left = store.pending()
        spans = [store.range(block) for block in left]
        for block, part in zip(left, _blocks(posterior, points, spans, step, covariance, progress), strict=True):
            store.write(block, part)
        return Prediction.open(out)


def _blocks(
    posterior: Posterior, points: Tensor, spans: list[tuple[int, int]], step: int, covariance: bool, progress: bool
) -> Iterator[dict[str, Tensor]]:
    """The answers for each span of points."""
    with tqdm(
        total=sum(stop - start for start, stop in spans), desc="predicting", disable=not progress, leave=False
    ) as bar:
        for start, stop in spans:
            parts = [posterior.probe(piece) for piece in points[start:stop].split(step)]
            found = [
                _vectors(probe, points.dtype) | (_covariance(posterior, probe, points, step) if covariance else {})
                for probe in parts
            ]
            bar.update(stop - start)
            yield {name: torch.cat([part[name] for part in found]) for name in found[0]}


def _vectors(probe: Probe, dtype: torch.dtype) -> dict[str, Tensor]:
    mean, variance = (rounded(part, dtype) for part in (probe.mean, probe.variance))
    values = (mean.value, variance.value, mean.error, variance.error, probe.converged)
    return dict(zip(VECTORS, values, strict=True))


def _covariance(posterior: Posterior, probe: Probe, points: Tensor, step: int) -> dict[str, Tensor]:
    """The probe's rows of the covariance with all points, which are looked from again unless they are the probe's own."""
    if len(probe.points) == len(points):
        pairs = [probe.predictive_to(probe)]
    else:
        pairs = [probe.predictive_to(posterior.probe(piece)) for piece in points.split(step)]
    short = [rounded(pair, points.dtype) for pair in pairs]
    return {name: torch.cat([pair[k] for pair in short], dim=1) for k, name in enumerate(MATRICES)}


def _store(path: Path, posterior: Posterior, points: Tensor, covariance: bool, block: int) -> BlockStore:
    p, name = len(points), str(points.dtype).removeprefix("torch.")
    arrays = {key: Layout(("point",), (p,), "bool" if key == "converged" else name) for key in VECTORS}
    if covariance:
        arrays |= {key: Layout(("point", "other"), (p, p), name) for key in MATRICES}
    mark = fingerprint("predict", posterior, points, covariance)
    attributes = {"gp_response_holds": "prediction", "covariance": covariance}
    return take_up(path, mark, arrays=arrays, names={}, attributes=attributes, block=block)


def _refuse_what_does_not_fit(p: int, points: Tensor, covariance: bool) -> None:
    need, have = 2 * p * p * points.element_size() * covariance, free_bytes(points.device)
    if have is not None and need > have:
        raise InputError(
            f"the covariance of {p} points and its errors need {need / 2**30:.1f} GiB and {have / 2**30:.1f} GiB are free; "
            'write it to disk by out="prediction.zarr"'
        )


__all__ = ["Prediction", "predict"]
