"""The gap between response and fluctuation, its experiment, and refits under differentiation that must settle."""

from pathlib import Path

import pytest
import torch

import gp_response as gr
from gp_response.errors import InputError, SolverError
from gp_response.experiment import configure, grid, read_experiment
from gp_response.heads import fixed_point
from gp_response.report import NAME

FILE = Path(__file__).parents[1] / "experiments" / "fdt_gap.py"
ROWS = list(range(0, 120, 15))


@pytest.fixture(scope="module")
def module():
    return read_experiment(FILE).main.__globals__


@pytest.fixture(scope="module")
def data():
    return gr.load("weather").draw(120, 0)


@pytest.fixture(scope="module")
def classes():
    return gr.load("magic").draw(90, 0)


@pytest.fixture
def kernel(data):
    return gr.Matern52(lengthscale=data.dim**0.5, outputscale=1.5)


def gap(head, data):
    return gr.fdt_gap(head, data, gr.value(data.test.x[:6]), gr.reweight(ROWS))


def test_every_case_of_the_grid_is_one_that_main_knows(module):
    experiment = read_experiment(FILE)
    for config in grid(experiment):
        model, _, rows, *noise = configure(experiment, config)["case"].split()
        assert model in ("sgpr", "svgp", "laplace", "variational")
        assert int(rows) >= 200
        assert len(noise) == (model in ("sgpr", "svgp"))
    for case in ("sgpr weather 120", "laplace magic 90 0.1", "exact weather 120 0.1"):
        with pytest.raises(InputError, match="expected sgpr or svgp DATASET ROWS NOISE"):
            module["main"](case=case)


@pytest.mark.parametrize("noise", [1e-1, 1e-3])
def test_the_gap_closes_where_every_row_is_an_inducing_point(kernel, data, noise):
    assert gap(gr.SGPR(kernel, data.train.x.clone(), noise), data) < 1e-8
    assert gap(gr.SGPR(kernel, 12, noise), data) > 0.1


def test_the_gap_is_that_of_the_formulas_written_out(kernel, data):
    """Titsias' posterior in dense matrices: only `K_*u Σ⁻¹ K_ux` responds, the claimed covariance has k - Q besides."""
    noise, x, at = 0.03, data.train.x, data.test.x[:6]
    head = gr.SGPR(kernel, 20, noise)
    found = gap(head, data)
    u = head.points.detach()
    with torch.no_grad():
        k_uu, k_ux, k_ua = (kernel(u, z).to_dense() for z in (u, x, at))
        inner = torch.linalg.inv(k_uu + k_ux @ k_ux.T / noise)
        residual = data.train.y - k_ux.T @ inner @ k_ux @ data.train.y / noise
        seen = k_ua.T @ inner @ k_ux[:, ROWS]
        left_out = kernel(at, x[ROWS]).to_dense() - k_ua.T @ torch.linalg.solve(k_uu, k_ux[:, ROWS])
    real, claimed = (s * residual[ROWS] / noise for s in (seen, seen + left_out))
    assert found == pytest.approx(float((real - claimed).norm() / real.norm()), rel=1e-6)


def test_a_gaussian_svgp_at_the_same_points_is_sgpr(kernel, data):
    sgpr = gr.SGPR(kernel, 15, 0.05)
    one = gap(sgpr, data)
    assert gap(gr.SVGP(kernel, sgpr.points.detach(), gr.Gaussian(0.05)), data) == pytest.approx(one, rel=1e-9)


@pytest.mark.parametrize("kind", ["laplace", "variational"])
def test_no_inducing_points_close_the_gap_of_two_classes(module, classes, kind):
    head = gr.SVGP(
        gr.Matern52(lengthscale=3.0, outputscale=4.0), classes.train.x.clone(), gr.Bernoulli(), approximation=kind
    )
    found = module["gap"](head, classes, classes.test.x[:5], [1, 30, 60])
    assert found["gap"] > 0.01
    assert found["closed_gap"] < 1e-8
    assert found["gap"] == pytest.approx(
        gr.fdt_gap(head, classes, gr.value(classes.test.x[:5]), gr.reweight([1, 30, 60])), rel=1e-12
    )


@pytest.fixture
def restless(classes):
    """A variational fit that takes full steps too far, and how it really answers."""
    head = gr.SVGP(gr.Matern52(lengthscale=6.5, outputscale=150.0), 30, gr.Bernoulli())
    asked, change = gr.value(classes.test.x[:5]), gr.reweight([0, 20, 50])
    up, down = (gr.refit_response(head, classes, asked, change, h=h).matrix for h in (1e-3, -1e-3))
    assert head.condition(classes).fixed.rate < 1.0
    return head, asked, change, (up - down) / 2e-3


def test_refits_under_differentiation_settle_where_full_steps_do_not(classes, restless):
    head, asked, change, slope = restless
    found = gr.refit_response(head, classes, asked, change).matrix
    assert float((found - slope).norm() / slope.norm()) < 1e-6


def test_refits_under_differentiation_settle_where_the_last_step_was_a_lucky_full_one():
    data = gr.load("breast_cancer").draw(120, 0)
    head = gr.SVGP(gr.Matern52(lengthscale=23.0, outputscale=1200.0), 24, gr.Bernoulli(), seed=0)
    asked, change = gr.value(data.test.x[:5]), gr.reweight([3, 40, 90])
    assert head.condition(data).fixed.rate < 0.5
    found = gr.refit_response(head, data, asked, change).matrix
    closed = gr.susceptibility(head.condition(data), asked, change).matrix
    assert float((found - closed).norm() / closed.norm()) < 1e-8


def test_refits_under_differentiation_that_end_elsewhere_are_refused(classes, restless, monkeypatch):
    head, asked, change, _ = restless
    blind = fixed_point._blind
    monkeypatch.setattr(fixed_point, "_blind", lambda problem, start: blind(problem, None))
    monkeypatch.setattr(fixed_point, "BLIND_OTHER", 3)
    with pytest.raises(SolverError, match="does not settle"):
        gr.refit_response(head, classes, asked, change)


def test_training_moves_the_points_and_nothing_else(module, data):
    kernel = gr.Matern52(lengthscale=4.0, outputscale=1.5).requires_grad_(False)
    head = module["make"]("svgp", kernel, data, 0.1, 0.05, 0)
    before = head.points.detach().clone()
    module["train_points"](head, data, 30, 0)
    assert float((head.points.detach() - before).abs().max()) > 1e-3
    assert float(head.noise.detach()) == pytest.approx(0.05, rel=1e-12)
    assert float(kernel.outputscale) == pytest.approx(1.5, rel=1e-12)


def test_a_whole_case_and_its_report(module, tmp_path):
    result = module["main"](case="sgpr weather 120 0.01", shares=[0.1, 1.0], predictions=5, perturbed=6)
    few, every = result["gaps"]
    assert every["inducing"] == result["distinct_rows"]
    assert every["gap"] < 1e-8 < few["gap"]
    assert max(g["closed_gap"] for g in result["gaps"]) < 1e-9
    gaps = [few | {"share": share} for share in module["SHARES"][:-1]] + [every]
    records = [
        {"result": result | {"gaps": gaps, "rows": 400, "model": model, "noise": noise, "dataset": dataset}}
        for model, noise, dataset in (("sgpr", 0.01, "weather"), ("svgp", 0.01, "weather"), ("laplace", None, "magic"))
    ]
    macros = module["report"](records, tmp_path)
    assert {"GapSgprFullMax", "GapSvgpTenthMiddleNoise", "GapLaplaceMagicFull"} <= set(macros)
    assert all(NAME.fullmatch(name) for name in macros)
    assert (tmp_path / "fdt-gap.pdf").exists()
    assert module["report"]([{"result": result}], tmp_path) == {}
