"""The paper's numbers and figures come from result files alone, and a missing one is noticed."""

import re
import textwrap
from pathlib import Path

import pytest

from gp_response import report, sweep
from gp_response.errors import InputError

ROOT = Path(__file__).parent.parent
SOURCE = '''
"""Squares are squares."""
from pathlib import Path

from gp_response.plots import histogram_of_gaps, save
from gp_response.report import number

GRID = {"x": [2.0]}
SMOKE = {"x": 0.5}


def main(x: float = 1.0) -> dict:
    return {"y": x * x, "gaps": [1e-9, 1e-10]}


def report(results: list[dict], figures: Path) -> dict[str, str]:
    save(histogram_of_gaps(results[0]["result"]["gaps"]), figures / "squares.pdf")
    return VARIABLES
'''


@pytest.fixture
def write(tmp_path):
    def write_experiment(variables='{"SquaresMax": number(max(r["result"]["y"] for r in results))}', name="squares"):
        source = textwrap.dedent(SOURCE).lstrip().replace("VARIABLES", variables)
        (tmp_path / f"{name}.py").write_text(source)
        sweep.run(sweep.load_experiment(name, tmp_path), {"x": 2.0}, tmp_path / "results")
        return tmp_path

    return write_experiment


def test_figures_and_variables_are_written_from_result_files(write):
    folder = write()
    sweep.run(sweep.load_experiment("squares", folder), {"x": 3.0}, folder / "results")
    variables = report.write_report(folder, folder / "results", folder / "paper")
    assert variables == {"SquaresMax": r"\num{9}"}
    text = (folder / "paper" / "variables.tex").read_text()
    assert "\\newcommand{\\SquaresMax}{\\num{9}}\n" in text
    assert text.startswith("% Generated")
    assert (folder / "paper" / "figures" / "squares.pdf").read_bytes().startswith(b"%PDF")


def test_a_report_is_the_same_each_time(write):
    folder = write()
    names = ("variables.tex", "figures/squares.pdf")
    contents = []
    for out in ("one", "two"):
        report.write_report(folder, folder / "results", folder / out)
        contents.append([(folder / out / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ('{"Max": "1"}', "camel-case"),
        ('{"squaresMax": "1"}', "camel-case"),
        ('{"SquaresMax2": "1"}', "camel-case"),
        ('{"SquaresMax": 1.0}', "must be text"),
        ('{"SquaresMax": "{"}', "balanced braces"),
        ('{"SquaresMax": number(float("nan"))}', "cannot stand in the paper"),
        ("{}", "no result of any experiment"),
    ],
)
def test_unusable_variables_are_refused(write, variables, message):
    folder = write(variables)
    with pytest.raises(InputError, match=message):
        report.write_report(folder, folder / "results", folder / "paper")
    assert not (folder / "paper" / "variables.tex").exists()


def test_one_name_in_two_experiments_is_refused(write):
    write(name="cubes")
    folder = write()
    with pytest.raises(InputError, match="defined by cubes already"):
        report.write_report(folder, folder / "results", folder / "paper")


def test_a_macro_of_the_paper_that_nothing_defines_is_named(write):
    folder = write()
    (folder / "paper").mkdir()
    (folder / "paper" / "main.tex").write_text(
        "\\SquaresMax{} \\SquaresMin % \\SquaresMean\n\\Delta \\LaTeX \\maketitle"
    )
    with pytest.raises(InputError, match=r"uses \\SquaresMin, which"):
        report.write_report(folder, folder / "results", folder / "paper")


def test_no_results_at_all_says_what_to_run(write, tmp_path):
    with pytest.raises(InputError, match="gp-response run NAME"):
        report.write_report(write(), tmp_path / "nowhere", tmp_path / "paper")


def test_macros_of_sections_are_looked_for_too(tmp_path):
    (tmp_path / "sections").mkdir()
    (tmp_path / "main.tex").write_text(r"\KnownNumber \input{sections/more} % \input{sections/none}")
    (tmp_path / "sections" / "more.tex").write_text(r"\UnknownNumber % \CommentedNumber")
    assert report.undefined(tmp_path / "main.tex", {"KnownNumber": "1"}) == ["UnknownNumber"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(12000, "12000"), (3.14159, "3.14"), (1.5e-9, "1.5e-09"), (0.0, "0"), (-2.5e12, "-2.5e+12")],
)
def test_numbers_are_printed_for_siunitx(value, text):
    assert report.number(value) == rf"\num{{{text}}}"


def paper_text():
    """The paper with its sections."""
    main = (ROOT / "paper" / "main.tex").read_text()
    sections = re.findall(r"\\input\{(sections/\w+)\}", main)
    there = {path.stem for path in (ROOT / "paper" / "sections").glob("*.tex")}
    assert {name.removeprefix("sections/") for name in sections} == there
    return main + "".join((ROOT / "paper" / f"{name}.tex").read_text() for name in sections)


def committed_results():
    found = sorted((ROOT / "paper" / "results").glob("*.json"))
    if not found:
        pytest.skip("no committed results")
    return ROOT / "paper" / "results"


def test_the_committed_numbers_are_those_of_the_committed_results(tmp_path):
    report.write_report(ROOT / "experiments", committed_results(), tmp_path)
    assert (tmp_path / "variables.tex").read_text() == (ROOT / "paper" / "variables.tex").read_text()


def test_the_paper_uses_only_numbers_and_figures_that_exist(tmp_path):
    variables = report.write_report(ROOT / "experiments", committed_results(), tmp_path)
    main = ROOT / "paper" / "main.tex"
    assert report.undefined(main, variables) == []
    used = re.findall(r"\\includegraphics(?:\[[^]]*\])?\{([^}]+)\}", paper_text())
    drawn = {f"figures/{path.name}" for path in (tmp_path / "figures").iterdir()}
    assert used
    assert set(used) <= drawn


def test_every_citation_of_the_paper_is_in_its_bibliography():
    main, bibliography = paper_text(), (ROOT / "paper" / "references.bib").read_text()
    cited = {
        key.strip() for keys in re.findall(r"\\cite[tp]?\*?(?:\[[^]]*\])*\{([^}]+)\}", main) for key in keys.split(",")
    }
    known = set(re.findall(r"^@\w+\{([^,]+),", bibliography, re.MULTILINE))
    assert cited
    assert cited == known
