"""Known noise of each observation: dense formulas, refits, evidence, training; carried wherever rows go."""

import pytest
import torch
from refusals import assert_refused

import gp_response as gr
from gp_response.data import row_noise
from gp_response.heads.stochastic import Effort, StochasticEvidence
from gp_response.testing import check_head, check_leave_one_out, check_perturbation, check_posterior, example_data

DATA = example_data(known_noise=True)
N = len(DATA.train)
SOLVERS = {"Cholesky": gr.Cholesky(), "CG": gr.CG(tolerance=1e-10)}


def head(noise=0.2, *, beta=1.0, solver=None):
    return gr.Exact(
        gr.Matern52(lengthscale=[1.5] * 3, outputscale=1.3), noise=noise, mean=0.1, beta=beta, solver=solver
    )


def dense(model, data):
    """The textbook with an explicit diagonal: mean weights and the variances of the observations."""
    variance = data.train.noise.double() + model.noise.detach()
    system = model.kernel.matrix(data.train.x).detach() + torch.diag(variance / (model.beta * data.train.weights))
    return system, variance


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("noise", [0.2, 0.0])
def test_the_posterior_is_the_dense_one(solver, noise):
    model = head(noise, beta=0.8, solver=SOLVERS[solver])
    check_head(model, data=DATA, tolerance=1e-8)
    posterior = model.condition(DATA)
    system, variance = dense(model, DATA)
    cross = model.kernel.matrix(DATA.test.x, DATA.train.x).detach()
    expected = 0.1 + cross @ torch.linalg.solve(system, DATA.train.y - 0.1)
    assert torch.allclose(posterior.mean(DATA.test.x), expected, atol=1e-9)
    assert torch.equal(posterior.row_noise, variance)
    assert float(posterior.noise) == pytest.approx(noise)
    assert posterior.noise.ndim == 0


@pytest.mark.parametrize("beta", [1.0, 0.7])
@pytest.mark.parametrize(
    ("perturbation", "h"),
    [
        (gr.reweight(), 0.5),
        (gr.reweight({"first": [1, 2, 3], "second": [3, 4]}), 0.5),
        (gr.relabel(), -2.0),
        (gr.delete([3, 17, 30]), 1.0),
        (gr.delete([0, 3], each=True), 1.0),
        (gr.insert(DATA.test.x[:3], DATA.test.y[:3]), 1.0),
    ],
    ids=lambda p: p.kind if isinstance(p, gr.Perturbation) else str(p),
)
def test_closed_forms_are_derivatives_of_refits_and_finite_answers_are_refits(perturbation, h, beta):
    check_perturbation(perturbation, head=head(beta=beta), data=DATA, h=h, tolerance=1e-9)


def test_the_same_by_conjugate_gradients_and_for_known_noise_alone():
    for model in (head(solver=SOLVERS["CG"]), head(0.0), head(0.0, solver=SOLVERS["CG"])):
        posterior = model.condition(DATA)
        for perturbation in (gr.reweight(), gr.relabel(), gr.delete([3, 17])):
            chi = gr.susceptibility(posterior, gr.value(DATA.test.x), perturbation)
            refit = gr.refit_response(model, DATA, gr.value(DATA.test.x), perturbation)
            assert torch.allclose(chi.matrix, refit.matrix, rtol=1e-7, atol=1e-8)
        gone = gr.finite_response(posterior, gr.value(DATA.test.x), gr.delete([3, 17]))
        really = gr.refit_response(model, DATA, gr.value(DATA.test.x), gr.delete([3, 17]), h=1.0)
        assert torch.allclose(gone.matrix, really.matrix, atol=1e-8)


def test_reweighting_is_dividing_the_variance_of_a_row():
    """A derivation of its own: dense solves with one variance after another changed."""
    model = head(0.0)
    chi = gr.susceptibility(model.condition(DATA), gr.value(DATA.test.x), gr.reweight([0, 20, 39])).matrix
    cross = model.kernel.matrix(DATA.test.x, DATA.train.x).detach()
    for column, row in enumerate((0, 20, 39)):
        means = []
        for step in (1e-5, -1e-5):
            weights = DATA.train.weights.clone()
            weights[row] += step
            system = model.kernel.matrix(DATA.train.x).detach() + torch.diag(DATA.train.noise / weights)
            means.append(cross @ torch.linalg.solve(system, DATA.train.y - 0.1))
        assert torch.allclose(chi[:, column], (means[0] - means[1]) / 2e-5, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("noise", [0.2, 0.0])
def test_leaving_one_out_is_refitting_without_it(noise):
    weights = DATA.train.weights.clone()
    weights[5] = 0.0
    check_leave_one_out(head(noise), data=DATA.with_train(weights=weights), rows=torch.arange(0, N, 5))
    check_leave_one_out(head(noise, solver=SOLVERS["CG"]), data=DATA, rows=torch.tensor([0, 20, 39]))


@pytest.mark.parametrize("noise", [0.2, 0.0])
def test_the_evidence_is_that_of_the_gaussian_with_these_variances(noise):
    model, data = head(noise), DATA.with_train(weights=torch.ones(N, dtype=torch.float64))
    system, _ = dense(model, data)
    mean = torch.full((N,), 0.1, dtype=torch.float64)
    expected = torch.distributions.MultivariateNormal(mean, system).log_prob(data.train.y)
    assert float(model.log_evidence(data).detach()) == pytest.approx(float(expected), abs=1e-9)
    assert float(model.condition(data).log_evidence()) == pytest.approx(float(expected), abs=1e-9)
    estimate = head(noise, solver=SOLVERS["CG"]).condition(data).estimate_log_evidence(probes=64)
    assert abs(estimate.value - float(expected)) < 5.0 * estimate.standard_error + 1e-6


def test_the_evidence_generates_the_losses_of_the_rows():
    """dF/dρ_i = β⟨ℓ_i⟩, with each row's own variance in its loss."""
    model, train = head(beta=0.8), DATA.train
    losses = gr.response.expectation(model.condition(DATA), gr.loss(train.x, train.y, noise=train.noise))
    for i in (0, 33):
        step = torch.zeros(N, dtype=torch.float64)
        step[i] = 1e-5
        up, down = (model.log_evidence(DATA.with_train(weights=train.weights + s * step)).detach() for s in (1, -1))
        assert float(-(up - down) / 2e-5) == pytest.approx(0.8 * float(losses[i]), rel=1e-6)


def test_losses_with_noise_of_their_own_respond_as_their_refits():
    model, train = head(), DATA.train
    observable = gr.loss(train.x[:5], train.y[:5], noise=train.noise[:5])
    gr.testing.check_observable(observable, samples=50_000)
    chi = gr.susceptibility(model.condition(DATA), observable, gr.reweight())
    assert torch.allclose(chi.matrix, gr.refit_response(model, DATA, observable, gr.reweight()).matrix, atol=1e-9)
    finite = gr.finite_response(model.condition(DATA), observable, gr.delete([3, 17]))
    really = gr.refit_response(model, DATA, observable, gr.delete([3, 17]), h=1.0)
    assert torch.allclose(finite.matrix, really.matrix, atol=1e-9)
    # Loss against loss is symmetric only with the rows' own variances.
    own = gr.susceptibility(model.condition(DATA), gr.loss(train.x, train.y, noise=train.noise), gr.reweight()).matrix
    assert torch.allclose(own, own.T, atol=1e-9)


def test_training_finds_the_noise_beside_the_known_one():
    generator = torch.Generator().manual_seed(1)
    x = 4.0 * torch.rand(400, 1, generator=generator, dtype=torch.float64)
    known = 0.01 + 0.5 * (x[:, 0] > 2.0).double()
    e = torch.randn(400, generator=generator, dtype=torch.float64)
    data = gr.dataset(x, torch.sin(3.0 * x[:, 0]) + (known + 0.04).sqrt() * e, noise=known, standardise=False)
    quiet = gr.Training(progress=False)
    model = gr.Exact(gr.RBF(), noise=0.5)
    model.fit(data, training=quiet)
    assert float(model.noise.detach()) == pytest.approx(0.04, rel=0.3)
    alone = gr.Exact(gr.RBF(), noise=0.0)
    alone.fit(data, training=quiet)
    assert float(alone.noise) == 0.0
    assert float(alone.log_evidence(data).detach()) < float(model.log_evidence(data).detach())


def test_gradients_by_probes_are_those_of_the_evidence():
    data, model = example_data(n=400, known_noise=True), head()
    with torch.no_grad():
        exact = -float(model.log_evidence(data)) / 400
    evidence = StochasticEvidence(model, data, torch.Generator().manual_seed(0), Effort(probes=40, tolerance=1e-4))
    work = evidence.backward(measure=True)
    assert abs(work.loss - exact) < 5.0 * work.loss_error + 1e-6
    by_probes = float(model.raw_noise.grad)
    model.zero_grad()
    (-model.log_evidence(data) / 400).backward()
    assert by_probes == pytest.approx(float(model.raw_noise.grad), abs=4.0 * work.gradient_error)


# Carried along --------------------------------------------------------------------------------------------------------


def test_noise_goes_where_its_rows_go():
    noise = DATA.train.noise
    assert torch.equal(DATA.keep([5, 2, 7]).train.noise, noise[[5, 2, 7]])
    assert DATA.to(dtype=torch.float32).train.noise.dtype == torch.float32
    assert torch.equal(gr.delete([3]).apply(DATA, 1).train.noise, noise[torch.arange(N) != 3])
    inserted = gr.insert(DATA.test.x[:2], DATA.test.y[:2]).apply(DATA, 1.0).train.noise
    assert torch.equal(inserted, torch.cat([noise, torch.zeros(2, dtype=torch.float64)]))
    assert torch.equal(DATA.with_train(noise=2.0 * noise).train.noise, 2.0 * noise)
    assert DATA.test.noise is None
    assert torch.equal(row_noise(DATA, torch.tensor(0.1).double()), noise + torch.tensor(0.1).double())


def test_noise_is_standardised_with_its_targets():
    x, y = torch.randn(30, 2, dtype=torch.float64), 50.0 * torch.randn(30, dtype=torch.float64)
    data = gr.dataset(x, y, noise=torch.full((30,), 4.0))
    assert torch.allclose(data.train.noise * data.scaler.y_scale**2, torch.full((30,), 4.0, dtype=torch.float64))
    plain = gr.dataset(x, y, noise=torch.full((30,), 4.0), standardise="x")
    assert torch.equal(plain.train.noise, torch.full((30,), 4.0, dtype=torch.float64))


def test_the_fingerprint_sees_the_noise():
    bare = example_data()
    assert len({bare.fingerprint(), DATA.fingerprint(), DATA.with_train(noise=2 * DATA.train.noise).fingerprint()}) == 3


def test_float32_rows_agree_with_float64_rows():
    short = DATA.to(dtype=torch.float32)
    wide = head().condition(DATA)
    narrow = head().condition(short)
    assert narrow.row_noise.dtype == torch.float64
    assert torch.allclose(narrow.mean(short.test.x).double(), wide.mean(DATA.test.x), atol=1e-4)
    check_posterior(narrow, tolerance=1e-4)


def test_what_cannot_be_is_refused():
    x, y = torch.randn(4, 1), torch.randn(4)
    assert_refused(lambda: gr.dataset(x, y, noise=[1.0, 0.0, 1.0, 1.0]), "noise: row 1 is 0")
    assert_refused(lambda: gr.dataset(x, y, noise=[1.0, 2.0]), "noise has 2 rows but x has 4")
    assert_refused(lambda: gr.dataset(x, y, noise=[1.0, float("nan"), 1.0, 1.0]), "noise: row 1 is missing")
    assert_refused(lambda: DATA.with_train(noise=DATA.train.noise[:3]), "noise 3")
    assert_refused(lambda: head(-1.0), "noise=-1.0")
    assert_refused(lambda: head(0.0).condition(example_data()), "the data have none")
    assert_refused(lambda: head(0.0).log_evidence(example_data()), "the data have none")
    posterior, new = head(0.0).condition(DATA), gr.insert(DATA.test.x, DATA.test.y)
    assert_refused(lambda: gr.susceptibility(posterior, gr.value(DATA.test.x), new), "known noise alone")
    assert_refused(lambda: gr.refit_response(head(0.0), DATA, gr.value(DATA.test.x), new, h=1.0), "some rows have none")
    assert_refused(lambda: gr.loss(DATA.test.x, DATA.test.y, noise=-torch.ones(7)), "noise variance of -1")
