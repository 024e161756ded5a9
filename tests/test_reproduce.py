"""Reproducing: a plan that knows its costs, steps that go on where they were, failures that stop nothing."""

import json

import pytest

from gp_response.errors import InputError
from gp_response.experiment import read_experiment
from gp_response.reproduce import known_times, plan, reproduce
from gp_response.scales import OTHER, configs_at, scale_folder, scales_of
from gp_response.sweep import result_path, run

GOOD = '''
"""Squares are squares."""
from pathlib import Path

GRID = {"x": [1.0, 2.0, 3.0]}
SMOKE = {"x": 0.5}
QUICK = {"x": [1.0, 4.0], "n": [2]}


def main(x: float = 1.0, n: int = 9) -> dict:
    return {"y": x * x}


def report(results: list[dict], figures: Path) -> dict[str, str]:
    return {"SquaresMany": str(len(results))}
'''
LACKING = '''
"""Needs what is not there."""
from gp_response.errors import MissingDependency

GRID = {"kind": ["absent", "broken"]}
SMOKE = {"kind": "fine"}
QUICK = {"kind": KINDS}
ALONE = True


def main(kind: str = "fine") -> dict:
    if kind == "absent":
        raise MissingDependency("cubes need the package cubist: pip install cubist")
    if kind == "broken":
        raise ValueError("no cube of this")
    return {}
'''


@pytest.fixture
def root(tmp_path):
    """A project of two experiments."""
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "main.tex").write_text(r"\begin{document}\SquaresMany \CubesMany")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "squares.py").write_text(GOOD.lstrip())
    return tmp_path


def add_cubes(root, kinds):
    (root / "experiments" / "cubes.py").write_text(LACKING.lstrip().replace("KINDS", repr(kinds)))


def test_a_scale_is_told_from_the_configuration(root):
    experiment = read_experiment(root / "experiments" / "squares.py")
    assert configs_at(experiment, "quick") == [{"x": 1.0, "n": 2}, {"x": 4.0, "n": 2}]
    assert configs_at(experiment, "smoke") == [{"x": 0.5, "n": 9}]
    scales = {
        "full": [{"x": 1.0, "n": 9}, {"x": 7.0, "n": 9}, {"x": 2.0}, {"x": 2.0, "lost": 1}],
        "quick": [{"x": 4.0, "n": 2}],
        "smoke": [{"x": 0.5, "n": 9}],
        OTHER: [{"x": 2.0, "n": 3}],
    }
    assert {scale: scales_of(experiment, configs) for scale, configs in scales.items()} == {
        scale: [scale] * len(configs) for scale, configs in scales.items()
    }


def test_a_plan_counts_what_is_done_and_adds_up_what_is_known(root):
    experiment = read_experiment(root / "experiments" / "squares.py")
    target = root / scale_folder("full")
    run(experiment, {"x": 1.0}, target)
    name = result_path("squares", {"x": 2.0, "n": 9}, target).stem
    [step] = plan(root / "experiments", "full", target, {name: 60.0, "squares-0123456789ab": 20.0}, workers=2)
    assert ([c["x"] for c in step.left], step.guessed, step.workers) == ([2.0, 3.0], 1, 2)
    assert step.seconds == pytest.approx((60.0 + 40.0) / 2)  # the mean stands for what is not known; two at a time
    [unknown] = plan(root / "experiments", "full", target, {}, workers=1)
    assert unknown.seconds is None
    assert "unknown" in unknown.line()


def test_quick_runs_draw_their_own_report_and_are_not_run_twice(root, capsys):
    assert reproduce("quick", workers=1, record=True, root=root)
    out = capsys.readouterr().out
    assert "left in all: 0 min, and 1 steps that have never been timed" in out
    assert "quick scale: 2 of 2 runs have results" in out
    assert "not run, 1 numbers: CubesMany" in out
    text = (root / "paper" / "build" / "quick" / "variables.tex").read_text()
    assert "\\newcommand{\\SquaresMany}{2}\n" in text
    assert "\\newcommand{\\CubesMany}{\\notrun}\n" in text
    assert not (root / "paper" / "results").exists()  # what the paper claims is never touched
    recorded = json.loads((root / "paper" / "quick.json").read_text())
    files = sorted((root / scale_folder("quick")).glob("*.json"))
    assert sorted(recorded["seconds"]) == [path.stem for path in files]
    assert known_times(root, "quick")[0] == recorded["seconds"]
    before = [path.stat().st_mtime_ns for path in files]
    assert reproduce("quick", workers=1, root=root)
    assert [path.stat().st_mtime_ns for path in files] == before
    assert "done" in capsys.readouterr().out


def test_what_is_not_installed_is_skipped_and_what_fails_is_told_at_the_end(root, capsys):
    add_cubes(root, ["fine", "absent"])
    assert reproduce("quick", workers=1, root=root)
    assert "skipped: cubes need the package cubist: pip install cubist" in capsys.readouterr().out
    add_cubes(root, ["fine", "absent", "broken"])
    assert not reproduce("quick", workers=1, root=root)
    out = capsys.readouterr().out
    assert "without a result: cubes {'kind': 'broken'}: failed: no cube of this" in out
    assert "quick scale: 3 of 5 runs have results" in out  # squares ran all the same


def test_a_plan_alone_runs_nothing(root, capsys):
    assert reproduce("full", only_plan=True, root=root)
    assert "squares" in capsys.readouterr().out
    assert not (root / "paper" / "build").exists()


def test_seconds_of_full_runs_are_not_recorded_apart(root):
    with pytest.raises(InputError, match="quick scale only"):
        reproduce("full", record=True, root=root)
