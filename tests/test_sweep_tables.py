"""Tables and figures over results: means, intervals and paired tests against scipy, LaTeX, xarray."""

import math
import re
import textwrap

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gp_response import cli, sweep
from gp_response.errors import InputError
from gp_response.plots import Mean, ablation_curves
from gp_response.sweep.compare import differences, interval, means
from gp_response.sweep.draw import draw
from gp_response.sweep.frame import matching
from gp_response.sweep.show import Cell, Grid, as_latex, as_text, escaped, lay_out, number

SOURCE = '''
"""Numbers that depend on everything."""
GRID = {}
SMOKE = {}


def main(kernel: str = "rbf", rank: int = 16, noise: float = 0.1, seed: int = 0) -> dict:
    rough = ((seed * 7919 + rank * 31 + len(kernel)) % 13) / 100
    return {
        "rmse": {"test": 1.0 / rank + 0.1 * (kernel == "rbf") + 0.3 * seed + rough}, "kernel": "K", "curve": [1, 2],
        "lost": float("nan"), "endless": float("inf"), "ok": True, "name": "x",
    }
'''


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A project with the results of 2 kernels x 2 ranks x 4 seeds."""
    project = tmp_path_factory.mktemp("tables")
    (project / "experiments").mkdir()
    (project / "pyproject.toml").touch()
    (project / "experiments" / "toy.py").write_text(textwrap.dedent(SOURCE).lstrip())
    experiment = sweep.load_experiment("toy", project / "experiments")
    for config in sweep.Spec({"kernel": "rbf,matern32", "rank": "4,16"}, seeds=4).configs(experiment):
        sweep.run(experiment, config, project / "paper" / "results")
    return project


@pytest.fixture(scope="module")
def table(done):
    return sweep.frame(done / "paper" / "results", "toy")


def test_a_frame_has_a_row_a_run_and_tells_parameters_from_results(table):
    assert len(table) == 16
    assert table.attrs["parameters"] == ["kernel", "rank", "noise", "seed"]
    assert set(table.columns) == {
        "kernel", "rank", "noise", "seed", "rmse.test", "result.kernel", "lost", "endless", "ok", "name", "seconds",
        "peak_memory_bytes",
    }  # fmt: skip
    assert set(table["kernel"]) == {"rbf", "matern32"}


def test_an_array_stands_on_the_grid_of_what_varies(table):
    array = sweep.to_xarray(table, "rmse.test")["rmse.test"]
    assert dict(array.sizes) == {"kernel": 2, "rank": 2, "seed": 4}
    row = table[(table["kernel"] == "rbf") & (table["rank"] == 16) & (table["seed"] == 2)]
    assert float(array.sel(kernel="rbf", rank=16, seed=2)) == float(row["rmse.test"].iloc[0])
    with pytest.raises(InputError, match="several runs have the same kernel"):
        sweep.to_xarray(table, "rmse.test", over=["kernel"])
    with pytest.raises(InputError, match=r"did you mean 'rmse\.test'"):
        sweep.to_xarray(table, "rmse.tst")


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_intervals_are_students(table, level):
    for _, line in means(table, ["rmse.test"], by=["kernel", "rank"], level=level).iterrows():
        group = table[(table["kernel"] == line["kernel"]) & (table["rank"] == line["rank"])]["rmse.test"]
        low, high = stats.t.interval(level, len(group) - 1, loc=group.mean(), scale=stats.sem(group))
        assert line["mean"] == pytest.approx(group.mean(), rel=1e-14)
        assert (line["mean"] - line["half"], line["mean"] + line["half"]) == pytest.approx((low, high), rel=1e-12)
        assert line["runs"] == 4


def test_an_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 5))
    covered = [abs(mean - 3.0) <= half for mean, half in (interval(row, 0.9) for row in draws)]
    assert abs(np.mean(covered) - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 4000)


def test_one_run_has_no_interval_and_a_lost_number_no_mean(table):
    assert math.isnan(interval(np.array([2.0]), 0.95)[1])
    assert interval(np.array([2.0]), 0.95)[0] == 2.0
    assert all(map(math.isnan, interval(np.array([2.0, float("nan")]), 0.95)))
    with pytest.raises(InputError, match="lost is no number in any of the 16 runs"):
        means(table, ["lost"], by=["kernel"])


def test_paired_differences_are_those_of_the_paired_t_test(table):
    [line] = differences(table, "rmse.test", "kernel", "rbf").to_dict("records")
    wide = table.pivot(index=["rank", "seed"], columns="kernel", values="rmse.test")
    found = stats.ttest_rel(wide["matern32"], wide["rbf"])
    low, high = found.confidence_interval(0.95)
    assert line["pairs"] == 8
    assert line["difference"] == pytest.approx(float((wide["matern32"] - wide["rbf"]).mean()), rel=1e-12)
    assert line["p"] == pytest.approx(found.pvalue, rel=1e-10)
    assert (line["difference"] - line["half"], line["difference"] + line["half"]) == pytest.approx(
        (low, high), rel=1e-10
    )


def test_pairing_takes_out_what_both_share(table):
    alone = means(table, ["rmse.test"], by=["kernel"])["half"].max()
    assert differences(table, "rmse.test", "kernel", "rbf")["half"].max() < alone / 3


@pytest.mark.parametrize(
    ("values", "text", "meant"),
    [
        ([1.0, 0.001], "1", [True, False]),
        ([1.0, 0.001], "1e-3", [False, True]),
        ([float("nan"), 1.0], "null", [True, False]),
        ([True, False], "true", [True, False]),
        (["[1, 2]", "[3]"], "[1,2]", [True, False]),
        (["1", "a,b"], "1", [True, False]),
        ([1, 0], "true", [False, False]),
    ],
)
def test_values_are_found_by_what_one_writes(values, text, meant):
    assert matching(pd.Series(values), text).tolist() == meant


def test_runs_are_paired_where_a_parameter_is_none_in_some():
    runs = [{"noise": noise, "kernel": k, "loss": 1.0 + (k == "b")} for noise in (None, 1.0) for k in "ab"]
    table = pd.DataFrame(runs)
    table.attrs["parameters"] = ["noise", "kernel"]
    assert differences(table, "loss", "kernel", "a")["pairs"].tolist() == [2]
    assert differences(table, "loss", "noise", "null")["pairs"].tolist() == [2]
    assert differences(table, "loss", "noise", "1")["difference"].tolist() == [0.0]


def test_runs_without_a_partner_are_left_out_and_counted(table):
    less = table[~((table["kernel"] == "rbf") & (table["seed"] == 3))]
    assert differences(less, "rmse.test", "kernel", "rbf")["pairs"].tolist() == [6]
    none = table[
        ((table["kernel"] == "rbf") & (table["seed"] < 2)) | ((table["kernel"] == "matern32") & (table["seed"] >= 2))
    ]
    with pytest.raises(InputError, match="no run pairs"):
        differences(none, "rmse.test", "kernel", "rbf")
    with pytest.raises(InputError, match="no run has kernel=rfb"):
        differences(table, "rmse.test", "kernel", "rfb")


@pytest.mark.parametrize(
    ("mean", "half", "expected"),
    [
        (0.123456, 0.00789, ("0.1235", "0.0079")),
        (12.3456, 1.234, ("12.3", "1.2")),
        (1234.56, 123.4, ("1235", "123")),
        (0.5, float("nan"), ("0.5", "")),
        (0.5, 0.0, ("0.5", "0")),
        (1.23456e-7, 1.2e-9, ("1.235e-07", "1.2e-09")),
        (float("nan"), 0.1, ("nan", "")),
    ],
)
def test_numbers_show_two_digits_of_their_interval(mean, half, expected):
    assert number(Cell(mean, half, 3)) == expected


@pytest.mark.parametrize(("best", "winner"), [("min", "a"), ("max", "b"), ("none", None)])
def test_the_best_of_each_column_is_bold_and_no_other(best, winner):
    summary = pd.DataFrame(
        {"kernel": ["a", "b", "c"], "value": "rmse", "mean": [1.0, 3.0, 2.0], "half": 0.1, "runs": 3}
    )
    grid = lay_out(summary, ["kernel"], None, best=best)
    assert {place[0] for (place, _), cell in grid.cells.items() if cell.best} == ({winner} if winner else set())
    latex = as_latex(grid)
    assert latex.count(r"\bfseries") == (1 if winner else 0)
    assert not winner or re.search(rf"^{winner} & {{\\bfseries", latex, re.MULTILINE)


def test_the_best_of_a_row_is_among_its_columns_of_the_same_value():
    numbers = {("p", "a"): 1.0, ("p", "b"): 2.0, ("q", "a"): 9.0, ("q", "b"): 8.0}
    lines = [
        {"data": data, "kernel": kernel, "value": value, "mean": mean * scale, "half": 0.1, "runs": 3}
        for value, scale in (("rmse", 1.0), ("nll", -1.0))
        for (data, kernel), mean in numbers.items()
    ]
    grid = lay_out(pd.DataFrame(lines), ["data"], "kernel", along="row")
    assert {(place[0], head) for (place, head), cell in grid.cells.items() if cell.best} == {
        ("p", "rmse kernel=a"), ("q", "rmse kernel=b"), ("p", "nll kernel=b"), ("q", "nll kernel=a"),
    }  # fmt: skip
    with pytest.raises(InputError, match="along 'diagonal'"):
        lay_out(pd.DataFrame(lines), ["data"], "kernel", along="diagonal")


def test_names_are_escaped_for_latex():
    assert escaped("a_b 5% {x}") == r"a\_b 5\% \{x\}"


def test_a_place_without_runs_is_shown_as_such(table):
    less = table[~((table["kernel"] == "rbf") & (table["rank"] == 4))]
    grid = lay_out(means(less, ["rmse.test"], by=["kernel", "rank"]), ["kernel"], "rank")
    assert re.search(r"^rbf +- +", as_text(grid).splitlines()[-1]) or "-" in as_text(grid)
    assert "--" in as_latex(grid)


def test_the_table_command_prints_compares_and_writes(done, monkeypatch, capsys):
    monkeypatch.chdir(done)
    words = [
        "table",
        "toy",
        "--value",
        "rmse.test",
        "--rows",
        "kernel",
        "--columns",
        "rank",
        "--baseline",
        "kernel=rbf",
    ]
    assert cli.main([*words, "--latex", "out.tex"]) == 0
    out = capsys.readouterr().out
    assert "rank=4" in out
    assert "rank=16" in out
    assert "mean ± 95% interval over seed; * best" in out
    assert "difference from kernel=rbf, runs paired" in out
    text = (done / "out.tex").read_text()
    assert text.count(r"\\") == 3
    assert r"\begin{tabular}{lrr}" in text
    assert text.count(r"\bfseries") == 2
    assert cli.main(["table", "toy", "--value", "rmse.test", "--rows", "noise"]) == 0
    assert "*" not in capsys.readouterr().out  # one row has no rival, and no star is explained
    words = ["table", "toy", "--value", "rmse.test", "--where", "kernel=rbf", "--baseline", "kernel=rbf"]
    assert cli.main([*words, "--latex", "kept.tex"]) == 2  # nothing to pair
    assert (done / "kept.tex").exists()


def test_long_names_do_not_widen_a_table_and_stay_apart(table):
    names = ["a" * 400 + end for end in "bc"]
    cells = {((name,), "x"): Cell(1.0, math.nan, 1) for name in names}
    lines = as_text(Grid(("text",), [(name,) for name in names], ["x"], cells)).splitlines()
    assert max(map(len, lines)) < 80
    assert lines[1] != lines[2]


def test_integers_of_any_size_are_numbers_of_a_table():
    facts = {"seconds": 1.0, "peak_memory_bytes": 1}
    records = [{**facts, "config": {"n": n}, "result": {"count": 10**n}} for n in (3, 30, 400)]
    found = means(sweep.table_of(records), ["count"], by=["n"])
    assert found["mean"].tolist()[:2] == [1e3, 1e30]
    assert math.isnan(found["mean"].iloc[2])  # not finite as a float


def test_the_plot_command_draws(done, monkeypatch, capsys):
    monkeypatch.chdir(done)
    words = ["plot", "toy", "--value", "rmse.test", "--x", "rank", "--lines", "kernel", "--log", "x"]
    assert cli.main([*words, "--out", "a.pdf"]) == 0
    assert (done / "a.pdf").read_bytes().startswith(b"%PDF")
    assert cli.main(["plot", "toy", "--value", "rmse.test", "--x", "kernel", "--panels", "rank", "--out", "b.png"]) == 0


def test_a_figure_shows_the_means_and_their_intervals(table):
    figure = draw(table, "rmse.test", x="rank", lines="kernel")
    [axes] = figure.axes
    summary = means(table, ["rmse.test"], by=["rank", "kernel"])
    for container in axes.containers:
        line, _, [bars] = container
        kernel = {"kernel = rbf": "rbf", "kernel = matern32": "matern32"}
        drawn = np.asarray(line.get_ydata())
        matches = [
            np.allclose(drawn, summary[summary["kernel"] == k].sort_values("rank")["mean"]) for k in kernel.values()
        ]
        assert sum(matches) == 1
        k = list(kernel.values())[matches.index(True)]
        heights = [segment[1][1] - segment[0][1] for segment in bars.get_segments()]
        assert heights == pytest.approx((2 * summary[summary["kernel"] == k].sort_values("rank")["half"]).tolist())


def test_a_figure_without_means_is_refused():
    with pytest.raises(InputError, match="a panel without means"):
        ablation_curves({"a": {"b": []}}, xlabel="x", ylabel="y")
    figure = ablation_curves({"": {"b": [Mean("p", 1.0, float("nan"))]}}, xlabel="x", ylabel="y")
    assert len(figure.axes) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "toy", "--value", "rmse"], "unknown column of the results 'rmse'; did you mean 'rmse.test'"),
        (["table", "toy", "--value", "name"], "name is no number"),
        (["table", "toy", "--value", "rmse.test", "--rows", "kernl"], "did you mean 'kernel'"),
        (["table", "toy", "--value", "rmse.test", "--where", "rank=5"], "where rank=5"),
        (["table", "toy", "--value", "rmse.test", "--level", "95"], "level is 95"),
        (
            ["table", "toy", "--value", "rmse.test", "--where", "kernel=rbf", "--baseline", "kernel=rbf"],
            "every run has",
        ),
        (["table", "toyy", "--value", "rmse.test"], "no result of toyy"),
        (["plot", "toy", "--value", "rmse.test", "--log", "z"], "log is 'z'"),
        (["plot", "toy", "--value", "endless"], "no mean of endless is finite"),
        (["plot", "toy", "--value", "rmse.test", "--out", "a.xyz"], "no such figure format as .xyz"),
    ],
)
def test_bad_questions_are_answered_in_one_line(done, monkeypatch, capsys, words, message):
    monkeypatch.chdir(done)
    assert cli.main(words) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1
    assert re.search(message, err)
