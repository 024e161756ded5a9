"""Does a model's response to irrelevant noise, measured before deployment, say how it will fail under shift afterwards?

Claim tested: "a model that responds strongly to irrelevant noise will fail in production, and its response is readable before
it does". Some 40 models a data set (plain and deep kernels, trained well and badly, noise or length-scales set wrong, fewer
rows, noisy labels, columns of pure noise) are trained on one part of it. On validation rows alone, with no look at what comes
later, their responses are measured: to redrawn labels (`gr.noise_response`), to row weights (infinitesimal jackknife), to
inputs (gradient of the mean, in all columns, in those that say little, in those of pure noise), and the effective dimension;
beside them what one would look at anyway: validation RMSE and NLL, posterior variance, evidence, generalisation gap, number
of parameters, length-scale. Then the data shift: noise on the inputs, columns of pure noise that drift to three times their
scale, columns that say little shuffled, another subpopulation (another airport; elsewhere the rows beyond the 85 % quantile
of the first principal component), a later time. Failure is the logarithm of RMSE after over before, or the rise of NLL.
Spearman's rank correlation over models of about the same validation RMSE (within 25 % of the median; for the NLL, also within
half a nat), also partial, given that RMSE, for six sets and three seeds; intervals by a bootstrap over sets and seeds.

Command: gp-response run noise_susceptibility; one run: gp-response run noise_susceptibility dataset=weather seed=0
Cost: 90 to 150 seconds a run on one thread of a busy machine, 18 runs, 35 minutes together, below 1.1 GiB.
Expected: not in general, yes where the shift disturbs what the response was measured to. RMSE: slope in weak columns against
their shuffling 0.77, in noise columns against their drift 0.75, in all columns against noise on inputs 0.52. Responses to
redrawn labels (at the model's own noise) and the jackknife stay within 0.25 of zero everywhere. Real shifts: slope in weak
columns 0.26 for the other subpopulation (0.20 given the validation RMSE) and 0.05 for a later time; response to labels of unit
noise 0.50 for a later time (three sets; 0.21 among models with nothing set wrong), where the effective dimension has 0.42.

Data: weather and flights are packaged; the others from the folder named by GP_RESPONSE_DATA, or downloaded.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

import gp_response as gr
from gp_response.plots import grouped_scatter, rank_correlations, save
from gp_response.report import number
from gp_response.scales import largest

SETS = ["weather", "flights", "bike", "elevators", "protein", "kin40k"]
GRID = {"dataset": SETS, "seed": [0, 1, 2]}
SMOKE = {"dataset": "weather", "rows": 150, "validated": 40, "evaluated": 80, "models": 6, "steps": 5}
QUICK = {
    "dataset": SETS, "rows": [200], "validated": [80], "evaluated": [200], "models": [12], "steps": [8], "trained": [120],
}  # fmt: skip
NOISE_COLUMNS, INPUT_NOISE, DRIFT = 8, 0.3, 3.0
COMPARABLE, COMPARABLE_NLL, FEWEST = 1.25, 0.5, 6
SOLVER = gr.Cholesky(refine=0)  # plain double precision is enough for ranks, and twice as fast
# By name in result files, what figures and tables call them.
SHIFTS = {
    "input_noise": "noise on inputs", "drift": "drifting noise columns", "shuffled": "shuffled weak columns",
    "subpopulation": "other subpopulation", "time": "later time",
}  # fmt: skip
RESPONSES = {
    "label_noise": "label noise", "label_gain": "label noise, unit σ", "jackknife": "row weights (jackknife)",
    "gradient": "inputs", "weak_gradient": "inputs, weak columns", "noise_gradient": "inputs, noise columns",
    "effective_dimension": "effective dimension",
}  # fmt: skip
BASELINES = {
    "validation_rmse": "validation RMSE", "validation_nll": "validation NLL", "variance": "posterior variance",
    "loss_of_evidence": "minus log evidence", "gap": "generalisation gap", "parameters": "parameters",
    "inverse_lengthscale": "1 / length-scale",
}  # fmt: skip
MEASURES = RESPONSES | BASELINES
FAILURES = {"rmse": "log RMSE ratio", "nll": "rise of NLL"}
# Of these also the interval and the worst run, and what is found among some of the models alone.
NAMED = [
    *product(("input_noise", "shuffled", "subpopulation", "time"), ("label_noise", "label_gain", "gradient", "weak_gradient")),
    ("drift", "noise_gradient"), ("subpopulation", "noise_gradient"), ("time", "noise_gradient"),
]  # fmt: skip
AMONG: dict[str, Callable[[dict[str, Any]], bool]] = {
    "": lambda m: True, "Sound": lambda m: m["sound"], "Kernels": lambda m: "network" not in m["name"],
    "Networks": lambda m: "network" in m["name"],
}  # fmt: skip


def main(
    dataset: str = "weather", seed: int = 0, rows: int = 1000, validated: int = 150, evaluated: int = 500,
    models: int | None = None, steps: int = 20, trained: int = 400,
) -> dict[str, Any]:  # fmt: skip
    """Every model of one data set and seed: its measures before, its scores before and after, and their rank correlations.

    rows: training rows. validated: rows the measures see. evaluated: rows of every part scored. models: the first so many.
    steps: of the training of hyperparameters, by the evidence of `trained` of the rows.
    """
    parts = split(dataset, seed, rows, validated, evaluated)
    sheet, cache = [], {}
    for recipe in population()[:models]:
        posterior, facts = make(recipe, parts, steps, trained, seed, cache)
        if "shuffled" not in parts.after:  # the first model says which columns say little
            parts = with_shuffled(parts, weak_columns(posterior, parts), seed)
        measures = measure(posterior, parts) | facts
        scores = {name: score(posterior, *part) for name, part in {"before": parts.before, **parts.after}.items()}
        if not recipe.irrelevant:
            scores.pop("drift")
        sheet.append({
            "name": recipe.name, "group": recipe.group, "sound": recipe.sound, "measures": measures, "scores": scores,
        })  # fmt: skip
    result = {
        "dataset": dataset, "training_rows": rows, "columns": parts.columns, "weak_columns": len(parts.weak),
        "shifted_rows": {name: len(part[1]) for name, part in parts.after.items()}, "models": rounded(sheet),
    }  # fmt: skip
    found = {metric: len(comparable(result["models"], metric)) for metric in FAILURES}
    return result | {"comparable": found, "correlations": correlations(result["models"])}


# The data ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """One data set cut up: standardised by the training rows; x has the columns of pure noise last.

    plain, wide: training sets without and with the columns of noise. validation, before: rows like those of training.
    after: shifted rows by name of the shift. columns: without those of noise. weak: which of these say little.
    """

    plain: gr.Dataset
    wide: gr.Dataset
    validation: tuple[Tensor, Tensor]
    before: tuple[Tensor, Tensor]
    after: dict[str, tuple[Tensor, Tensor]]
    columns: int
    weak: tuple[int, ...] = ()


def split(name: str, seed: int, rows: int, validated: int, evaluated: int) -> Parts:
    """Rows of the set that are neither of the other subpopulation nor of the later time, and those that are."""
    x, y, other, later = source(name)
    generator = torch.Generator().manual_seed(seed)
    here = drawn(~other & ~later, rows + validated + evaluated, generator)
    at = {
        "train": here[:rows], "validation": here[rows : rows + validated], "before": here[rows + validated :],
        "subpopulation": drawn(other & ~later, evaluated, generator), "time": drawn(later & ~other, evaluated, generator),
    }  # fmt: skip
    x = x[:, (x[at["train"]] != x[at["train"][:1]]).any(dim=0)]
    columns = x.shape[1]
    x = torch.cat([x, torch.randn(len(x), NOISE_COLUMNS, generator=generator, dtype=x.dtype)], dim=1)
    plain, wide = (gr.dataset(part[at["train"]], y[at["train"]]) for part in (x[:, :columns], x))
    scaled = {k: (wide.scaler.do_x(x[i]), wide.scaler.do_y(y[i])) for k, i in at.items() if len(i)}
    before_x, before_y = scaled["before"]
    noisy, drifted = before_x.clone(), before_x.clone()
    noisy[:, :columns] += INPUT_NOISE * torch.randn(len(before_x), columns, generator=generator, dtype=x.dtype)
    drifted[:, columns:] *= DRIFT
    after = {"input_noise": (noisy, before_y), "drift": (drifted, before_y)}
    after |= {k: scaled[k] for k in ("subpopulation", "time") if k in scaled}
    return Parts(plain, wide, scaled["validation"], scaled["before"], after, columns)


def source(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, targets, and which rows are of another subpopulation and of a later time (none where there is no time)."""
    whole = gr.load(name, standardise=False)
    x, y = (torch.cat([getattr(whole.train, part), getattr(whole.test, part)]) for part in ("x", "y"))
    column = {label: x[:, j] for j, label in enumerate(whole.names)}
    if name in ("weather", "flights"):
        year = torch.atan2(column["year_sin"], column["year_cos"]) / (2.0 * math.pi) % 1.0
        return x, y, column["origin=JFK"] > 0.5, year >= 0.75
    later = torch.zeros(len(x), dtype=torch.bool)
    if name == "bike":  # year and month: the last four of 24
        months = 12.0 * (column["x0"] > 0) + (column["x1"] - column["x1"].min()).round()
        later = months >= 20
    principal = first_principal_component(x)
    return x, y, principal > principal.quantile(0.85), later


def first_principal_component(x: Tensor) -> Tensor:
    """Of standardised columns, (n,); the largest loading is positive."""
    z = (x - x.mean(dim=0)) / x.std(dim=0).clamp_min(1e-12)
    loading = torch.linalg.eigh(z.T @ z).eigenvectors[:, -1]
    return z @ (loading * loading[loading.abs().argmax()].sign())


def drawn(which: Tensor, count: int, generator: torch.Generator) -> Tensor:
    at = which.nonzero().flatten()
    return at[torch.randperm(len(at), generator=generator)[:count]]


def weak_columns(posterior: gr.Posterior, parts: Parts) -> tuple[int, ...]:
    """The half of the columns whose permutation raises the validation error of this model least."""
    x, y = parts.validation
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rise = []
    for j in range(parts.columns):
        mixed = x[:, : parts.columns].clone()
        mixed[:, j] = mixed[order, j]
        rise.append(float(gr.scores.rmse(means(posterior, mixed), y)))
    return tuple(sorted(np.argsort(rise)[: parts.columns // 2].tolist()))


def with_shuffled(parts: Parts, weak: tuple[int, ...], seed: int) -> Parts:
    """Weak columns of the rows before, as a block, from other rows."""
    x, y = parts.before
    mixed, order = x.clone(), torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    mixed[:, list(weak)] = x[order][:, list(weak)]
    return replace(parts, weak=weak, after={**parts.after, "shuffled": (mixed, y)})


# The models -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How one model is made.

    kernel: names joined by "+"; one length-scale where ard is false. widths: of a network in front of it, trained `pretrain`
    steps with this weight decay. noise, scale: factors on the trained noise variance and length-scale. labels: standard
    deviation of what is added to training labels. share: of the training rows. irrelevant: sees the columns of pure noise.
    """

    name: str
    kernel: str = "matern32"
    ard: bool = True
    widths: tuple[int, ...] = ()
    pretrain: int = 0
    decay: float | None = None
    noise: float = 1.0
    scale: float = 1.0
    labels: float = 0.0
    share: float = 1.0
    irrelevant: bool = False

    @property
    def sound(self) -> bool:
        """Nothing is set wrong on purpose, and the labels are those of the data."""
        return self.noise == 1.0 and self.scale == 1.0 and self.labels == 0.0

    @property
    def group(self) -> str:
        if self.irrelevant:
            return "noise columns"
        return "set wrong" if not self.sound else "deep" if self.widths else "plain"


def population() -> list[Recipe]:
    """Every model of a run, those first that a smoke run keeps."""
    small, middle, large = (32, 4), (64, 64, 4), (128, 128, 8)
    plain = [
        Recipe("matern32"), Recipe("rbf", "rbf"), Recipe("noise columns, isotropic", ard=False, irrelevant=True),
        Recipe("noise columns", irrelevant=True), Recipe("small network", widths=small, pretrain=100),
        Recipe("noise / 10", noise=0.1), Recipe("matern12", "matern12"), Recipe("matern52", "matern52"),
        Recipe("rational quadratic", "rational_quadratic"), Recipe("sum", "rbf+matern12"),
        Recipe("isotropic", ard=False), Recipe("rbf, isotropic", "rbf", ard=False),
    ]  # fmt: skip
    wrong = [
        Recipe("noise / 100", noise=0.01), Recipe("noise x 4", noise=4.0), Recipe("rbf, noise / 10", "rbf", noise=0.1),
        Recipe("rbf, noise / 100", "rbf", noise=0.01), Recipe("rbf, noise x 4", "rbf", noise=4.0),
        Recipe("scale / 2", scale=0.5), Recipe("scale x 2", scale=2.0), Recipe("rbf, scale / 2", "rbf", scale=0.5),
        Recipe("rbf, scale x 2", "rbf", scale=2.0), Recipe("half the rows", share=0.5),
        Recipe("rbf, half the rows", "rbf", share=0.5), Recipe("noisy labels", labels=0.3),
        Recipe("rbf, noisy labels", "rbf", labels=0.3), Recipe("noisy labels, noise / 10", labels=0.3, noise=0.1),
    ]  # fmt: skip
    deep = [
        Recipe("small network, long", widths=small, pretrain=1000), Recipe("network", widths=middle, pretrain=100),
        Recipe("network, long", widths=middle, pretrain=1000),
        Recipe("network, long, no decay", widths=middle, pretrain=1000, decay=0.0),
        Recipe("network, long, strong decay", widths=middle, pretrain=1000, decay=10.0),
        Recipe("large network, long, no decay", widths=large, pretrain=1000, decay=0.0),
        Recipe("rbf on network, long", "rbf", widths=middle, pretrain=1000),
    ]  # fmt: skip
    irrelevant = [
        replace(r, name=f"noise columns, {r.name}", irrelevant=True)
        for r in (
            Recipe("rbf", "rbf"), Recipe("matern52", "matern52"), Recipe("rbf, isotropic", "rbf", ard=False),
            Recipe("noise / 10", noise=0.1), Recipe("rbf, noise / 10", "rbf", noise=0.1), Recipe("scale / 2", scale=0.5),
            Recipe("scale x 2", scale=2.0), *deep[2:4],
        )
    ]  # fmt: skip
    return plain + wrong + deep + irrelevant


KERNELS: dict[str, type[gr.Kernel]] = {
    "rbf": gr.RBF, "matern12": gr.Matern12, "matern32": gr.Matern32, "matern52": gr.Matern52,
    "rational_quadratic": gr.RationalQuadratic,
}  # fmt: skip


def make(
    recipe: Recipe, parts: Parts, steps: int, rows: int, seed: int, cache: dict[Recipe, gr.Exact]
) -> tuple[gr.Posterior, dict[str, Any]]:
    """The posterior, and what is known of it before it predicts anything. Recipes that differ in factors share a training."""
    data, generator = parts.wide if recipe.irrelevant else parts.plain, torch.Generator().manual_seed(1000 + seed)
    if recipe.share < 1.0:
        data = data.keep(torch.randperm(len(data.train), generator=generator)[: round(recipe.share * len(data.train))])
    if recipe.labels:
        y = data.train.y
        data = data.with_train(y=y + recipe.labels * torch.randn(len(y), generator=generator, dtype=y.dtype))
    core = replace(recipe, name="", noise=1.0, scale=1.0)
    if core not in cache:
        cache[core] = train(core, data, steps, rows, seed)
    head = changed(cache[core], recipe.noise, recipe.scale)
    posterior = head.condition(data)
    facts = {
        "loss_of_evidence": -float(head.log_evidence(data).detach()) / len(data.train),
        "parameters": sum(p.numel() for p in head.parameters() if p.requires_grad),
        "inverse_lengthscale": None if recipe.widths or "+" in recipe.kernel else inverse_lengthscale(head.kernel),
    }
    return posterior, facts


def train(recipe: Recipe, data: gr.Dataset, steps: int, rows: int, seed: int) -> gr.Exact:
    width = recipe.widths[-1] if recipe.widths else data.dim
    options = {"ard": width, "lengthscale": [math.sqrt(width)] * width} if recipe.ard else {"lengthscale": width**0.5}
    kernel = sum_of([KERNELS[part](**options) for part in recipe.kernel.split("+")])
    if recipe.widths:
        kernel = kernel.on(gr.MLP(data.dim, list(recipe.widths), seed=seed))
    head = gr.Exact(kernel, noise=0.1, solver=SOLVER)
    head.fit(data, training=gr.Training(
        steps=steps, rows=min(rows, len(data.train)), pretrain_steps=recipe.pretrain, weight_decay=recipe.decay, seed=seed,
        progress=False,
    ))  # fmt: skip
    return head


def sum_of(kernels: list[gr.Kernel]) -> gr.Kernel:
    return kernels[0] if len(kernels) == 1 else gr.Sum(*kernels)


def changed(head: gr.Exact, noise: float, scale: float) -> gr.Exact:
    """The same with noise variance and length-scales multiplied."""
    kernel = copy.deepcopy(head.kernel)
    if scale != 1.0:
        kernel.lengthscale = scale * kernel.lengthscale.detach()
    return gr.Exact(kernel, noise=noise * float(head.noise.detach()), solver=SOLVER)


def inverse_lengthscale(kernel: Any) -> float:
    """The root mean square over columns."""
    return float(kernel.lengthscale.detach().reciprocal().square().mean().sqrt())


# Before and after -------------------------------------------------------------------------------------------------------


def measure(posterior: gr.Posterior, parts: Parts) -> dict[str, float | None]:
    """What validation and training rows tell; root mean squares over validation rows."""
    dim, train = posterior.data.dim, posterior.data.train
    x, y = parts.validation[0][:, :dim], parts.validation[1]
    noise = gr.noise_response(posterior, gr.value(x)).deviation
    weights = gr.susceptibility(posterior, gr.value(x), gr.reweight()).matrix
    slope = gradients(posterior, x)
    loose = posterior.looseness().value
    mean, variance = predictions(posterior, x)
    rmse = float(gr.scores.rmse(mean, y))
    return {
        "label_noise": size(noise), "label_gain": size(noise) / float(posterior.noise.sqrt()),
        "label_share": float(noise.square().mean() / variance.mean()), "jackknife": size(weights.norm(dim=1)),
        "gradient": size(slope[:, : parts.columns].norm(dim=1)),
        "weak_gradient": size(slope[:, list(parts.weak)].norm(dim=1)),
        "noise_gradient": size(slope[:, parts.columns :].norm(dim=1)) if dim > parts.columns else None,
        "effective_dimension": float((1.0 - loose).sum()) / len(train), "variance": float(variance.mean()),
        "validation_rmse": rmse, "validation_nll": float(gr.scores.gaussian_nll(mean, variance + posterior.noise, y)),
        "gap": rmse - float(gr.scores.rmse(means(posterior, train.x), train.y)), "noise": float(posterior.noise),
    }  # fmt: skip


def size(values: Tensor) -> float:
    """Root mean square."""
    return float(values.square().mean().sqrt())


def score(posterior: gr.Posterior, x: Tensor, y: Tensor) -> dict[str, float]:
    mean, variance = predictions(posterior, x[:, : posterior.data.dim])
    return {
        "rmse": float(gr.scores.rmse(mean, y)), "nll": float(gr.scores.gaussian_nll(mean, variance + posterior.noise, y)),
    }  # fmt: skip


def weights_of(posterior: gr.Posterior) -> Tensor:
    """`A⁻¹ y`, (n,), by which kernel values make a mean."""
    return posterior.residuals.value * posterior.beta * posterior.data.train.weights / posterior.row_noise


def means(posterior: gr.Posterior, x: Tensor) -> Tensor:
    return posterior.prior_cov(x, posterior.data.train.x).detach() @ weights_of(posterior)


def gradients(posterior: gr.Posterior, x: Tensor) -> Tensor:
    """Of the mean by the inputs, (n, d)."""
    x = x.clone().requires_grad_()
    mean = posterior.prior_cov(x, posterior.data.train.x) @ weights_of(posterior)
    return torch.autograd.grad(mean.sum(), x)[0]


@torch.no_grad()
def predictions(posterior: gr.Posterior, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the field in plain double precision, without the bounds of `gr.predict`: ten times as fast."""
    train = posterior.data.train
    system = posterior.prior_cov(train.x, train.x)
    system.diagonal().add_(posterior.row_noise)
    cross = posterior.prior_cov(train.x, x)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(system), cross, upper=False)
    prior = posterior.kernel.diagonal(x)
    return cross.T @ weights_of(posterior), (prior - half.square().sum(dim=0)).clamp_min(0.0)


def rounded(value: Any) -> Any:
    """To six digits, for shorter files."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


# The answer -------------------------------------------------------------------------------------------------------------


def failure(model: dict[str, Any], shift: str, metric: str) -> float:
    before, after = model["scores"]["before"][metric], model["scores"][shift][metric]
    return math.log(after / before) if metric == "rmse" else after - before


def comparable(models: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Those with a validation RMSE within 25 % of the median; for the NLL also within half a nat of that median."""
    known = {key: np.array([m["measures"][f"validation_{key}"] for m in models]) for key in FAILURES}
    near = np.abs(np.log(known["rmse"] / np.median(known["rmse"]))) <= math.log(COMPARABLE)
    if metric == "nll":
        near &= np.abs(known["nll"] - np.median(known["nll"])) <= COMPARABLE_NLL
    return [m for m, kept in zip(models, near, strict=True) if kept]


def correlations(models: list[dict[str, Any]], among: str = "") -> dict[str, dict[str, dict[str, list[Any]]]]:
    """By metric, shift and measure: Spearman's rank correlation of measure and failure, and the same given the validation
    RMSE, and given the posterior variance; null where one is constant. among: of the models that AMONG names so."""
    found: dict[str, dict[str, dict[str, list[Any]]]] = {metric: {} for metric in FAILURES}
    for metric, shift in product(FAILURES, SHIFTS):
        seen = [m for m in comparable(models, metric) if shift in m["scores"] and AMONG[among](m)]
        answers = {name: of_measure([m for m in seen if m["measures"][name] is not None], name, shift, metric)
                   for name in MEASURES}  # fmt: skip
        found[metric][shift] = {name: answer for name, answer in answers.items() if answer}
    return found


def of_measure(models: list[dict[str, Any]], name: str, shift: str, metric: str) -> list[float | None]:
    """The three rank correlations; none of fewer than six models."""
    if len(models) < FEWEST:
        return []
    measured, failed = [m["measures"][name] for m in models], [failure(m, shift, metric) for m in models]
    given = [None, *([m["measures"][k] for m in models] for k in ("validation_rmse", "variance"))]
    return rounded([rank_correlation(measured, failed, g) for g in given])


def rank_correlation(one: list[float], two: list[float], given: list[float] | None = None) -> float | None:
    """Spearman's, partial where `given`: of what is left of both ranks after a line in its rank. None where one is constant."""
    a, b = (rankdata(part) - (len(part) + 1) / 2 for part in (one, two))
    if given is not None:
        z = rankdata(given) - (len(given) + 1) / 2
        a, b = (part - z * (part @ z) / max(z @ z, 1e-300) for part in (a, b))
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths > 1e-9 * len(a) else None


# The paper --------------------------------------------------------------------------------------------------------------

Cells = dict[str, list[float]]  # correlations of the seeds of each set


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """Mean correlations, a star where the bootstrap's 95 % leave out zero; the figures of RMSE."""
    whole = largest(results, "models")
    order = {name: i for i, name in enumerate(SETS)}
    full = [r["result"] for r in sorted(whole, key=lambda r: (order[r["config"]["dataset"]], r["config"]["seed"]))]
    found = {among: [(f["dataset"], correlations(f["models"], among)) for f in full] for among in AMONG}
    panels = {
        title: {MEASURES[name]: cells for name in MEASURES if (cells := cells_of(found[""], "rmse", shift, name))}
        for shift, title in SHIFTS.items()
    }  # fmt: skip
    save(rank_correlations(panels), figures / "noise-shift-ranks.pdf")
    if drawn := scatters({f["dataset"]: f["models"] for f in reversed(full)}):
        save(drawn, figures / "noise-shift-scatter.pdf")
    counts = {key: np.median([f["comparable"][key] for f in full]) for key in FAILURES}
    return {
        "NoiseShiftRuns": number(len(full)), "NoiseShiftSets": number(len({f["dataset"] for f in full})),
        "NoiseShiftModels": number(max(len(f["models"]) for f in full)),
        "NoiseShiftRows": number(max(f["training_rows"] for f in full)),
        "NoiseShiftTrained": number(max(r["config"]["trained"] for r in whole)),
        **{f"NoiseShiftComparable{camel(key)}": number(int(count)) for key, count in counts.items()},
        **every_macro(found[""]),
        **{k: v for among in AMONG for k, v in named_macros(found[among], f"NoiseShift{among}", ends=not among).items()},
    }  # fmt: skip


def every_macro(found: list[tuple[str, Any]]) -> dict[str, str]:
    """Mean correlations, those given the validation RMSE, and for label noise those given the posterior variance."""
    texts = {}
    for metric, shift, name in product(FAILURES, SHIFTS, MEASURES):
        for place, kind in enumerate(("", "Given", "Beyond")[: 3 if name == "label_noise" else 2]):
            if cells := cells_of(found, metric, shift, name, place):
                mean, low, high = interval(cells)
                starred = signed(mean) + (r"\starred{}" if low > 0.0 or high < 0.0 else "")
                texts[f"NoiseShift{kind}{camel(metric)}{camel(shift)}{camel(name)}"] = starred
    return texts


def named_macros(found: list[tuple[str, Any]], stem: str, *, ends: bool) -> dict[str, str]:
    """Mean correlation of RMSE alone, without star, or with `ends` its interval and the lowest of any run."""
    texts = {}
    for shift, name in NAMED:
        label = f"{stem}Rmse{camel(shift)}{camel(name)}"
        if cells := cells_of(found, "rmse", shift, name):
            mean, low, high = interval(cells)
            least = min(value for values in cells.values() for value in values)
            parts = {"Mean": mean, "Low": low, "High": high, "Least": least} if ends else {"Mean": mean}
            texts |= {f"{label}{part}": signed(value) for part, value in parts.items()}
    return texts


def cells_of(found: list[tuple[str, Any]], metric: str, shift: str, name: str, place: int = 0) -> Cells:
    """Correlations by set, those that are defined."""
    cells: Cells = {}
    for dataset, table in found:
        value = (table[metric][shift].get(name) or [None] * 3)[place]
        if value is not None:
            cells.setdefault(dataset, []).append(value)
    return cells


def interval(cells: Cells, draws: int = 2000) -> tuple[float, float, float]:
    """Mean over sets of the mean over seeds, and 95 % of a bootstrap that draws sets, then seeds of each."""
    generator, sets = np.random.default_rng(0), [np.array(values) for values in cells.values()]
    k = len(sets)
    # A mean over redrawn seeds of every set, for every place that the set may be drawn to: (k places, draws, k sets).
    seeds = np.stack([v[generator.integers(len(v), size=(k, draws, len(v)))].mean(axis=-1) for v in sets], axis=-1)
    drawn_sets = generator.integers(k, size=(k, draws, 1))
    means = np.take_along_axis(seeds, drawn_sets, axis=-1).mean(axis=(0, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean([values.mean() for values in sets])), float(low), float(high)


def scatters(models: dict[str, list[dict[str, Any]]]) -> Any:
    """Two measures against the failures that they might tell of, for three sets; None where one of them is missing."""
    sets, panels = ("weather", "elevators", "protein"), {}
    if not set(sets) <= set(models):
        return None
    for (measure, shift), name in product((("weak_gradient", "shuffled"), ("label_noise", "subpopulation")), sets):
        groups: dict[str, list[tuple[float, float]]] = {}
        for m in comparable(models[name], "rmse"):
            groups.setdefault(m["group"], []).append((m["measures"][measure], failure(m, shift, "rmse")))
        panels[f"{name}: {MEASURES[measure]} → {SHIFTS[shift]}"] = groups
    return grouped_scatter(panels, x="response measured before", y="log RMSE after / before")


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def signed(value: float) -> str:
    """Two decimals, so that columns line up; no minus before zeros."""
    text = f"{value:.2f}"
    return rf"\num{{{'0.00' if text == '-0.00' else text}}}"
