"""The command line end to end: what it prints, what it writes, and one line for each kind of bad input."""

import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest

from gp_response import cli

EXPERIMENT = '''
"""Squares are squares."""
from pathlib import Path

GRID = {"x": [1.0]}
SMOKE = {"x": 0.5}


def main(x: float = 1.0, n: int = 1) -> dict:
    if n == 13:
        raise ZeroDivisionError("thirteen")
    if n == 14:
        raise KeyboardInterrupt
    return {"y": x * x, "long": [0.0] * 1000}


def report(results: list[dict], figures: Path) -> dict[str, str]:
    return {"SquaresCount": str(len(results))}
'''


def frame(n=60):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, n))
    kind = rng.choice(list("xyz"), n)
    price = 100 + 20 * np.sin(2 * a) + 3 * b + (kind == "x") + rng.normal(size=n)
    return pd.DataFrame({"a": a, "b": b, "kind": kind, "price": price})


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with one experiment and a table; the current folder is inside of it."""
    for name, text in (("experiments/squares.py", textwrap.dedent(EXPERIMENT).lstrip()), ("pyproject.toml", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    frame().to_csv(tmp_path / "homes.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(capsys, *words):
    """Exit status, standard output, standard error without the progress bars."""
    status = cli.main(words)
    out, err = capsys.readouterr()
    return status, out, "\n".join(line for line in re.split(r"[\n\r]", err) if line.startswith("gp-response"))


def test_run_writes_a_result_into_the_project_and_prints_its_numbers(project, capsys, monkeypatch):
    (project / "deep").mkdir()
    monkeypatch.chdir(project / "deep")
    status, out, err = outcome(capsys, "run", "squares", "x=3")
    assert (status, err) == (0, "")
    assert "y            9" in out
    assert "(list of 1000)" in out
    assert "peak memory" in out
    [path] = (project / "paper" / "results").glob("squares-*.json")
    assert json.loads(path.read_text())["config"] == {"x": 3.0, "n": 1}


def test_smoke_results_are_kept_apart(project, capsys):
    assert outcome(capsys, "run", "all", "--smoke", "n=2")[0] == 0
    [path] = (project / "paper" / "build" / "smoke" / "results").glob("*.json")
    assert json.loads(path.read_text())["config"] == {"x": 0.5, "n": 2}


def test_a_result_is_run_again_only_by_force(project, capsys):
    outcome(capsys, "run", "squares")
    [path] = (project / "paper" / "results").glob("*.json")
    before = path.stat().st_mtime_ns
    outcome(capsys, "run", "squares")
    assert path.stat().st_mtime_ns == before
    outcome(capsys, "run", "squares", "--force")
    assert path.stat().st_mtime_ns > before


def test_a_damaged_result_is_one_warning_line_and_runs_again(project, capsys):
    outcome(capsys, "run", "squares")
    [path] = (project / "paper" / "results").glob("*.json")
    path.write_text("{")
    status, _, err = outcome(capsys, "run", "squares")
    assert status == 0
    assert re.fullmatch(r"gp-response: warning: result file .* is disregarded: .*", err)


def test_list_prints_names_and_claims(project, capsys):
    assert outcome(capsys, "list")[1].split() == ["squares", "Squares", "are", "squares."]


def test_report_writes_the_variables(project, capsys):
    outcome(capsys, "run", "squares")
    status, out, _ = outcome(capsys, "report")
    assert status == 0
    assert "1 numbers" in out
    assert "\\SquaresCount" in (project / "paper" / "variables.tex").read_text()


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """One `respond` in a process of its own, as a user runs it."""
    folder = tmp_path_factory.mktemp("respond")
    frame().to_csv(folder / "homes.csv", index=False)
    words = ["respond", "homes.csv", "--target", "price", "--rows", "0,5", "--top", "4", "--out", "found"]
    done = subprocess.run(
        [sys.executable, "-m", "gp_response.cli", *words], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_respond_prints_a_table_for_each_prediction(answered):
    _, out = answered
    assert "column 'kind' encoded" in out
    assert len(re.findall(r"^row [05]: predicted", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^ +[1-4] +\d+ ", out, re.MULTILINE)) == 8
    assert "held-out root mean square error" in out


def test_respond_writes_whole_files(answered):
    folder, _ = answered
    assert {path.name for path in (folder / "found").iterdir()} == {
        "predictions.csv", "influence.csv", "answer.json", "row-0.pdf", "row-5.pdf",
    }  # fmt: skip
    answer = json.loads((folder / "found" / "answer.json").read_text())
    assert set(answer["lengthscales"]) == {"a", "b", "kind=x", "kind=y", "kind=z"}
    influence = pd.read_csv(folder / "found" / "influence.csv")
    assert pd.DataFrame(answer["influence"]).equals(influence)


def test_respond_reports_rows_and_values_of_the_file(answered):
    folder, _ = answered
    table = frame()
    influence = pd.read_csv(folder / "found" / "influence.csv")
    predictions = pd.read_csv(folder / "found" / "predictions.csv")
    assert influence["observed"].to_numpy() == pytest.approx(table["price"][influence["training_row"]].to_numpy())
    assert predictions["observed"].to_numpy() == pytest.approx(table["price"][[0, 5]].to_numpy())
    assert abs(predictions["predicted"] - predictions["observed"]).max() < 20


def test_respond_tells_what_a_refit_without_the_row_would_say(answered):
    """The exact change on deletion, against a Gaussian process written out in numpy at the reported hyperparameters."""
    folder, _ = answered
    answer = json.loads((folder / "found" / "answer.json").read_text())
    table = pd.get_dummies(frame(), columns=["kind"], prefix_sep="=", dtype=float)
    train = np.setdiff1d(np.arange(len(table)), answer["test_row_numbers"])
    x = table[list(answer["lengthscales"])].to_numpy() / np.array(list(answer["lengthscales"].values()))
    y = table["price"].to_numpy()
    centre = y[train].mean()

    def predict(rows, at):
        def kernel(p, q):
            r = np.sqrt(3.0) * np.linalg.norm(p[:, None] - q[None], axis=-1)
            return answer["signal_deviation"] ** 2 * (1 + r) * np.exp(-r)

        system = kernel(x[rows], x[rows]) + answer["noise_deviation"] ** 2 * np.eye(len(rows))
        return centre + kernel(x[at : at + 1], x[rows]) @ np.linalg.solve(system, y[rows] - centre)

    for row in answer["influence"]:
        before, after = predict(train, row["row"]), predict(np.setdiff1d(train, [row["training_row"]]), row["row"])
        assert (after - before).item() == pytest.approx(row["if_deleted"], rel=1e-5, abs=1e-7)


def save(folder, name, text):
    (folder / name).write_text(text)


RESPOND = ["respond", "homes.csv", "--target", "price"]


def spoilt(column, value):
    def make(folder):
        table = frame().astype({column: object})
        table.loc[7, column] = value
        table.to_csv(folder / "homes.csv", index=False)

    return make


# kind of bad input: what it does to the project, the command, and what the one line must say
BAD = {
    "missing file": (None, ["respond", "hoems.csv", "--target", "price"], "hoems.csv.*did you mean 'homes.csv'"),
    "empty file": (lambda f: save(f, "homes.csv", ""), RESPOND, "homes.csv.*empty"),
    "header only": (lambda f: save(f, "homes.csv", "a,b,kind,price\n"), RESPOND, "0 rows can be used"),
    "one row": (lambda f: save(f, "homes.csv", "a,price\n1,2\n"), RESPOND, r"expected at least two"),
    "missing target": (None, ["respond", "homes.csv"], "--target"),
    "misspelt target": (None, ["respond", "homes.csv", "--target", "prise"], "did you mean 'price'"),
    "text in a numeric column": (spoilt("a", "oops"), RESPOND, "'a'.*row 7.*'oops'"),
    "missing value": (spoilt("b", None), RESPOND, "'b'.*row 7"),
    "infinity": (spoilt("a", "inf"), RESPOND, "'a'.*row 7.*inf"),
    "text target": (None, ["respond", "homes.csv", "--target", "kind"], "'kind'"),
    "constant target": (lambda f: frame().assign(price=1.0).to_csv(f / "homes.csv"), RESPOND, "'price' is 1 in"),
    "duplicate column names": (lambda f: save(f, "homes.csv", "a,a,price\n1,2,3\n2,1,4\n"), RESPOND, "'a'"),
    "column of identifiers": (
        lambda f: frame(400).assign(name=[f"home {i}" for i in range(400)]).to_csv(f / "homes.csv", index=False),
        RESPOND, "'name'",
    ),
    "another format": (lambda f: save(f, "homes.xlsx", "a"), ["respond", "homes.xlsx", "--target", "a"], "xlsx"),
    "folder instead of a file": (lambda f: (f / "homes").mkdir(), ["respond", "homes", "--target", "a"], "homes"),
    "binary rubbish": (lambda f: (f / "homes.csv").write_bytes(bytes(range(256)) * 9), RESPOND, "homes.csv"),
    "output that is a file": (None, [*RESPOND, "--out", "pyproject.toml"], "exists|[Nn]ot a directory"),
    "unknown kernel": (None, [*RESPOND, "--kernel", "matern23"], "unknown kernel 'matern23'; did you mean 'matern"),
    "row beyond the file": (None, [*RESPOND, "--rows", "0,99"], "row 99 is beyond the last"),
    "rows that are no numbers": (None, [*RESPOND, "--rows", "0,x"], "'0,x' is not a list of row numbers"),
    "a row twice": (None, [*RESPOND, "--rows", "4,4"], "row 4 is asked twice"),
    "too many rows asked": (None, [*RESPOND, "--rows", ",".join(map(str, range(101)))], "101 predictions asked"),
    "more rows than there are": (None, [*RESPOND, "--n", "1000"], "1000.*60"),
    "negative test fraction": (None, [*RESPOND, "--test-fraction", "-0.1"], "-0.1"),
    "no influential rows": (None, [*RESPOND, "--top", "0"], "at least one"),
    "option of the wrong type": (None, [*RESPOND, "--seed", "abc"], "--seed.*'abc'"),
    "misspelt option": (None, [*RESPOND, "--kernl", "rbf"], "--kernl.*--kernel"),
    "unknown command": (None, ["respnd", "homes.csv"], "unknown command 'respnd'; did you mean 'respond'"),
    "unknown experiment": (None, ["run", "sqares"], "unknown experiment 'sqares'; did you mean 'squares'"),
    "experiment as a path": (None, ["run", "../squares"], "unknown experiment"),
    "unknown key": (None, ["run", "squares", "nn=3"], "unknown configuration key.*'nn'; did you mean 'n'"),
    "value of the wrong type": (None, ["run", "squares", "n=many"], "'n' of squares must be int, got 'many'"),
    "no assignment": (None, ["run", "squares", "x"], "key=value"),
    "results that are a file": (None, ["run", "squares", "--results", "pyproject.toml"], "exists|[Nn]ot a directory"),
    "no experiments": (None, ["list", "--experiments", "nowhere"], "no folder of experiments at nowhere"),
    "report without results": (None, ["report"], "gp-response run NAME"),
    "interrupted": (None, ["run", "squares", "n=14"], "interrupted"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_answered_in_one_line_that_names_the_cause(project, capsys, spoil, words, message):
    if spoil:
        spoil(project)
    status = cli.main(words)
    out, err = capsys.readouterr()
    lines = [line for line in re.split(r"[\n\r]", err) if line.strip() and "it/s" not in line]
    assert status == 2
    assert "Traceback" not in out + err
    assert len(lines) == 1, err
    assert re.match(r"gp-response: error: \S", lines[0])
    assert re.search(message, lines[0]), lines[0]


def test_there_are_enough_kinds_of_bad_input():
    assert len(BAD) >= 20


def test_outside_of_a_project_the_folders_must_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "is not inside the project" in outcome(capsys, "list")[2]


def test_a_fault_of_ours_is_one_line_and_status_one(project, capsys):
    status, _, err = outcome(capsys, "run", "squares", "n=13")
    assert status == 1
    assert err == "gp-response: internal error: ZeroDivisionError: thirteen (run again with --debug to see where)"


@pytest.mark.parametrize("words", [["run", "squares", "n=13", "--debug"], ["--debug", "run", "squares", "n=13"]])
def test_debug_lets_the_traceback_through(project, words):
    with pytest.raises(ZeroDivisionError):
        cli.main(words)


@pytest.mark.parametrize("words", [["--help"], ["respond", "--help"], []])
def test_help_is_printed_and_succeeds(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 0
    assert "usage: gp-response" in capsys.readouterr().out
