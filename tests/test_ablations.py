"""Ablation files say what their numbers must show, and the check of them can fail."""

import re
from pathlib import Path

import pytest

from gp_response import cli, plots
from gp_response.errors import InputError
from gp_response.sweep import Spec, experiments, read_experiment, results, run, table_of
from gp_response.sweep.ablation import ablations, read_ablation
from gp_response.sweep.ablation_report import ablation_report
from gp_response.sweep.expected import check, mean_of

ROOT = Path(__file__).parent.parent
FILES = ROOT / "experiments" / "ablations"
AXES = {
    "kernel": "kernel",
    "features": "features",
    "inducing points": "inducing",
    "Lanczos rank": "ranks",
    "preconditioner rank": "rank",
    "tolerance": "tolerance",
    "precision": "dtype",
    "likelihood": "likelihood",
    "noise": "noise",
    "rows": "n",
}
SOURCE = '''
"""Powers fall."""
from typing import Literal

GRID = {}
SMOKE = {}


def main(x: float = 1.0, kind: Literal["plain", "twice"] = "plain", seed: int = 0) -> dict:
    return {"y": (2.0 if kind == "twice" else 1.0) * x**2 + 1e-3 * seed, "covered": 1.0, "bad": float("nan")}
'''
FILE = """
title: a power
question: Does it rise?
cost: nothing
experiment: powers
axes: {kind: all, x: [3.0, 1.0, 2.0]}
seeds: 2
smoke: {axes: {x: [0.5]}, seeds: 1}
axis: [kind, x]
columns: {RMSE: y}
figure: {value: y, label: the power, log: y}
laws:
  - {every: covered, at_least: 1.0}
expected:
  - {mean: y, where: {kind: plain}, rises_along: x}
numbers:
  Largest: {largest: y}
"""


def record(x, kind="plain", seed=0, **result):
    return {"config": {"x": x, "kind": kind, "seed": seed}, "result": result, "seconds": 1.0, "peak_memory_bytes": 1}


@pytest.fixture
def table():
    plain = [
        record(x, seed=seed, y=x**2 + 0.1 * seed, ok=True, bad=float("nan")) for x in (1.0, 2.0, 3.0) for seed in (0, 1)
    ]
    return table_of([*plain, record(1.0, "twice", y=2.0, ok=False, bad=1.0)])


@pytest.mark.parametrize(
    ("expectation", "holds"),
    [
        ({"every": "y", "below": 9.2}, True),
        ({"every": "y", "below": 9.1}, False),
        ({"every": "y", "at_most": 9.1}, True),
        ({"every": "y", "above": 1.0}, False),
        ({"every": "y", "at_least": 1.0}, True),
        ({"every": "ok", "at_least": 1.0}, False),
        ({"every": "ok", "where": {"kind": "plain"}, "at_least": 1.0}, True),
        ({"mean": "y", "where": {"x": 2.0}, "is": 4.05, "within": 1e-9}, True),
        ({"mean": "y", "where": {"x": 2.0}, "is": 4.0, "within": 0.04}, False),
        ({"mean": "y", "where": {"x": 2}, "below": {"where": {"x": 3.0}, "times": 0.5}}, True),
        ({"mean": "y", "where": {"x": 2}, "below": {"where": {"x": 3.0}, "times": 0.4}}, False),
        ({"mean": "y", "where": {"kind": "plain"}, "rises_along": "x"}, True),
        ({"mean": "y", "where": {"kind": "plain"}, "falls_along": "x"}, False),
        ({"mean": "y", "falls_along": "kind", "slack": 0.0}, True),
        ({"mean": "y", "rises_along": "kind"}, False),
        ({"mean": "y", "rises_along": "kind", "slack": 0.6}, True),
        ({"every": "bad", "below": 10.0}, False),
        ({"mean": "bad", "below": 10.0}, False),
        ({"mean": "bad", "where": {"kind": "plain"}, "falls_along": "x"}, False),
    ],
)  # fmt: skip
def test_an_expectation_holds_or_fails(table, expectation, holds):
    if expectation.get("where") == {"kind": "plain"} and "bad" in expectation.values():
        with pytest.raises(InputError, match="no number"):
            check(expectation, table)
        return
    verdict = check(expectation, table)
    assert verdict.holds == holds
    assert verdict.claim.split()[0] in ("every", "mean")


@pytest.mark.parametrize(
    ("expectation", "message"),
    [
        ({"every": "y"}, "expected one of below"),
        ({"every": "y", "below": 1.0, "above": 0.0}, "expected one of below"),
        ({"every": "y", "below": 1.0, "within": 0.1}, "within beside is"),
        ({"every": "y", "is": 1.0}, "within beside is"),
        ({"below": 1.0}, "expected the name of a number"),
        ({"every": "y", "mean": "y", "below": 1.0}, "expected the name of a number"),
        ({"every": "y", "below": "1e-6"}, "YAML wants a point"),
        ({"every": "y", "belwo": 1.0}, "did you mean 'below'"),
        ({"every": "z", "below": 1.0}, "column of the results"),
        ({"every": "y", "where": {"x": 7.0}, "below": 1.0}, "no run is where x=7.0"),
        ({"every": "y", "where": {"z": 7.0}, "below": 1.0}, "parameter"),
        ({"mean": "y", "where": {"x": 1.0}, "falls_along": "x"}, "one value of x only"),
    ],
)
def test_an_expectation_that_cannot_be_read_is_refused(table, expectation, message):
    with pytest.raises(InputError, match=message):
        check(expectation, table)


def test_numbers_are_means_largest_or_least(table):
    assert mean_of({"mean": "y", "where": {"x": 1.0, "kind": "plain"}}, table) == pytest.approx(1.05)
    assert mean_of({"largest": "y"}, table) == pytest.approx(9.1)
    assert mean_of({"least": "y"}, table) == 1.0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "powers.py").write_text(SOURCE.lstrip())
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "power.yaml").write_text(FILE)
    return tmp_path


def command(folder, *words):
    return cli.main(["ablations", *words, "--experiments", str(folder), "--results", str(folder / "results")])


def test_the_command_runs_tells_and_checks(folder, capfd):
    assert command(folder, "--check") == 2
    assert "12 of 12 runs of ablation power have no result; run gp-response ablations power" in capfd.readouterr().err
    assert command(folder, "--workers", "1") == 0
    told = capfd.readouterr().out
    assert re.findall(r"^(\w+ \d)  ", told, re.MULTILINE) == [
        "plain 3",
        "plain 1",
        "plain 2",
        "twice 3",
        "twice 1",
        "twice 2",
    ]
    assert told.count("holds: ") == 2
    assert command(folder, "power", "--check") == 0


def test_a_broken_expectation_fails_at_full_size_and_is_named(folder, capfd):
    path = folder / "ablations" / "power.yaml"
    path.write_text(FILE.replace("rises_along", "falls_along"))
    assert command(folder, "--smoke") == 0
    assert command(folder, "--workers", "1") == 2
    assert "power: mean y at kind=plain falls along x, found 1" in " ".join(capfd.readouterr().err.split())
    path.write_text(FILE.replace("at_least: 1.0", "above: 1.0"))
    assert command(folder, "--smoke") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("cost: nothing\n", ""), "lacks cost"),
        (("laws:", "lows:"), "did you mean 'laws'"),
    ],
)
def test_a_malformed_file_is_refused(folder, change, message):
    path = folder / "ablations" / "power.yaml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(InputError, match=message):
        read_ablation(path)


def test_an_ablation_is_a_sweep_file_too(folder, capsys):
    words = ["--experiments", str(folder), "--results", str(folder / "results"), "--dry"]
    assert cli.main(["sweep", str(folder / "ablations" / "power.yaml"), *words]) == 0
    assert capsys.readouterr().out == "12 runs: 0 done, 12 left\n"


def test_the_report_takes_full_size_before_smoke_size(folder):
    powers = read_experiment(folder / "powers.py")
    assert ablation_report(folder / "ablations", {"powers": (powers, [])}, folder / "figures") == {}
    [ablation] = ablations(folder / "ablations").values()
    for smoke, rows in ((True, 2), (False, 6)):
        for config in ablation.configs(powers, scale="smoke" if smoke else "full"):
            run(powers, config, folder / "results")
        known = {"powers": (powers, results(folder / "results", "powers"))}
        variables = ablation_report(folder / "ablations", known, folder / "figures")
        lines = (variables["AblationTableLeft"] + variables["AblationTableRight"]).splitlines()
        assert len(lines) == rows + 1
        assert variables["AblationRuns"] == rf"\num{{{2 if smoke else 12}}}"
        assert variables["AblationHeld"] == variables["AblationClaims"]
    (folder / "ablations" / "twin.yaml").write_text(FILE)
    both = ablation_report(folder / "ablations", known, folder / "figures")
    assert both["AblationFiles"] == r"\num{2}"
    assert both["AblationRuns"] == r"\num{12}"  # the same runs, once
    assert variables["AblationPowerLargest"] == r"\num{18}"
    assert r"plain 2 & \num{4.0005(64)} &  &  &  &  \\" in lines
    assert (folder / "figures" / "ablations.pdf").read_bytes().startswith(b"%PDF")


def test_zips_repeat_values_and_grids_do_not(folder):
    powers = read_experiment(folder / "powers.py")
    zipped = Spec({"x": [1.0, 1.0, 2.0], "kind": ["plain", "twice", "twice"]}, search="zip").configs(powers)
    assert [(c["x"], c["kind"]) for c in zipped] == [(1.0, "plain"), (1.0, "twice"), (2.0, "twice")]
    assert len(Spec({"x": [1.0, 1.0, 2.0]}).configs(powers)) == 2


def test_all_is_every_value_of_a_literal_only(folder):
    powers = read_experiment(folder / "powers.py")
    assert [c["kind"] for c in Spec({"kind": "all"}).configs(powers)] == ["plain", "twice"]
    with pytest.raises(InputError, match="must be float"):
        Spec({"x": "all"}).configs(powers)


def test_a_panel_without_runs_is_refused():
    with pytest.raises(InputError, match="panel without runs"):
        plots.ablation_panels([plots.Panel("a", "b", [])])


def test_the_ten_axes_of_the_paper_have_a_file_each():
    found = ablations(FILES)
    assert {a.title for a in found.values()} == set(AXES)
    known = experiments(ROOT / "experiments")
    for ablation in found.values():
        configs = ablation.configs(read_experiment(known[ablation.experiment]))
        assert AXES[ablation.title] in ablation.axis
        assert all(len({str(c[name]) for c in configs}) >= 2 for name in ablation.axis)
        assert {c["seed"] for c in configs} == {0, 1, 2}
        assert ablation.expected
        assert ablation.laws


def test_all_ten_run_at_smoke_size_and_keep_their_laws(tmp_path, capsys):
    words = ["--experiments", str(ROOT / "experiments"), "--results", str(tmp_path)]
    assert cli.main(["ablations", "--smoke", *words]) == 0
    assert "FAILS" not in capsys.readouterr().out
    known = {
        name: (read_experiment(path), results(tmp_path, name))
        for name, path in experiments(ROOT / "experiments").items()
    }
    variables = ablation_report(FILES, known, tmp_path / "figures")
    assert variables["AblationFiles"] == rf"\num{{{len(AXES)}}}"


@pytest.mark.parametrize("name", sorted(path.stem for path in FILES.glob("*.yaml")))
def test_the_committed_results_are_what_each_file_expects(name):
    ablation = read_ablation(FILES / f"{name}.yaml")
    experiment = read_experiment(ROOT / "experiments" / f"{ablation.experiment}.py")
    folder = ROOT / "paper" / "results"
    if not list(folder.glob(f"{ablation.experiment}-*.json")):
        pytest.skip("no committed results")
    records = results(folder, ablation.experiment)
    table = ablation.table(records, experiment, whole=False)  # a new kernel's may be to come
    verdicts = ablation.judged(table)
    assert len(verdicts) >= 3
    assert not [f"{v.claim}: {v.found}" for v in verdicts if not v.holds]
