"""Dataset from arrays: what is kept, what is undone, what is refused."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gp_response.data import Dataset, Split, Standardiser, dataset
from gp_response.errors import DataError

X = np.arange(12.0).reshape(6, 2) ** 1.5
SMALL = torch.tensor([[0.0], [1.0]])
Y = np.array([1.0, 3.0, 2.0, 5.0, 4.0, 0.5])


def spoilt(array, index, value):
    out = np.array(array, dtype=object if isinstance(value, str) else np.result_type(array, value))
    out[index] = value
    return out


def one_line(error) -> str:
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert text == text.strip()
    return text


REFUSED = {
    "three axes": ({"x": np.ones((2, 2, 2))}, "x has shape (2, 2, 2)"),
    "no rows": ({"x": np.ones((0, 2)), "y": []}, "x is empty"),
    "no columns": ({"x": np.ones((6, 0))}, "x is empty"),
    "lengths differ": ({"y": Y[:4]}, "y has 4 rows but x has 6"),
    "two targets": ({"y": np.ones((6, 2))}, "y has shape (6, 2)"),
    "nan in x": ({"x": spoilt(X, (3, 1), np.nan)}, "column 'x1', row 3 is missing (nan) (1 in all)"),
    "two infinities in x": (
        {"x": spoilt(spoilt(X, (4, 0), np.inf), (2, 0), -np.inf)},
        "'x0', row 2 is infinite (2 in",
    ),
    "named column": ({"x": spoilt(X, (3, 1), np.nan), "names": ["age", "size"]}, "column 'size', row 3"),
    "nan in y": ({"y": spoilt(Y, 5, np.nan)}, "y: row 5 is missing"),
    "inf in y": ({"y": spoilt(Y, 0, np.inf)}, "y: row 0 is infinite"),
    "text in x": ({"x": spoilt(X, (2, 1), "n/a")}, "x: column 1, row 2: 'n/a' is not a number"),
    "text in y": ({"y": spoilt(Y, 1, "high")}, "y: column 0, row 1: 'high' is not a number"),
    "complex x": ({"x": X + 1j}, "x is complex"),
    "complex tensor": ({"x": torch.ones(6, 2, dtype=torch.complex128)}, "x is complex"),
    "sparse tensor": ({"x": torch.eye(6).to_sparse()}, "x is a sparse tensor"),
    "dates": ({"x": np.array(["2020-01-01"] * 6, dtype="datetime64[D]")}, "x holds dates"),
    "ragged": ({"x": [[1.0, 2.0], [3.0]]}, "rows of different lengths"),
    "not an array": ({"x": object()}, "x is a object"),
    "frame with text": ({"x": pd.DataFrame({"a": range(6), "b": list("uvwxyz")})}, "column 'b', row 0: 'u' is not a"),
    "frame with dates": (
        {"x": pd.DataFrame({"d": pd.date_range("2020", periods=6)})},
        "column 'd' has type datetime64",
    ),
    "weights too short": ({"weights": [1.0, 2.0]}, "weights has 2 rows but x has 6"),
    "negative weight": ({"weights": [1, 1, -0.5, 1, 1, 1]}, "weights: row 2 is -0.5"),
    "zero weights": ({"weights": np.zeros(6)}, "weights are all zero"),
    "nan weight": ({"weights": spoilt(np.ones(6), 4, np.nan)}, "weights: row 4 is missing"),
    "names too few": ({"names": ["a"]}, "1 names for the 2 columns"),
    "names twice": ({"names": ["a", "a"]}, "'a' occurs more than once"),
    "test x of other width": ({"test_x": np.ones((3, 5)), "test_y": np.ones(3)}, "test_x has 5 columns but x has 2"),
    "test y alone": ({"test_y": Y}, "test_y came without test_x"),
    "test x alone": ({"test_x": X}, "test_x came without test_y"),
    "test lengths": ({"test_x": X, "test_y": Y[:2]}, "test_y has 2 rows but test_x has 6"),
    "nan in test": ({"test_x": spoilt(X, (1, 0), np.nan), "test_y": Y}, "test_x: column 'x0', row 1 is missing"),
    "one row": ({"x": X[:1], "y": Y[:1]}, "pass standardise=False"),
    "standardise misspelt": ({"standardise": "y"}, "standardise='y'; expected True, False or 'x'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_arrays_are_refused_in_one_line_that_names_the_place(case):
    arguments, words = REFUSED[case]
    arguments = {"x": X, "y": Y, **arguments}
    with pytest.raises(DataError) as error:
        dataset(arguments.pop("x"), arguments.pop("y"), **arguments)
    assert words in one_line(error)


def test_frames_must_agree_on_their_columns():
    frame = pd.DataFrame(X, columns=["a", "b"])
    with pytest.raises(DataError, match=r"test_x has columns \['b', 'a'\] but x has \['a', 'b'\]"):
        dataset(frame, Y, test_x=frame[["b", "a"]], test_y=Y)
    assert dataset(frame, pd.Series(Y), test_x=frame, test_y=Y, names=["u", "v"]).names == ("u", "v")


def test_values_that_overflow_are_refused_by_name():
    with pytest.raises(DataError, match="'x1' has values too large to standardise") as error:
        dataset(np.c_[np.arange(3.0), [1.7e308, 1.7e308, -1.7e308]], Y[:3])
    one_line(error)
    tiny = torch.tensor([[0.0], [1e-38]])
    with pytest.raises(DataError, match=r"test column 'x0', row 1 overflows torch\.float32") as error:
        dataset(tiny, Y[:2], test_x=torch.tensor([[0.0], [3e38]]), test_y=Y[:2])
    one_line(error)
    with pytest.raises(DataError, match=r"test target overflows torch\.float32"):
        dataset(SMALL, torch.tensor([0.0, 1e-38]), test_x=SMALL, test_y=torch.tensor([0.0, 3e38]))


def test_training_columns_have_mean_zero_and_scale_one_and_the_test_set_has_no_say():
    alone, both = dataset(X, Y), dataset(X, Y, test_x=1e3 * X, test_y=1e3 * Y)
    assert alone.train.x.mean(0).abs().max() < 1e-14
    assert (alone.train.x.std(0, correction=0) - 1).abs().max() < 1e-14
    assert torch.equal(alone.train.x, both.train.x)
    assert torch.equal(alone.train.y, both.train.y)
    assert torch.allclose(both.undo_x(both.test.x), torch.from_numpy(1e3 * X), rtol=1e-13)
    assert torch.allclose(both.undo_y(both.test.y), torch.from_numpy(1e3 * Y), rtol=1e-13)


floats = st.floats(-1e150, 1e150, allow_subnormal=False)


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6), elements=floats))
def test_undo_after_standardise_is_the_identity(x):
    data = dataset(x, x[:, 0])
    assert torch.isfinite(data.train.x).all()
    assert torch.isfinite(data.train.y).all()
    # One rounding each for minus, over, times and plus, relative to the largest number of the column.
    tolerance = 4 * np.finfo(np.float64).eps * np.abs(x).max(0)
    assert (np.abs(data.undo_x(data.train.x).numpy() - x) <= tolerance).all()
    assert (np.abs(data.undo_y(data.train.y).numpy() - x[:, 0]) <= tolerance[0]).all()


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float64, (5, 3), elements=st.floats(-1e6, 1e6, width=32)),
    hnp.arrays(np.float64, (4, 3), elements=st.floats(-100, 100, allow_subnormal=False)),
)
def test_standardise_after_undo_is_the_identity(x, z):
    scaler, z = Standardiser.of(torch.from_numpy(x), torch.from_numpy(x[:, 0])), torch.from_numpy(z)
    # What undo rounds away is eps * |x|, and standardising divides it by the scale.
    lost = 4 * np.finfo(np.float64).eps * (z.abs() + (scaler.x_mean.abs() + 1e-300) / scaler.x_scale + 1)
    assert ((scaler.do_x(scaler.undo_x(z)) - z).abs() <= lost).all()
    assert ((scaler.do_y(scaler.undo_y(z[:, 0])) - z[:, 0]).abs() <= lost[:, 0]).all()


@pytest.mark.parametrize("value", [0.1, 1e-200, 1e8 + 0.1, -3.0])
def test_a_constant_column_becomes_exactly_zero_with_a_note(value):
    data = dataset(np.c_[np.full(7, value), np.arange(7.0)], np.arange(7.0), names=["same", "other"])
    assert torch.equal(data.train.x[:, 0], torch.zeros(7, dtype=torch.float64))
    assert data.scaler.x_scale[0] == 1.0
    assert data.undo_x(data.train.x)[0, 0] == value
    assert "column 'same' is constant on the training rows: centred, scale 1" in data.notes


def test_a_constant_target_has_scale_one_and_a_note():
    data = dataset(X, np.full(6, 2.5))
    assert float(data.scaler.y_scale) == 1.0
    assert torch.equal(data.undo_y(data.train.y), torch.full((6,), 2.5).double())
    assert any("target 'y' is constant" in note for note in data.notes)


@pytest.mark.parametrize("size", [1e-170, 1e-300, 1e160])
def test_extreme_scales_do_not_underflow_or_overflow(size):
    data = dataset(size * X, Y)
    assert torch.allclose(data.train.x, dataset(X, Y).train.x, rtol=1e-12)


def test_standardise_x_leaves_classes_alone():
    labels = np.array([0, 1, 2, 1, 0, 2])
    data = dataset(X, labels, standardise="x")
    assert data.train.y.tolist() == labels.tolist()
    assert abs(float(data.train.x.mean())) < 1e-14


def test_without_standardising_numbers_stay_and_one_row_is_enough():
    data = dataset(X[:1], Y[:1], standardise=False)
    assert data.train.x.tolist() == X[:1].tolist()
    assert data.train.y.tolist() == Y[:1].tolist()
    assert torch.equal(data.undo_x(data.train.x), data.train.x)


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (lambda: torch.from_numpy(X).float(), torch.float32),
        (lambda: torch.from_numpy(X), torch.float64),
        (lambda: torch.from_numpy(X).half(), torch.float64),
        (lambda: torch.from_numpy(X).long(), torch.float64),
        (lambda: X.astype(np.float32), torch.float32),
        (lambda: X.astype(np.int32), torch.float64),
        (lambda: X > 5, torch.float64),
        (lambda: X.tolist(), torch.float64),
        (lambda: X.astype(object), torch.float64),
        (lambda: pd.DataFrame(X).astype("Float64"), torch.float64),
        (lambda: pd.DataFrame(X), torch.float64),
    ],
)
def test_only_float32_makes_float32_sets(make, dtype):
    data = dataset(make(), Y, test_x=X, test_y=Y)
    assert {t.dtype for s in (data.train, data.test) for t in (s.x, s.y, s.weights)} == {dtype}
    assert data.train.rows.dtype == torch.long
    assert data.scaler.x_mean.dtype == torch.float64
    assert data.undo_x(data.train.x).dtype == dtype


def test_float32_data_are_scaled_in_float64():
    # Neighbouring float32 numbers: their mean and spread in float32 would be lost to rounding.
    x = torch.tensor([[16_777_216.0], [16_777_218.0], [16_777_220.0]])
    data = dataset(x, [0.0, 1.0, 2.0])
    assert torch.allclose(data.train.x[:, 0], torch.tensor([-1.5, 0.0, 1.5]).abs().sqrt() * torch.tensor([-1, 0, 1]))
    assert torch.equal(data.undo_x(data.train.x), x)


def test_shapes_names_and_rows():
    data = dataset(X[:, 0], Y[:, None], test_x=X[:2, 0], test_y=Y[:2], names=["t"], target="height")
    assert data.train.x.shape == (6, 1)
    assert data.train.y.shape == (6,)
    assert (data.dim, len(data.test)) == (1, 2)
    assert (data.names, data.target) == (("t",), "height")
    assert data.train.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.train.weights.tolist() == [1.0] * 6
    assert len(dataset(X, Y).test) == 0
    assert dataset(X, Y).test.x.shape == (0, 2)


def test_a_set_is_frozen_and_shares_no_memory_with_its_source():
    x, y, weights = torch.from_numpy(X.copy()), Y.copy(), pd.Series(np.ones(6))
    data = dataset(x, y, weights=weights, standardise=False)
    x.fill_(0.0)
    y[:] = 0.0
    data.train.weights.fill_(7.0)
    assert weights.tolist() == [1.0] * 6
    assert data.train.x.tolist() == X.tolist()
    assert data.train.y.tolist() == Y.tolist()
    for thing in (data, data.train, data.scaler):
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.x = x


def test_duplicates_are_allowed_and_counted():
    x = np.r_[X, X[:2], X[:1]]
    data = dataset(x, np.r_[Y, Y[:1], 9.0, 9.0], test_x=X[3:5], test_y=Y[3:5])
    assert "3 training rows repeat the inputs of an earlier one, 1 of them its target too" in data.notes
    assert "2 of 2 test rows have the inputs of a training row" in data.notes
    assert dataset(np.array([0.0, -0.0]), [0.0, 1.0]).notes[0].startswith("1 training rows repeat")
    assert dataset(X, Y).notes == ()


def test_with_train_replaces_without_refitting_the_scaler():
    data = dataset(X, Y)
    more = data.with_train(
        x=torch.cat([data.train.x, torch.zeros(1, 2).double()]),
        y=torch.cat([data.train.y, torch.zeros(1).double()]),
        weights=torch.ones(7).double(),
        rows=torch.cat([data.train.rows, torch.tensor([-1])]),
    )
    assert len(more.train) == 7
    assert len(data.train) == 6
    assert more.scaler is data.scaler
    with pytest.raises(DataError, match="x 6, y 5, weights 6, rows 6"):
        data.with_train(y=data.train.y[:5])
    with pytest.raises(DataError, match=r"expected \(n, 2\)"):
        data.with_train(x=torch.zeros(6, 3))


def test_with_train_works_inside_torch_func():
    data = dataset(X, Y, weights=[1, 2, 3, 1, 1, 1])

    def weighted_mean(weights):
        train = data.with_train(weights=weights).train
        return (train.weights * train.y).sum() / train.weights.sum()

    w = data.train.weights
    by_hand = (data.train.y - weighted_mean(w)) / w.sum()
    assert torch.allclose(torch.func.jacrev(weighted_mean)(w), by_hand, atol=1e-14)
    assert torch.allclose(torch.func.jacfwd(weighted_mean)(w), by_hand, atol=1e-14)
    back = torch.func.jacrev(lambda x: data.undo_x(data.with_train(x=x).train.x))(data.train.x)
    assert torch.allclose(torch.einsum("ijij->ij", back), data.scaler.x_scale.expand(6, 2))
    stacked = torch.func.vmap(weighted_mean)(torch.stack([w, 2 * w, torch.ones_like(w)]))
    assert torch.allclose(stacked[0], stacked[1])
    assert torch.allclose(stacked[2], data.train.y.mean())


@pytest.mark.parametrize("which", [[4, 1], torch.tensor([4, 1]), np.array([4, 1])])
def test_keep_takes_positions_in_order(which):
    data = dataset(X, Y, test_x=X, test_y=Y)
    kept = data.keep(which)
    assert kept.train.rows.tolist() == [4, 1]
    assert torch.equal(kept.train.x, data.train.x[[4, 1]])
    assert torch.equal(kept.test.x, data.test.x)
    assert kept.scaler is data.scaler


def test_keep_takes_a_mask():
    mask = np.array([True, False, True, False, False, True])
    assert dataset(X, Y).keep(mask).train.rows.tolist() == [0, 2, 5]


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ([6], "training row 6 does not exist; positions run from 0 to 5"),
        ([-1], "training row -1 does not exist"),
        ([], "keep was given 0 rows"),
        ([0.5], "expected a mask or a list of positions"),
        ([True, False], "the mask has shape (2,)"),
        ([False] * 6, "keep was given 0 rows"),
    ],
)
def test_keep_refuses(which, words):
    with pytest.raises(DataError) as error:
        dataset(X, Y).keep(which)
    assert words in one_line(error)


def test_fingerprint_sees_every_part():
    data = dataset(X, Y, test_x=X + 1, test_y=Y)
    same = dataset(X.copy(), Y.copy(), test_x=X + 1, test_y=Y)
    assert data.fingerprint() == same.fingerprint()
    assert len(data.fingerprint()) == 64
    bumped = data.train.y.clone()
    bumped[3] = torch.nextafter(bumped[3], torch.tensor(9.0).double())
    others = [
        data.with_train(y=bumped),
        data.with_train(weights=2 * data.train.weights),
        data.with_train(rows=data.train.rows + 1),
        data.keep([0, 1, 2, 3, 5, 4]),
        dataset(X, Y, test_x=X + 2, test_y=Y),
        dataset(X, Y, test_x=X + 1, test_y=Y, names=["a", "b"]),
        dataset(X, Y, test_x=X + 1, test_y=Y, target="z"),
        dataset(2 * X, Y, test_x=2 * X + 2, test_y=Y),
        data.to(dtype=torch.float32),
    ]
    assert len({data.fingerprint(), *(other.fingerprint() for other in others)}) == len(others) + 1


def test_to_casts_everything_but_the_scaler():
    data = dataset(X, Y, test_x=X, test_y=Y).to(dtype=torch.float32, device="cpu")
    assert data.train.x.dtype == data.test.weights.dtype == torch.float32
    assert data.train.rows.dtype == torch.long
    assert data.scaler.x_scale.dtype == torch.float64
    assert torch.allclose(data.undo_x(data.train.x), torch.from_numpy(X).float(), atol=1e-5)


def test_repr_says_what_it_is():
    assert repr(dataset(X, Y)) == "Dataset(6 training and 0 test rows, 2 columns, target='y', float64 on cpu)"
    assert isinstance(dataset(X, Y), Dataset)
    assert isinstance(dataset(X, Y).train, Split)


def test_drawn_rows_keep_their_order_and_follow_the_seed():
    data = dataset(X, Y)
    drawn = data.draw(3, seed=1).train.rows.tolist()
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 3
    assert data.draw(3, torch.Generator().manual_seed(1)).train.rows.tolist() == drawn
    assert len({tuple(data.draw(3, seed=seed).train.rows.tolist()) for seed in range(20)}) > 1
    assert len(data.draw(10**6).train) == len(data.train)
    with pytest.raises(DataError, match="-2 rows asked for"):
        data.draw(-2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_of_x_is_kept():
    data = dataset(torch.from_numpy(X).cuda(), Y, test_x=X, test_y=torch.from_numpy(Y))
    tensors = [getattr(s, name) for s in (data.train, data.test) for name in ("x", "y", "weights", "rows")]
    assert {t.device.type for t in (*tensors, data.scaler.x_mean)} == {"cuda"}
    assert data.keep([2, 0]).train.rows.tolist() == [2, 0]
    assert torch.allclose(data.undo_x(data.test.x.cpu()), torch.from_numpy(X))
    there = dataset(X, Y).to(device="cuda")
    assert there.train.x.is_cuda
    assert there.fingerprint() == dataset(X, Y).fingerprint()
