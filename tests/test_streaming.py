"""Responses and predictions in blocks: the same as in one go, on disk too, and after the process was killed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr
from refusals import assert_refused

import gp_response as gr
from gp_response.response.assemble import Answer, assemble
from gp_response.response.store import open_store
from gp_response.testing import example_data

N = 801
X = torch.randn(23, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
DENSE = torch.randn(5, 23, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


class Mixed(gr.Observable):
    """Dense weights over values: every observable reads every point."""

    def __init__(self, x, weights):
        self.points, self.weights = x, weights

    def local(self, mean, variance, noise):
        return mean * mean + variance

    def functional(self, field, at):
        return field**2


def posterior_of(n=N, *, noise=0.05, dtype=torch.float64, zeros=False, **more):
    data = example_data(n=n, dim=2, dtype=dtype)
    if zeros:
        weights = data.train.weights.clone()
        weights[::7] = 0.0
        data = data.with_train(weights=weights)
    return gr.Exact(gr.Matern32(lengthscale=1.2, outputscale=1.5), noise=noise, **more).condition(data)


POSTERIOR = posterior_of()
# Bytes in which about three points fit.
FEW = 3 * 8 * 20 * N
OBSERVABLES = {
    "value": gr.value(X),
    "loss": gr.loss(X, torch.sin(X[:, 0])),
    "variance": gr.variance(X),
    "contrast": gr.contrast(X, X.flip(0) + 0.1),
    "average": gr.average(X),
    "dense": Mixed(X, DENSE),
}
PERTURBATIONS = {
    "reweight": gr.reweight(),
    "relabel": gr.relabel(),
    "groups": gr.reweight({"a": [0, 1, 2], "b": [2, 800]}),
    "insert": gr.insert(X[:4] + 0.3, X[:4, 0]),
}


def assert_same(found, expected, *, tolerance=1e-12):
    scale = float(expected.matrix.abs().max())
    assert torch.allclose(found.matrix, expected.matrix, rtol=0.0, atol=tolerance * scale)
    # A bound is itself a measured number: a residual near the rounding level changes by its own size.
    assert bool((found.error <= 10.0 * expected.error + 1e-14 * scale).all())
    assert (found.rows, found.columns, found.flagged) == (expected.rows, expected.columns, expected.flagged)


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
@pytest.mark.parametrize("observable", OBSERVABLES)
def test_blocks_change_nothing_but_rounding(observable, perturbation):
    ask = (POSTERIOR, OBSERVABLES[observable], PERTURBATIONS[perturbation])
    whole, blocked = gr.susceptibility(*ask, budget=1e12), gr.susceptibility(*ask, budget=FEW)
    assert_same(blocked, whole)
    assert_same(gr.susceptibility(*ask, budget=1), whole)


def test_few_points_are_looked_from_at_a_time(monkeypatch):
    seen = watch(monkeypatch, POSTERIOR)
    gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(), budget=FEW)
    assert max(seen) <= 3
    assert sum(seen) == 23
    seen.clear()
    gr.susceptibility(POSTERIOR, OBSERVABLES["dense"], gr.reweight(), budget=FEW)
    assert max(seen) <= 3
    assert sum(seen) == 23  # each point once, although every observable reads it


def watch(monkeypatch, posterior):
    """The numbers of points that the posterior is looked at from, as they come."""
    seen, probe = [], type(posterior).probe

    def counted(self, x):
        seen.append(len(x))
        return probe(self, x)

    monkeypatch.setattr(type(posterior), "probe", counted)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("noise", [1e-1, 1e-6])
@pytest.mark.parametrize("name", OBSERVABLES)
def test_an_archive_holds_what_memory_would(tmp_path, name, noise, dtype):
    posterior = posterior_of(200, noise=noise, dtype=dtype, zeros=True)
    ask = (posterior, OBSERVABLES[name], gr.reweight())
    whole = gr.susceptibility(*ask)
    stored = gr.susceptibility(*ask, budget=6 * 8 * 20 * 200, out=tmp_path / "chi.zarr")
    assert stored.complete
    assert stored.shape == whole.shape
    inside = stored.part()
    assert inside.matrix.dtype == dtype
    scale = float(whole.matrix.abs().max())
    slack = 2.0 * (whole.error + inside.error) + 1e-14 * scale
    assert bool(((inside.matrix - whole.matrix).abs() <= slack).all())
    assert (inside.rows, inside.columns, inside.kind, inside.unit, inside.flagged, inside.every_sample) == (
        whole.rows, whole.columns, whole.kind, whole.unit, whole.flagged, True)  # fmt: skip


def test_a_stored_response_is_read_as_far_as_it_is_asked(tmp_path):
    whole = gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight())
    gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(), budget=FEW, out=tmp_path / "chi.zarr")
    stored = gr.StoredSusceptibility.open(tmp_path / "chi.zarr")
    close = {"rtol": 0.0, "atol": 1e-12 * float(whole.matrix.abs().max())}
    assert torch.allclose(stored[3], whole[3], **close)
    assert torch.allclose(stored[5:9, 17], whole[5:9, 17], **close)
    assert torch.allclose(stored[:, [1, 4]], whole[:, [1, 4]], **close)
    assert torch.allclose(torch.as_tensor(np.asarray(stored)), whole.matrix, **close)
    assert torch.allclose(stored.part(4, 6).matrix, whole[4:6], **close)
    ours, theirs = stored.top(4), whole.top(4)
    assert ours[["row", "rank", "position"]].equals(theirs[["row", "rank", "position"]])
    assert stored.part().to("structural").matrix.sum(dim=1).abs().max() < 1e-10
    assert bool(stored.converged)
    assert len(stored) == 23
    assert "23 x 801" in repr(stored)
    assert stored.sign == whole.sign
    with pytest.raises(AttributeError, match="nonsense"):
        _ = stored.nonsense
    for opened in (stored.to_xarray(), xr.open_zarr(tmp_path / "chi.zarr", consolidated=False)):
        assert opened["response"].dims == ("observable", "perturbation")
        one = opened["response"].sel(observable="value[7]")[12]
        assert float(one) == pytest.approx(float(whole[7, 12]), abs=close["atol"])
    assert stored.to_xarray().attrs["converged"] is True


def test_a_finished_archive_is_not_computed_again_and_no_other_question_may_use_it(tmp_path, monkeypatch):
    path = tmp_path / "chi.zarr"
    gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(), budget=FEW, out=path)
    seen = watch(monkeypatch, POSTERIOR)
    gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(), out=path)
    assert seen == []
    others = [
        (POSTERIOR, gr.value(X + 1e-9), gr.reweight()),
        (POSTERIOR, gr.loss(X, X[:, 0]), gr.reweight()),
        (POSTERIOR, gr.value(X), gr.relabel()),
        (POSTERIOR, gr.value(X), gr.reweight([1, 2])),
        (posterior_of(noise=0.0501), gr.value(X), gr.reweight()),
        (posterior_of(solver=gr.Cholesky(refine=2)), gr.value(X), gr.reweight()),
        (posterior_of(beta=1.1), gr.value(X), gr.reweight()),
        (posterior_of(mean=0.1), gr.value(X), gr.reweight()),
        (gr.Exact(gr.Matern32(lengthscale=1.21, outputscale=1.5), noise=0.05).condition(POSTERIOR.data),
         gr.value(X), gr.reweight()),
        (posterior_of(zeros=True), gr.value(X), gr.reweight()),
    ]  # fmt: skip
    for ask in others:
        assert_refused(lambda ask=ask: gr.susceptibility(*ask, out=path), "choose another path or delete it")
    assert_refused(lambda: gr.predict(POSTERIOR, X, out=path), "choose another path or delete it")
    assert_refused(lambda: gr.Prediction.open(path), "holds no prediction")


CHILD = """
import sys, torch, gp_response as gr
sys.path.insert(0, {tests!r})
import test_streaming as t
from gp_response.heads import exact_posterior
import time
probe = exact_posterior.ExactPosterior.probe
def slow(self, x):
    time.sleep({pause})
    return probe(self, x)
exact_posterior.ExactPosterior.probe = slow
if {what!r} == "chi":
    gr.susceptibility(t.POSTERIOR, gr.value(t.X), gr.reweight(), budget=t.FEW, out={path!r})
else:
    gr.predict(t.POSTERIOR, t.X[:12], covariance=True, budget=t.FEW, out={path!r})
"""


@pytest.mark.parametrize("what", ["chi", "prediction"])
def test_a_killed_process_is_taken_up_where_it_was(tmp_path, monkeypatch, what):
    path = tmp_path / "out.zarr"
    script = CHILD.format(tests=os.path.dirname(__file__), pause=0.05, what=what, path=str(path))
    child = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 100.0
    while time.monotonic() < deadline and child.poll() is None:
        if path.exists() and len(open_store(path).pending()) <= open_store(path).rows // open_store(path).block - 1:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    store = open_store(path)
    left = store.pending()
    assert 0 < len(left) < store.rows // store.block, "the child was to be killed half way"
    assert not list(tmp_path.glob(".*"))
    seen = watch(monkeypatch, POSTERIOR)
    if what == "chi":
        half = gr.StoredSusceptibility.open(path)
        assert not half.complete
        assert set(range(*store.range(left[-1]))) <= set(half.flagged)
        resumed = gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(), budget=FEW, out=path)
        assert sum(seen) == sum(stop - start for start, stop in map(store.range, left))
        assert resumed.complete
        assert_same(resumed.part(), gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight()))
    else:
        assert_refused(lambda: gr.Prediction.open(path), "call predict again with the same arguments")
        resumed = gr.predict(POSTERIOR, X[:12], covariance=True, budget=FEW, out=path)
        own = sum(stop - start for start, stop in map(store.range, left))
        assert sum(seen) <= own + 12 * own  # at most one block of own points for each pass over all
        assert np.allclose(resumed.covariance[:], POSTERIOR.cov(X[:12]).numpy(), rtol=0.0, atol=1e-12)


def test_an_archive_resumes_with_less_memory_than_it_was_begun_with(tmp_path, monkeypatch):
    path, write = tmp_path / "chi.zarr", gr.response.store.BlockStore.write
    few = 4 * FEW

    def failing(self, block, values):
        if block == 1:
            raise KeyboardInterrupt
        write(self, block, values)

    monkeypatch.setattr(gr.response.store.BlockStore, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(), budget=few, out=path)
    monkeypatch.setattr(gr.response.store.BlockStore, "write", write)
    seen = watch(monkeypatch, POSTERIOR)
    stored = gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(), budget=FEW, out=path)
    assert max(seen) <= 3
    assert sum(seen) == 23 - open_store(path).block
    assert_same(stored.part(), gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight()))


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("budget", [1e12, FEW, 1])
def test_predictions_are_those_of_one_probe(tmp_path, budget, where):
    x = X[:7] if budget > 1 else X[:3]
    probe = POSTERIOR.probe(x)
    out = None if where == "memory" else tmp_path / "p.zarr"
    found = gr.predict(POSTERIOR, x, covariance=True, budget=budget, out=out)
    close = {"rtol": 0.0, "atol": 1e-12}
    assert np.allclose(found.mean[:], probe.mean.value, **close)
    assert np.allclose(found.variance[:], probe.variance.value, **close)
    assert np.allclose(found.covariance[:], probe.to(probe).value, **close)
    assert (np.asarray(found.covariance_error[:]) > 0).all()
    assert np.asarray(found.converged[:]).all()
    table = found.to_xarray()
    assert table["covariance"].dims == ("point", "other")
    assert np.allclose(table["variance"], probe.variance.value, **close)
    bare = gr.predict(POSTERIOR, x, budget=budget)
    assert bare.covariance is None
    assert set(bare.to_xarray().data_vars) == {"mean", "variance", "mean_error", "variance_error", "converged"}


def test_a_flag_of_one_point_reaches_the_observables_that_read_it_and_no_other():
    observable = gr.contrast(X[:4], X[4:8])  # observable k reads points k and k + 4

    def answer(where):
        ones = torch.ones(len(where), 3, dtype=X.dtype)
        return Answer(ones, torch.where((where == 3)[:, None], float("nan"), 0.1 * ones), where != 5)

    found = assemble(observable, 0, 4, 3, step=3, answer=answer, like=X)
    assert found.flagged.tolist() == [False, True, False, True]
    assert bool(found.error[3].isinf().all())
    assert torch.equal(found.matrix, torch.zeros(4, 3, dtype=X.dtype))
    assert torch.allclose(found.error[:3], torch.full((3, 3), 0.2, dtype=X.dtype))


@pytest.mark.parametrize("budget", [0, -1.0, float("nan"), "2 GB", True])
def test_a_budget_is_a_positive_number_of_bytes(budget):
    assert_refused(lambda: gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(), budget=budget), "budget=")


def test_paths_that_hold_something_else_are_refused(tmp_path):
    (tmp_path / "file").write_text("a")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        assert_refused(
            lambda name=name: gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(), out=tmp_path / name),
            "choose another path",
        )
    assert_refused(lambda: gr.StoredSusceptibility.open(tmp_path / "none.zarr"), "does not exist")
    assert (tmp_path / "file").read_text() == "a"


def test_what_does_not_fit_into_memory_is_refused_with_the_way_out(monkeypatch):
    # The functions hide their modules' names.
    modules = [sys.modules[f"gp_response.response.{name}"] for name in ("susceptibility", "predict")]
    for module in modules:
        monkeypatch.setattr(module, "free_bytes", lambda device: 1000)
    assert_refused(lambda: gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight()), 'out="chi.zarr"')
    assert_refused(lambda: gr.predict(POSTERIOR, X, covariance=True), 'out="prediction.zarr"')
    assert_refused(lambda: gr.predict(POSTERIOR, X[:0]), "no points")
