"""The exact head: evidence and its gradient, training that reaches what others reach, guards for deep features."""

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.priors import LogNormalPrior
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk

import gp_response as gr
from gp_response.kernels import system
from gp_response.kernels.system import KernelSystem
from gp_response.linalg import gaussian_log_evidence
from gp_response.testing import example_data

QUIET = gr.Training(progress=False)


def waves(n=80, *, noise=0.1, seed=0, dtype=torch.float64, test=50):
    generator = torch.Generator().manual_seed(seed)
    x = 4.0 * torch.rand(n + test, 2, generator=generator, dtype=torch.float64)
    y = (
        torch.sin(2.0 * x[:, 0])
        + 0.5 * torch.cos(x[:, 1])
        + noise * torch.randn(n + test, generator=generator, dtype=torch.float64)
    )
    x, y = x.to(dtype), y.to(dtype)
    return gr.dataset(x[:n], y[:n], test_x=x[n:], test_y=y[n:], standardise=False)


def test_the_log_evidence_is_the_log_marginal_likelihood():
    data = waves()
    head = gr.Exact(gr.Matern52(lengthscale=0.7, outputscale=1.4), noise=0.05)
    covariance = head.kernel.matrix(data.train.x) + head.noise * torch.eye(80, dtype=torch.float64)
    expected = torch.distributions.MultivariateNormal(torch.zeros(80, dtype=torch.float64), covariance).log_prob(
        data.train.y
    )
    assert float(head.log_evidence(data).detach()) == pytest.approx(float(expected.detach()), abs=1e-9)
    assert float(head.condition(data).log_evidence()) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_the_evidence_is_that_of_autodiff_through_the_dense_formula(weighted):
    data = example_data() if weighted else waves()
    head = gr.Exact(gr.Matern32(lengthscale=0.9, ard=data.dim), noise=0.2, beta=1.3)
    head.log_evidence(data).backward()
    ours = [p.grad.clone() for p in head.parameters()]
    head.zero_grad()
    n, rho, noise = len(data.train), data.train.weights, head.noise
    diagonal = noise / (head.beta * rho)
    gaussian = torch.distributions.MultivariateNormal(
        torch.zeros(n, dtype=torch.float64), head.kernel.matrix(data.train.x) + torch.diag(diagonal)
    )
    # What the Gaussian density normalises and the Gibbs weights do not.
    extra = 0.5 * torch.log(2 * torch.pi * diagonal).sum() - 0.5 * head.beta * rho.sum() * torch.log(
        2 * torch.pi * noise
    )
    plain = gaussian.log_prob(data.train.y) + extra
    assert float(plain.detach()) == pytest.approx(float(head.log_evidence(data).detach()), abs=1e-9)
    plain.backward()
    for got, parameter in zip(ours, head.parameters(), strict=True):
        assert torch.allclose(got, parameter.grad, rtol=1e-9, atol=1e-10)


def test_the_evidence_of_a_matrix_passes_gradcheck():
    root = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def evidence(r, t):
        return gaussian_log_evidence(r @ r.T + torch.eye(6, dtype=torch.float64), t)

    assert torch.autograd.gradcheck(evidence, (root.requires_grad_(), target))


def test_the_derivative_of_the_evidence_by_a_weight_is_minus_the_mean_loss():
    """dF/dρ = β⟨ℓ⟩ with F = -log evidence: the evidence generates the losses."""
    data = example_data()
    head = gr.Exact(gr.Matern32(), noise=0.2, beta=0.8)
    losses = gr.response.expectation(head.condition(data), gr.loss(data.train.x, data.train.y))
    for i in (0, 7):
        step = torch.zeros(len(data.train), dtype=torch.float64)
        step[i] = 1e-5
        up, down = (head.log_evidence(data.with_train(weights=data.train.weights + s * step)).detach() for s in (1, -1))
        assert float(-(up - down) / 2e-5) == pytest.approx(0.8 * float(losses[i]), rel=1e-6)


def test_training_reaches_the_evidence_that_scikit_learn_reaches():
    data = waves()
    kernel = sk.ConstantKernel(1.0) * sk.Matern([1.0, 1.0], nu=2.5) + sk.WhiteKernel(0.1)
    theirs = GaussianProcessRegressor(kernel, n_restarts_optimizer=3, random_state=0).fit(
        data.train.x.numpy(), data.train.y.numpy()
    )
    head = gr.Exact(gr.Matern52(ard=2), noise=0.1)
    posterior = head.fit(data, training=gr.Training(restarts=2, progress=False))
    ours = float(posterior.log_evidence())
    assert ours >= theirs.log_marginal_likelihood_value_ - 1e-3
    mean = theirs.predict(data.test.x.numpy())
    assert np.abs(posterior.mean(data.test.x).numpy() - mean).max() < 1e-2
    assert posterior.trace.converged
    assert -posterior.trace.best * len(data.train) == pytest.approx(ours, abs=1e-6)


def test_adam_and_lbfgs_agree():
    data = waves(60)
    results = [
        gr.Exact(gr.RBF(), noise=0.1)
        .fit(data, training=gr.Training(optimiser=name, steps=steps, progress=False))
        .log_evidence()
        for name, steps in (("lbfgs", None), ("adam", 600))
    ]
    assert float(results[0]) == pytest.approx(float(results[1]), abs=0.1)


def test_the_trace_says_what_was_done():
    posterior = gr.Exact(gr.RBF(), noise=0.1).fit(waves(60), training=QUIET)
    frame = posterior.trace.to_frame()
    assert posterior.trace.objective == "negative log evidence per row, all 60 rows, lbfgs"
    assert frame["loss"].iloc[0] > frame["loss"].min() == pytest.approx(posterior.trace.best)
    assert posterior.trace.seconds > 0
    assert posterior.trace.train_nll is not None
    assert isinstance(posterior.solver, gr.Cholesky)


def test_training_leaves_earlier_posteriors_and_the_global_generator_alone():
    data, head = waves(60), gr.Exact(gr.Matern32(ard=2).on(gr.MLP(2, [8, 2])), noise=0.1)
    before = head.condition(data)
    mean, state = before.mean(data.test.x), torch.get_rng_state()
    head.fit(data, training=gr.Training(pretrain_steps=20, steps=5, progress=False))
    assert torch.equal(before.mean(data.test.x), mean)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_is_reproducible():
    def run():
        head = gr.Exact(gr.Matern32(ard=2).on(gr.MLP(2, [8, 2])), noise=0.1)
        return head.fit(
            waves(60), training=gr.Training(pretrain_steps=30, steps=10, seed=3, progress=False)
        ).log_evidence()

    assert float(run()) == float(run())


def test_data_without_noise_do_not_break_training():
    """The evidence grows without bound as the noise vanishes; the best point before the system breaks is kept."""
    x = torch.linspace(0.0, 1.0, 60, dtype=torch.float64)[:, None]
    data = gr.dataset(x, torch.sin(6.0 * x[:, 0]), standardise=False)
    head = gr.Exact(gr.RBF(), noise=0.1)
    posterior = head.fit(data, training=QUIET)
    assert float((posterior.mean(x) - data.train.y).abs().max()) < 1e-3
    assert float(head.noise.detach()) == pytest.approx(1e-6 * float(data.train.y.var()), rel=1e-6)
    assert posterior.trace.train_nll < -5.0


def test_priors_count_in_training():
    data = waves(60)
    free = gr.Exact(gr.RBF(), noise=0.1)
    held = gr.Exact(gr.RBF(lengthscale_prior=LogNormalPrior(np.log(0.05), 0.01)), noise=0.1)
    free.fit(data, training=QUIET), held.fit(data, training=QUIET)
    assert float(held.kernel.lengthscale.detach()) < 0.1 < float(free.kernel.lengthscale.detach())
    assert float(free.log_prior()) == 0.0


def test_a_gpytorch_kernel_is_a_kernel():
    data = waves(60)
    theirs = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()).double()
    theirs.outputscale, theirs.base_kernel.lengthscale = 1.3, 0.8
    ours = gr.Exact(gr.RBF(lengthscale=0.8, outputscale=1.3), noise=0.1).condition(data)
    assert torch.allclose(
        gr.Exact(theirs, noise=0.1).condition(data).mean(data.test.x), ours.mean(data.test.x), atol=1e-10
    )


def test_float32_data_are_trained_in_float32_with_float64_hyperparameters():
    data = waves(60, dtype=torch.float32)
    head = gr.Exact(gr.Matern52(), noise=0.1)
    posterior = head.fit(data, training=QUIET)
    assert posterior.mean(data.test.x).dtype == torch.float32
    assert all(p.dtype == torch.float64 for p in head.parameters())
    double = gr.Exact(gr.Matern52(), noise=0.1).fit(data.to(dtype=torch.float64), training=QUIET)
    assert float(posterior.log_evidence()) == pytest.approx(float(double.log_evidence()), abs=0.1)


def test_deep_features_learn_what_a_shallow_kernel_cannot_and_are_guarded():
    """A step along a diagonal in eight dimensions, seven of them useless."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(900, 8, generator=generator, dtype=torch.float64)
    y = torch.tanh(6.0 * (x[:, 0] + x[:, 1])) + 0.05 * torch.randn(900, generator=generator, dtype=torch.float64)
    data = gr.dataset(x[:600], y[:600], test_x=x[600:], test_y=y[600:])

    def error(posterior):
        return float((posterior.mean(data.test.x) - data.test.y).square().mean().sqrt())

    deep = gr.Exact(gr.Matern52(ard=2).on(gr.MLP(8, [32, 2])), noise=0.1)
    posterior = deep.fit(data, training=gr.Training(steps=60, progress=False))
    shallow = gr.Exact(gr.Matern52(), noise=0.1).fit(data, training=QUIET)
    stages = set(posterior.trace.to_frame()["stage"])
    assert {"pretraining", "lbfgs", "adam"} <= stages
    assert error(posterior) < 0.7 * error(shallow)
    assert posterior.trace.held_out_nll - posterior.trace.train_nll < 0.7
    assert len(posterior.data.train) == 600  # conditioned on the held-out rows too


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"optimiser": "lbgfs"}, "did you mean 'lbfgs'"),
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"rows": 1}, "rows=1"),
        ({"least_noise": 0.0}, "least_noise=0.0"),
        ({"steps": 0}, "steps=0"),
        ({"restarts": -1}, "restarts=-1"),
    ],
)
def test_bad_training_options_are_refused(arguments, said):
    with pytest.raises(gr.InputError) as caught:
        gr.Training(**arguments)
    assert said in str(caught.value)


def test_one_row_cannot_be_trained_on():
    data = gr.dataset(torch.zeros(1, 2), torch.zeros(1), standardise=False)
    head = gr.Exact(gr.RBF(), noise=0.1)
    assert float(head.condition(data).mean(torch.zeros(1, 2))) == 0.0
    with pytest.raises(gr.InputError, match="1 training row"):
        head.fit(data)


def test_what_does_not_fit_in_memory_is_refused_before_it_is_begun():
    n = 300_000
    data = gr.dataset(torch.zeros(n, 1), torch.zeros(n), standardise=False)
    with pytest.raises(gr.SolverError, match=r"300000 rows needs 385\.|386\.. GiB and .* GiB are free"):
        gr.Exact(gr.RBF(), noise=0.1, solver=gr.Cholesky()).condition(data)


def test_a_matrix_that_is_not_positive_definite_is_an_error_not_a_jitter():
    data = example_data(n=400, dim=1, dtype=torch.float32)
    head = gr.Exact(gr.RBF(lengthscale=3.0, outputscale=100.0), noise=1e-9, solver=gr.Cholesky(precision="float32"))
    with pytest.raises(gr.SolverError, match="not positive definite in float32") as caught:
        head.condition(data)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(gr.SolverError, match="not positive definite"):
        gr.Cholesky().solve(-torch.eye(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    with pytest.raises(gr.SolverError, match="NaN"):
        gr.Cholesky().solve(torch.full((3, 3), float("nan"), dtype=torch.float64), torch.ones(3, dtype=torch.float64))


def test_a_prior_of_the_noise_counts_in_training():
    data = waves(40)
    prior = gpytorch.priors.LogNormalPrior(0.0, 0.1)
    free, held = gr.Exact(gr.RBF(), noise=0.1), gr.Exact(gr.RBF(), noise=0.1, noise_prior=prior)
    assert float(held.log_prior()) == pytest.approx(float(prior.log_prob(torch.tensor(0.1, dtype=torch.float64))))
    for head in (free, held):
        head.fit(data, training=QUIET)
    assert float(free.noise) < 0.5 < float(held.noise)


def test_a_matrix_is_assembled_by_rows_as_it_is_at_once(monkeypatch):
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale, shift = torch.full((50,), 2.0, dtype=torch.float64), torch.linspace(1.0, 3.0, 50, dtype=torch.float64)
    for kernel in (gr.Matern32(ard=3), gr.RBF() + gr.Linear()):
        made = KernelSystem(kernel, x, scale, shift, keep=0)
        whole = made.dense(torch.float64)
        monkeypatch.setattr(system, "ROWS", 7)
        by_rows = made.dense(torch.float64)
        monkeypatch.undo()
        expected = 4.0 * kernel.matrix(x) + torch.diag(shift)
        torch.testing.assert_close(by_rows, whole, rtol=1e-14, atol=0.0)  # products of other shapes round otherwise
        torch.testing.assert_close(whole, expected.detach(), rtol=1e-14, atol=1e-14)
