"""The paper's numbers and figures come from result files alone, and a missing one is noticed."""

import ast
import re
import textwrap
from pathlib import Path

import pytest
from typed import typed_numbers

from gp_response import report, sweep
from gp_response.errors import InputError
from gp_response.sources import source_text

ROOT = Path(__file__).parent.parent
# Sizes and levels of the text that no experiment has as a number of its own.
NOT_IN_EXPERIMENTS = [("given", "1.05")]
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
    assert variables.variables == {"SquaresMax": r"\num{9}"}
    assert (variables.numbers, variables.figures, variables.unrun) == ([], [], [])
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


def test_what_the_paper_uses_and_nothing_gives_is_listed_and_set_as_not_run(write):
    folder = write()
    write("{}", name="cubes")
    for path in (folder / "results").glob("cubes-*.json"):
        path.unlink()
    (folder / "paper").mkdir()
    (folder / "paper" / "main.tex").write_text(
        "\\SquaresMax{} \\SquaresMin % \\SquaresMean\n\\Delta \\LaTeX \\CubesTable \\SourceSquares \\SourceCubes"
        "\\includegraphics{figures/squares.pdf} \\includegraphics[width=1em]{figures/cubes.pdf}"
    )
    found = report.write_report(folder, folder / "results", folder / "paper")
    assert found.numbers == ["CubesTable", "SquaresMin"]
    assert found.figures == ["figures/cubes.pdf"]
    assert found.unrun == ["cubes"]
    text = (folder / "paper" / "variables.tex").read_text()
    assert "\\newcommand{\\SquaresMin}{\\notrun}\n" in text
    assert "\\newcommand{\\CubesTable}{\\notrun \\\\}\n" in text
    assert "\\newcommand{\\SourceCubes}{[\\notrun]}\n" in text
    assert "\\newcommand{\\SourceSquares}{[full size, 1 of 1 runs; " in text


def test_variables_of_a_paper_are_those_that_it_uses_and_old_figures_go(write):
    folder = write('{"SquaresMax": "1", "SquaresMin": "2"}')
    (folder / "paper" / "figures").mkdir(parents=True)
    (folder / "paper" / "figures" / "old.pdf").write_text("of another day")
    (folder / "paper" / "main.tex").write_text("\\SquaresMax")
    report.write_report(folder, folder / "results", folder / "paper")
    assert "SquaresMin" not in (folder / "paper" / "variables.tex").read_text()
    assert [path.name for path in (folder / "paper" / "figures").iterdir()] == ["squares.pdf"]


def test_of_several_folders_each_experiment_takes_the_first_that_has_it(write):
    folder = write('{"SquaresMax": number(max(r["result"]["y"] for r in results))}')
    sweep.run(sweep.load_experiment("squares", folder), {"x": 0.5}, folder / "smoke")
    one = report.write_report(folder, [folder / "none", folder / "smoke", folder / "results"], folder / "paper")
    two = report.write_report(folder, [folder / "results", folder / "smoke"], folder / "paper")
    assert (one.variables, two.variables) == ({"SquaresMax": r"\num{0.25}"}, {"SquaresMax": r"\num{4}"})


def test_a_source_lists_every_scale_and_machine(write):
    experiment = sweep.load_experiment("squares", write())
    machine = {"cpu": "Intel(R) Xeon(R) 100%_ok", "cores": 4, "threads": 1}
    one = {"config": {"x": 2.0}, "machine": machine, "versions": {"torch": "2.13.0+cpu"}}
    others = [{**one, "config": {"x": 0.5}, "machine": {**machine, "gpu": "H100", "threads": 2}}] * 2
    assert source_text(experiment, [one]) == (
        r"[full size, 1 of 1 runs; 4 cores of Intel Xeon 100\%\_ok, 1 thread; torch 2.13.0]"
    )
    both = source_text(experiment, [*others, one])
    assert "full size, 1 of 1 runs; 4 cores of Intel Xeon 100\\%\\_ok, 1 thread" in both
    assert "smoke size, 2 runs; 4 cores of Intel Xeon 100\\%\\_ok, 2 threads, H100" in both
    assert source_text(experiment, []) == r"[\notrun]"


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


PAPER = ROOT / "paper" / "main.tex"


def test_every_section_is_read_by_the_paper():
    read = set(re.findall(r"\\input\{sections/(\w+)\}", PAPER.read_text()))
    assert read == {path.stem for path in (ROOT / "paper" / "sections").glob("*.tex")}


def committed_results():
    found = sorted((ROOT / "paper" / "results").glob("*.json"))
    if not found:
        pytest.skip("no committed results")
    return ROOT / "paper" / "results"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("paper")
    return out, report.write_report(ROOT / "experiments", committed_results(), out, tex=PAPER)


def test_the_committed_numbers_are_those_of_the_committed_results(written):
    assert (written[0] / "variables.tex").read_text() == (ROOT / "paper" / "variables.tex").read_text()


def test_the_paper_uses_only_numbers_and_figures_that_exist(written):
    out, found = written
    assert found.numbers == []
    assert found.figures == []
    used = set(report.graphics(PAPER))
    drawn = {f"figures/{path.name}" for path in (out / "figures").glob("*.pdf")}
    assert used == drawn  # no figure without a script, none that is drawn for nobody
    committed = {f"figures/{path.name}" for path in (ROOT / "paper" / "figures").glob("*.pdf")}
    assert committed == drawn


def test_every_macro_of_the_variables_is_used():
    defined = re.findall(r"\\newcommand\{\\(\w+)\}", (ROOT / "paper" / "variables.tex").read_text())
    assert set(defined) <= set(report.macros(PAPER))


def test_every_figure_and_table_says_where_it_comes_from():
    floats = re.findall(
        r"\\begin\{(?:figure|table)\*?\}.*?\\end\{(?:figure|table)\*?\}", report.paper_text(PAPER), re.S
    )
    assert floats
    without = [re.findall(r"\\label\{([^}]+)\}", text) for text in floats if "\\Source" not in text]
    assert without == []


def test_no_number_of_the_paper_is_typed():
    files = [PAPER, *sorted((PAPER.parent / "sections").glob("*.tex"))]
    assert {path.name: found for path in files if (found := typed_numbers(path.read_text()))} == {}


def test_given_and_published_numbers_stand_in_the_experiments():
    literals = set()
    for path in (ROOT / "experiments").glob("*.py"):
        tree = ast.parse(path.read_text())
        literals |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) in (int, float)}
    for path in (ROOT / "experiments").glob("*/*.yaml"):
        literals |= {float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])", path.read_text())}
    text = report.paper_text(PAPER)
    shown = re.findall(r"\\(given|published)\{(-?[\d.e-]+)\}", text)
    assert {name for name, _ in shown} == {"given", "published"}

    def known(value: float) -> bool:
        return value in literals or value / 100 in literals  # as it is, or in per cent

    unknown = [pair for pair in shown if not known(abs(float(pair[1]))) and pair not in NOT_IN_EXPERIMENTS]
    assert unknown == []
    assert all((name, value) in shown for name, value in NOT_IN_EXPERIMENTS)


def test_published_numbers_have_a_citation_beside_them():
    for place in re.split(r"\n\s*\n", report.paper_text(PAPER)):  # a paragraph, or a table with its caption
        assert "\\published{" not in place or "\\cite" in place


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a gap of 3.2e-9", ["3.2"]),
        ("grew by 12\\,\\%", ["12"]),
        ("$x = 0.37$", ["0.37"]),
        ("$10^{-4}$", ["10"]),
        ("a & 0.92 & b", ["0.92"]),
        ("in 2 of 3 cases", ["2", "3"]),
        (r"Mat\'ern-3/2 on kin40k and Hartmann-6", []),
        (r"\given{512} points, \published{0.139}, \GapMax{}", []),
        ("$\\sigma^2 / 2 + K_1^{-1}$ as in~\\citep{a2020}, \\ref{tab:2}", []),
        ("% 17\n\\begin{equation} x = 17 \\end{equation} \\setlength{\\a}{17pt}", []),
        ("\\begin{tabular}{l*{6}{rr}} \\multicolumn{12}{c}{a}", []),
        ("\\includegraphics[width=0.5\\linewidth]{figures/a.pdf}", []),
    ],
)
def test_typed_numbers_are_found(text, found):
    assert typed_numbers(text) == found


def test_every_citation_of_the_paper_is_in_its_bibliography():
    main, bibliography = report.paper_text(PAPER), (ROOT / "paper" / "references.bib").read_text()
    cited = {
        key.strip() for keys in re.findall(r"\\cite[tp]?\*?(?:\[[^]]*\])*\{([^}]+)\}", main) for key in keys.split(",")
    }
    known = set(re.findall(r"^@\w+\{([^,]+),", bibliography, re.MULTILINE))
    assert cited
    assert cited == known
