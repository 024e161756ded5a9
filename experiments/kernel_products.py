"""Products by tiles in cache run at the machine's limit or above it, 35 to 53 times KeOps.

Claim: K(x, x) @ v in float32 with 8 right-hand sides and N = 20,000 points of D = 4, 16 and 64 columns, for the RBF and the
Matern-3/2 kernel, runs by `backend="blocked"` at 60 % or more of the limit that the machine's own rates of matrix products
and of exponentials in cache set to the full work (2 (D + 2) + 2 t operations and one exponential a pair), and at 30 times the
rate of KeOps on the same CPU or more. It passes the limit because the matrix is symmetric: half of the pairs are evaluated.

Command: gp-response run kernel_products [--smoke]
Cost: 10 seconds a configuration on two cores, 6 configurations; KeOps compiles for 20 s once.
Expected on two cores, D = 4, 16 and 64: 124, 130 and 134 % of the limit and 39, 35 and 52 times KeOps for the RBF kernel;
102, 111 and 123 % and 35, 38 and 53 times for Matern-3/2. Other work on the cores spoils it: look at `spread`.

Everything is timed in one process, one run of each in turn, and the medians are reported. What is far slower, KeOps and
torch's dense row tiles, multiplies fewer rows with all the points; pairs a second are compared. `blocked` evaluates the
blocks at every product; `kept` has them in memory where that is faster. device=cuda runs the same on a GPU, and has not been
measured.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from _clock import timed
from torch import Tensor

import gp_response as gr
from gp_response.kernels.symmetric import SymmetricBlocks
from gp_response.report import number

GRID = {"kernel": ["rbf", "matern32"], "dim": [4, 16, 64]}
SMOKE = {"n": 1500, "rows": 200, "repeats": 2, "keops": False, "size": 512}
ALONE = True
QUICK = {**GRID, "n": [6000], "rows": [500], "repeats": [3]}
KERNELS = {"rbf": gr.RBF, "matern32": gr.Matern32}
CHECKED = 200  # rows compared with float64


def main(
    kernel: Literal["rbf", "matern32"] = "rbf", dim: int = 16, n: int = 20_000, columns: int = 8, rows: int = 1000,
    repeats: int = 7, keops: bool = True, size: int = 4096, device: str = "cpu", seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Time every way in turn. rows: that the slow ways multiply. size: of the matrix product that sets the limit."""
    generator = torch.Generator().manual_seed(seed)
    x, v = (torch.randn(n, k, generator=generator).to(device) for k in (dim, columns))
    k = KERNELS[kernel](lengthscale=dim**0.5).requires_grad_(False)
    blocks = SymmetricBlocks(k, x, dtype=torch.float32)
    kept = SymmetricBlocks(k, x, dtype=torch.float32, keep_bytes=4 * n * n)
    ways: dict[str, tuple[float, Callable[[], Any]]] = {
        "blocked": (n * n, lambda: k.operator(x, backend="blocked") @ v),
        "kept": (n * n, lambda: kept.product(v)),
        "dense": (rows * n, lambda: k.operator(x[:rows], x, backend="dense") @ v),
        "sgemm": (2 * size**3, matrix_product(size, device)),
        "exponentials": exponentials(device),
    }
    if keops:
        ways["keops"] = (rows * n, lambda: k.operator(x[:rows], x, backend="keops") @ v)
    seconds = timed({name: run for name, (_, run) in ways.items()}, repeats, device=device)
    rates = {name: [ways[name][0] / s for s in taken] for name, taken in seconds.items()}  # work a second
    exact = k.operator(x[:CHECKED].double(), x.double(), backend="dense") @ v.double()
    gap = (blocks.product(v)[:CHECKED].double() - exact).norm(dim=0) / exact.norm(dim=0)
    operations = 2 * (dim + 2) + 2 * columns
    middle = {name: median(values) for name, values in rates.items()}
    limit = 1.0 / (operations / middle["sgemm"] + 1.0 / middle["exponentials"])
    return {
        "pairs_per_second": {name: middle[name] for name in ways if name not in ("sgemm", "exponentials")},
        "spread": {name: [min(values), max(values)] for name, values in rates.items()},
        "sgemm_per_second": middle["sgemm"], "exponentials_per_second": middle["exponentials"], "limit": limit,
        "blocked_over_limit": middle["blocked"] / limit, "kept_over_limit": middle["kept"] / limit,
        "blocked_over_dense": middle["blocked"] / middle["dense"],
        "blocked_over_keops": middle["blocked"] / middle["keops"] if keops else None,
        "relative_error": float(gap.max()), "mode": blocks.mode, "threads": torch.get_num_threads(),
        "rows": rows, "n": n, "dim": dim, "columns": columns,
    }  # fmt: skip


def matrix_product(size: int, device: str) -> Callable[[], Tensor]:
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def exponentials(device: str) -> tuple[float, Callable[[], None]]:
    """Exponentials of numbers that stay in cache: how many, and how."""
    a = -torch.rand(512, 512, device=device)
    out, times = torch.empty_like(a), 200

    def run() -> None:
        for _ in range(times):
            torch.exp(a, out=out)

    return times * a.numel(), run


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """The ratios of the newest CPU run of every kernel and dimension, and the smallest of them."""
    newest = {}
    for record in sorted(results, key=lambda r: r["started_at"]):
        if record["config"]["device"] == "cpu":
            newest[record["config"]["kernel"], record["config"]["dim"]] = record["result"]
    words = {4: "Four", 16: "Sixteen", 64: "SixtyFour", "rbf": "Rbf", "matern32": "Matern"}
    variables = {}
    for (kernel, dim), result in newest.items():
        name = f"Products{words[kernel]}{words.get(dim, 'Other')}"
        variables[f"{name}Rate"] = number(result["pairs_per_second"]["blocked"] / 1e9)
        variables[f"{name}Percent"] = number(100.0 * result["blocked_over_limit"])
        if result["blocked_over_keops"] is not None:
            variables[f"{name}Keops"] = number(result["blocked_over_keops"])
    return variables
