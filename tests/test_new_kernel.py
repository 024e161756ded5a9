"""The tutorial's kernel, added to a copy of the package as it says, is under the laws, in sweeps and in the ablation table."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorials" / "kernel.md"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A project with the package, its tests of kernels and the ablation of kernels; one file and one line added."""
    folder = tmp_path_factory.mktemp("project")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gp_response", folder / "gp_response", ignore=ignore)
    for name in ("tests/conftest.py", "tests/kernel_cases.py", "tests/test_kernels.py", "pyproject.toml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "experiments" / "ablations").mkdir(parents=True)
    for name in ("ablation.py", "_dense.py", "ablations/kernel.yaml"):
        shutil.copy(ROOT / "experiments" / name, folder / "experiments" / name)
    text = TUTORIAL.read_text(encoding="utf-8")
    [file] = re.findall(r"```\{literalinclude\} (\w+\.py)\n```", text)
    [line] = re.findall(r"```python\n(from gp_response\.kernels\.\w+ import \w+\n)```", text)
    shutil.copy(TUTORIAL.with_name(file), folder / "gp_response" / "kernels" / file)
    exports = folder / "gp_response" / "kernels" / "__init__.py"
    where = "from gp_response.kernels.composite"
    exports.write_text(exports.read_text().replace(where, f"{line}{where}", 1))
    return folder


def inside(folder, *words):
    """What a command of Python prints there, in a process that sees the copy alone."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_file_is_short():
    [file] = re.findall(r"\{literalinclude\} (\w+\.py)", TUTORIAL.read_text(encoding="utf-8"))
    assert len(TUTORIAL.with_name(file).read_text(encoding="utf-8").splitlines()) <= 20


def test_the_laws_include_it(copy):
    told = inside(
        copy, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/test_kernels.py", "-k", "laws or exported"
    )
    assert "test_obeys_the_laws[Cauchy] PASSED" in told
    assert "test_every_kernel_is_exported_and_under_the_laws PASSED" in told


def test_sweeps_and_the_ablation_table_include_it(copy):
    told = inside(copy, "-c", "import gp_response as gr; print(gr.__file__, gr.Cauchy(), len(gr.kernels.families()))")
    assert told.startswith(str(copy))
    count = int(told.split()[-1])
    small = ["n=60", "fit_rows=40", "steps=5", "refits=1"]
    told = inside(copy, "-m", "gp_response.cli", "sweep", "ablation", "kernel=all", *small, "--dry")
    assert told == f"{count} runs: 0 done, {count} left\n"
    told = inside(copy, "-m", "gp_response.cli", "ablations", "kernel", "--smoke")
    assert re.search(r"^Cauchy +0\.\d+ ", told, re.MULTILINE)
    assert "FAILS" not in told
    results = ["--results", "paper/build/smoke/results", "--out", "paper/build/smoke"]
    inside(copy, "-m", "gp_response.cli", "report", *results)
    table = (copy / "paper" / "build" / "smoke" / "variables.tex").read_text()
    assert re.search(r"^Cauchy & \\num\{0\.\d+\}", table, re.MULTILINE)
