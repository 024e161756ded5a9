"""The memory wall: what the response of a network of P parameters costs, by a dense curvature and without one.

Claim: a dense curvature takes 8 P² bytes and more, and ends at some ten thousand parameters on this machine; the Lanczos path takes
a few dozen vectors of P numbers, and runs for a transformer of 22.6 million parameters on real sentences on a CPU.

Each run is one way and one network: networks (tanh, two equal hidden layers) on 512 rows of elevators, or `network=minilm`, a
published sentence encoder fine-tuned on 256 rated film reviews. Measured: seconds to prepare the posterior and to have the
responses of 4 predictions to all training rows, and the growth of the process's peak memory from where the trained network was
there (`prepared_vectors`: until the posterior was; code that is loaded on first use is loaded before). `vectors`: that growth in
vectors of P float32 numbers; `activation_bytes`: what a forward and backward pass over a batch takes beside its gradient;
`of_the_bound`: the growth without it, over rank + 8 vectors. `width`: median half width of the interval of the response over its
own typical size.

ways: dense (gr.Dense), laplace-torch (its full Laplace, where the package is installed: pip install laplace-torch==0.3; it has no
responses, so that only its preparation is measured), lanczos (gr.Lanczos(32, block=1)), cg (gr.CG(1e-4), deflated by a
basis of 32).

Command: gp-response run memory_wall [--smoke]; one: gp-response run memory_wall way=lanczos network=minilm
Cost: seconds to three minutes each on one thread; minilm 18 minutes, 4 GiB.
Expected: dense and laplace-torch beyond 10,000 parameters are refused; lanczos 82 `vectors` at a million parameters, where
several vectors are computed together. Beyond four million they are not: 39 at ten millions and 38 for minilm, within the bound
of 40 and the activations. In float32 neither lanczos nor cg can certify a narrow interval.

Data: elevators from the folder named by GP_RESPONSE_DATA, or downloaded; for minilm see experiments/bottleneck.py.
"""

import gc
import importlib
import importlib.util
import time
from pathlib import Path
from typing import Any

import torch
from _language import fine_tuned, rated
from torch import nn

import gp_response as gr
from gp_response.linalg.memory import free_bytes
from gp_response.plots import save, scaling_wall
from gp_response.provenance import peak_memory, reset_peak_memory, resident_memory
from gp_response.report import number

WAYS = ("dense", "laplace-torch", "lanczos", "cg")
GRID = {
    "way": ["dense", "lanczos", "cg"],
    "network": ["1e3", "3e3", "1e4", "1e5", "1e6", "1e7", "minilm"],
}
SMOKE = {"way": "lanczos", "network": "1e3", "rows": 64, "steps": 5}
ALONE = True
QUICK = {"way": GRID["way"], "network": ["1e3", "3e3", "1e5"], "rows": [256], "rank": [16], "steps": [50]}
NAMES = {
    "dense": "dense", "laplace-torch": "dense, laplace-torch", "lanczos": "Lanczos, rank 32", "cg": "conjugate gradients",
}  # fmt: skip
NOISE = 0.1
ALLOWED = 8  # vectors beside the rank, of the bound that the growth is held against


def main(
    way: str = "lanczos",
    network: str = "1e5",
    rows: int = 512,
    rank: int = 32,
    steps: int = 100,
    prior: float = 10.0,
    batch: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """One way and one network.

    network: about how many parameters, or "minilm" (whose rows are 256). steps: of training. prior: precision of the weights.
    batch: rows swept together, on which no result depends.
    """
    if way not in WAYS:
        raise gr.InputError(f"way={way!r}; expected one of {', '.join(WAYS)}")
    net, x, y, test = case(network, rows, steps, seed)
    count = sum(p.numel() for p in net.parameters())
    made: dict[str, Any] = {"way": way, "network": network, "parameters": count, "rows": len(x), "rank": rank}
    warm_up(way)
    made["activation_bytes"] = activations(net, x[:batch], y[:batch])
    before, started = resident(), time.perf_counter()
    try:
        done = (
            peer(net, x, y, prior, batch) if way == "laplace-torch" else ours(way, net, x, y, test, rank, prior, batch)
        )
    except (gr.InputError, MemoryError, RuntimeError) as error:  # torch's word for memory that cannot be had
        return {**made, "refused": str(error).splitlines()[0][:200]}
    seconds, grown = time.perf_counter() - started, peak_memory() - before
    at_preparation = done.pop("prepared_peak", before + grown) - before
    vector = 4 * count
    return {
        **made, **done, "seconds": seconds, "grown_bytes": grown, "vectors": grown / vector,
        "prepared_vectors": at_preparation / vector,
        "beside_activations": (grown - made["activation_bytes"]) / vector,
        "of_the_bound": (grown - made["activation_bytes"]) / ((rank + ALLOWED) * vector),
    }  # fmt: skip


def warm_up(way: str) -> None:
    """A network of a few weights: the code that is loaded when it is first used is no part of what a network costs."""
    torch.manual_seed(0)
    x = torch.randn(12, 3)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).eval()
    if way == "laplace-torch":
        peer(net, x, x[:, 0], prior=1.0, batch=4)
    else:
        ours(way, net, x, x[:, 0], x[:2], rank=4, prior=1.0, batch=4)
    activations(net, x, x[:, 0])


def activations(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """Bytes that one forward and backward pass over these rows takes beside the gradient it makes."""
    before = resident()
    (net(x).flatten() - y).square().sum().backward()
    made = sum(p.grad.numel() * p.grad.element_size() for p in net.parameters() if p.grad is not None)
    net.zero_grad()
    return max(0, peak_memory() - before - made)


def resident() -> int:
    """Bytes there now, after a collection; the peak counts from here."""
    gc.collect()
    now = resident_memory()
    if now is None or not reset_peak_memory():
        raise gr.InputError("this system does not let the peak of memory be measured in parts; run it on Linux")
    return now


def case(network: str, rows: int, steps: int, seed: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    if network == "minilm":
        at = rated("movie", min(rows, 256), 4, seed)
        return fine_tuned("movie", at, steps=steps // 4, rate=2e-5, seed=seed), at.x, at.y, at.test_x
    data = gr.load("elevators", split=0, dtype=torch.float32)
    x, y = data.train.x[:rows], data.train.y[:rows]
    width = round((-(data.dim + 3) + ((data.dim + 3) ** 2 + 4 * float(network)) ** 0.5) / 2)
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(data.dim, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        (net(x)[:, 0] - y).square().mean().backward()
        optimiser.step()
    optimiser.zero_grad()
    return net.eval(), x, y, data.test.x[:4]


def ours(
    way: str, net: nn.Module, x: torch.Tensor, y: torch.Tensor, test: torch.Tensor, rank: int, prior: float, batch: int
) -> dict[str, Any]:
    solver = {
        "dense": gr.Dense(), "lanczos": gr.Lanczos(rank=rank, block=1, tolerance=0.999), "cg": gr.CG(tolerance=1e-4, rank=rank)
    }[way]  # fmt: skip
    started = time.perf_counter()
    posterior = gr.laplace(
        net, (x, y), likelihood=gr.Gaussian(noise=NOISE), prior_precision=prior, solver=solver,
        precision=None if way == "dense" else "float32", batch_size=batch,
    )  # fmt: skip
    prepared, peak = time.perf_counter() - started, peak_memory()
    asked = gr.value(test.reshape(len(test), -1).to(posterior.data.train.x))
    chi = gr.susceptibility(posterior, asked, gr.reweight())
    typical = float(chi.matrix.square().mean().sqrt())
    return {
        "prepare_seconds": prepared, "response_seconds": time.perf_counter() - started - prepared, "prepared_peak": peak,
        "width": float(chi.error.median()) / typical, "converged": bool(chi.converged), "typical": typical,
    }  # fmt: skip


def peer(net: nn.Module, x: torch.Tensor, y: torch.Tensor, prior: float, batch: int) -> dict[str, Any]:
    if importlib.util.find_spec("laplace") is None:
        raise gr.InputError("laplace-torch is not installed: pip install laplace-torch==0.3, without torchvision")
    library = importlib.import_module("laplace")
    count = sum(p.numel() for p in net.parameters())
    need, free = 4 * count**2, free_bytes(x.device)
    if free is not None and need > free:  # the system would kill it
        raise gr.InputError(f"its matrix alone needs {need / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y[:, None]), batch_size=batch)
    fitted = library.Laplace(
        net, "regression", subset_of_weights="all", hessian_structure="full", sigma_noise=NOISE**0.5, prior_precision=prior
    )  # fmt: skip
    fitted.fit(loader)
    _ = fitted.posterior_covariance
    return {}


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """Memory against parameters for each way, and the numbers, of the newest run of each network."""
    ordered = sorted((r for r in results if r["result"]["rows"] > 64), key=lambda r: r["started_at"])
    full = list({(r["result"]["way"], r["result"]["network"]): r["result"] for r in ordered}.values())
    done = [f for f in full if "refused" not in f]
    if not done:
        return {}
    records = [
        {"method": f["way"], "n": f["parameters"], "seconds": f["seconds"], "memory_bytes": f["grown_bytes"]} for f in done
    ]  # fmt: skip
    save(scaling_wall(records, names=NAMES, x="parameters"), figures / "memory-wall.pdf")
    big = [f for f in done if f["network"] == "minilm" and f["way"] == "lanczos"]
    ends = {
        name: max((f["parameters"] for f in done if f["way"] == way), default=None)
        for name, way in (("WallDense", "dense"), ("WallPeer", "laplace-torch"))
    }
    made = {name: number(count) for name, count in ends.items() if count}
    if big:
        made |= {
            "WallMinilmRows": str(big[0]["rows"]), "WallMinilmAsked": "four",
            "WallMinilmWidth": number(2 * big[0]["width"], digits=2),
            "WallMinilmMinutes": number(big[0]["seconds"] / 60, digits=2),
            "WallMinilmGib": number(big[0]["grown_bytes"] / 2**30, digits=2),
            "WallMinilmVectors": number(big[0]["vectors"], digits=2),
            "WallMinilmParameters": number(big[0]["parameters"] / 1e6, digits=3),
        }  # fmt: skip
    return made
