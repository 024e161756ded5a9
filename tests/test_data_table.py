"""Files and frames of one's own: columns of every kind, and what cannot be used said in one line."""

import datetime
import decimal
import gzip

import numpy as np
import pandas as pd
import pytest
import torch

from gp_response.data import load
from gp_response.errors import DataError, GPResponseError, InputError


def frame(**changes) -> pd.DataFrame:
    """Forty good rows, some columns of it replaced."""
    rng = np.random.default_rng(0)
    columns = {
        "age": rng.integers(18, 80, 40),
        "size": rng.normal(size=40),
        "member": rng.random(40) < 0.5,
        "city": rng.choice(["Oslo", "Rome", "Bonn"], 40),
        "seen": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, 40), unit="h"),
        "price": rng.normal(size=40),
    }
    return pd.DataFrame({**columns, **changes})


def with_cells(column, cells, dtype=object) -> dict:
    values = frame()[column].astype(dtype).copy()
    for row, cell in cells.items():
        values[row] = cell
    return {column: values}


def raw(table, **options):
    """Training inputs in source units, by column name, in source order."""
    data = load(table, target=options.pop("target", "price"), test_fraction=0.0, standardise=False, **options)
    return dict(zip(data.names, data.train.x.T, strict=True)), data


def message(error) -> str:
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert isinstance(error.value, GPResponseError)
    return text


def test_every_kind_of_column_becomes_numbers():
    table = frame()
    columns, data = raw(table)
    assert data.names == ("age", "size", "member", "city=Bonn", "city=Oslo", "city=Rome", "seen")
    assert columns["age"].tolist() == table["age"].tolist()
    assert columns["size"].tolist() == table["size"].tolist()
    assert columns["member"].tolist() == table["member"].astype(float).tolist()
    for city in ("Bonn", "Oslo", "Rome"):
        assert columns[f"city={city}"].tolist() == (table["city"] == city).astype(float).tolist()
    days = [(t.to_pydatetime() - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1) for t in table["seen"]]
    assert columns["seen"].tolist() == pytest.approx(days, rel=1e-14)
    assert data.target == "price"
    assert data.train.y.tolist() == table["price"].tolist()
    assert any("'city' encoded: one column for each of its 3 levels" in note for note in data.notes)
    assert any("'seen' read as days" in note for note in data.notes)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.array([1, 2, 3, 4], dtype="Int64"), [1, 2, 3, 4]),
        (pd.array([True, False, True, True], dtype="boolean"), [1, 0, 1, 1]),
        ([decimal.Decimal("0.5"), decimal.Decimal(2), 3, 4.5], [0.5, 2, 3, 4.5]),
        (["1", " 2.5", "3e2", "-4"], [1, 2.5, 300, -4]),
        ([True, False, 1, 2], [1, 0, 1, 2]),
        (pd.to_timedelta([12, 24, 36, 48], unit="h"), [0.5, 1, 1.5, 2]),
        (pd.date_range("1970-01-02", periods=4, tz="UTC"), [1, 2, 3, 4]),
        (pd.to_datetime(["1970-01-02"] * 3 + ["1970-01-03"]).tz_localize("Etc/GMT+12"), [1.5, 1.5, 1.5, 2.5]),
        (["1970-01-02", "1970-01-02T12:00", "1970-01-03T00:00Z", "1970-01-04 06:00"], [1, 1.5, 2, 3.25]),
        (np.array([1, 2, 3, 4], dtype=np.float32), [1, 2, 3, 4]),
    ],
)
def test_numbers_in_disguise(values, expected):
    columns, _ = raw(pd.DataFrame({"a": values, "price": [1.0, 2.0, 3.0, 5.0]}))
    assert columns["a"].tolist() == expected


def test_categories_keep_their_levels_however_they_are_stored():
    table = pd.DataFrame({"a": pd.Categorical([3, 1, 3, 2]), "price": [1.0, 2.0, 3.0, 5.0]})
    columns, _ = raw(table)
    assert list(columns) == ["a=1", "a=2", "a=3"]
    assert columns["a=3"].tolist() == [1, 0, 1, 0]


REFUSED = {
    "missing number": (
        with_cells("size", {7: np.nan, 9: None}),
        "column 'size', row 7 is missing (2 in this column, 2",
    ),
    "missing category": (with_cells("city", {3: None}), "column 'city', row 3 is missing (1 in this column, 1 rows"),
    "missing date": (with_cells("seen", {5: pd.NaT}, "datetime64[ns]"), "column 'seen', row 5 is missing"),
    "missing target": (with_cells("price", {2: np.nan}), "column 'price', row 2 is missing"),
    "text among numbers": (
        with_cells("age", {17: "n/a", 20: "?"}),
        "column 'age', row 17: 'n/a' is not a number (2 such",
    ),
    "infinite": (with_cells("size", {4: -np.inf}, float), "column 'size', row 4 is infinite (1 in all)"),
    "infinite text": (with_cells("size", {4: "inf"}), "column 'size', row 4 is infinite"),
    "infinite target": (with_cells("price", {0: np.inf}, float), "column 'price', row 0 is infinite"),
    "many levels": (
        {"city": [f"c{i:02}" for i in range(40)]},
        "column 'city' has 40 levels (such as 'c00'), at most 32",
    ),
    "complex": ({"size": np.ones(40) + 1j}, "column 'size' is complex"),
    "lists": ({"city": [["Oslo"]] * 40}, "column 'city', row 0: a list is neither number nor text"),
    "dates as objects": ({"seen": [datetime.date(2020, 1, 1)] * 40}, "column 'seen', row 0: a date is neither"),
    "constant target": ({"price": 2.5}, "target 'price' is 2.5 in every row"),
    "text target": ({"price": ["lo", "hi"] * 20}, "target 'price' holds text ('lo' in row 0)"),
    "date target": ({"price": frame()["seen"]}, "target 'price' holds dates"),
    "half text target": (with_cells("price", {1: "free"}), "column 'price', row 1: 'free' is not a number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_columns_are_refused_in_one_line_that_names_column_and_row(case):
    changes, words = REFUSED[case]
    with pytest.raises(DataError) as error:
        load(frame(**changes), target="price")
    assert words in message(error)


def test_an_empty_target_is_refused():
    with pytest.raises(DataError) as error:
        load(frame(price=[None] * 40), target="price", missing="drop")
    assert "0 of 40 rows can be used" in message(error)


def test_drop_leaves_rows_out_and_says_so():
    changes = {**with_cells("age", {17: "n/a", 3: None}), **with_cells("city", {3: None, 5: None})}
    columns, data = raw(frame(**changes), missing="drop")
    kept = [i for i in range(40) if i not in (3, 5, 17)]
    assert data.train.rows.tolist() == kept
    assert columns["age"].tolist() == frame()["age"][kept].tolist()
    assert data.notes[0] == "3 of 40 rows dropped: missing or unreadable in 'age' 2, 'city' 2"


@pytest.mark.parametrize("value", [1.5, "same", True, pd.Timestamp("2020-01-01")])
def test_constant_columns_are_dropped_with_a_note(value):
    columns, data = raw(frame(size=value))
    assert "size" not in columns
    assert "column 'size' dropped: the same value in every row" in data.notes


def test_duplicate_rows_are_noted():
    table = pd.concat([frame(), frame().iloc[:3]], ignore_index=True)
    _, data = raw(table)
    assert "3 training rows repeat the inputs of an earlier one, 3 of them its target too" in data.notes


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (frame(), {}, "target=... is needed, the column to predict; columns: age, size, member"),
        (frame(), {"target": "prise"}, "no column 'prise' to predict; did you mean 'price'"),
        (frame(), {"target": "zzzzzz"}, "no column 'zzzzzz' to predict; columns: age, size"),
        (frame().iloc[:0], {"target": "price"}, "0 of 0 rows can be used"),
        (frame().iloc[:1], {"target": "price"}, "1 of 1 rows can be used; expected at least two"),
        (frame()[["price"]], {"target": "price"}, "no input column is left beside the target"),
        (frame(age=1)[["age", "price"]], {"target": "price"}, "no input column is left"),
        (
            frame().set_axis(["a", "a", "b", "c", "d", "price"], axis=1),
            {"target": "price"},
            "'a' occurs more than once",
        ),
        (frame(**{"city=Rome": range(40)}), {"target": "price"}, "'city=Rome' occurs more than once"),
        (frame(), {"target": "price", "missing": "mean"}, "missing='mean'; expected 'refuse' or 'drop'"),
        (42, {}, "cannot load a int"),
    ],
)
def test_unusable_tables_are_refused(table, options, words):
    with pytest.raises(InputError) as error:
        load(table, **options)
    assert words in message(error)


def test_numeric_column_names_and_index_are_harmless():
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(9, 3)), index=list("abcdefghi"))
    data = load(table, target="2", test_fraction=0.0)
    assert data.names == ("0", "1")
    assert data.train.rows.tolist() == list(range(9))
    assert torch.allclose(data.undo_x(data.train.x), torch.tensor(table[[0, 1]].to_numpy()))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet"])
def test_a_file_gives_what_its_frame_gives(tmp_path, suffix):
    path = tmp_path / f"houses{suffix}"
    if suffix == ".parquet":
        frame().to_parquet(path)
    else:
        frame().to_csv(path, index=False, sep="\t" if "tsv" in suffix else ",")
    expected = load(frame(), target="price", seed=3)
    for source in (path, str(path)):
        found = load(source, target="price", seed=3)
        assert found.names == expected.names
        assert torch.equal(found.train.rows, expected.train.rows)
        assert torch.allclose(found.train.x, expected.train.x)
        assert torch.allclose(found.test.y, expected.test.y)


def test_a_saved_row_index_is_not_an_input(tmp_path):
    frame().to_csv(tmp_path / "a.csv")
    data = load(tmp_path / "a.csv", target="price")
    assert data.names[0] == "age"
    assert "column 0 dropped: it has no name in the header" in data.notes[0]
    frame().iloc[::-1].to_parquet(tmp_path / "a.parquet", index=True)
    data = load(tmp_path / "a.parquet", target="price")
    assert data.names[0] == "age"
    assert "'__index_level_0__' dropped" in data.notes[0]


def broken_files(folder) -> dict:
    """Path and expected words of every file that cannot be read."""
    files = {
        "empty.csv": (b"", "the file is empty"),
        "header.csv": (b"a,price\n", "0 of 0 rows can be used"),
        "ragged.csv": (b"a,price\n1,2\n3,4,5\n6,7\n", "Expected 2 fields in line 3, saw 3"),
        "wide.csv": (b"a,price\n1,2,9\n3,4,9\n6,7,9\n", "Length of header"),
        "twice.csv": (b"a,a,price\n1,2,3\n3,4,5\n", "'a' occurs more than once"),
        "latin.csv": ("stra\xdfe,price\n1,2\n3,4\n".encode("latin-1"), "not UTF-8 text"),
        "quote.csv": (b'a,price\n"1,2\n3,4\n', "EOF inside string"),
        "text.csv": (b"a,price\n1,2\n2,3\nx,4\n4,6\n", "column 'a', row 2: 'x' is not a number"),
        "hole.csv": (b"a,price\n1,2\n,3\n3,4\n", "column 'a', row 1 is missing"),
        "plain.csv.gz": (b"a,price\n1,2\n", "cannot be read as .csv.gz"),
        "cut.csv.gz": (gzip.compress(b"a,price\n" + b"1.5,2\n" * 999)[:-20], "cannot be read as .csv.gz"),
        "fake.parquet": (b"a,price\n1,2\n", "cannot be read as .parquet"),
        "book.xlsx": (b"PK", "not a format that can be read; expected .csv, .csv.gz"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder.csv").mkdir()
    return {
        **{name: words for name, (_, words) in files.items()},
        "folder.csv": "is a folder; expected a file",
        "emty.csv": "did you mean 'empty.csv'",
        "nowhere/other.csv": "check the path",
    }


def test_broken_files_are_refused_in_one_line(tmp_path):
    for name, words in broken_files(tmp_path).items():
        with pytest.raises(InputError) as error:
            load(tmp_path / name, target="price")
        assert words in message(error), name
