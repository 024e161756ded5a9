"""A product with the Gauss-Newton matrix costs about two forward and backward passes, no more than curvlinops takes.

Claim: G v, for all parameters of a network at once, costs at most 4 forward-backward passes of
the network's loss over the same rows in the same batches, and at most 1.3 times what curvlinops takes for it, on (mlp) 10⁵
parameters and the hourly weather of three airports, and (transformer) 10.9 million parameters and 128-byte pieces of the
English text that Python ships as its help.

Command: gp-response run curvature_products [--smoke]
Cost: 6 seconds (mlp) and 14 minutes (transformer, 3.3 GiB) on one core.
Expected: 2.2 passes and 0.87 of curvlinops' time (mlp), 2.4 passes and 0.96 (transformer), the products of both equal to float32's
rounding; products with the Hessian 4.2 and 3.5 passes.

Everything is timed in one process, one run of each in turn; ratios are taken within a turn and their medians reported. The
forward-backward pass is torch's own, with fused attention. curvlinops (pip install curvlinops-for-pytorch==3.0.1) is measured
where it is installed; its products and ours are compared. Weights are not trained: a product's time does not depend on them.
"""

import pydoc_data.topics
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from _clock import timed
from torch import Tensor, nn

import gp_response as gr
from gp_response.curvature.attention import plain_attention
from gp_response.report import number

GRID = {"net": ["mlp", "transformer"]}
SMOKE = {"rows": 6, "batch_size": 4, "repeats": 2, "width": 16, "layers": 1, "columns": 2}
ALONE = True
QUICK = {**GRID, "rows": [12], "batch_size": [6], "repeats": [3], "width": [32], "layers": [2]}
BYTES = 256


class Transformer(nn.Module):
    """Predicts the next byte: (n, L) to (n, L, 256)."""

    def __init__(self, width: int, layers: int, length: int):
        super().__init__()
        self.embed = nn.Embedding(BYTES, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 64), 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(width, BYTES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        return self.out(self.layers(self.embed(x) + self.place, mask=hidden))


def main(
    net: Literal["mlp", "transformer"] = "transformer", rows: int | None = None, batch_size: int | None = None, columns: int = 4,
    repeats: int = 7, width: int = 384, layers: int = 6, device: str = "cpu", seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Time every way in turn. rows, batch_size: None takes 4096, 1024 (mlp) or 32, 8 (transformer). columns: of the block."""
    torch.manual_seed(seed)
    rows, batch_size = rows or (4096 if net == "mlp" else 32), batch_size or (1024 if net == "mlp" else 8)
    module, x, y, likelihood = problem(net, rows, width, layers)
    module, x, y = module.to(device).eval(), x.to(device), y.to(device)
    op = gr.ggn(module, (x, y), likelihood=likelihood, batch_size=batch_size)
    hessian = gr.hessian(module, (x, y), likelihood=likelihood, batch_size=batch_size)
    V = torch.randn(op.shape[0], columns, device=device)
    v = V[:, 0].contiguous()
    ways: dict[str, Callable[[], Any]] = {
        "pass": lambda: forward_backward(module, x, y, op.loss, batch_size),
        "ggn": lambda: op @ v,
        "block": lambda: op @ V,
        "hessian": lambda: hessian @ v,
    }
    peer = curvlinops_product(module, x, y, net, likelihood, batch_size)
    if peer is not None:
        ways["curvlinops"] = lambda: peer(v)
    seconds = timed(ways, repeats, device=device)
    gap = None if peer is None else float((peer(v) - op @ v).norm() / (op @ v).norm())
    return {
        "seconds": {name: median(values) for name, values in seconds.items()},
        "spread": {name: [min(values), max(values)] for name, values in seconds.items()},
        "ggn_over_pass": ratio(seconds, "ggn", "pass"), "hessian_over_pass": ratio(seconds, "hessian", "pass"),
        "block_over_ggn": ratio(seconds, "block", "ggn") / columns,
        "ggn_over_curvlinops": None if peer is None else ratio(seconds, "ggn", "curvlinops"),
        "gap_to_curvlinops": gap, "mode": type(op.net.mode(x)).__name__, "parameters": op.shape[0], "rows": rows,
        "batch_size": batch_size, "columns": columns, "threads": torch.get_num_threads(),
    }  # fmt: skip


def problem(net: str, rows: int, width: int, layers: int) -> tuple[nn.Module, Tensor, Tensor, gr.Likelihood]:
    if net == "mlp":
        train = gr.load("weather").to(dtype=torch.float32).train
        wide = [
            nn.Linear(train.x.shape[1], 256),
            nn.GELU(),
            nn.Linear(256, 256),
            nn.GELU(),
            nn.Linear(256, 128),
            nn.GELU(),
        ]
        return nn.Sequential(*wide, nn.Linear(128, 1)), train.x[:rows], train.y[:rows], gr.Gaussian(noise=0.1)
    text = "\n".join(pydoc_data.topics.topics.values()).encode()
    length = 128
    pieces = (
        torch.frombuffer(bytearray(text), dtype=torch.uint8)[: rows * (length + 1)].long().reshape(rows, length + 1)
    )
    return (
        Transformer(width, layers, length),
        pieces[:, :-1].contiguous(),
        pieces[:, 1:].contiguous(),
        gr.Categorical(BYTES),
    )


def forward_backward(module: nn.Module, x: Tensor, y: Tensor, loss: Any, batch_size: int) -> None:
    """The gradient of the same loss over the same batches, as training takes it."""
    module.zero_grad()
    for rows, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        outputs = module(rows)
        labels = labels.reshape(outputs.shape) if labels.is_floating_point() else labels
        loss.rows(outputs, labels).sum().backward()


class Flat(nn.Module):
    """The outputs of all tokens as rows, as curvlinops' losses take them."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x).flatten(0, -2)


def curvlinops_product(
    module: nn.Module, x: Tensor, y: Tensor, net: str, likelihood: Any, batch_size: int
) -> Callable[[Tensor], Tensor] | None:
    """curvlinops' product with the same matrix; None, and a line that says so, where it is not installed."""
    try:
        curvlinops = import_module("curvlinops")
    except ImportError:
        print("curvlinops is not installed (pip install curvlinops-for-pytorch==3.0.1); its column stays empty")
        return None
    labels = y.reshape(-1, 1) if net == "mlp" else y
    loss = nn.MSELoss(reduction="sum") if net == "mlp" else nn.CrossEntropyLoss(reduction="sum")
    scale = 0.5 / likelihood.noise.item() if net == "mlp" else 1.0
    data = [
        (a, b.flatten() if net != "mlp" else b)
        for a, b in zip(x.split(batch_size), labels.split(batch_size), strict=True)
    ]
    flat = Flat(module)
    parameters = list(flat.parameters())
    operator = curvlinops.GGNLinearOperator(flat, loss, parameters, data, check_deterministic=False)

    def product(v: Tensor) -> Tensor:
        with plain_attention():  # its forward mode fails otherwise
            return scale * (operator @ v)

    return product


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """Median of the ratios within a turn."""
    return median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """The ratios of the newest CPU run of each network."""
    variables = {}
    for record in sorted(results, key=lambda r: r["started_at"]):
        result, name = record["result"], f"Curvature{record['config']['net'].title()}"
        if record["config"]["device"] == "cpu":
            variables[f"{name}Passes"] = number(result["ggn_over_pass"], digits=2)
            variables[f"{name}Hessian"] = number(result["hessian_over_pass"], digits=2)
            variables[f"{name}Block"] = number(result["block_over_ggn"], digits=2)
            variables[f"{name}Parameters"] = number(result["parameters"])
            if result["ggn_over_curvlinops"] is not None:
                variables[f"{name}Curvlinops"] = number(result["ggn_over_curvlinops"], digits=2)
                variables[f"{name}Gap"] = number(result["gap_to_curvlinops"], digits=1)
    return variables
