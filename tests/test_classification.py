"""The experiment on two classes, at small sizes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

import gp_response as gr
from gp_response.data.load import names
from gp_response.errors import InputError
from gp_response.experiment import configure, grid, read_experiment
from gp_response.report import NAME

FILE = Path(__file__).parents[1] / "experiments" / "classification.py"
SCORES = ("accuracy", "log_loss", "brier", "expected_calibration_error")


@pytest.fixture(scope="module")
def module():
    return read_experiment(FILE).main.__globals__


@pytest.fixture(scope="module")
def data(module):
    return module["two_classes"]("magic", 150, 0, 200)


def test_every_configuration_of_the_grid_exists(module):
    experiment = read_experiment(FILE)
    for config in grid(experiment):
        chosen = configure(experiment, config)
        assert chosen["dataset"] in names()
        assert chosen["method"] in module["METHODS"]
    with pytest.raises(InputError, match="expected one of exact"):
        module["main"](method="logistic")


def test_labels_are_zero_and_one_and_rows_those_of_the_source(module):
    data = module["two_classes"]("penbased", 300, 0, 100)
    whole = gr.load("penbased", standardise=False)
    share = float((whole.train.y == 8).double().mean())
    assert set(data.train.y.tolist()) == {0.0, 1.0}
    assert abs(float(data.train.y.mean()) - share) < 4.0 * math.sqrt(share * (1.0 - share) / 300)
    torch.testing.assert_close(data.train.x.mean(dim=0), torch.zeros(data.dim).double(), atol=1e-12, rtol=0)
    first = (whole.train.x == data.undo_x(data.train.x)[0].round()).all(dim=1).nonzero().flatten()
    assert data.train.y[0] == float(whole.train.y[first[0]] == 8)


def test_exact_is_the_approximation_of_scikit_learn(module, data):
    """One evidence at one kernel, and probabilities that differ by its five-term formula for the logistic integral alone."""
    kernel = ConstantKernel(6.0) * Matern(2.5, nu=2.5)
    peer = GaussianProcessClassifier(kernel, optimizer=None).fit(data.train.x.numpy(), data.train.y.numpy())
    head = gr.Exact(gr.Matern52(lengthscale=2.5, outputscale=6.0), likelihood=gr.Bernoulli())
    assert float(head.log_evidence(data).detach()) == pytest.approx(peer.log_marginal_likelihood_value_, rel=1e-6)
    found = gr.predict(head.condition(data), data.test.x)
    ours = gr.Bernoulli().predictive(found.mean, found.variance)[0]
    theirs = peer.predict_proba(data.test.x.numpy())[:, 1]
    assert np.abs(ours.numpy() - theirs).max() < 5e-3


def test_training_ends_where_that_of_scikit_learn_does(module, data):
    peer, theirs = module["scikit_learn"](data)
    head, ours = module["ours"](module["exact"](data), data, gr.Training(progress=False))
    evidence = float(head.log_evidence(data).detach())
    assert evidence == pytest.approx(peer.log_marginal_likelihood_value_, rel=1e-4)
    assert float((ours - theirs).abs().max()) < 2e-2


def test_the_peer_learns(module, data):
    _, start = module["peer"](data, 20, 64, 1, 0)
    _, trained = module["peer"](data, 20, 64, 150, 0)
    losses = [float(gr.scores.log_loss(p, data.test.y)) for p in (start, trained)]
    share = float(data.train.y.mean())
    base = float(gr.scores.log_loss(torch.full_like(trained, share), data.test.y))
    assert losses[1] < min(losses[0], base)


def test_a_wrong_response_is_seen(module, data, monkeypatch):
    head = gr.SVGP(gr.Matern52(lengthscale=3.0, outputscale=4.0), 15, gr.Bernoulli())
    assert module["verified"](head, data, 3, 5, 0)["refit_gap_max"] < 1e-6
    monkeypatch.setattr(gr, "susceptibility", gr.fluctuation)
    assert module["verified"](head, data, 3, 5, 0)["refit_gap_max"] > 1e-3


@pytest.mark.parametrize("method", ["exact", "svgp all", "gpytorch", "scikit-learn"])
def test_a_run_and_its_report(module, method):
    result = module["main"](
        dataset="breast_cancer", method=method, rows=100, inducing=12, steps=30, batch=64, perturbed=3, asked=4
    )
    assert json.loads(json.dumps(result)) == result
    assert result["accuracy"] > 0.8
    if method in ("exact", "svgp all"):
        assert result["refit_gap_max"] < 1e-5
        assert result["bound_max"] < 1e-5
        assert result["deletion_correlation"] > 0.9
    config = {"dataset": "breast_cancer", "method": method, "rows": module["FEW"], "seed": 0}
    macros = module["report"]([{"result": result, "config": config}], Path())
    assert all(NAME.fullmatch(name) for name in macros)
    assert len(macros) >= len(SCORES) + 2
    assert ("ClassesRefitGapMax" in macros) == (method in ("exact", "svgp all"))
    small = {"result": result | {"accuracy": 0.5}, "config": config | {"rows": 100}}
    assert module["report"]([{"result": result, "config": config}, small], Path()) == macros  # the full size goes first
    assert set(module["report"]([small], Path())) == set(macros)  # where there is none, what there is
