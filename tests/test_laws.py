"""Every exported observable, perturbation, solver and head obeys its law; broken ones are caught and named."""

from dataclasses import replace

import pytest
import torch

import gp_response as gr
from gp_response import heads, response
from gp_response.testing import (
    check_head,
    check_observable,
    check_perturbation,
    check_posterior,
    check_solver,
    example_data,
    example_head,
)  # fmt: skip

DATA = example_data()
X, Y = DATA.test.x, DATA.test.y

V = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
TOWARD = gr.dataset(DATA.train.x + 0.4, DATA.train.y - 0.2, standardise=False)

OBSERVABLES = {
    "Value": [gr.value(X)],
    "Loss": [gr.loss(X, Y)],
    "Variance": [gr.variance(X)],
    "Contrast": [gr.contrast(X, X.flip(0) + 0.1)],
    "Pointwise": [gr.pointwise(X, torch.sigmoid)],
    "Gradient": [gr.gradient(X)],
    "Evidence": [gr.evidence()],
    "LearningCoefficient": [gr.learning_coefficient()],
    "Parameter": [gr.parameter("lengthscale"), gr.parameter("noise")],
    "Average": [gr.average(X), gr.average(X, torch.linspace(-1.0, 2.0, len(X)))],
}
PERTURBATIONS = {
    "Reweight": [
        (gr.reweight(), 1.0),
        (gr.reweight([3, 5]), -0.4),
        (gr.reweight({"first": [1, 2, 3], "second": [3, 4]}), 0.5),
        (gr.reweight(7), 2.0),
    ],
    "Relabel": [(gr.relabel(), 1.0), (gr.relabel([[0, 1], [2]]), -2.0)],
    "Delete": [
        (gr.delete([3, 17, 30]), 1.0),
        (gr.delete([0, 1, 2, 3], each=True), 1.0),
        (gr.delete([3, 17]), 0.3),
        (gr.delete({"a": [0, 1], "b": [2, 3]}), 1.0),
    ],
    "ShiftInputs": [
        (gr.shift_inputs(V), 0.4),
        (gr.shift_inputs(1, [3, 5]), -0.3),
        (gr.shift_inputs("x2", {"a": [1, 2, 3], "b": [3, 4]}), 0.5),
    ],
    "Noise": [(gr.noise(each=True), 0.3), (gr.noise([3, 5]), -0.1), (gr.noise({"a": [1, 2], "b": [2, 7]}), 0.5)],
    "GlobalNoise": [(gr.noise(), 0.1), (gr.hyperparameter("noise"), -0.05)],
    "Hyperparameter": [
        (gr.hyperparameter("lengthscale"), 0.1),
        (gr.hyperparameter("lengthscale[1]"), 0.1),
        (gr.hyperparameter("outputscale"), 0.1),
        (gr.hyperparameter("mean"), 0.1),
    ],
    "Temperature": [(gr.temperature(), 0.4)],
    "Mixture": [(gr.mixture(TOWARD), 0.3)],
    "Insert": [(gr.insert(X[:3] + 0.2, Y[:3]), 1.0), (gr.insert(X[:3] + 0.2, Y[:3], each=True), 2.0)],
}


def subclasses(base: type) -> set[str]:
    found = {
        name for name in response.__all__ if isinstance(cls := getattr(response, name), type) and issubclass(cls, base)
    }
    # A component needs an additive kernel: its laws are in test_structural.
    return found - {base.__name__, "Whole", "Component"}


def test_the_tables_hold_every_exported_observable_and_perturbation():
    assert subclasses(gr.Observable) == set(OBSERVABLES)
    assert subclasses(gr.Perturbation) == set(PERTURBATIONS)


@pytest.mark.parametrize(
    "observable", [o for all_of in OBSERVABLES.values() for o in all_of], ids=lambda o: type(o).__name__
)
def test_expectations_are_monte_carlo_averages(observable):
    check_observable(observable, samples=100_000)


@pytest.mark.parametrize("beta", [1.0, 0.7])
@pytest.mark.parametrize(
    ("perturbation", "h"),
    [case for all_of in PERTURBATIONS.values() for case in all_of],
    ids=lambda p: type(p).__name__ if isinstance(p, gr.Perturbation) else str(p),
)
def test_closed_forms_are_derivatives_of_refits_and_finite_answers_are_refits(perturbation, h, beta):
    # Where the model changes, refits are differentiated by differences.
    tolerance = 1e-8 if perturbation.changes_head else 1e-10
    gaps = check_perturbation(perturbation, head=example_head(beta=beta), h=h, tolerance=tolerance)
    laws = ("derivative of", "finite") if perturbation.finite else ("derivative of",)
    assert set(gaps) == {f"{what} {of}" for what in laws for of in ("value", "loss", "variance")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_solvers_claim_the_residuals_they_have(dtype):
    check_solver(gr.Cholesky(), dtype=dtype)
    check_solver(gr.Cholesky(refine=0), dtype=dtype)


def kernel() -> gr.Kernel:
    return gr.Matern52(lengthscale=[1.5] * 3, outputscale=1.3)


HEADS = {
    "Exact": [
        lambda: gr.Exact(kernel(), noise=0.2, mean=0.1, beta=1.2),
        lambda: gr.Exact(kernel(), likelihood=gr.Bernoulli(), mean=0.1, beta=1.2),
        lambda: gr.Exact(kernel(), likelihood=gr.Poisson()),
        lambda: gr.Exact(kernel(), likelihood=gr.StudentT(0.05, 3.0)),
    ],
    "CGLB": [lambda: gr.CGLB(kernel(), 12, noise=0.2, mean=0.1, beta=1.2)],
    "SGPR": [
        lambda: gr.SGPR(kernel(), 12, noise=0.2, mean=0.1, beta=1.2),
        lambda: gr.SGPR(gr.Matern52(ard=2).on(gr.MLP(3, [8, 2])), 12, noise=0.05),
        lambda: gr.SGPR(gr.RBF(lengthscale=1.4) + gr.Linear(), 9, placement="kmeans"),
    ],
    "SVGP": [
        lambda: gr.SVGP(kernel(), 12, gr.Gaussian(0.3), beta=0.8),
        *(
            lambda likelihood=likelihood, kind=kind: gr.SVGP(
                kernel(), 12, likelihood, mean=0.1, beta=1.2, approximation=kind
            )
            for likelihood in (gr.Bernoulli(), gr.Poisson(), gr.StudentT(0.05, 3.0))
            for kind in ("laplace", "variational")
        ),
    ],
}


def test_the_tables_hold_every_exported_head():
    exported = {
        name
        for name in heads.__all__
        if isinstance(cls := getattr(heads, name), type)
        and issubclass(cls, torch.nn.Module)
        and hasattr(cls, "condition")
    }
    assert exported == set(HEADS)


@pytest.mark.parametrize(
    "make", [make for all_of in HEADS.values() for make in all_of], ids=lambda make: repr(make().likelihood)
)
def test_heads_are_dense_gps_of_what_responds_with_the_rest_left_out(make):
    check_head(make())


@pytest.mark.parametrize(
    "kernel",
    [
        gr.RBF(lengthscale=[1.0, 0.7, 1.3], outputscale=1.3),
        gr.Matern12(lengthscale=0.8),
        gr.Matern32(lengthscale=1.2) + gr.Linear(),
        gr.Periodic() * gr.RBF(lengthscale=2.0),
        gr.Matern52(ard=2).on(gr.MLP(3, [8, 2])),
    ],
    ids=repr,
)
def test_exact_heads_are_dense_gps(kernel):
    check_head(gr.Exact(kernel, noise=0.05, mean=0.3, beta=1.7))


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6])
def test_the_posterior_laws_hold_at_small_noise_and_801_rows(noise):
    data = example_data(n=801, dim=2)
    posterior = gr.Exact(gr.Matern32(lengthscale=1.0), noise=noise).condition(data)
    check_posterior(posterior, data.test.x, tolerance=1e-9 + 1e-13 / noise)


def test_laws_find_their_own_points_and_data():
    check_posterior(gr.Exact(gr.RBF(), noise=0.1).condition(example_data(dim=2)))
    check_head(gr.Exact(gr.RBF(ard=5), noise=0.1))


def test_the_posterior_goes_through_the_data_as_the_noise_goes_to_zero():
    data = example_data(n=30)
    data = data.keep(torch.arange(4, 30))  # two equal inputs with two labels cannot both be met
    posterior = gr.Exact(gr.Matern32(), noise=1e-10).condition(data)
    assert torch.allclose(posterior.mean(data.train.x), data.train.y, atol=1e-8)
    assert float(posterior.variance(data.train.x).max()) < 1e-8


class WrongSign(gr.Observable):
    def __init__(self):
        self.points = X

    def local(self, mean, variance, noise):
        return -mean

    def functional(self, field, at):
        return field


class HalfForce(response.Reweight):
    """An energy that is half of what `apply` does."""

    def energy(self, data, noise):
        return super().energy(data, noise).times(0.5)


class BadResidual(gr.Cholesky):
    """Claims a perfect residual."""

    def factor(self, matrix):
        inner = super().factor(matrix)

        class Liar:
            def solve(self, rhs):
                honest = inner.solve(rhs)
                return replace(honest, value=honest.value * 1.01, residual=torch.zeros_like(honest.residual))

        return Liar()


def test_broken_nouns_are_caught_with_the_law_and_the_values_in_the_message():
    with pytest.raises(AssertionError, match=r"expectation = Monte Carlo: observable \d+ is .* standard errors off"):
        check_observable(WrongSign(), samples=20_000)
    with pytest.raises(
        AssertionError, match=r"(?s)derivative of the refit \(value\).*got .*, expected .*gap"
    ) as caught:
        check_perturbation(HalfForce([1, 2]))
    assert "entries beyond relative tolerance" in str(caught.value)
    with pytest.raises(AssertionError, match="residual claimed = residual measured"):
        check_solver(BadResidual())


def test_a_broken_head_is_caught():
    class Forgetful(gr.Exact):
        def condition(self, data):
            return super().condition(data.with_train(weights=torch.ones_like(data.train.weights)))

    with pytest.raises(AssertionError, match="mean = dense GP mean"):
        check_head(Forgetful(gr.RBF(), noise=0.1))


class Everything(gr.SGPR):
    """Lets what the inducing points leave out respond."""

    def condition(self, data):
        posterior = super().condition(data)
        posterior.whole = True
        return posterior


class Unfinished(gr.SVGP):
    """Stops before the optimum."""

    def condition(self, data):
        posterior = super().condition(data)
        posterior.weights = replace(posterior.weights, value=posterior.weights.value * (1.0 + 1e-6))
        return posterior


def test_broken_sparse_heads_are_caught():
    with pytest.raises(AssertionError, match="cov = dense GP covariance"):
        check_head(Everything(kernel(), 12, noise=0.1))
    for approximation in ("laplace", "variational"):
        with pytest.raises(AssertionError, match="mean = dense GP mean"):
            check_head(Unfinished(kernel(), 12, gr.Bernoulli(), approximation=approximation))


def test_a_finite_answer_that_is_not_exact_is_refused():
    head = gr.SVGP(kernel(), 10, gr.Bernoulli())
    gaps = check_perturbation(gr.reweight([3, 5]), head=head)
    assert set(gaps) == {f"derivative of {of}" for of in ("value", "loss", "variance")}
