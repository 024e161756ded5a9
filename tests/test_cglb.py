"""The conjugate-gradient bound and its head: between Titsias' bound and the evidence, with the gradient of its dense formula."""

import math

import pytest
import torch
from refusals import assert_refused
from sparse_cases import X, matern

import gp_response as gr
from gp_response.data.noise import row_noise
from gp_response.heads import conjugate_bound
from gp_response.heads.conjugate_bound import ConjugateBound
from gp_response.testing import check_head, example_data

QUIET = gr.Training(steps=10, progress=False)


class Slope(torch.nn.Module):
    def forward(self, x):
        return 0.3 * x[:, 0] - 0.2


def make(inducing, **more) -> gr.CGLB:
    return gr.CGLB(matern(), inducing, **{"noise": 0.2, "mean": Slope(), "beta": 1.3, **more})


def value(head, data) -> float:
    return float(head.log_evidence(data).detach())


def dense_bound(head, data, v):
    """Artemev et al. (2021), eq. 10 and 14, with explicit n x n matrices, for Gibbs weights; v (n,) is held."""
    x, y = data.train.x, data.train.y
    power = head.beta * data.train.weights
    noise = row_noise(data, head.noise).expand(len(y))
    k, z = head.kernel.matrix, head.points
    seen = k(z, z) + head.basis(frozen=True).jitter * k(z, z).diagonal().max().detach() * torch.eye(len(z)).double()
    q = k(z, x).T @ torch.linalg.solve(seen, k(z, x))
    spread = torch.diag(noise / power)
    r = y - head.prior_mean(x)
    e = r - (k(x, x) + spread) @ v
    quadratic = 2.0 * v @ r - v @ (k(x, x) + spread) @ v + e @ torch.linalg.solve(q + spread, e)
    left_out = (power / noise * (head.kernel.diagonal(x) - q.diagonal())).sum()
    logdet = torch.linalg.slogdet(q + spread)[1] + len(y) * torch.log1p(left_out / len(y))
    normaliser = 0.5 * ((1.0 - power) * (2.0 * torch.pi * noise).log() - power.log()).sum()
    return -0.5 * (quadratic + logdet + len(y) * math.log(2.0 * math.pi)) + normaliser


@pytest.mark.parametrize("known", [False, True])
def test_the_bound_lies_between_titsias_and_the_evidence_and_meets_it_with_all_rows(known):
    data = example_data(known_noise=known)
    evidence = float(gr.Exact(matern(), noise=0.2, mean=Slope(), beta=1.3).log_evidence(data))
    for m in (5, 12, 25):
        head = make(m, slack=1e-8)
        titsias = gr.SGPR(matern(), m, noise=0.2, mean=Slope(), beta=1.3)
        assert float(titsias.log_evidence(data)) < value(head, data) < evidence
    whole = make(data.train.x.clone())
    assert value(whole, data) == pytest.approx(evidence, abs=1e-8)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("slack", [1e-10, 30.0])
def test_value_and_gradient_are_those_of_the_dense_formula_whatever_the_solution(known, slack):
    data = example_data(known_noise=known)
    head = make(data.train.x[3:11] + 0.1, slack=slack)
    parameters = [p for p in head.parameters() if p.requires_grad]
    bound = head.log_evidence(data)
    dense = dense_bound(head, data, head._bound._value)
    assert float(bound.detach()) == pytest.approx(float(dense.detach()), rel=1e-9)
    for one, other in zip(torch.autograd.grad(bound, parameters), torch.autograd.grad(dense, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_the_solution_is_as_good_as_the_slack_says_and_begins_where_the_last_one_ended():
    data = example_data(n=400)
    best = value(make(20, noise=0.01, slack=1e-9), data)
    for slack in (5.0, 0.1, 1e-3):
        head = make(20, noise=0.01, slack=slack)
        assert best - slack <= value(head, data) <= best + 1e-6
        assert head._bound.products > 0
        value(head, data)
        assert head._bound.products == 0


def test_few_iterations_lower_the_bound_and_leave_it_one():
    data = example_data(n=400)
    head = make(5, noise=0.01, solver=gr.CG(max_iterations=2), slack=1e-6)
    lower = value(head, data)
    assert lower < value(make(5, noise=0.01, slack=1e-6), data) - 0.1
    assert lower < float(head.exact().log_evidence(data))


def test_rows_of_no_weight_are_not_seen():
    data = example_data()
    weights = data.train.weights.clone()
    weights[::3] = 0.0
    points, kept = data.train.x[1:9].clone(), weights > 0
    head = make(points, slack=1e-10)
    found = head.log_evidence(data.with_train(weights=weights))
    few = make(points, slack=1e-10)
    want = few.log_evidence(data.keep(torch.nonzero(kept).flatten()).with_train(weights=weights[kept]))
    assert float(found.detach()) == pytest.approx(float(want.detach()), abs=1e-7)
    for one, other in zip(
        *(torch.autograd.grad(b, list(h.parameters())) for b, h in ((found, head), (want, few))), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_products_in_float32_change_value_and_gradient_by_little():
    data, found = example_data(n=1200), {}
    for precision in ("float32", "float64"):
        head = make(30, noise=0.05, solver=gr.CG(precision=precision), slack=0.01)
        bound = head.log_evidence(data)
        found[precision] = float(bound.detach()), torch.autograd.grad(bound, list(head.parameters()))
    assert abs(found["float32"][0] - found["float64"][0]) < 0.011
    for one, other in zip(found["float32"][1], found["float64"][1], strict=True):
        assert float((one - other).norm()) < 1e-2 * float(other.norm())


def test_float32_is_for_many_rows_and_noise_that_its_rounding_leaves_alone(monkeypatch):
    data, bound = example_data(n=300), ConjugateBound()
    monkeypatch.setattr(conjugate_bound, "FEW", 200)
    for noise, dtype in ((0.1, torch.float32), (1e-6, torch.float64)):
        assert bound._dtype(make(5), data, torch.tensor(noise), 0.3) == dtype


@pytest.mark.parametrize("scale", [300.0, 3000.0])
def test_the_slack_is_kept_where_products_in_float32_lose_the_residual(scale):
    data = example_data(n=400)
    kernel = gr.Matern32(ard=data.dim, lengthscale=[15.0] * data.dim, outputscale=scale)
    solver = gr.CG(precision="float32", max_iterations=2000)
    head = gr.CGLB(kernel, 20, noise=0.01, mean=Slope(), beta=1.3, solver=solver, slack=0.1)
    for move in (0.0, 0.05):
        with torch.no_grad():
            head.place(data)
            head.points.add_(move)
            found = value(head, data)
            x, r = data.train.x, data.train.y - head.prior_mean(data.train.x)
            system = head.kernel.matrix(x, x) + torch.diag(
                row_noise(data, head.noise) / (head.beta * data.train.weights)
            )
            best = float(dense_bound(head, data, torch.linalg.solve(system, r)))
        assert best - 0.1001 <= found <= best + 1e-6


def test_the_head_obeys_the_laws_and_its_posterior_is_the_exact_one():
    check_head(gr.CGLB(matern(), 6, noise=0.2))
    data = example_data()
    posterior, exact = (
        h.condition(data)
        for h in (make(6), gr.Exact(matern(), noise=0.2, mean=Slope(), beta=1.3, solver=gr.Cholesky()))
    )
    torch.testing.assert_close(posterior.mean(X), exact.mean(X))
    torch.testing.assert_close(posterior.variance(X), exact.variance(X))


def test_training_raises_the_bound_above_what_titsias_bound_leaves():
    data = gr.load("weather", n=700)
    head = gr.CGLB(gr.Matern32(ard=data.dim, lengthscale=[4.0] * data.dim), 40, noise=0.1)
    posterior = head.fit(data, training=QUIET)
    frame = posterior.trace.to_frame()
    steps = frame[frame.stage == "conjugate"].loss
    assert steps.min() < steps.iloc[0] - 0.003
    assert -value(head, data) / len(data.train) == pytest.approx(steps.min(), abs=2.0 / len(data.train))
    assert value(head, data) < float(head.exact().log_evidence(data))
    assert "conjugate" in posterior.trace.objective


def test_responses_are_derivatives_of_refits():
    data, head = example_data(), make(9)
    head.fit(data, training=QUIET)
    observable, perturbation = gr.value(X), gr.reweight([1, 4])
    found = gr.susceptibility(head.condition(data), observable, perturbation).matrix
    torch.testing.assert_close(
        found, gr.refit_response(head, data, observable, perturbation).matrix, rtol=1e-8, atol=1e-9
    )


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: make(5, slack=0.0), "slack=0.0"),
        (lambda: make(5, solver="cg"), "type str"),
        (lambda: make(5, noise=0.0), "positive finite variance"),
        (lambda: gr.CGLB(gr.RBF().on(gr.MLP(3, [4, 2])), 5).fit(example_data(), training=QUIET), "trains no features"),
    ],
)
def test_what_it_refuses(ask, message):
    assert_refused(ask, message, error=gr.InputError)
