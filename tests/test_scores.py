"""Scores: against integrals, Monte Carlo, scikit-learn and loops."""

import math

import numpy as np
import pytest
import torch
from refusals import assert_refused
from scipy import integrate, stats
from sklearn import metrics

from gp_response import scores
from gp_response.errors import InputError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def regression(n=40, seed=0):
    mean, y = torch.randn(2, n, generator=rng(seed), dtype=torch.float64)
    variance = 0.1 + torch.rand(n, generator=rng(seed + 1), dtype=torch.float64)
    return mean, variance, y


def classification(n=300, classes=4, seed=0):
    p = torch.softmax(2.0 * torch.randn(n, classes, generator=rng(seed), dtype=torch.float64), 1)
    return p, torch.multinomial(p, 1, generator=rng(seed + 1)).flatten().double()


def test_rmse_and_nll_are_those_of_scikit_learn_and_scipy():
    mean, variance, y = regression()
    assert float(scores.rmse(mean, y)) == pytest.approx(metrics.root_mean_squared_error(y, mean), rel=1e-13)
    expected = -stats.norm.logpdf(y, mean, variance.sqrt()).mean()
    assert float(scores.gaussian_nll(mean, variance, y)) == pytest.approx(expected, rel=1e-13)


def test_crps_is_the_integral_of_the_squared_distribution_function():
    mean, variance, y = regression(n=6)

    def one(m, s, at):
        below = integrate.quad(lambda t: stats.norm.cdf(t, m, s) ** 2, m - 12 * s - abs(at), at, epsabs=1e-12)[0]
        above = integrate.quad(lambda t: stats.norm.sf(t, m, s) ** 2, at, m + 12 * s + abs(at), epsabs=1e-12)[0]
        return below + above

    expected = np.mean([one(*row) for row in zip(mean.tolist(), variance.sqrt().tolist(), y.tolist(), strict=True)])
    assert float(scores.gaussian_crps(mean, variance, y)) == pytest.approx(expected, rel=1e-8)


def test_crps_is_the_energy_form_by_monte_carlo():
    draws = torch.randn(2, 400_000, generator=rng(), dtype=torch.float64) * 0.7 + 0.3
    expected = (draws[0] - 1.1).abs().mean() - 0.5 * (draws[0] - draws[1]).abs().mean()
    found = scores.gaussian_crps(*(torch.tensor([v], dtype=torch.float64) for v in (0.3, 0.49, 1.1)))
    assert abs(float(found - expected)) < 4e-3


@pytest.mark.parametrize("score", [scores.gaussian_nll, scores.gaussian_crps])
def test_proper_scores_are_least_in_expectation_at_the_truth(score):
    y = 0.5 + 1.5 * torch.randn(200_000, generator=rng(), dtype=torch.float64)

    def expected(m, s):
        return float(score(torch.full_like(y, m), torch.full_like(y, s * s), y))

    truth = expected(0.5, 1.5)
    assert all(expected(m, s) > truth for m, s in [(0.3, 1.5), (0.7, 1.5), (0.5, 1.3), (0.5, 1.7)])


def test_regression_scores_have_the_gradients_of_finite_differences():
    mean, variance, y = (t.requires_grad_() for t in regression(n=5))
    assert torch.autograd.gradcheck(scores.gaussian_crps, (mean, variance, y))
    assert torch.autograd.gradcheck(scores.gaussian_nll, (mean, variance, y))


def test_interval_calibration_is_a_count_of_covered_rows():
    mean, variance, y = regression(n=200)
    gaps = []
    for p in (0.5, 0.9):
        low, high = stats.norm.interval(p, mean, variance.sqrt())
        gaps.append(abs(np.mean((low <= y.numpy()) & (y.numpy() <= high)) - p))
    found = scores.interval_calibration_error(mean, variance, y, levels=[0.5, 0.9])
    assert float(found) == pytest.approx(np.mean(gaps), abs=1e-12)


def test_interval_calibration_sees_wrong_variances_and_not_right_ones():
    y = torch.randn(20_000, generator=rng(), dtype=torch.float64)
    right, small, large = (
        float(scores.interval_calibration_error(torch.zeros_like(y), torch.full_like(y, v), y))
        for v in (1.0, 0.25, 4.0)
    )
    assert right < 0.01
    # |Φ-coverage at half and double the scale - level|, averaged over the levels.
    levels = np.arange(1, 20) / 20
    for found, scale in ((small, 0.5), (large, 2.0)):
        truth = 2 * stats.norm.cdf(scale * stats.norm.ppf((1 + levels) / 2)) - 1
        assert found == pytest.approx(np.abs(truth - levels).mean(), abs=0.01)


def test_classification_scores_are_those_of_scikit_learn():
    p, labels = classification()
    assert float(scores.accuracy(p, labels)) == metrics.accuracy_score(labels, p.argmax(1))
    assert float(scores.log_loss(p, labels)) == pytest.approx(metrics.log_loss(labels, p), rel=1e-12)
    hot = np.eye(4)[labels.long()]
    assert float(scores.brier(p, labels)) == pytest.approx(((p.numpy() - hot) ** 2).sum(1).mean(), rel=1e-12)


def test_binary_probabilities_are_those_of_class_one():
    p, labels = classification(classes=2)
    for score in (scores.accuracy, scores.log_loss, scores.expected_calibration_error):
        assert float(score(p[:, 1], labels)) == pytest.approx(float(score(p, labels)), rel=1e-12)
    assert float(scores.brier(p[:, 1], labels)) == pytest.approx(metrics.brier_score_loss(labels, p[:, 1]), rel=1e-12)
    assert float(scores.brier(p, labels)) == pytest.approx(2 * float(scores.brier(p[:, 1], labels)), rel=1e-12)


def test_a_certain_error_costs_a_finite_log_loss():
    p = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert float(scores.log_loss(p, torch.ones(1))) == pytest.approx(-math.log(np.finfo(float).eps))


def test_expected_calibration_error_is_a_loop_over_bins_of_equal_mass():
    p, labels = classification(n=301)
    p, labels = p.numpy(), labels.numpy()
    confidence, right = p.max(1), p.argmax(1) == labels
    order = np.argsort(confidence)
    gaps = [len(b) / 301 * abs(right[b].mean() - confidence[b].mean()) for b in np.array_split(order, 7)]
    found = scores.expected_calibration_error(torch.tensor(p), torch.tensor(labels), bins=7)
    assert float(found) == pytest.approx(sum(gaps), rel=1e-12)


def test_expected_calibration_error_vanishes_for_labels_drawn_from_the_probabilities():
    p, labels = classification(n=50_000)
    sharpened = p.square() / p.square().sum(1, keepdim=True)
    assert float(scores.expected_calibration_error(p, labels)) < 0.015
    confidence, right = sharpened.max(1).values, (sharpened.argmax(1) == labels).double()
    assert float(scores.expected_calibration_error(sharpened, labels)) > 0.9 * float((confidence - right).mean()) > 0.05


def test_expected_calibration_error_does_not_depend_on_the_order_of_tied_rows():
    p = torch.full((60,), 0.75, dtype=torch.float64)
    labels = (torch.arange(60) < 45).double()
    assert float(scores.expected_calibration_error(p, labels, bins=6)) == pytest.approx(0.0, abs=1e-12)
    assert float(scores.expected_calibration_error(p, labels.flip(0), bins=6)) == pytest.approx(0.0, abs=1e-12)


ONE = torch.ones(3, dtype=torch.float64)
BAD = {
    "lengths": (lambda: scores.rmse(ONE, ONE[:2]), "mean (3,), y (2,)"),
    "columns": (lambda: scores.rmse(ONE[:, None], ONE[:, None]), "expected one (n,)"),
    "no rows": (lambda: scores.rmse(ONE[:0], ONE[:0]), "n >= 1"),
    "variance of zero": (lambda: scores.gaussian_nll(ONE, 0 * ONE, ONE), "variance of 0; expected positive"),
    "variance nan": (lambda: scores.gaussian_crps(ONE, float("nan") * ONE, ONE), "variance of nan"),
    "level of one": (
        lambda: scores.interval_calibration_error(ONE, ONE, ONE, levels=[1.0]),
        "strictly between 0 and 1",
    ),
    "logits": (lambda: scores.accuracy(2 * ONE, ONE), "softmax or sigmoid"),
    "not normalised": (lambda: scores.log_loss(torch.ones(3, 2), ONE), "do not sum to 1"),
    "label": (lambda: scores.brier(ONE, 2 * ONE), "label 2 in row 0; expected whole numbers from 0 to 1"),
    "half a label": (lambda: scores.brier(ONE, 0.5 * ONE), "label 0.5 in row 0"),
    "one class": (lambda: scores.accuracy(ONE[:, None], ONE), "expected (n, C) or (n,)"),
    "bins": (lambda: scores.expected_calibration_error(ONE, ONE, bins=0), "bins=0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_line(case):
    function, message = BAD[case]
    assert_refused(function, message, error=InputError)
