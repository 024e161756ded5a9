"""Runs leave one whole result file each; configurations are checked before anything runs."""

import json
import math
import os
import sys
import textwrap
import warnings

import pytest

from gp_response import files, provenance, sweep
from gp_response.errors import GPResponseError, InputError
from gp_response.experiment import parse

SOURCE = '''
"""Squares are squares.

Command: gp-response run squares. Cost: nothing. Expected: y = x².
"""
import os
from typing import Literal

import torch

GRID = {"x": [1.0, 2.0], "n": [3]}
SMOKE = {"x": 0.5}


def main(
    x: float = 1.0, n: int = 1, name: str = "a", flag: bool = False, power: float | None = None,
    mode: Literal["fast", "slow"] = "fast", sizes: list[int] = [1, 2],
) -> dict:
    if x < 0:
        raise RuntimeError("x is negative")
    return {"y": x * x, "n": n, "gaps": torch.tensor([0.5, float("nan")]), "huge": float("inf"), "process": os.getpid()}
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "squares.py").write_text(textwrap.dedent(SOURCE).lstrip())
    (tmp_path / "_helper.py").write_text("")
    return tmp_path


@pytest.fixture
def squares(folder):
    return sweep.load_experiment("squares", folder)


def result_files(folder):
    return sorted((folder / "results").glob("*.json"))


def test_experiments_are_the_python_files_without_underscore(folder):
    assert list(sweep.experiments(folder)) == ["squares"]


def test_a_loaded_experiment_knows_its_claim_grid_and_defaults(squares):
    assert squares.claim == "Squares are squares."
    assert sweep.grid(squares) == [{"x": 1.0, "n": 3}, {"x": 2.0, "n": 3}]
    assert squares.defaults["power"] is None


def test_a_run_records_everything_and_reads_back(squares, folder):
    path = sweep.run(squares, {"x": 3}, folder / "results")
    record = sweep.read_result(path)
    assert record["config"]["x"] == 3.0
    assert record["config"].keys() == squares.defaults.keys()
    assert record["result"]["y"] == 9.0
    assert math.isnan(record["result"]["gaps"][1])
    assert record["result"]["huge"] == math.inf
    assert set(provenance.PACKAGES) < set(record["versions"])
    assert record["seconds"] >= 0
    assert 2**26 < record["peak_memory_bytes"] < 2**40
    assert record["started_at"].endswith("+00:00")
    assert record["machine"]["threads"] >= 1
    assert sweep.results(folder / "results") == sweep.results(folder / "results", "squares")
    assert sweep.results(folder / "results", "cubes") == []


@pytest.mark.parametrize("power", [math.inf, -math.inf, math.nan])
def test_configurations_that_are_not_finite_read_back(squares, folder, power):
    path = sweep.run(squares, {"power": power}, folder / "results")
    [record] = sweep.results(folder / "results", "squares")
    assert record["config"]["power"] == pytest.approx(power, nan_ok=True)
    before = path.stat().st_mtime_ns
    assert sweep.run(squares, {"power": power}, folder / "results").stat().st_mtime_ns == before
    plan = sweep.Plan(squares.path, folder, [record["config"]])
    assert sweep.Plan.read(plan.write()).names() == plan.names() == [path.stem]


def test_a_folder_where_a_result_should_be_is_disregarded(squares, folder):
    (folder / "results" / "squares-000000000000.json").mkdir(parents=True)
    with pytest.warns(UserWarning, match="it is a folder"):
        assert sweep.results(folder / "results") == []


def test_a_result_file_is_strict_json(squares, folder):
    text = sweep.run(squares, {}, folder / "results").read_text()
    record = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert record["result"]["gaps"] == [0.5, "nan"]


def test_the_file_is_named_by_the_hash_of_the_complete_configuration(squares, folder):
    path = sweep.run(squares, {"x": 1}, folder)
    assert path.name == f"squares-{sweep.config_hash({**squares.defaults, 'x': 1.0})}.json"
    assert sweep.run(squares, {}, folder) == path  # 1 and the default 1.0 are the same configuration


def test_the_hash_forgets_order_and_notices_values():
    assert sweep.config_hash({"a": 1, "b": 2}) == sweep.config_hash({"b": 2, "a": 1})
    assert sweep.config_hash({"a": 1}) != sweep.config_hash({"a": 2})
    assert len(sweep.config_hash({})) == 12


def test_a_result_on_disk_is_run_again_only_by_force(squares, folder):
    path = sweep.run(squares, {}, folder)
    before = path.stat().st_mtime_ns
    sweep.run(squares, {}, folder)
    assert path.stat().st_mtime_ns == before
    sweep.run(squares, {}, folder, force=True)
    assert path.stat().st_mtime_ns > before


@pytest.mark.parametrize("damage", ["", "{", '{"experiment": "squares"}', "[]", "null", "result"])
def test_a_damaged_result_counts_as_missing_with_a_warning(squares, folder, damage):
    path = sweep.run(squares, {}, folder)
    path.write_text(damage if damage != "result" else json.dumps({**json.loads(path.read_text()), "result": None}))
    with pytest.warns(UserWarning, match="disregarded") as seen:
        assert sweep.read_result(path) is None
    assert "\n" not in str(seen[0].message)
    with pytest.warns(UserWarning, match="disregarded"):
        sweep.run(squares, {}, folder)
    assert sweep.read_result(path)["result"]["y"] == 1.0


def test_a_result_under_the_name_of_another_configuration_is_disregarded(squares, folder):
    one, two = (sweep.run(squares, {"x": x}, folder) for x in (1.0, 2.0))
    two.write_text(one.read_text())
    with pytest.warns(UserWarning, match="does not hash to its name"):
        assert len(sweep.results(folder)) == 1


def test_a_failing_run_leaves_no_file(squares, folder):
    with pytest.raises(RuntimeError, match="negative"):
        sweep.run(squares, {"x": -1.0}, folder / "results")
    assert result_files(folder) == []


def test_a_sweep_runs_each_configuration_in_its_own_process_and_survives_failures(squares, folder):
    with pytest.raises(GPResponseError, match=r"1 of 2 runs of squares failed; the first.*x is negative"):
        sweep.sweep(squares, [{"x": -1.0}, {"x": 2.0}], folder / "results")
    [record] = sweep.results(folder / "results")
    assert record["result"]["y"] == 4.0
    assert record["result"]["process"] != os.getpid()


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["x=2"], {"x": 2.0}),
        (["n=1e3"], {"n": 1000}),
        (["name=3"], {"name": "3"}),
        (["name=a=b"], {"name": "a=b"}),
        (["flag=true", "power=null"], {"flag": True, "power": None}),
        (["flag=False", "power=None"], {"flag": False, "power": None}),
        (["power=2"], {"power": 2.0}),
        (["mode=slow", "sizes=[3, 4]"], {"mode": "slow", "sizes": [3, 4]}),
    ],
)
def test_assignments_are_read_as_the_annotations_ask(squares, assignments, expected):
    found = parse(squares, assignments)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("x=many", "must be float, got 'many'"),
        ("n=1.5", "must be int"),
        ("n=true", "must be int"),
        ("flag=1", "must be bool"),
        ("mode=slwo", r"Literal\['fast', 'slow'\]"),
        ("sizes=3", r"list\[int\]"),
        ("nn=3", "did you mean 'n'"),
        ("x", "key=value"),
        ("n=inf", "must be int, got 'inf'"),
    ],
)
def test_a_wrong_assignment_is_one_clear_line(squares, assignment, message):
    with pytest.raises(InputError, match=message) as caught:
        parse(squares, [assignment])
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_experiment_is_answered_with_the_nearest(folder):
    with pytest.raises(InputError, match="did you mean 'squares'"):
        sweep.load_experiment("sqares", folder)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("GRID = {}\nSMOKE = {}\ndef main() -> dict: return {}", "lacks __doc__"),
        ('"""Doc."""\nGRID = {}\nSMOKE = {}', "lacks main"),
        ('"""Doc."""\nGRID = {"n": []}\nSMOKE = {}\ndef main(n: int = 1) -> dict: return {}', "one value or more"),
        ('"""Doc."""\nGRID = {"m": [1]}\nSMOKE = {}\ndef main(n: int = 1) -> dict: return {}', "did you mean|known: n"),
        ('"""Doc."""\nGRID = {}\nSMOKE = {"n": "a"}\ndef main(n: int = 1) -> dict: return {}', "must be int"),
        ('"""Doc."""\nGRID = {}\nSMOKE = {}\ndef main(n=1) -> dict: return {}', "needs a type and a default"),
        ('""""""\nGRID = {}\nSMOKE = {}\ndef main() -> dict: return {}', "lacks __doc__"),
        ('"""Doc."""\nGRID = [1]\nSMOKE = {}\ndef main() -> dict: return {}', r"GRID of bad\.py is \[1\]"),
        (
            '"""Doc."""\nGRID = {}\nSMOKE = {}\ndef main(n: "Missing" = 1) -> dict: return {}',
            "cannot be read: name 'Missing'",
        ),
        ('"""Doc."""\nimport no_such_module', "cannot be imported: ModuleNotFoundError"),
        ('"""Doc."""\ndef main(:', "cannot be imported: SyntaxError"),
    ],
)
def test_a_malformed_experiment_file_is_refused(tmp_path, source, message):
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(InputError, match=message):
        sweep.load_experiment("bad", tmp_path)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("3", "returned int"),
        ("{'a': {'b': [object()]}}", r"result\.a\.b\[0\] is a object"),
        ("{'a': 'nan'}", "stands for a number"),
        ("{1: 2}", "keys of a result must be text"),
    ],
)
def test_a_result_that_json_cannot_hold_is_refused_by_name(tmp_path, returned, message):
    (tmp_path / "odd.py").write_text(
        f'"""Odd."""\nGRID = {{}}\nSMOKE = {{}}\ndef main() -> dict:\n    return {returned}'
    )
    with pytest.raises(InputError, match=message):
        sweep.run(sweep.load_experiment("odd", tmp_path), {}, tmp_path)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_trace(tmp_path, monkeypatch):
    path = files.write_atomically(tmp_path / "new" / "a.txt", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_written_files_have_ordinary_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    assert files.write_atomically(tmp_path / "atomic", b"x").stat().st_mode == plain.stat().st_mode


def test_the_commit_is_known_in_a_checkout_and_unknown_outside(tmp_path):
    assert provenance.commit(tmp_path) == {"hash": None, "dirty": None}


def test_changes_under_paper_do_not_make_a_checkout_dirty(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@e"]
    (tmp_path / "a.py").write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        provenance.subprocess.run([*git, *words], check=True)
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "result.json").write_text("{}")
    clean = provenance.commit(tmp_path)
    assert len(clean["hash"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "b.py").write_text("2")
    assert provenance.commit(tmp_path)["dirty"] is True


@pytest.mark.skipif(sys.platform != "linux", reason="reads VmHWM")
def test_peak_memory_sees_an_allocation():
    before = provenance.peak_memory()
    block = bytearray(before + 2**26)
    assert provenance.peak_memory() > before + 2**25
    del block
    assert provenance.peak_memory() > before + 2**25


def test_reading_results_of_a_clean_folder_warns_of_nothing(squares, folder):
    sweep.run(squares, {}, folder / "results")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(sweep.results(folder / "results")) == 1
