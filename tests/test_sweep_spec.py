"""What a sweep asks for: axes from text, files and Python; grids, zips, random and Bayesian searches."""

import json
import math
import textwrap

import numpy as np
import pytest

from gp_response import sweep
from gp_response.errors import InputError
from gp_response.sweep import Range, Spec
from gp_response.sweep.bayes import propose, spread

SOURCE = '''
"""A bowl."""
GRID = {}
SMOKE = {}


def main(
    kernel: str = "rbf", rank: int = 16, rate: float = 0.1, sizes: list[int] = [1, 2], seed: int = 0, flag: bool = False,
    nested: list[list[int]] = [[1]], options: dict[str, float] = {}, pair: tuple[int, str] = (1, "a"), limit: float = float("inf"),
) -> dict:
    return {"loss": {"value": (rate - 0.3) ** 2 + (kernel == "rbf") + 0.01 * seed}, "name": kernel}
'''


@pytest.fixture
def bowl(tmp_path):
    (tmp_path / "bowl.py").write_text(textwrap.dedent(SOURCE).lstrip())
    return sweep.load_experiment("bowl", tmp_path)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("kernel=rbf,matern32", ("rbf", "matern32")),
        ("rank=16,64,16", (16, 64, 16)),  # a zip may repeat values; a grid takes each once
        ("seed=0..4", (0, 1, 2, 3, 4)),
        ("seed=0..2,7", (0, 1, 2, 7)),
        ("seed=-1..1", (-1, 0, 1)),
        ("rate=1e-4..0.1", Range(1e-4, 0.1)),
        ("rate=log:1e-4..1e-1", Range(1e-4, 0.1, log=True)),
        ("rank=log:4..256", Range(4, 256, log=True, whole=True)),
        ("rate=0.5,1", (0.5, 1.0)),
        ("sizes=[1,2],[3]", ([1, 2], [3])),
        ("flag=true,false", (True, False)),
        ("kernel=a..b", ("a..b",)),
        ("kernel=1..3,b", ("1..3", "b")),
        ('kernel="a,b",c', ("a,b", "c")),
        ("nested=[[1,2],[3]],[[4]]", ([[1, 2], [3]], [[4]])),
        ('options={"a":1,"b":2},{}', ({"a": 1, "b": 2}, {})),
        ('pair=[2,"b"]', ([2, "b"],)),
        ("limit=inf,-inf,1", (math.inf, -math.inf, 1.0)),
    ],
)
def test_axes_are_read_as_the_annotations_ask(bowl, word, expected):
    [axis] = sweep.read_space(bowl, sweep.assignments([word])).axes.values()
    assert axis == expected
    if isinstance(expected, tuple):
        assert [type(value) for value in axis] == [type(value) for value in expected]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("kernl=rbf", "did you mean 'kernel'"),
        ("rank=16,many", "must be int, got 'many'"),
        ("seed=4..0", "smaller number first"),
        ("rate=0.1..0.01", "smaller one first"),
        ("rate=log:0..1", "positive"),
        ("rate=0..1,3", "range among values"),
        ("rank", "key=values"),
        ("rank=", "must be int"),
        ("rank=16,", "empty value"),
        ("kernel=a,,b", "empty value"),
        ("rank=1e400", "must be int, got '1e400'"),
        ("rank=NaN", "must be int, got 'NaN'"),
        ("rank=0..1000000000", "has 1000000001 values"),
        ("pair=[2,3]", "must be tuple"),
    ],
)
def test_a_wrong_axis_is_one_clear_line(bowl, word, message):
    with pytest.raises(InputError, match=message) as caught:
        sweep.read_space(bowl, sweep.assignments([word]))
    assert len(str(caught.value).splitlines()) == 1


def test_a_grid_has_every_combination_once_and_complete(bowl):
    configs = Spec({"kernel": "rbf,matern32", "rank": [1, 2, 2]}, seeds=2).configs(bowl)
    assert len(configs) == 8
    assert {(c["kernel"], c["rank"], c["seed"]) for c in configs} == {
        (k, r, s) for k in ("rbf", "matern32") for r in (1, 2) for s in (0, 1)
    }
    assert all(c.keys() == bowl.defaults.keys() for c in configs)


def test_a_zip_takes_the_kth_values_together(bowl):
    configs = Spec({"kernel": "a,b,c", "rank": "1,2,3", "rate": 0.5}, search="zip").configs(bowl)
    assert [(c["kernel"], c["rank"], c["rate"]) for c in configs] == [("a", 1, 0.5), ("b", 2, 0.5), ("c", 3, 0.5)]
    with pytest.raises(InputError, match="kernel 2, rank 3"):
        Spec({"kernel": "a,b", "rank": "1,2,3"}, search="zip").configs(bowl)


def test_a_random_search_is_within_its_ranges_even_and_the_same_again(bowl):
    spec = Spec({"rate": "log:1e-4..1", "rank": "log:1..1000", "kernel": "a,b"}, search="random", samples=400, seed=3)
    configs = spec.configs(bowl)
    assert configs == spec.configs(bowl)
    assert len(configs) == 400
    logs = np.log10([c["rate"] for c in configs])
    assert logs.min() >= -4
    assert logs.max() <= 0
    # the mean of 400 even draws on an interval of 4 lies within four standard errors of its middle
    assert abs(logs.mean() + 2.0) < 4 * 4 / math.sqrt(12 * 400)
    assert all(isinstance(c["rank"], int) and 1 <= c["rank"] <= 1000 for c in configs)
    assert {c["kernel"] for c in configs} == {"a", "b"}


def test_a_random_search_of_few_points_gives_all_of_them_once(bowl):
    configs = Spec({"kernel": "a,b", "rank": "1..3"}, search="random", samples=50).configs(bowl)
    assert len(configs) == 6


@pytest.mark.parametrize("axis", [Range(2.0, 5.0), Range(1e-3, 10.0, log=True)])
def test_the_share_of_a_number_on_a_range_is_the_inverse_of_the_number_at_a_share(axis):
    for share in (0.0, 0.25, 1.0):
        assert axis.share(axis.at(share)) == pytest.approx(share, abs=1e-12)
    assert axis.at(0.0) == pytest.approx(axis.low)
    assert axis.at(1.0) == pytest.approx(axis.high)


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({}, {"search": "gird"}, "did you mean 'grid'"),
        ({}, {"search": "bayes"}, "needs an objective"),
        ({}, {"objective": "loss"}, "other searches have none"),
        ({}, {"samples": 0}, "at least 1"),
        ({"seed": "0..3"}, {"seeds": 2}, "no axis names"),
        ({"rate": "0..1"}, {}, "rate is a range"),
        ({"rate": "0..1"}, {"search": "zip"}, "rate is a range"),
        ({"rank": []}, {}, "no values"),
        ({"rate": {"low": 0.1, "hihg": 1.0}}, {}, "expected a value, a list, or"),
        ({"rate": {"low": 0.1}}, {}, "expected a value, a list, or"),
        ({"kernel": {"low": "a", "high": "b"}}, {}, "kernel is no number"),
        ([1], {}, "values by parameter"),
        ({}, {"seeds": "5"}, "seeds is '5'"),
        ({}, {"samples": 2.5}, "samples is 2.5"),
        ({}, {"maximise": "no"}, "maximise is 'no'"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(bowl, axes, options, message):
    with pytest.raises(InputError, match=message):
        Spec(axes, **options).configs(bowl)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"seed": range(3)}, (0, 1, 2)),
        ({"rank": np.arange(3)}, (0, 1, 2)),
        ({"rank": [np.int64(4)]}, (4,)),
        ({"rate": [np.float32(0.5), np.float64(2.0)]}, (0.5, 2.0)),
        ({"rate": ["1e-4", 1]}, (1e-4, 1.0)),  # what YAML makes of 1e-4
        ({"rate": {"low": "1e-4", "high": 1, "log": True}}, Range(1e-4, 1.0, log=True)),
        ({"rate": Range(0.1, 1.0)}, Range(0.1, 1.0)),
        ({"rank": Range(1, 9, log=True)}, Range(1, 9, log=True, whole=True)),
        ({"options": {"a": 1.0}}, ({"a": 1.0},)),
    ],
)
def test_axes_are_read_from_what_python_and_files_have(bowl, given, expected):
    [axis] = sweep.read_space(bowl, given).axes.values()
    assert axis == expected
    if isinstance(expected, tuple):
        assert [type(value) for value in axis] == [type(value) for value in expected]


def test_a_parameter_is_given_once():
    with pytest.raises(InputError, match="seed is given twice, as 0 and as 1; write seed=0,1"):
        sweep.assignments(["seed=0", "seed=1"])


YAML = "experiment: bowl\nsearch: zip\naxes:\n  kernel: [rbf, matern32]\n  seed: 0..1\n  rate: 0.5\nworkers: 2\n"
TOML = 'experiment = "bowl"\nsearch = "zip"\nworkers = 2\n[axes]\nkernel = ["rbf", "matern32"]\nseed = "0..1"\nrate = 0.5\n'
JSON = json.dumps({"experiment": "bowl", "search": "zip", "workers": 2,
                   "axes": {"kernel": ["rbf", "matern32"], "seed": "0..1", "rate": 0.5}})  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [("a.yaml", YAML), ("a.toml", TOML), ("a.json", JSON)])
def test_files_and_python_ask_for_the_same(bowl, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    experiment, spec, rest = sweep.read_spec(tmp_path / name)
    assert (experiment, rest) == ("bowl", {"workers": 2})
    assert spec.configs(bowl) == Spec({"kernel": "rbf,matern32", "seed": "0..1", "rate": "0.5"}, search="zip").configs(
        bowl
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "axes: {}", "names no experiment"),
        ("a.yaml", "experiment: [", "cannot be read"),
        ("a.toml", "experiment", "cannot be read"),
        ("a.txt", "", "no sweep file"),
        ("a.yaml", "- a", "names no experiment"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        sweep.read_spec(tmp_path / name)


def test_the_identity_of_a_sweep_follows_what_it_asks_for(bowl):
    one = Spec({"rate": "0..1"}, search="random", samples=3)
    assert one.identity(bowl) == Spec({"rate": {"low": 0, "high": 1}}, search="random", samples=3).identity(bowl)
    assert one.identity(bowl) != Spec({"rate": "0..1"}, search="random", samples=4).identity(bowl)


def loss(point):
    return -((point["rate"] - 0.3) ** 2 + 0.3 * (point["kernel"] != "b"))


def test_bayesian_proposals_close_in_on_the_optimum_faster_than_even_ones(bowl):
    space = sweep.read_space(bowl, {"rate": "0..1", "kernel": "a,b,c"})
    seen = [(point, loss(point)) for point in spread(space, 6, 0)]
    for _ in range(8):
        [point] = propose(space, seen, [], 1, 0)
        assert point not in [old for old, _ in seen]
        seen.append((point, loss(point)))
    best = max(value for _, value in seen)
    assert max(seen, key=lambda pair: pair[1])[0]["kernel"] == "b"
    assert best > max(loss(point) for point in spread(space, 14, 0))
    assert best > -1e-3


def test_proposals_keep_away_from_what_is_running(bowl):
    space = sweep.read_space(bowl, {"rate": "0..1", "kernel": "a,b,c"})
    seen = [(point, loss(point)) for point in spread(space, 8, 0)]
    [first] = propose(space, seen, [], 1, 0)
    [second] = propose(space, seen, [first], 1, 0)
    assert second != first
    assert propose(space, seen, [], 2, 0) == [first, second]


def test_a_space_that_is_used_up_gives_no_proposals(bowl):
    space = sweep.read_space(bowl, {"rank": "1..3"})
    seen = [({"rank": rank}, float(rank)) for rank in (1, 2, 3)]
    assert propose(space, seen, [], 1, 0) == []
