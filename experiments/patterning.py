"""Sample weights that steer a model: asked for, predicted, exact and refitted, beside the bare pseudo-inverse.

Claim: (steer) with at least 10,000 training rows, the least change of sample weights within mass and bounds moves 15 held-out
predictions at once, each by half a posterior standard deviation towards its label; after a refit at least 95 % of every requested
change is there, mass is kept and no weight leaves [0, 3]. The bare pseudo-inverse of the same response keeps neither, and
what can be refitted of it (negative weights set to zero) misses targets. (debias) weights that close the gap of mean residuals
between two groups on one half of the held-out rows are found and verified by a refit; what is left of the gap on the other
half, and what accuracy costs, is reported as it is.

Steer: elevators, Matérn-3/2 with a lengthscale a column, trained on few rows by the exact evidence and then conditioned on all
of them. Debias: diabetes (442
patients, disease progression), groups by sex, asked for the whole gap.

Command: gp-response run patterning [--smoke]; one case: gp-response run patterning case="steer elevators 0.5"
Cost: 5 to 7 minutes and 7 GiB a steer case on one thread; seconds for debias.
Expected: shares of 0.9998 to 1.0009 in two (0.5) or three (2.0) rounds; the bare pseudo-inverse's 0.98 to 1.02 and 0.84 to 1.02.

Data: elevators from the folder named by GP_RESPONSE_DATA, or downloaded; diabetes is packaged.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gp_response as gr
from gp_response.plots import save, steering
from gp_response.report import number

GRID = {"case": ["steer elevators 0.5", "steer elevators 2.0", "debias diabetes 1.0"]}
SMOKE = {"case": "steer elevators 0.2", "rows": 700, "predictions": 6, "trained_on": 300, "steps": 5}
QUICK = {**GRID, "rows": [1500], "trained_on": [300], "steps": [15]}
MOST = 3.0  # bound on the new weights; zero is the other
SEX = 1  # column of diabetes


def main(
    case: str = "steer elevators 0.5", rows: int = 10_000, predictions: int = 15, trained_on: int = 500, steps: int = 25,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Train, ask, refit. case: what, data set and size of the request; rows: training rows at most."""
    kind, dataset, size = case.split()
    run = {"steer": steer, "debias": debias}[kind]
    return {"kind": kind, "dataset": dataset, "size": float(size)} | run(
        dataset, float(size), rows=rows, predictions=predictions, trained_on=trained_on, steps=steps, seed=seed
    )


def steer(
    dataset: str, size: float, *, rows: int, predictions: int, trained_on: int, steps: int, seed: int
) -> dict[str, Any]:  # fmt: skip
    """Move held-out predictions by `size` posterior standard deviations towards their labels."""
    data = few(gr.load(dataset), rows, seed)
    head = trained(few(data, trained_on, seed + 1), steps=steps, seed=seed)
    posterior = head.condition(data)
    x, y = data.test.x[:predictions], data.test.y[:predictions]
    chi = gr.susceptibility(posterior, gr.value(x), gr.reweight())
    target = size * posterior.variance(x).sqrt() * torch.sign(y - posterior.mean(x))
    started = time.perf_counter()
    found = gr.pattern(chi, target, bounds=(0.0, MOST))
    seconds = time.perf_counter() - started
    bare = pseudo_inverse(chi, target, posterior, x)
    del posterior
    refitted = refitted_in_another_order(head, data, found, x, seed)
    return {
        **described(found, refitted), "training_rows": len(data.train), "columns": data.dim, "seconds": seconds,
        "noise": float(head.noise.detach()), "bare": bare, "linear_lowest_share": found.history[0].lowest_share,
        "linear_residual": found.history[0].residual, "rounds": len(found.history),
        "exact_gap_max": float((refitted - found.exact).abs().max() / found.target.abs().max()),
    }  # fmt: skip


def refitted_in_another_order(head: gr.Exact, data: gr.Dataset, found: gr.Pattern, x: Tensor, seed: int) -> Tensor:
    """The change between refits whose rows are shuffled: other factors, with roundings of their own."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    shuffled = data.keep(order)
    before = head.condition(shuffled).mean(x)
    return head.condition(shuffled.with_train(weights=found.weights[order])).mean(x) - before


def described(found: gr.Pattern, refitted: Tensor) -> dict[str, Any]:
    """What a result says of itself and what the refit says, as plain numbers."""
    share = (refitted / found.target)[found.target != 0]
    return {
        "observables": len(found.target), "target": found.target.tolist(), "predicted": found.predicted.tolist(),
        "exact": found.exact.tolist(), "error_max": float(found.error.max()), "refitted": refitted.tolist(),
        "refit_share_min": float(share.min()), "refit_share_max": float(share.max()),
        "mass_change": abs(found.mass - float(found.source.posterior.data.train.weights.double().sum())),
        "weight_min": float(found.weights.min()), "weight_max": float(found.weights.max()),
        "at_bounds": int(((found.weights == 0.0) | (found.weights == MOST)).sum()),
        "effective_sample_size": found.effective_sample_size, "reached": found.reached, "feasible": found.feasible,
        "history": [h._asdict() for h in found.history],
    }  # fmt: skip


def pseudo_inverse(chi: gr.Susceptibility, target: Tensor, posterior: gr.Posterior, x: Tensor) -> dict[str, Any]:
    """The bare pseudo-inverse: its weights, and what a model conditioned on them does once the negative ones are zero."""
    bare = gr.pattern(chi, target, mass="free", bounds=(-float("inf"), float("inf")), iterations=0)
    clipped = bare.weights.clamp_min(0.0)
    share = (posterior.reweighted(clipped).mean(x) - posterior.mean(x)) / target
    return {
        "negative": int((bare.weights < 0).sum()), "weight_min": float(bare.weights.min()),
        "weight_max": float(bare.weights.max()), "above": int((bare.weights > MOST).sum()),
        "mass_change": bare.mass - len(bare.weights), "clipped_mass_change": float(clipped.sum()) - len(clipped),
        "share_min": float(share.min()), "share_max": float(share.max()), "share": share.tolist(),
    }  # fmt: skip


def debias(
    dataset: str, size: float, *, rows: int, predictions: int, trained_on: int, steps: int, seed: int
) -> dict[str, Any]:  # fmt: skip
    """Close `size` of the gap of mean residuals between two groups on half of the held-out rows; look at the other half."""
    data = gr.load(dataset, test_fraction=0.4, seed=seed)
    head = trained(data, steps=steps, seed=seed)
    posterior = head.condition(data)
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(seed))
    half = len(order) // 2
    ours, others = data.test.take(order[:half]), data.test.take(order[half:])
    gap = group_gap(ours.x)
    before = mean_gap(posterior, ours)
    # Residuals are label less prediction: what closes their gap opens that of the predictions by as much.
    found = gr.pattern(gr.susceptibility(posterior, gap, gr.reweight()), [size * before], bounds=(0.0, MOST))
    refitted = found.refitted(head, data)
    new = head.condition(data.with_train(weights=found.weights))
    aside = found.side_effects(gr.loss(others.x, others.y))
    return {
        **described(found, refitted), "training_rows": len(data.train), "steered_on": len(ours), "looked_at": len(others),
        "gap_before": before, "gap_after": mean_gap(new, ours), "other_gap_before": mean_gap(posterior, others),
        "other_gap_after": mean_gap(new, others), "other_rmse_before": rmse_on(posterior, others),
        "other_rmse_after": rmse_on(new, others), "other_loss_change": float(aside["exact"].mean()),
        "other_loss_predicted": float(aside["predicted"].mean()), "scale": float(data.scaler.y_scale),
    }  # fmt: skip


def group_gap(x: Tensor) -> Any:
    """Mean of the field over one group less that over the other: one observable."""
    one = x[:, SEX] > x[:, SEX].mean()
    return gr.average(x, one / one.sum() - (~one) / (~one).sum())


def mean_gap(posterior: gr.Posterior, part: Any) -> float:
    """Mean residual of one group less that of the other."""
    left, one = part.y - posterior.mean(part.x), part.x[:, SEX] > part.x[:, SEX].mean()
    return float(left[one].mean() - left[~one].mean())


def rmse_on(posterior: gr.Posterior, part: Any) -> float:
    return float((posterior.mean(part.x) - part.y).square().mean().sqrt())


def few(data: gr.Dataset, rows: int, seed: int) -> gr.Dataset:
    """At most `rows` training rows, drawn at random."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    return data.keep(order[:rows]) if rows < len(data.train) else data


def trained(data: gr.Dataset, *, steps: int, seed: int) -> gr.Exact:
    head = gr.Exact(gr.Matern32(ard=data.dim), noise=0.1)
    head.fit(data, training=gr.Training(estimator="cholesky", steps=steps, seed=seed, progress=False))
    return head


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """Figure and numbers of the paper."""
    ordered = sorted(results, key=lambda r: (r["result"]["training_rows"], r["started_at"]))
    steered = {r["result"]["size"]: r["result"] for r in ordered if r["result"]["kind"] == "steer"}
    debiased = [r["result"] for r in ordered if r["result"]["kind"] == "debias"]
    macros: dict[str, str] = {}
    words = dict(zip(sorted(steered), ("Small", "Large", "Larger"), strict=False))
    for size, word in words.items():
        macros |= steering_numbers(f"Pattern{word}", steered[size])
    if steered:
        largest = steered[max(steered)]
        ours = [r / t for r, t in zip(largest["refitted"], largest["target"], strict=True)]
        drawn = {"pseudo-inverse, negative weights set to 0": largest["bare"]["share"], "within mass and bounds": ours}
        save(steering(drawn), figures / "patterning.pdf")
    return macros | (debiasing_numbers(debiased[-1]) if debiased else {})


def steering_numbers(stem: str, s: dict[str, Any]) -> dict[str, str]:
    bare = s["bare"]
    found = {
        "Size": number(s["size"]), "Rows": number(s["training_rows"]), "Observables": number(s["observables"]),
        "LowestShare": number(100.0 * s["refit_share_min"], digits=4),
        "HighestShare": number(100.0 * s["refit_share_max"], digits=4),
        "Rounds": number(s["rounds"]), "Minutes": number(s["seconds"] / 60.0, digits=2),
        "MassChange": number(s["mass_change"], digits=1), "WeightMin": number(s["weight_min"], digits=2),
        "WeightMax": number(s["weight_max"], digits=3), "AtBounds": number(s["at_bounds"]),
        "Effective": number(round(s["effective_sample_size"])), "RefitGap": number(s["exact_gap_max"], digits=2),
        "LinearMissed": number(100.0 * s["linear_residual"], digits=2), "BareNegative": number(bare["negative"]),
        "BareMin": number(bare["weight_min"], digits=3), "BareMass": number(bare["mass_change"], digits=3),
        "BareShareMin": number(100.0 * bare["share_min"], digits=3),
        "BareShareMax": number(100.0 * bare["share_max"], digits=3),
    }  # fmt: skip
    return {f"{stem}{name}": text for name, text in found.items()}


def debiasing_numbers(d: dict[str, Any]) -> dict[str, str]:
    points = {
        "GapBefore": "gap_before", "GapAfter": "gap_after", "OtherGapBefore": "other_gap_before",
        "OtherGapAfter": "other_gap_after", "OtherRmseBefore": "other_rmse_before", "OtherRmseAfter": "other_rmse_after",
    }  # fmt: skip
    return {
        "DebiasRows": number(d["training_rows"]), "DebiasSteered": number(d["steered_on"]),
        "DebiasOthers": number(d["looked_at"]), "DebiasShare": number(100.0 * d["refit_share_min"], digits=4),
        "DebiasEffective": number(round(d["effective_sample_size"])),
        **{f"Debias{name}": number(d["scale"] * d[key], digits=3) for name, key in points.items()},
    }  # fmt: skip
