"""Several classes: the mode, its responses, and what is refused."""

import pytest
import torch

import gp_response as gr
from gp_response.heads.class_posterior import ClassPosterior
from gp_response.testing import example_data


def three(y: torch.Tensor) -> torch.Tensor:
    return torch.bucketize(y, torch.tensor([-0.5, 0.5], dtype=y.dtype)).to(y)


EXAMPLE = example_data(n=36)
DATA, LABELS = EXAMPLE.with_train(y=three(EXAMPLE.train.y)), three(EXAMPLE.test.y)
X = EXAMPLE.test.x


def kernel(outputscale: float = 2.3) -> gr.Kernel:
    return gr.Matern52(lengthscale=[1.5] * 3, outputscale=outputscale)


HEADS = {
    "exact": lambda: gr.Exact(kernel(), likelihood=gr.Categorical(3), beta=1.2, mean=0.2),
    "sparse": lambda: gr.SVGP(kernel(), 15, gr.Categorical(3)),
}


@pytest.fixture(params=list(HEADS))
def head(request):
    return HEADS[request.param]()


def test_the_mode_is_that_of_the_density_written_out():
    posterior = gr.Exact(kernel(), likelihood=gr.Categorical(3), mean=0.2).condition(DATA)
    matrix = kernel().matrix(DATA.train.x).detach() + 1e-10 * torch.eye(36, dtype=torch.float64)
    field = posterior.mean(DATA.train.x).requires_grad_()
    chosen = torch.log_softmax(field, dim=1).gather(1, DATA.train.y.long()[:, None])[:, 0]
    centred = field - 0.2
    density = (DATA.train.weights * chosen).sum() - 0.5 * (centred * torch.linalg.solve(matrix, centred)).sum()
    (slope,) = torch.autograd.grad(density, field)
    # In the metric of the prior the gradient is a step of the field.
    assert float((matrix @ slope).abs().max()) < 1e-6


def test_the_covariance_is_the_inverse_curvature_written_out():
    posterior = gr.Exact(kernel(), likelihood=gr.Categorical(3)).condition(DATA)
    p, prior = posterior.probabilities, kernel().matrix(DATA.train.x).detach()
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    whole = torch.zeros(36, 3, 36, 3, dtype=torch.float64)
    at = torch.arange(36)
    whole[at, :, at] = DATA.train.weights[:, None, None] * curvature
    whole, big = whole.reshape(108, 108), torch.kron(prior, torch.eye(3, dtype=torch.float64))
    expected = torch.linalg.solve(torch.eye(108, dtype=torch.float64) + big @ whole, big)
    assert torch.allclose(posterior.cov(DATA.train.x).reshape(108, 108), expected, atol=1e-8)
    assert torch.allclose(posterior.variance(DATA.train.x).reshape(-1), expected.diagonal(), atol=1e-8)


def test_two_classes_are_the_logistic_of_their_difference():
    two = EXAMPLE.with_train(y=(EXAMPLE.train.y > 0).double())
    fields = gr.Exact(kernel(), likelihood=gr.Categorical(2)).condition(two)
    one = gr.Exact(kernel(4.6), likelihood=gr.Bernoulli()).condition(two)
    mean = fields.mean(X)
    assert torch.allclose(mean[:, 1] - mean[:, 0], one.mean(X), atol=1e-10)
    drawn = fields.predictive(X, samples=20_000)
    expected = gr.Bernoulli().predictive(one.mean(X), one.variance(X))[0]
    assert torch.allclose(drawn.sum(dim=1), torch.ones(len(X), dtype=torch.float64))
    assert float((drawn[:, 1] - expected).abs().max()) < 0.02
    chi = gr.susceptibility(fields, gr.value(X), gr.reweight()).matrix.reshape(len(X), 2, -1)
    assert torch.allclose(chi[:, 1] - chi[:, 0], gr.susceptibility(one, gr.value(X), gr.reweight()).matrix, atol=1e-10)


OBSERVABLES = [gr.value(X), gr.contrast(X, X.flip(0) + 0.1), gr.average(X), gr.loss(X, LABELS)]
PERTURBATIONS = [
    gr.reweight([3, 5]), gr.delete([1, 2]), gr.reweight({"a": [1, 2], "b": [3]}),
    gr.insert(X[:2] + 0.1, LABELS[:2]), gr.insert(X[:2] + 0.1, LABELS[:2], each=True),
]  # fmt: skip


def test_responses_are_derivatives_of_refits(head):
    posterior = head.condition(DATA)
    assert isinstance(posterior, ClassPosterior)
    for perturbation in PERTURBATIONS:
        for observable in OBSERVABLES:
            chi = gr.susceptibility(posterior, observable, perturbation)
            refit = gr.refit_response(head, DATA, observable, perturbation)
            scale = refit.matrix.abs().max()
            assert chi.rows == refit.rows
            assert bool(chi.converged)
            assert bool(((chi.matrix - refit.matrix).abs() <= chi.error + 1e-9 * scale).all())
            assert float((chi.matrix - refit.matrix).abs().max() / scale) < 1e-8


def test_responses_are_differences_of_whole_refits(head):
    posterior, h = head.condition(DATA), 1e-4
    for observable in (gr.value(X), gr.loss(X, LABELS)):
        chi = gr.susceptibility(posterior, observable, gr.reweight([3, 5])).matrix
        up, down = (gr.refit_response(head, DATA, observable, gr.reweight([3, 5]), h=s * h).matrix for s in (1, -1))
        assert float(((up - down) / (2 * h) - chi).abs().max() / chi.abs().max()) < 1e-6


def test_a_value_has_one_row_a_class():
    chi = gr.susceptibility(HEADS["sparse"]().condition(DATA), gr.value(X[:2]), gr.reweight())
    assert chi.shape == (6, 36)
    assert chi.rows[:4] == (
        "value[0], class 0", "value[0], class 1", "value[0], class 2", "value[1], class 0",
    )  # fmt: skip


def test_the_evidence_and_its_gradient(head):
    value = head.log_evidence(DATA)
    assert bool(torch.isfinite(value))
    (slope,) = torch.autograd.grad(value, head.kernel.raw_outputscale)
    with torch.no_grad():
        head.kernel.raw_outputscale.add_(1e-4)
        up = float(head.log_evidence(DATA))
        head.kernel.raw_outputscale.sub_(2e-4)
        down = float(head.log_evidence(DATA))
    assert float(slope) == pytest.approx((up - down) / 2e-4, rel=1e-5)


def test_training_on_packaged_digits_beats_the_base_rate():
    digits = gr.load("digits", n=400)
    head = gr.SVGP(gr.Matern52(lengthscale=8.0), 40, gr.Categorical(10))
    posterior = head.fit(digits, training=gr.Training(steps=3, rows=200, progress=False))
    found = posterior.predictive(digits.test.x, samples=200)
    assert float(gr.scores.accuracy(found, digits.test.y)) > 0.7
    assert posterior.trace.train_nll < 2.0


def test_what_several_classes_cannot_be_asked():
    posterior = HEADS["sparse"]().condition(DATA)
    for observable in (gr.variance(X), gr.pointwise(X, torch.sigmoid)):
        with pytest.raises(gr.InputError, match="cannot be asked of several classes"):
            gr.susceptibility(posterior, observable, gr.reweight())
    with pytest.raises(gr.InputError, match="classes cannot"):
        gr.susceptibility(posterior, gr.value(X), gr.relabel())
    with pytest.raises(gr.InputError, match="Gaussian"):
        gr.finite_response(posterior, gr.value(X), gr.reweight())
    with pytest.raises(gr.InputError, match="not here yet for several classes"):
        gr.fluctuation(posterior, gr.value(X), gr.reweight())
    with pytest.raises(gr.InputError, match="the label 3 in row"):
        HEADS["exact"]().condition(DATA.with_train(y=DATA.train.y + 1))
    with pytest.raises(gr.InputError, match="2 or more"):
        gr.Categorical(1)
    with pytest.raises(gr.InputError, match="does not train features"):
        gr.SVGP(gr.Matern52().on(gr.MLP(3, [4, 2])), 5, gr.Categorical(3)).fit(DATA)
