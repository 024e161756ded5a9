"""How far linear response goes: against closed forms of single rows, exact finite answers, and refits."""

import math

import pytest
import torch
from refusals import assert_refused

import gp_response as gr
from gp_response.testing import example_data, example_head

DATA = example_data()
X, Y = DATA.test.x, DATA.test.y
HEAD = example_head()
POSTERIOR = HEAD.condition(DATA)
CHANGES = {
    "rows": gr.reweight([0, 1, 7]),
    "sets": gr.delete([[0, 1, 2, 3], [9, 20]]),
    "new rows": gr.insert(X[:2] + 0.2, Y[:2], each=True),
    "a new set": gr.insert(X + 0.2, Y),
}


def test_single_rows_obey_their_closed_forms():
    """Of a value the first order is `1 + h S_jj/σ²` times the exact change, the second `1 - (h S_jj/σ²)²` times."""
    found = gr.regime(POSTERIOR, gr.value(X), gr.reweight(), tolerance=0.1)
    leverage = POSTERIOR.own_variance(torch.arange(40))[0].value / HEAD.noise.detach()
    for k in range(2):
        assert torch.allclose(found.first[..., k], (0.1 / leverage).expand_as(found.first[..., k]), rtol=1e-6)
        assert torch.allclose(
            found.second[..., k], (math.sqrt(0.1) / leverage).expand_as(found.first[..., k]), rtol=1e-6
        )
    assert torch.allclose(found.limits[:, 0], -1.0 / leverage)
    assert bool(found.limits[:, 1].isinf().all())


@pytest.mark.parametrize(
    "asked", [gr.loss(X, Y), gr.variance(X), gr.contrast(X, X.flip(0) + 0.1), gr.pointwise(X, torch.sigmoid)]
)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_sizes_are_where_predictions_leave_the_exact_change(asked, change):
    """Just inside predictions hold and just outside they do not, by `predict_change`."""
    found = gr.regime(POSTERIOR, asked, change, tolerance=0.05)
    for order, sizes, exact in (
        ("first", found.first, found.exact_at_first),
        ("second", found.second, found.exact_at_second),
    ):
        for a, c, side in ((0, 0, 1), (2, 1 % found.exact.shape[1], 0), (3, 0, 1)):
            size = float(sizes[a, c, side])
            if not math.isfinite(float(exact[a, c, side])):
                continue
            sign = 2 * side - 1
            off = {}
            for factor in (1.0 - 1e-4, 1.0, 1.0 + 1e-4):
                h = sign * size * factor
                truth = gr.finite_response(POSTERIOR, asked, one(change, c), h=h).matrix[a, 0]
                guess = gr.predict_change(POSTERIOR, asked, one(change, c), h=h, order=order).matrix[a, 0]
                off[factor] = float((guess - truth).abs() / truth.abs())
                if factor == 1.0:
                    assert float(truth) == pytest.approx(float(exact[a, c, side]), rel=1e-6)
            assert off[1.0 - 1e-4] <= 0.05 < off[1.0 + 1e-4]


def one(change, c):
    """The perturbation's column c alone."""
    if change.kind == "insert":
        return change if not change.each else gr.insert(change.x[c : c + 1], change.y[c : c + 1])
    return type(change)([change.rows[c].tolist()])


@pytest.mark.parametrize("h", [1.0, -0.5])
def test_at_the_amplitude_asked_about_it_is_the_finite_response_and_the_refit(h):
    change = gr.delete([[0, 1, 2, 3], [9, 20]])
    found = gr.regime(POSTERIOR, gr.loss(X, Y), change, h=h)
    assert torch.allclose(found.exact, gr.finite_response(POSTERIOR, gr.loss(X, Y), change, h=h).matrix, atol=1e-12)
    assert torch.allclose(found.exact, gr.refit_response(HEAD, DATA, gr.loss(X, Y), change, h=h).matrix, atol=1e-10)
    for order in ("first", "second"):
        predicted = gr.predict_change(POSTERIOR, gr.loss(X, Y), change, h=h, order=order)
        assert torch.allclose(getattr(found, f"{order}_change"), predicted.matrix, atol=1e-12)
    assert found.exists.all()


def test_changes_that_do_not_exist_are_flagged():
    leverage = POSTERIOR.own_variance(torch.tensor([3, 8]))[0].value / HEAD.noise.detach()
    h = -float(1.05 / leverage.max())  # beyond the limit of one of the two rows
    found = gr.regime(POSTERIOR, gr.value(X), gr.reweight([3, 8]), h=h)
    assert found.exists.tolist() == (leverage < leverage.max()).tolist()
    assert bool(found.exact[:, ~found.exists].isnan().all())
    assert not bool(found.within()[:, ~found.exists].any())
    assert "1 columns do not exist" in repr(found)
    assert gr.regime(POSTERIOR, gr.value(X), gr.insert(X[:1], Y[:1]), h=-0.1).exists.tolist() == [False]


def test_labels_are_linear_for_values_and_quadratic_for_losses():
    value, loss = (gr.regime(POSTERIOR, asked, gr.relabel([0, 7])) for asked in (gr.value(X), gr.loss(X, Y)))
    assert bool(value.first.isinf().all())
    assert bool(loss.second.isinf().all())
    assert bool(loss.first.isfinite().all())
    half = gr.predict_change(POSTERIOR, gr.loss(X, Y), gr.relabel([0, 7]), order="second").matrix
    assert torch.allclose(loss.exact, half, atol=1e-12)


def test_a_new_row_has_no_negative_side():
    found = gr.regime(POSTERIOR, gr.value(X), gr.insert(X[:2] + 0.2, Y[:2], each=True))
    assert bool(found.first[..., 0].isnan().all())
    assert bool((found.first[..., 1] > 0).all())


@pytest.mark.parametrize("solver", [gr.Cholesky(), gr.CG(tolerance=1e-10)])
def test_sets_of_half_the_rows_at_size(solver):
    data = example_data(n=900, dim=2)
    head = gr.Exact(gr.Matern32(lengthscale=1.2, outputscale=1.5), noise=0.05, solver=solver)
    posterior, x = head.condition(data), data.test.x
    rows = torch.randperm(900, generator=torch.Generator().manual_seed(0))[:450].tolist()
    found = gr.regime(posterior, gr.value(x), gr.delete(rows))
    refit = gr.refit_response(gr.Exact(head.kernel, noise=0.05), data, gr.value(x), gr.delete(rows), h=1.0)
    assert torch.allclose(found.exact, refit.matrix, atol=1e-7 * float(refit.matrix.abs().max()))
    assert float(found.limits[0, 1]) > 1.0
    assert bool((found.second[..., 1] >= found.first[..., 1]).double().mean() > 0.5)


def test_float32_data_give_float32_regimes():
    data = example_data(dtype=torch.float32)
    found = gr.regime(example_head().condition(data), gr.value(data.test.x), gr.reweight([0, 4]))
    wide = gr.regime(POSTERIOR, gr.value(X), gr.reweight([0, 4]))
    assert found.first.dtype == torch.float32
    assert torch.allclose(found.first.double(), wide.first, rtol=1e-4)


def test_a_table_has_a_row_for_every_observable_and_column():
    table = gr.regime(POSTERIOR, gr.loss(X, Y), gr.reweight([3, 5]), h=-1.0).table()
    assert len(table) == 2 * len(X)
    assert table["column"].tolist() == ["3", "5"] * len(X)
    assert table["observable"].tolist() == [f"loss[{a}]" for a in range(len(X)) for _ in range(2)]
    off = (table["first"] - table["exact"]).abs() <= 0.1 * table["exact"].abs()
    assert (off == table["first within"]).all()
    assert table["first up to"].min() > 0


BAD = {
    "no tolerance": (lambda: gr.regime(POSTERIOR, gr.value(X), gr.reweight(), tolerance=0.0), "tolerance=0.0"),
    "no amplitude": (lambda: gr.regime(POSTERIOR, gr.value(X), gr.reweight(), h=0.0), "h=0.0"),
    "the evidence": (lambda: gr.regime(POSTERIOR, gr.evidence(), gr.reweight([1])), "functionals of the field"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_regime_says_so(case):
    assert_refused(*BAD[case])
