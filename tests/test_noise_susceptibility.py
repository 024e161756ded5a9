"""What the noise experiment measures before the shift, the shifts it makes, and how it ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import gp_response as gr
from gp_response.experiment import configure, grid, read_experiment
from gp_response.report import NAME

FILE = Path(__file__).parents[1] / "experiments" / "noise_susceptibility.py"
ROWS = 120


@pytest.fixture(scope="module")
def module():
    return read_experiment(FILE).main.__globals__


@pytest.fixture(scope="module")
def parts(module):
    return module["split"]("weather", 0, ROWS, 30, 60)


@pytest.fixture(scope="module")
def posterior(parts):
    return gr.Exact(gr.Matern52(lengthscale=3.0), noise=0.05).condition(parts.plain)


@pytest.fixture(scope="module")
def measured(module, parts, posterior):
    return module["measure"](posterior, module["with_shuffled"](parts, (0, 3, 5), 0))


def test_every_run_of_the_grid_is_of_another_set_or_seed_and_recipes_have_names_of_their_own(module):
    experiment = read_experiment(FILE)
    configs = [configure(experiment, config) for config in grid(experiment)]
    assert len(configs) >= 12
    assert len({(c["dataset"], c["seed"]) for c in configs}) == len(configs)
    recipes = module["population"]()
    assert len({r.name for r in recipes}) == len(recipes) >= 40
    assert {r.group for r in recipes} == {"plain", "deep", "set wrong", "noise columns"}


def test_rows_of_before_and_after_are_other_rows_and_the_training_rows_set_the_scale(module, parts):
    assert len(parts.plain.train) == ROWS
    assert parts.wide.dim == parts.plain.dim + module["NOISE_COLUMNS"]
    assert parts.plain.dim == parts.columns < 14  # no indicator of a station is left that is constant
    assert parts.plain.train.x.mean(dim=0).abs().max() < 1e-12
    training = {tuple(row) for row in parts.plain.train.x.tolist()}
    for x, _ in (parts.validation, parts.before, *parts.after.values()):
        assert not training & {tuple(row) for row in x[:, : parts.columns].tolist()}


def test_only_what_a_shift_names_is_changed(module, parts):
    x, y = parts.before
    d = parts.columns
    noisy, drifted = (parts.after[name][0] for name in ("input_noise", "drift"))
    assert torch.equal(noisy[:, d:], x[:, d:])
    assert torch.equal(drifted[:, :d], x[:, :d])
    assert torch.allclose(drifted[:, d:], module["DRIFT"] * x[:, d:])
    assert float((noisy - x)[:, :d].std()) == pytest.approx(module["INPUT_NOISE"], rel=0.1)
    mixed, same = module["with_shuffled"](parts, (1, 4), 0).after["shuffled"]
    rest = [j for j in range(x.shape[1]) if j not in (1, 4)]
    assert torch.equal(same, y)
    assert torch.equal(mixed[:, rest], x[:, rest])
    assert not torch.equal(mixed[:, [1, 4]], x[:, [1, 4]])
    assert sorted(map(tuple, mixed[:, [1, 4]].tolist())) == sorted(map(tuple, x[:, [1, 4]].tolist()))  # a block


def test_weak_columns_are_those_a_model_does_not_use(module, parts):
    scales = [1.0] * 4 + [1e4] * (parts.columns - 4)
    model = gr.Exact(gr.RBF(ard=parts.columns, lengthscale=scales), noise=0.05).condition(parts.plain)
    weak = module["weak_columns"](model, parts)
    assert len(weak) == parts.columns // 2
    assert min(weak) >= 4


def test_fast_predictions_are_the_certified_ones(module, parts, posterior):
    x = parts.before[0][:, : parts.columns]
    mean, variance = module["predictions"](posterior, x)
    certified = gr.predict(posterior, x)
    assert torch.allclose(mean, certified.mean, atol=1e-10)
    assert torch.allclose(variance, certified.variance, atol=1e-10)
    assert torch.allclose(module["means"](posterior, x), certified.mean, atol=1e-10)


def test_gradients_are_differences_of_predictions(module, parts, posterior):
    x, step = parts.before[0][:5, : parts.columns], 1e-4
    found = module["gradients"](posterior, x)
    for j in range(parts.columns):
        move = torch.zeros(parts.columns, dtype=x.dtype)
        move[j] = step
        central = (posterior.mean(x + move) - posterior.mean(x - move)) / (2.0 * step)
        assert torch.allclose(found[:, j], central, atol=1e-6)


def test_label_noise_and_jackknife_are_sums_over_refits(parts, posterior, measured):
    """One refit a training row: its label moved by σ, and its weight by a little."""
    head, data, x = gr.Exact(gr.Matern52(lengthscale=3.0), noise=0.05), parts.plain, parts.validation[0]
    x, start, sigma, h = x[:, : parts.columns], posterior.mean(x[:, : parts.columns]), 0.05**0.5, 1e-4
    by_label, by_weight = torch.zeros_like(start), torch.zeros_like(start)
    for i in range(ROWS):
        unit = torch.eye(ROWS, dtype=torch.float64)[i]
        by_label += (head.condition(data.with_train(y=data.train.y + sigma * unit)).mean(x) - start).square()
        changed = [head.condition(data.with_train(weights=data.train.weights + s * h * unit)).mean(x) for s in (1, -1)]
        by_weight += ((changed[0] - changed[1]) / (2.0 * h)).square()
    assert measured["label_noise"] == pytest.approx(float(by_label.mean().sqrt()), rel=1e-8)
    assert measured["jackknife"] == pytest.approx(float(by_weight.mean().sqrt()), rel=1e-5)
    assert measured["label_gain"] == pytest.approx(measured["label_noise"] / sigma)


def test_the_other_measures_are_their_formulas(module, parts, posterior, measured):
    k, y = posterior.prior_cov(parts.plain.train.x, parts.plain.train.x), parts.plain.train.y
    smoother = torch.linalg.solve(k + 0.05 * torch.eye(ROWS, dtype=torch.float64), k)
    assert measured["effective_dimension"] == pytest.approx(float(smoother.trace()) / ROWS, rel=1e-8)
    assert measured["noise_gradient"] is None
    fitted = (smoother @ y - y).square().mean().sqrt()
    assert measured["gap"] == pytest.approx(measured["validation_rmse"] - float(fitted), abs=1e-8)
    assert 0.0 < measured["label_share"] < 1.0
    slope = module["gradients"](posterior, parts.validation[0][:, : parts.columns])
    assert measured["weak_gradient"] == pytest.approx(float(slope[:, [0, 3, 5]].square().sum(dim=1).mean().sqrt()))
    assert measured["weak_gradient"] < measured["gradient"]


def test_rank_correlation_is_spearmans_and_partial_what_is_left_of_a_common_cause(module):
    rank, rng = module["rank_correlation"], np.random.default_rng(0)
    a, b, cause = rng.normal(size=(3, 200))
    ties = np.round(a)
    assert rank(list(ties), list(b)) == pytest.approx(spearmanr(ties, b).statistic)
    one, two = cause + 0.3 * a, cause + 0.3 * b
    assert rank(list(one), list(two)) > 0.8
    assert abs(rank(list(one), list(two), list(cause))) < 0.25
    r = spearmanr(np.stack([one, two, cause]).T).statistic
    partial = (r[0, 1] - r[0, 2] * r[1, 2]) / ((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)) ** 0.5
    assert rank(list(one), list(two), list(cause)) == pytest.approx(partial)
    assert rank([1.0] * 6, list(range(6))) is None
    assert rank(list(range(6)), [3.0, 1.0, 2.0, 5.0, 0.0, 4.0], list(range(6))) is None


def made_up(count, shifts, seed):
    """Models whose failure under the first shift follows one measure, and under the others nothing."""
    rng, measures = np.random.default_rng(seed), read_experiment(FILE).main.__globals__["MEASURES"]
    models = []
    for i in range(count):
        values = {name: float(rng.uniform(1.0, 2.0)) for name in measures} | {"validation_rmse": 1.0 + 0.001 * i}
        after = {s: {"rmse": float(rng.uniform(1.0, 2.0)), "nll": float(rng.uniform())} for s in shifts[1:]}
        after[shifts[0]] = {"rmse": values["weak_gradient"], "nll": values["weak_gradient"] ** 3}
        scores = {"before": {"rmse": 1.0, "nll": 0.0}, **after}
        group = ("plain", "deep", "set wrong", "noise columns")[i % 4]
        models.append(
            {"name": f"{group} {i}", "group": group, "sound": i % 4 != 2, "measures": values, "scores": scores}
        )
    models[0]["measures"]["validation_rmse"] = 9.0  # not comparable with the others
    models[0]["scores"][shifts[0]]["rmse"] = 1e-9
    return models


def test_report_finds_the_measure_that_ranks_and_defines_letters(module, tmp_path):
    shifts = ["shuffled", "input_noise", "subpopulation"]
    results = [
        {
            "config": {"models": None, "dataset": name, "seed": seed, "trained": 5},
            "result": {
                "dataset": name, "training_rows": 9, "comparable": {"rmse": 39, "nll": 39},
                "models": made_up(40, shifts, 10 * seed + k),
            },
        }
        for k, name in enumerate(("weather", "elevators", "protein")) for seed in (0, 1)
    ]  # fmt: skip
    found = module["report"](results, tmp_path)
    assert all(NAME.fullmatch(name) for name in found)
    assert found["NoiseShiftRmseShuffledWeakGradient"] == r"\num{1.00}\starred{}"
    assert found["NoiseShiftRmseShuffledWeakGradientLeast"] == r"\num{1.00}"
    assert found["NoiseShiftSoundRmseShuffledWeakGradientMean"] == r"\num{1.00}"
    assert not any(name.startswith("NoiseShiftNetworks") for name in found)  # there are none
    assert abs(float(found["NoiseShiftRmseInputNoiseGradient"].split("{")[1].split("}")[0])) < 0.3
    assert not any("Time" in name for name in found)
    for name in ("noise-shift-ranks.pdf", "noise-shift-scatter.pdf"):
        assert (tmp_path / name).stat().st_size > 2000
    small = {"config": {"models": 6}, "result": {}}
    assert module["report"]([*results, small], tmp_path) == found  # small runs say nothing beside whole ones


def test_the_interval_holds_the_mean_and_widens_with_the_spread_over_sets(module):
    near = module["interval"]({"a": [0.5, 0.5], "b": [0.5, 0.5]})
    far = module["interval"]({"a": [0.9, 0.9, 0.9], "b": [-0.1], "c": [0.4, 0.4]})
    assert near == pytest.approx((0.5, 0.5, 0.5))
    assert far[0] == pytest.approx(0.4)
    assert far[1] < 0.1 < 0.7 < far[2]


def test_a_whole_run_is_plain_numbers(module):
    result = module["main"](**{**module["SMOKE"], "rows": 80, "steps": 2})
    assert len(result["models"]) == 6
    kinds = {m["group"] for m in result["models"]}
    assert kinds == {"plain", "deep", "set wrong", "noise columns"}
    for m in result["models"]:
        assert ("drift" in m["scores"]) == (m["group"] == "noise columns")
        assert (m["measures"]["noise_gradient"] is None) == (m["group"] != "noise columns")
        assert all(np.isfinite(list(s.values())).all() for s in m["scores"].values())
    assert set(result["correlations"]) == {"rmse", "nll"}
