"""Gradient similarity or susceptibility: which predicts what retraining without some rows does?

Question: training rows are often called influential for a test point where their loss gradients align (TracIn and its kin). Does
that predict the refit, next to the classical influence function (the first term of the loss susceptibility), the full
susceptibility, the leverage-rescaled one, and the exact finite formula?

Two models: "plain", a Matérn-3/2 GP with a lengthscale a column; "deep", the same kernel on the 16 features of a network that was
trained with a linear readout by squared loss, features then kept. Gradients are taken in function space through the
kernel, `∇ℓ_a·∇ℓ_j = r_a k(x_a, x_j) r_j/σ⁴`, and, for the deep model, by all parameters of its network with its readout; as dot
products and as cosines. Ground truth: GPs refitted without the rows, hyperparameters kept; and at half of the rows also with
hyperparameters optimised again. Scores: LDS (Spearman over removals, mean over test points), and the relative error of the
magnitude; similarities have no unit, so that each is given the one factor that suits it best.

Command: gp-response run gradient_vs_response [--smoke]; one case: gp-response run gradient_vs_response dataset=bike model=deep
Cost: 3 seconds for the smoke run; a plain case about 2 minutes on a free core (12 measured on a crowded machine); 24 cases.
Expected: means over three seeds by set and model: LDS at one row and at half of them -0.04 to 0.25 and 0.09 to 0.39 for
gradients through the kernel, 0.32 to 0.54 and 0.46 to 0.68 through the network, 0.97 to 1.00 and 0.43 to 0.98 for influence,
0.99 to 1.00 and 0.69 to 0.98 for the whole susceptibility, 1.00 for the exact formula; with hyperparameters optimised again
0.36 to 0.84 for it.

Data: elevators, bike and protein from the folder named by GP_RESPONSE_DATA, or downloaded; weather is packaged.
"""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import gp_response as gr
from gp_response.features.mlp import linear
from gp_response.plots import save, size_curves
from gp_response.report import number
from gp_response.scales import largest

SETS, MODELS = ("weather", "elevators", "bike", "protein"), ("plain", "deep")
GRID = {"dataset": list(SETS), "seed": [0, 1, 2], "model": list(MODELS)}
SMOKE = {
    "rows": 150, "predictions": 8, "removals": 6, "singles": 10, "reoptimised": 2, "steps": 4, "net_steps": 50, "model": "deep",
}  # fmt: skip
QUICK = {
    "dataset": list(SETS), "model": list(MODELS), "rows": [200], "predictions": [20], "removals": [15], "singles": [20],
    "reoptimised": [3], "steps": [8], "net_steps": [300],
}  # fmt: skip
WIDTHS = [64, 64, 16]
ASKED = ("value", "loss")
PREDICTORS = {
    "kernel dot": "gradients, kernel, dot", "kernel cosine": "gradients, kernel, cosine", "net dot": "gradients, network, dot",
    "net cosine": "gradients, network, cosine", "influence": "influence, first term", "susceptibility": "susceptibility",
    "leverage": "leverage-rescaled", "exact": "exact finite",
}  # fmt: skip
SIMILARITIES = ("kernel dot", "kernel cosine", "net dot", "net cosine")


def main(
    dataset: str = "weather", model: str = "plain", rows: int = 1000, predictions: int = 50, removals: int = 60,
    singles: int = 100, reoptimised: int = 16, shares: tuple[float, ...] = (0.0, 0.01, 0.1, 0.5), steps: int = 30,
    net_steps: int = 1500, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Score every predictor against refits.

    shares: of the rows in a removal; 0 is one row, of which there are `singles` removals instead of `removals`.
    """
    data = problem(dataset, rows, predictions, seed)
    net = trained_network(data, net_steps, seed) if model == "deep" else None
    head = model_of(data, net)
    posterior = head.fit(data, training=gr.Training(steps=steps, progress=False))
    scores = {name: row_scores(posterior, net, data, name) for name in ASKED}
    generator = torch.Generator().manual_seed(seed)
    found, sets = [], []
    for share in shares:
        size, count = max(1, round(share * rows)), removals if share else singles
        sets = [torch.randperm(rows, generator=generator)[:size].sort().values for _ in range(count)]
        truth = refits(lambda kept: head.condition(kept), data, sets)
        found.append({"share": size / rows, "removals": count, **scored(posterior, data, sets, scores, truth)})
    some = sets[:reoptimised]
    moved = refits(lambda kept: optimised(head, kept), data, some)
    again = scored(posterior, data, some, scores, moved)
    kept = refits(lambda kept: head.condition(kept), data, some)
    again |= {f"{name} kept": compare(kept[name], moved[name], free=False) for name in ASKED}
    return {
        "dataset": dataset, "model": model, "rows": rows, "predictions": len(data.test.x), "noise": float(head.noise.detach()),
        "test_rmse": float((posterior.mean(data.test.x) - data.test.y).square().mean().sqrt()), "sizes": found,
        "reoptimised": {"share": found[-1]["share"], "removals": len(some), **again},
    }  # fmt: skip


def problem(dataset: str, rows: int, predictions: int, seed: int) -> gr.Dataset:
    """Rows to train on and to predict at."""
    data = gr.load(dataset, seed=seed) if dataset == "weather" else gr.load(dataset, split=0)
    generator = torch.Generator().manual_seed(seed)
    train = data.draw(rows, generator).to(dtype=torch.float64).train
    test = torch.randperm(len(data.test), generator=generator)[:predictions]
    return gr.dataset(
        train.x, train.y, test_x=data.test.x[test].double(), test_y=data.test.y[test].double(), standardise=False
    )  # fmt: skip


def trained_network(data: gr.Dataset, steps: int, seed: int) -> nn.Sequential:
    """Features and a linear readout, by Adam on the squared loss of all rows with weight decay."""
    readout = linear(WIDTHS[-1], 1, torch.Generator().manual_seed(seed + 1))
    net = nn.Sequential(gr.MLP(data.dim, WIDTHS, seed=seed), readout)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-1)
    for _ in range(steps):
        optimiser.zero_grad()
        (net(data.train.x)[:, 0] - data.train.y).square().mean().backward()
        optimiser.step()
    return net.requires_grad_(False)


def model_of(data: gr.Dataset, net: nn.Sequential | None) -> gr.Exact:
    if net is None:
        return gr.Exact(gr.Matern32(ard=data.dim, lengthscale=[data.dim**0.5] * data.dim), noise=0.1)
    size = float(net[0](data.train.x).std(dim=0).square().sum().sqrt())
    return gr.Exact(gr.Matern32(lengthscale=size).on(net[0]), noise=0.1)


def optimised(head: gr.Exact, data: gr.Dataset) -> gr.Posterior:
    """Conditioned after training the hyperparameters again from where they are."""
    return copy.deepcopy(head).fit(data, training=gr.Training(steps=15, progress=False))


# Predictors: what each row's removal is said to change at each test point, (predictions, rows) -------------------------


def row_scores(posterior: gr.Posterior, net: nn.Sequential | None, data: gr.Dataset, name: str) -> dict[str, Tensor]:
    """Scores that add up over a removal. A gradient step on a row's loss moves other points along minus its gradient; taking
    the row away is said to move them back."""
    residual = posterior.residuals.value
    off = data.test.y - posterior.mean(data.test.x)
    found = similarities(
        posterior.prior_cov(data.test.x, data.train.x), posterior.prior_cov(data.test.x, data.test.x).diagonal(),
        posterior.prior_cov(data.train.x, data.train.x).diagonal(), off, residual, name, "kernel",
    )  # fmt: skip
    if net is not None:
        at_test, at_train = jacobian(net, data.test.x), jacobian(net, data.train.x)
        found |= similarities(
            at_test @ at_train.T, at_test.square().sum(dim=1), at_train.square().sum(dim=1),
            data.test.y - net(data.test.x)[:, 0], data.train.y - net(data.train.x)[:, 0], name, "net",
        )  # fmt: skip
    value = -gr.susceptibility(posterior, gr.value(data.test.x), gr.reweight()).matrix
    if name == "value":
        return found | {"influence": value, "susceptibility": value}
    loss = -gr.susceptibility(posterior, gr.loss(data.test.x, data.test.y), gr.reweight()).matrix
    return found | {"influence": -off[:, None] * value / posterior.noise, "susceptibility": loss}


def similarities(
    dot: Tensor, own_test: Tensor, own_train: Tensor, off: Tensor, residual: Tensor, name: str, stem: str
) -> dict[str, Tensor]:
    """Gradients' dot products and cosines, from those (predictions, rows) of the outputs and the residuals of both ends."""
    cosine = dot / (own_test.sqrt()[:, None] * own_train.sqrt())
    test = -torch.ones_like(off) if name == "value" else off
    return {
        f"{stem} dot": test[:, None] * dot * residual,
        f"{stem} cosine": test.sign()[:, None] * cosine * residual.sign(),
    }


def jacobian(net: nn.Sequential, x: Tensor) -> Tensor:
    """Gradients of the network's output by all its parameters, (n, P)."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def output(p: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(net, p, (row[None],))[0, 0]

    return torch.cat([g.flatten(1) for g in vmap(grad(output), (None, 0))(parameters, x).values()], dim=1)


# Truth and scores ------------------------------------------------------------------------------------------------------


def refits(condition: Any, data: gr.Dataset, sets: list[Tensor]) -> dict[str, Tensor]:
    """Changes of values and of losses, each under its model's own noise, (predictions, removals)."""
    before = expectations(condition(data), data)
    after = []
    for rows in sets:
        keep = torch.ones(len(data.train), dtype=torch.bool)
        keep[rows] = False
        after.append(expectations(condition(data.keep(keep)), data))
    return {name: torch.stack([a[name] for a in after], dim=1) - before[name][:, None] for name in ASKED}


def expectations(posterior: gr.Posterior, data: gr.Dataset) -> dict[str, Tensor]:
    probe = posterior.probe(data.test.x)
    at = gr.Marginals(probe.mean.value, probe.variance.value, posterior.noise)
    return {"value": at.mean, "loss": gr.loss(data.test.x, data.test.y).expectation(at)}


def scored(
    posterior: gr.Posterior, data: gr.Dataset, sets: list[Tensor], scores: dict[str, dict[str, Tensor]],
    truth: dict[str, Tensor],
) -> dict[str, Any]:  # fmt: skip
    """LDS and error of every predictor of both observables."""
    chosen = torch.zeros(len(data.train), len(sets), dtype=torch.float64)
    for k, rows in enumerate(sets):
        chosen[rows, k] = 1.0
    change = gr.delete([rows.tolist() for rows in sets])
    found: dict[str, Any] = {}
    for name in ASKED:
        asked = gr.value(data.test.x) if name == "value" else gr.loss(data.test.x, data.test.y)
        guesses = {predictor: matrix @ chosen for predictor, matrix in scores[name].items()}
        for order in ("leverage", "exact"):
            guesses[order] = gr.predict_change(posterior, asked, change, order=order).matrix
        for predictor, guess in guesses.items():
            found[f"{name} {predictor}"] = compare(guess, truth[name], free=predictor in SIMILARITIES)
    return found


def compare(guess: Tensor, truth: Tensor, *, free: bool) -> dict[str, float]:
    """LDS and relative error; `free` of a unit: after the factor that suits best."""
    factor = (guess * truth).sum() / guess.square().sum() if free else 1.0
    return {
        "lds": float(spearman(guess, truth).mean()),
        "error": float((factor * guess - truth).norm() / truth.norm()),
    }


def spearman(one: Tensor, two: Tensor) -> Tensor:
    """Rank correlation of each row of (m, q) tensors, (m,)."""
    a, b = (part.argsort(dim=1).argsort(dim=1).double() for part in (one, two))
    a, b = (part - part.mean(dim=1, keepdim=True) for part in (a, b))
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))


# The paper --------------------------------------------------------------------------------------------------------------


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """Means over seeds: figure of LDS of losses, table of LDS and errors at one row and at half of the rows."""
    whole = [r["result"] for r in largest(results, "rows", "removals")]
    models = [model for model in MODELS if any(f["model"] == model for f in whole)]
    done = {(f["dataset"], f["model"]) for f in whole}
    names = [name for name in SETS if all((name, model) in done for model in models)]
    grid = {f"LDS, {model}": {name: curves(whole, name, model) for name in names} for model in models}
    save(size_curves(grid, xlabel="share of rows removed"), figures / "gradients-lds.pdf")
    first = whole[0]
    variables = {
        "GradientSets": number(len(names)), "GradientCases": number(math.prod(len(values) for values in GRID.values())),
        "GradientRuns": number(len(whole)), "GradientRows": number(first["rows"]),
        "GradientPredictions": number(first["predictions"]), "GradientRemovals": number(first["sizes"][-1]["removals"]),
        "GradientSingles": number(first["sizes"][0]["removals"]),
        "GradientAgain": number(first["reoptimised"]["removals"]), "GradientTable": table(whole),
    }  # fmt: skip
    words = {
        "kernel dot": "Dot",
        "net dot": "Net",
        "influence": "Influence",
        "susceptibility": "Full",
        "exact": "Exact",
    }
    for predictor, word in words.items():
        for place, stem in (("one", "One"), ("half", "Half"), ("again", "Again")):
            for end, value in zip(("Low", "High"), spread(whole, f"loss {predictor}", place), strict=False):
                variables[f"Gradient{word}{stem}{end}"] = rf"\num{{{value:.2f}}}"
    return variables


def place_of(found: dict[str, Any], place: str) -> dict[str, Any]:
    return found["reoptimised"] if place == "again" else found["sizes"][0 if place == "one" else -1]


def spread(whole: list[dict[str, Any]], key: str, place: str) -> list[float]:
    """Smallest and largest mean over seeds of an LDS, over sets and models; nothing where nothing has it."""
    means = []
    for name in SETS:
        for model in MODELS:
            cells = [place_of(f, place).get(key) for f in whole if (f["dataset"], f["model"]) == (name, model)]
            if cells and cells[0]:
                means.append(sum(c["lds"] for c in cells) / len(cells))
    return [min(means), max(means)] if means else []


def curves(whole: list[dict[str, Any]], name: str, model: str) -> dict[str, list[tuple[float, float]]]:
    mine = [f for f in whole if (f["dataset"], f["model"]) == (name, model)]
    lines: dict[str, list[tuple[float, float]]] = {}
    for predictor, title in PREDICTORS.items():
        key = f"loss {predictor}"
        if mine and key in mine[0]["sizes"][0]:
            parts = zip(*(f["sizes"] for f in mine), strict=True)
            lines[title] = [(p[0]["share"], sum(f[key]["lds"] for f in p) / len(p)) for p in parts]
    return lines


def table(whole: list[dict[str, Any]]) -> str:
    """Rows: predictor; columns: LDS and error of losses, means over sets and seeds, by model, at one row, half, and half again."""
    out = []
    for predictor, title in PREDICTORS.items():
        cells = []
        for model in MODELS:
            for place in ("one", "half", "again"):
                found = [place_of(f, place).get(f"loss {predictor}") for f in whole if f["model"] == model]
                kept = [c for c in found if c]
                lds, error = (sum(c[k] for c in kept) / len(kept) if kept else None for k in ("lds", "error"))
                cells.append("--- & ---" if lds is None or error is None else f"{lds:.2f} & {percent(error)}")
        out.append(f"{title} & " + " & ".join(cells) + r" \\")
    return "\n".join(out)


def percent(error: float) -> str:
    return f"{100.0 * error:.0f}" if error > 1e-3 else "0"
