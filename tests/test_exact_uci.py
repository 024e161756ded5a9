"""The experiment on the UCI sets, on small ones."""

import json
import math
from pathlib import Path

import pytest
import torch

import gp_response as gr
from gp_response.data.load import names
from gp_response.errors import DataError
from gp_response.experiment import configure, grid, read_experiment
from gp_response.heads.factored_predictions import factored_predictions
from gp_response.report import NAME

FILE = Path(__file__).parents[1] / "experiments" / "exact_uci.py"


@pytest.fixture(scope="module")
def module():
    return read_experiment(FILE).main.__globals__


def test_every_configuration_of_the_grid_is_a_set_that_exists():
    experiment = read_experiment(FILE)
    for config in grid(experiment):
        kind, name = configure(experiment, config)["task"].split()
        assert kind in ("published", "trained")
        assert name in names()


def test_two_thirds_train_and_the_rest_tests(module):
    data, again, other = (module["two_thirds"]("weather", 300, seed) for seed in (0, 0, 1))
    assert (len(data.train), len(data.test)) == (200, 100)
    assert data.fingerprint() == again.fingerprint() != other.fingerprint()
    torch.testing.assert_close(data.train.y.mean(), torch.tensor(0.0).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(data.train.y.std(correction=0), torch.tensor(1.0).double(), atol=1e-12, rtol=0)
    whole = gr.load("weather", n=300, standardise=False)
    ours = torch.cat([data.undo_y(data.train.y), data.undo_y(data.test.y)]).sort().values
    theirs = torch.cat([whole.train.y, whole.test.y]).sort().values
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_predictions_are_those_of_the_posterior(module):
    data = module["two_thirds"]("weather", 600, 0)
    head = gr.Exact(gr.Matern32(ard=data.dim, lengthscale=[4.0] * data.dim), noise=0.03, mean=0.4)
    mean, variance, evidence = factored_predictions(head, data, data.test.x)
    posterior = head.condition(data)
    torch.testing.assert_close(mean, posterior.mean(data.test.x), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(variance, posterior.variance(data.test.x) + 0.03, rtol=1e-8, atol=1e-10)
    assert evidence == pytest.approx(float(posterior.log_evidence()), rel=1e-10)


def test_scores_are_those_of_the_normal_distribution(module):
    generator = torch.Generator().manual_seed(0)
    y, mean = (torch.randn(500, generator=generator, dtype=torch.float64) for _ in range(2))
    variance = 0.5 + torch.rand(500, generator=generator, dtype=torch.float64)
    found = module["score"](mean, variance, y)
    density = torch.distributions.Normal(mean, variance.sqrt()).log_prob(y)
    assert found["nll"] == pytest.approx(-float(density.mean()), rel=1e-12)
    assert found["rmse"] == pytest.approx(math.sqrt(float(((y - mean) ** 2).mean())), rel=1e-12)
    assert 0.0 < found["coverage"] < 1.0


def test_training_and_its_report(module):
    result = module["main"](task="trained weather", rows=400)
    assert result["rmse"] < 0.6
    assert abs(result["log_evidence"] - result["estimated_log_evidence"]) < 5.0 * result["estimated_log_evidence_error"]
    assert json.loads(json.dumps(result)) == result
    record = {
        "result": {**result, "name": "kin40k"},
        "config": {"task": "trained kin40k", "rows": None},
        "started_at": "1",
    }
    macros = module["report"]([record], Path())
    assert macros
    assert all(NAME.fullmatch(name) for name in macros)


def test_both_solvers_agree_at_given_hyperparameters(module, monkeypatch, tmp_path):
    data = gr.load("weather", n=500)
    folder = tmp_path / "uci"
    folder.mkdir()
    given = {"noise_scale": 0.2, "signal_scale": 1.1, "length_scale": [4.0] * data.dim}
    (folder / "published_hyperparameters.json").write_text(json.dumps({"hparams": {"weather": {"0": given}}}))
    monkeypatch.setenv("GP_RESPONSE_DATA", str(tmp_path))
    monkeypatch.setattr(gr, "load", lambda *_, **__: data)
    result = module["published"]("weather", 500, 0)
    assert result["cg_rmse"] == pytest.approx(result["cholesky_rmse"], rel=1e-5)
    assert result["cg_nll"] == pytest.approx(result["cholesky_nll"], rel=1e-5)
    assert result["cg_converged"]
    off = result["estimated_log_evidence"] - result["cholesky_log_evidence"]
    assert abs(off) < 5.0 * result["estimated_log_evidence_error"] + 1e-5
    assert "agrees" not in result


def test_missing_hyperparameters_are_said(module, monkeypatch, tmp_path):
    for folder in ("", str(tmp_path)):
        monkeypatch.setenv("GP_RESPONSE_DATA", folder)
        with pytest.raises(DataError, match=r"published_hyperparameters\.json"):
            module["hyperparameters"]("pol", 0)
