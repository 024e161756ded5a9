"""Trees of loss traces as the package devinterp keeps them, read and written.

A tree (devinterp 2.0.1, `slt.sampling.sample`) is a zarr group at whose root `loss_NAME` (chain, draw, batch_NAME, token_pos)
are the losses of every token of every sequence of an observable, and `input_ids_NAME` (batch_NAME, token) the sequences;
`init_loss` (chain, token_pos) is that of the network before sampling. What was sampled is `exp(-nβ L - ½ γ |w - w*|²)`, L the
mean over tokens, and the attribute metadata.config.sampler holds `n_beta`, `localization`, `lr` and the like.

`devinterp.slt.bif.compute_bif` takes the traces' plain covariance: no sign, no nβ, around the mean over all chains and draws,
divided by their number less one; "sequence" first takes the mean over tokens. So of draws read here `chi.to("devinterp")` is
its result.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from gp_response.arguments import as_number
from gp_response.data import Dataset, dataset
from gp_response.errors import InputError, unknown_name
from gp_response.heads.sampling.chains import Chains
from gp_response.heads.sampling.draws import Draws, draws

PREFIX, IDS = "loss_", "input_ids_"
SHOWN = ("n_beta", "localization", "lr", "sampling_method", "batch_size", "num_burnin_steps", "num_steps_bw_draws")


def read_devinterp(
    path: Path | str | xr.DataTree, *, rows: str, tokens: str = "mean", n_beta: float | None = None
) -> Draws:
    """Draws of losses from a tree of devinterp: sequences are rows, their token ids the points, labels zero.

    The sequences of the observable `rows` are the training rows, those of all others the test rows. β is `n_beta` over the
    number of training rows where losses are means over tokens; devinterp's n is decoupled from any number of rows, so that
    only `chi.to("bif")`, `chi.to("devinterp")` and the like, which have no β, mean what its results mean.

    Args:
        path: of the zarr store, or the tree itself.
        rows: name of the observable whose sequences are reweighted.
        tokens: "mean" or "sum" of each sequence's losses over its tokens; devinterp's "sequence" is the mean.
        n_beta: of a tree that does not say which it was sampled at.

    Raises:
        InputError: no such tree or observable, an unfinished run, observables of different lengths, an n_beta that nobody says or
            that is given twice.
    """
    if tokens not in ("mean", "sum"):
        raise InputError(f"tokens={tokens!r}; expected 'mean' or 'sum'")
    tree = path if isinstance(path, xr.DataTree) else _opened(Path(path))
    found = tree.to_dataset()
    names = sorted(str(v)[len(PREFIX) :] for v in found.data_vars if str(v).startswith(PREFIX))
    if rows not in names:
        raise unknown_name("observable", rows, names)
    ordered = [rows, *(name for name in names if name != rows)]
    losses, ids = zip(*(_observable(found, name, tokens) for name in ordered), strict=True)
    n = losses[0].shape[2]
    points = torch.cat(ids)
    data = _data(points, n)
    beta = _n_beta(_sampler(tree).get("n_beta"), n_beta) / n
    made = draws(torch.cat(losses, dim=2), data, of="losses", beta=beta, at=points, labels=torch.zeros(len(points)))
    made.solver = f"devinterp: {', '.join(f'{k}={v}' for k, v in _sampler(tree).items() if k in SHOWN)}"
    return made


def write_devinterp(
    path: Path | str, losses: dict[str, Tensor], ids: dict[str, Tensor], chains: Chains | None = None
) -> Path:
    """Write loss traces as a tree that devinterp's `compute_bif` reads.

    Args:
        path: of the zarr store, which must not exist.
        losses: by name of the observable, (chains, draws, n) or, token by token, (chains, draws, n, tokens).
        ids: by the same names, (n, k) integers that tell the rows apart: token ids, or `torch.arange(n)[:, None]`.
        chains: the run they are of, whose settings are kept with them.

    Raises:
        InputError: names or shapes that do not fit, something at `path`.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"{path} exists; choose another path or delete it")
    if set(losses) != set(ids) or not losses:
        raise InputError(f"losses of {sorted(losses)} and ids of {sorted(ids)}; expected the same names, one at least")
    runs = {name: tuple(trace.shape[:2]) for name, trace in losses.items()}
    if len(set(runs.values())) > 1:
        raise InputError(f"losses are of different (chains, draws), {runs}; expected those of one run")
    arrays: dict[str, Any] = {}
    for name, trace in losses.items():
        full = trace[..., None] if trace.ndim == 3 else trace
        if full.ndim != 4 or ids[name].ndim != 2 or len(ids[name]) != full.shape[2] or ids[name].is_floating_point():
            raise InputError(
                f"{name!r}: losses {tuple(trace.shape)}, ids {tuple(ids[name].shape)}; expected (chains, draws, n) or "
                "(chains, draws, n, tokens) and integers (n, k)"
            )
        batch = f"batch_{name}"
        full = full.float() if full.dtype.itemsize < 4 else full  # numpy has no bfloat16
        arrays[f"{PREFIX}{name}"] = (("chain", "draw", batch, "token_pos"), full.detach().cpu().numpy())
        arrays[f"{IDS}{name}"] = ((batch, "token"), ids[name].cpu().numpy().astype(np.int64))
    tree = xr.DataTree(xr.Dataset(arrays, attrs={"metadata": _metadata(losses, chains), "completed": 1}))
    tree.to_zarr(path, mode="w-", zarr_format=3, consolidated=False)
    return path


def _opened(path: Path) -> xr.DataTree:
    if not path.exists():
        raise InputError(f"{path} does not exist")
    try:
        tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a tree of devinterp: {error}") from error
    if tree.attrs.get("completed") != 1:
        raise InputError(f"{path} is of a run that did not complete; sample again with devinterp")
    return tree


def _observable(found: xr.Dataset, name: str, tokens: str) -> tuple[Tensor, Tensor]:
    """Losses (chains, draws, n) and token ids (n, k)."""
    values = _array(found, f"{PREFIX}{name}", ("chain", "draw", f"batch_{name}", "token_pos"))
    values = values.mean(dim=3) if tokens == "mean" else values.sum(dim=3)
    return values, _array(found, f"{IDS}{name}", (f"batch_{name}", "token"))


def _array(found: xr.Dataset, name: str, expected: tuple[str, ...]) -> Tensor:
    if name not in found:
        raise InputError(f"the tree has no {name}; expected it with dimensions {expected}")
    if found[name].dims != expected:
        raise InputError(f"{name} has dimensions {found[name].dims}; expected {expected}")
    try:
        return torch.as_tensor(np.asarray(found[name].values, dtype=np.float64))
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise InputError(f"{name} cannot be read: {error}") from error


def _n_beta(said: Any, given: float | None) -> float:
    if said is None and given is None:
        raise InputError("the tree does not say at which n_beta it was sampled; give read_devinterp(..., n_beta=...)")
    if said is not None and given is not None:
        raise InputError(f"n_beta={given!r} for a tree that says n_beta={said!r}; leave it out")
    if said is None:
        return as_number(given, "read_devinterp's n_beta")
    try:
        return float(said)
    except (TypeError, ValueError):
        raise InputError(f"the tree says n_beta={said!r}; expected a positive finite number") from None


def _data(points: Tensor, n: int) -> Dataset:
    zero = torch.zeros(len(points), dtype=torch.float64)
    test = {"test_x": points[n:], "test_y": zero[n:]} if len(points) > n else {}
    names = [f"token{k}" for k in range(points.shape[1])]
    return dataset(points[:n], zero[:n], standardise=False, names=names, target="none", **test)


def _sampler(tree: xr.DataTree) -> dict[str, Any]:
    """The sampler's settings; none where the tree says none."""
    found: Any = tree.attrs
    for name in ("metadata", "config", "sampler"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def _metadata(losses: dict[str, Tensor], chains: Chains | None) -> dict[str, Any]:
    count, length = next(iter(losses.values())).shape[:2]
    settings = {} if chains is None else chains.settings
    sampler = {
        "num_chains": count, "num_draws": length, "n_beta": settings.get("n_beta"), "batch_size": settings.get("batch_size"),
        "localization": settings.get("localise"), "num_burnin_steps": settings.get("burn_in"),
        "num_steps_bw_draws": settings.get("thin"), "sampling_method": settings.get("method"), "init_seed": settings.get("seed"),
    }  # fmt: skip
    known = {name: value for name, value in sampler.items() if value is not None}
    return {"config": {"sampler": known, "observables": [{"obs_id": name} for name in losses]}}


__all__ = ["read_devinterp", "write_devinterp"]
