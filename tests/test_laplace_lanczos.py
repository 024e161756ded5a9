"""Intervals of the Lanczos solver cover the truth, and conjugate gradients close them."""

from functools import cache

import pytest
import torch
from networks import covariance, mlp

import gp_response as gr
from gp_response.heads import network_rows
from gp_response.testing import example_data

DATA = example_data(n=120)
X, Y = DATA.test.x[:4], DATA.test.y[:4]
NETS = {
    "small": (mlp(3, 12, 1), 0.5),
    "deep": (mlp(3, 10, 10, 1, seed=1), 5.0),
    "wide": (mlp(3, 60, 1, seed=2), 1.0),
    "badly scaled": (mlp(3, 20, 1, seed=3), 1e-3),
    "large": (mlp(3, 40, 40, 1, seed=4), 20.0),
}
NOISE = 0.2


@cache
def truth(name):
    net, prior = NETS[name]
    x = torch.cat([X, DATA.train.x])
    return covariance(net, DATA, x, noise=NOISE, prior=prior, beta=1.0)


def posterior(name, solver):
    net, prior = NETS[name]
    return gr.laplace(net, DATA, likelihood=gr.Gaussian(NOISE), prior_precision=prior, solver=solver)


@pytest.mark.parametrize("storage", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", NETS)
def test_intervals_cover_the_dense_truth_at_every_rank(name, storage):
    """5 nets, ranks 4 to 128, three storages: 45,000 entries, every one inside."""
    whole, count = truth(name), 0
    rounding = 1e-12 * float(whole.diagonal().max())
    for rank in (4, 8, 16, 32, 64, 128):
        probe = posterior(name, gr.Lanczos(rank=rank, block=4, storage=storage)).probe(X)
        rows, among = probe.to_train(), probe.to(probe)
        for found, exact in (
            (rows, whole[:4, 4:]),
            (among, whole[:4, :4]),
            (probe.variance, whole.diagonal()[:4]),
        ):
            assert bool(((found.value - exact).abs() <= found.error + rounding).all()), rank
            count += exact.numel()
        assert bool((probe.variance.value - probe.variance.error >= -rounding).all())
    assert count == 6 * (4 * 120 + 16 + 4)


def test_answers_do_not_depend_on_how_many_vectors_are_computed_together(monkeypatch):
    solver = gr.Lanczos(rank=24, block=1)
    together = gr.susceptibility(posterior("deep", solver), gr.value(X), gr.reweight())
    monkeypatch.setattr(network_rows, "AT_ONCE", 1)
    alone = posterior("deep", solver)
    assert alone.together == alone._step() == 1
    one_by_one = gr.susceptibility(alone, gr.value(X), gr.reweight())
    torch.testing.assert_close(one_by_one.matrix, together.matrix, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one_by_one.error, together.error, rtol=1e-6, atol=1e-12)


def test_an_interval_is_had_without_a_solve():
    """Vectors of P numbers that are not asked for are not made."""
    found = posterior("deep", gr.Lanczos(rank=24, block=1))
    probe = found.probe(X)
    answers = [probe.to_train(), probe.mean, probe.variance, probe.to(probe)]
    assert all(bool(answer.error.isfinite().all()) for answer in answers)
    assert "solution" not in vars(probe)
    assert probe.solution.value.shape == (found.model.tangent.count, len(X))


def test_intervals_shrink_with_the_rank_and_are_flagged_until_they_do():
    found = [posterior("deep", gr.Lanczos(rank=rank, block=4)).probe(X) for rank in (4, 24, 120)]
    width = [float(probe.to_train().error.median()) for probe in found]
    assert width[0] > 3.0 * width[1] > 9.0 * width[2]
    assert not bool(found[0].converged.any())
    assert bool(found[2].converged.all())
    chi = gr.susceptibility(posterior("deep", gr.Lanczos(rank=4, block=4)), gr.value(X), gr.reweight())
    assert not chi.converged
    assert len(chi.flagged) == 4


@pytest.mark.parametrize("name", NETS)
def test_conjugate_gradients_close_the_interval(name):
    whole = truth(name)
    for tolerance in (1e-4, 1e-7):
        probe = posterior(name, gr.CG(tolerance=tolerance, rank=16)).probe(X)
        rows = probe.to_train()
        off = (rows.value - whole[:4, 4:]).abs()
        assert bool(probe.converged.all())
        assert bool((off <= rows.error + 1e-12 * float(whole.diagonal().max())).all())
        assert float(off.norm()) <= tolerance * float(whole[:4, 4:].norm())
        spread = (whole.diagonal()[:4, None] * DATA.train.weights.reciprocal() * NOISE).sqrt()
        assert bool((rows.error <= 3.0 * tolerance * spread + 1e-10).all())


@pytest.mark.parametrize("solver", [gr.Lanczos(rank=60, block=4, storage="float64"), gr.CG(tolerance=1e-6)])
def test_every_cell_is_inside_its_error(solver):
    found, exact = posterior("small", solver), posterior("small", gr.Dense())
    for asked in (
        gr.value(X), gr.loss(X, Y), gr.variance(X), gr.gradient(X[:2]), gr.contrast(X, X.flip(0) + 0.1),
        gr.pointwise(X, torch.sigmoid), gr.learning_coefficient(),
    ):  # fmt: skip
        for perturbation in (
            gr.reweight(), gr.relabel([1, 2]), gr.delete([3, 5]), gr.insert(X, Y), gr.noise(), gr.shift_inputs(0, [3, 5]),
            gr.temperature(), gr.hyperparameter("prior_precision"),
        ):  # fmt: skip
            one, other = (gr.susceptibility(p, asked, perturbation) for p in (found, exact))
            assert bool(((one.matrix - other.matrix).abs() <= one.error + other.error).all()), (asked, perturbation)
    one, other = (gr.finite_response(p, gr.loss(X, Y), gr.delete([3, 5])) for p in (found, exact))
    assert bool(((one.matrix - other.matrix).abs() <= one.error + other.error).all())


def test_a_float32_computation_knows_its_rounding():
    net = mlp(3, 12, 1).float()
    data = DATA.to(dtype=torch.float32)
    exact = covariance(
        mlp(3, 12, 1).float().double(),
        data.to(dtype=torch.float64),
        X.float().double(),
        noise=NOISE,
        prior=1.0,
        beta=1.0,
    )
    for solver in (gr.Dense(), gr.CG(tolerance=1e-4), gr.Lanczos(rank=60, block=4)):
        found = gr.laplace(net, data, likelihood=gr.Gaussian(NOISE), solver=solver, precision="float32")
        assert found.system.dtype == torch.float32
        probe = found.probe(X)
        inside = probe.to(probe)
        assert bool(((inside.value - exact).abs() <= inside.error).all())
        assert float((inside.value - exact).abs().max()) <= 1e-2 * float(exact.diagonal().max())


def test_a_basis_goes_on_from_its_checkpoint(tmp_path):
    how = gr.Lanczos(rank=24, block=4, checkpoint=tmp_path / "basis")
    first = posterior("deep", how).probe(X).to_train()
    again = posterior("deep", how).probe(X).to_train()
    torch.testing.assert_close(first.value, again.value, rtol=1e-10, atol=1e-12)


def test_a_checkpoint_of_another_network_or_prior_is_refused(tmp_path):
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    how = gr.Lanczos(rank=8, block=4, checkpoint=tmp_path)

    def made(seed=0, x=x, **given):
        return gr.laplace(mlp(3, 6, 1, seed=seed), (x, y), likelihood=gr.Gaussian(noise=0.1), solver=how, **given)

    first = made()
    for other in ({"seed": 1}, {"x": x + 0.1}, {"prior_precision": 1.5}):
        with pytest.raises(gr.InputError, match="another operator"):
            made(**other)
    weights = torch.linspace(0.0, 2.0, 20, dtype=torch.float64)
    plain = gr.laplace(mlp(3, 6, 1), (x, y), likelihood=gr.Gaussian(noise=0.1), solver=gr.Lanczos(rank=8, block=4))
    for change in (lambda p: p.reweighted(weights), lambda p: gr.restrict(p, "0")):
        found, expected = (change(p).probe(x[:3]).variance.value for p in (first, plain))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_the_evidence_is_estimated():
    exact = float(posterior("wide", gr.Dense()).log_evidence())
    for solver in (gr.CG(rank=16), gr.Lanczos(rank=16)):
        found = posterior("wide", solver)
        with pytest.raises(gr.InputError, match="estimate_log_evidence"):
            found.log_evidence()
        estimate = found.estimate_log_evidence(probes=32)
        assert abs(estimate.value - exact) <= 5.0 * estimate.standard_error + estimate.below + estimate.above
        assert estimate.standard_error < 2.0
    assert posterior("wide", gr.Dense()).estimate_log_evidence().value == exact


def test_influence_without_a_matrix():
    exact = gr.influence(posterior("small", gr.Dense())).to_dense()
    found = gr.influence(posterior("small", gr.CG(tolerance=1e-8)), method="low-rank", rank=40)
    v = torch.linspace(-1.0, 1.0, len(DATA.train)).double()[:, None]
    product = found.product(v)
    assert bool(((product.value - exact @ v).abs() <= product.error + 1e-9).all())
    assert float((product.value - exact @ v).norm()) <= 0.05 * float((exact @ v).norm())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gr.Lanczos(rank=0), "integer of 1 or more"),
        (lambda: gr.Lanczos(storage="int8"), "unknown storage"),
        (lambda: gr.Lanczos(tolerance=2.0), "between 0 and 1"),
        (lambda: gr.Dense(tolerance=2.0), "between 0 and 1"),
    ],
)
def test_solvers_refuse_what_they_cannot_be(make, message):
    with pytest.raises(gr.InputError, match=message):
        make()
