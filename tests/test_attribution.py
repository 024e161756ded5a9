"""The parts of the attribution experiment against dense formulas: training, our two answers, and the scores."""

import importlib
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr
from torch.func import functional_call, hessian, jacrev, vmap

from gp_response.experiment import read_experiment

FILE = Path(__file__).parents[1] / "experiments" / "attribution.py"
ROWS, POINTS = 40, 6


@pytest.fixture(scope="module")
def experiment():
    return read_experiment(FILE)


@pytest.fixture(scope="module")
def parts(experiment):
    return [importlib.import_module(f"_attribution_{name}") for name in ("nets", "ours", "scores")]


@pytest.fixture(scope="module", params=["diabetes", "breast_cancer", "digits"])
def trained(request, parts):
    """A case whose set is at hand everywhere, and two networks at their minimum."""
    nets = parts[0]
    noise, classes = {"diabetes": (0.3, 0), "breast_cancer": (None, 2), "digits": (None, 10)}[request.param]
    pair = nets.Pair(request.param, (3,), "tanh", 2.0, noise=noise, classes=classes)
    case = nets.draw(pair, ROWS, POINTS, 0)
    everything = torch.arange(ROWS).expand(2, -1)
    return case, nets.train(case, nets.start(case, [1, 2]), everything, 50, 400)


def flat(found):
    return torch.cat([part.flatten(2) for part in found.values()], dim=-1)


def dense(case, trained, kept):
    """Mean over networks of `J_points (Σ_kept J' H J + λ)^-1 ∇ℓ` for every row, (points, rows), by autodiff alone."""
    net, total = case.network(0), 0.0
    for which in range(2):
        own = {name: value[which] for name, value in trained.items()}

        def out(p, x):
            return functional_call(net, p, (x[None],))[0]

        J, at = (flat(vmap(jacrev(out), (None, 0))(own, x)) for x in (case.x, case.points))
        f, f_at = (functional_call(net, own, (x,)).detach() for x in (case.x, case.points))
        slopes = vmap(jacrev(case.loss))(f, case.y)
        bent = torch.einsum("ncd,ndp->ncp", vmap(hessian(case.loss))(f, case.y), J)
        rows, asked = (
            torch.einsum("nc,ncp->np", slopes, J),
            torch.einsum("nc,ncp->np", vmap(jacrev(case.asked))(f_at, case.targets), at),
        )
        system = (
            torch.einsum("ncp,ncq->pq", J[kept], bent[kept]) + case.pair.precision * torch.eye(J.shape[-1]).double()
        )
        total = total + asked @ torch.linalg.solve(system, rows.T) / 2
    return total


def test_networks_are_trained_to_their_minimum(trained, parts):
    case, networks = trained
    for which in range(2):
        assert parts[0].gradients(case, networks, which).energy.norm() < 1e-5


def test_the_answers_are_those_of_dense_formulas(trained, parts):
    case, networks = trained
    removed, singles = torch.arange(15), torch.tensor([3, 30])
    tables = parts[1].ours(case, networks, [1.0], [removed], singles)
    kept = torch.ones(ROWS, dtype=torch.bool)
    first = dense(case, networks, kept)
    torch.testing.assert_close(tables["first order"]["1"].singles, first[:, singles], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(
        tables["first order"]["1"].halves[:, 0], first[:, removed].sum(dim=1), rtol=1e-6, atol=1e-8
    )
    kept[removed] = False
    finite = dense(case, networks, kept)[:, removed].sum(dim=1)
    torch.testing.assert_close(tables["finite"]["1"].halves[:, 0], finite, rtol=1e-6, atol=1e-8)


def test_for_a_linear_model_the_finite_answer_is_the_retraining(parts):
    nets, ours = parts[:2]
    case = nets.draw(nets.Pair("diabetes", (), "tanh", 2.0, noise=0.3), ROWS, POINTS, 0)
    networks = nets.train(case, nets.start(case, [1]), torch.arange(ROWS)[None], 50, 200)
    removed, singles = [torch.arange(0, 20), torch.arange(15, 35)], torch.tensor([3, 30])
    sets = [torch.tensor([i for i in range(ROWS) if i not in rows]) for rows in removed]
    moved = (nets.retrain(case, networks, sets, 50, 200) - nets.asked(case, networks)[:, :, None])[0]
    table = ours.ours(case, networks, [1.0], removed, singles)["finite"]["1"]
    torch.testing.assert_close(table.halves, moved, rtol=1e-6, atol=1e-7)


def test_scores_are_rank_correlations_and_tuned_on_held_out_sets_alone(parts):
    scores = parts[2]
    generator = torch.Generator().manual_seed(0)
    truth, other = (torch.randn(5, 30, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = sum(spearmanr(a, b).statistic for a, b in zip(other.numpy(), truth.numpy(), strict=True)) / 5
    assert scores.lds(other, truth) == pytest.approx(expected)
    assert scores.lds(truth.exp(), truth) == pytest.approx(1.0)
    early, late = other.clone(), other.clone()
    early[:, :10], late[:, 10:] = truth[:, :10], truth[:, 10:]
    tables = {"one": {"0.1": scores.Guess(early, early), "1": scores.Guess(late, late)}}
    found = scores.assess(tables, truth, truth, 10, 10, 0)["one"]
    assert found["damping"] == "0.1"
    assert found["lds"] < 0.5
    assert found["lds_untuned"] == pytest.approx(1.0)
    low, high = found["lds_interval"]
    assert low < found["lds"] < high


def test_a_missing_peer_is_named_and_the_rest_goes_on(experiment, parts, monkeypatch, capsys):
    here = experiment.main.__globals__
    monkeypatch.setattr(here["peers"], "MISSING", ["kronfluence", "dattri"])
    monkeypatch.setitem(here["PAIRS"], "small", parts[0].Pair("breast_cancer", (3,), "tanh", 2.0, classes=2))
    sizes = {"rows": 40, "points": 4, "networks": 2, "subsets": 8, "held": 3, "fresh": 5, "singles": 6}
    result = experiment.main(pair="small", steps=20, polish=10, **sizes)
    assert result["missing"] == ["kronfluence", "dattri"]
    assert set(result["methods"]) == {"finite", "first order", "gradients, dot", "gradients, cosine"}
    assert "kronfluence is not installed" in capsys.readouterr().out
