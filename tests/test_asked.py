"""What is no posterior, no observable, no row or no number is refused in a line; what is one in another guise is taken."""

import numpy as np
import pytest
import torch
from refusals import assert_refused

import gp_response as gr
from gp_response.arguments import as_integer, as_number, as_places, as_tensor, shown

DATA = gr.load("wine")
HEAD = gr.Exact(gr.Matern32(lengthscale=2.0), noise=0.3)
POSTERIOR = HEAD.condition(DATA)
X, Y = DATA.test.x[:3], DATA.test.y[:3]
N = len(DATA.train)
V, R = gr.value(X), gr.reweight()
CHI = gr.susceptibility(POSTERIOR, V, R)
W = gr.influence(POSTERIOR)


def of_rows(rows):
    return gr.susceptibility(POSTERIOR, V, gr.reweight(rows))


BAD = {
    "points of text": (lambda: gr.value("abc"), "value got 'abc'"),
    "no points": (lambda: gr.value(None), "value got None"),
    "labels of text": (lambda: gr.loss(X, "abc"), "loss got 'abc'"),
    "a label missing": (lambda: gr.insert(X, [1.0, None, 2.0]), "insert got [1.0, None, 2.0]"),
    "weights of text": (lambda: gr.average(X, "abc"), "average's weights got 'abc'"),
    "a function that is none": (lambda: gr.pointwise(X, 3), "pointwise got 3"),
    "rows of text": (lambda: gr.reweight("abc"), "reweight got 'abc'"),
    "a row of text": (lambda: gr.reweight(["a"]), "reweight got ['a']"),
    "a group of text": (lambda: gr.reweight({"a": "b"}), "reweight got 'b'"),
    "no groups": (lambda: gr.reweight({}), "no groups"),
    "rows in a set": (lambda: gr.reweight({1, 2}), "reweight got {1, 2}"),
    "no row to delete": (lambda: gr.delete(None), "delete got None"),
    "a mask of too few rows": (lambda: of_rows(torch.ones(10, dtype=torch.bool)), "mask of 10 rows"),
    "a list of too few": (lambda: of_rows([True, False, True]), "mask of 3 rows"),
    "a mask of a row too few": (lambda: of_rows(np.ones(N - 1, dtype=bool)), f"has {N}: give True or False for each"),
    "a group's mask of too few rows": (lambda: of_rows({"a": torch.ones(10, dtype=torch.bool)}), "mask of 10 rows"),
    "masks of two lengths": (lambda: gr.reweight([np.ones(4, dtype=bool), np.ones(5, dtype=bool)]), "of 4 and 5 rows"),
    "a mask of nothing": (lambda: gr.reweight(torch.zeros(N, dtype=torch.bool)), f"of shape ({N},)"),
    "no direction": (lambda: gr.susceptibility(POSTERIOR, V, gr.shift_inputs(None)), "shift_inputs got None"),
    "arguments in the wrong order": (lambda: gr.susceptibility(POSTERIOR, R, V), "a Reweight for the observable"),
    "an observable twice": (lambda: gr.susceptibility(POSTERIOR, V, V), "a Value for the perturbation"),
    "points for an observable": (lambda: gr.finite_response(POSTERIOR, X, R), "for the observable"),
    "no perturbation": (lambda: gr.finite_response(POSTERIOR, V, None), "None for the perturbation"),
    "a head for a posterior": (lambda: gr.susceptibility(HEAD, V, R), "head.condition(data)"),
    "a head for its finite response": (lambda: gr.finite_response(HEAD, V, R), "head.condition(data)"),
    "a head for its influence": (lambda: gr.influence(HEAD), "head.condition(data)"),
    "a head for its WAIC": (lambda: gr.waic(HEAD), "head.condition(data)"),
    "a head left one out": (lambda: gr.leave_one_out(HEAD), "head.condition(data)"),
    "a head's fluctuation": (lambda: gr.fluctuation(HEAD, V, R), "head.condition(data)"),
    "a head's cumulants": (lambda: gr.third_cumulant(HEAD, [[1, 2, 3]]), "head.condition(data)"),
    "a head's regime": (lambda: gr.regime(HEAD, V, R), "head.condition(data)"),
    "a posterior for a head": (lambda: gr.refit_response(POSTERIOR, DATA, V, R), "ExactPosterior for the head"),
    "no data to refit": (lambda: gr.refit_response(HEAD, None, V, R), "None for the data"),
    "no data at all": (lambda: gr.total_susceptibility(HEAD, None, V, R), "None for the data"),
    "an amplitude of text": (lambda: gr.finite_response(POSTERIOR, V, R, h="1"), "h got '1'"),
    "an amplitude that is NaN": (lambda: gr.finite_response(POSTERIOR, V, R, h=float("nan")), "h got nan"),
    "two amplitudes": (lambda: gr.finite_response(POSTERIOR, V, R, h=[1.0, 2.0]), "h got [1.0, 2.0]"),
    "an infinite amplitude": (lambda: gr.predict_change(POSTERIOR, V, R, h=float("inf"), order="first"), "h got inf"),
    "a refit's amplitude of text": (lambda: gr.refit_response(HEAD, DATA, V, R, h="a"), "h got 'a'"),
    "pairs of text": (lambda: gr.second_response(POSTERIOR, V, gr.reweight([1, 2]), pairs="ab"), "pairs got 'ab'"),
    "a pair out of range": (lambda: gr.second_response(POSTERIOR, V, gr.reweight([1]), pairs=[[0, 1]]), "got 1"),
    "pairs of masks": (lambda: gr.second_response(POSTERIOR, V, gr.reweight([1, 2]), pairs=[[True, False]]), "bool"),
    "a direction of too few": (
        lambda: gr.second_response(POSTERIOR, V, gr.reweight([1, 2])).along([1.0]), "(2,) finite amplitudes"),
    "a direction that is NaN": (
        lambda: gr.second_response(POSTERIOR, V, gr.reweight([1, 2])).along([1.0, float("nan")]), "finite amplitudes"),
    "a triple out of range": (lambda: gr.third_cumulant(POSTERIOR, [[1, 2, -1]]), "got -1"),
    "a tolerance of text": (lambda: gr.regime(POSTERIOR, V, R, tolerance="a"), "tolerance got 'a'"),
    "a vector too short": (lambda: W.product(torch.ones(3)), f"expected ({N},) or ({N}, t)"),
    "a vector of text": (lambda: W.product("abc"), "product got 'abc'"),
    "a row that W has not": (lambda: W.rows([N]), f"got {N}"),
    "modes of text": (lambda: W.eigenmodes("a"), f"from 1 to {N}"),
    "half a representative": (lambda: W.representatives(2.5), f"from 1 to {N}"),
    "infinite weights": (lambda: gr.jackknife_covariance(CHI, weights=torch.full((N,), float("inf"))), "finite numbers"),
    "a matrix for a response": (lambda: gr.jackknife_covariance(CHI.matrix), "gr.susceptibility"),
    "a cluster of True": (lambda: gr.cluster(CHI, True), "k got True"),
    "noise of text": (lambda: gr.noise_response(POSTERIOR, V, noise="a"), "noise got 'a'"),
    "top of text": (lambda: CHI.top("a"), "top got 'a'"),
    "less than no modes": (lambda: CHI.modes(-1), "modes got -1"),
    "a convention that is a number": (lambda: CHI.to(3), "unknown convention '3'"),
    "targets of text": (lambda: gr.pattern(CHI, "abc"), "target got 'abc'"),
    "a target of text": (lambda: gr.pattern(CHI, {"value[0]": "a"}), "target of value[0] got 'a'"),
    "a pattern's tolerance of text": (lambda: gr.pattern(CHI, [0.0] * 3, tolerance="a"), "tolerance got 'a'"),
    "a mean at text": (lambda: POSTERIOR.mean("abc"), "got 'abc'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_meant_is_refused_in_a_line(case):
    assert_refused(*BAD[case], error=gr.InputError)


SAME = {
    "a mask": (lambda: of_rows(torch.arange(N) < 3), lambda: of_rows([0, 1, 2])),
    "a mask of numpy's": (lambda: of_rows(np.arange(N) < 3), lambda: of_rows([0, 1, 2])),
    "a mask as a list": (lambda: of_rows([k < 3 for k in range(N)]), lambda: of_rows([0, 1, 2])),
    "a group by its mask": (lambda: of_rows({"a": torch.arange(N) < 3}), lambda: of_rows({"a": [0, 1, 2]})),
    "one row and a group": (lambda: of_rows([3, [1, 2]]), lambda: of_rows([[3], [1, 2]])),
    "rows by numpy": (lambda: of_rows([np.int64(3), np.int32(4)]), lambda: of_rows([3, 4])),
    "a column by numpy": (
        lambda: gr.susceptibility(POSTERIOR, V, gr.shift_inputs(np.int64(1))),
        lambda: gr.susceptibility(POSTERIOR, V, gr.shift_inputs(1)),
    ),
    "one variance for all": (
        lambda: gr.susceptibility(POSTERIOR, gr.loss(X, Y, noise=0.1), R),
        lambda: gr.susceptibility(POSTERIOR, gr.loss(X, Y, noise=[0.1] * 3), R),
    ),
    "an amplitude by torch": (
        lambda: gr.finite_response(POSTERIOR, V, R, h=torch.tensor(0.5)),
        lambda: gr.finite_response(POSTERIOR, V, R, h=0.5),
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_in_another_guise_has_the_same_answer(case):
    one, other = (ask() for ask in SAME[case])
    assert torch.equal(one.matrix, other.matrix)


def test_numbers_of_modes_and_groups_may_be_numpys():
    assert len(W.eigenmodes(np.int64(2)).values) == 2
    assert len(W.representatives(np.int64(3)).rows) == 3
    assert len(gr.cluster(CHI, np.int64(2)).sizes) == 2
    assert CHI.modes(np.int64(2)).values.shape == (2,)


def test_a_response_is_read_as_its_matrix_from_either_side():
    matrix = CHI.matrix
    for got, expected in ((1.0 + CHI, 1.0 + matrix), (2 * CHI, 2 * matrix), (1.0 - CHI, 1.0 - matrix), (-CHI, -matrix)):
        assert torch.equal(got, expected)
    assert torch.equal(matrix + CHI, matrix + matrix)
    assert torch.equal(abs(CHI), matrix.abs())


@pytest.mark.parametrize("value", [None, "a", [1], True, float("inf"), object()])
def test_a_number_is_finite_and_one(value):
    assert_refused(lambda: as_number(value, "it"), "it got", error=gr.InputError)


@pytest.mark.parametrize("value", [None, "a", 1.0, True, 0, 6, torch.ones(2)])
def test_an_integer_lies_within_its_bounds(value):
    assert_refused(lambda: as_integer(value, "it", "1 to 5", least=1, most=5), "expected 1 to 5", error=gr.InputError)


def test_arguments_that_are_what_they_should_be_are_taken():
    assert as_number(np.float32(0.5), "it") == as_number(torch.tensor(0.5), "it") == 0.5
    assert as_integer(torch.tensor(3), "it", "", least=1) == as_integer(np.int8(3), "it", "", least=1) == 3
    assert as_places([(0, 1)], "it", 2, 2, "rows").dtype == torch.long
    assert as_tensor([1, 2], "it", "").tolist() == [1, 2]
    assert_refused(lambda: as_tensor([1j], "it", "reals"), "complex", error=gr.InputError)
    assert "\n" not in shown(torch.zeros(3, 4))
    assert "\n" not in shown(["a\nb" * 99])
