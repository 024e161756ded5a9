"""The house rules hold for every tracked file, and each rule is broken once to show that it can fail."""

import ast
import statistics
import subprocess
import tomllib
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "gp_response").rglob("*.py"))
}
EXPERIMENTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "experiments").glob("*.py"))}
# Pieces, so that this file does not break its own rule.
FORBIDDEN = ("/wo" + "rk/", "/tm" + "p/w", "../sha" + "red", "." + "library/")


def test_imports_go_down_the_ladder_at_the_top_of_files_and_never_in_circles():
    assert not (faults := house.ladder_faults(PACKAGE)), "\n".join(faults)


def test_solitary_libraries_are_imported_in_one_file():
    assert not (faults := house.solitary_faults(PACKAGE)), "\n".join(faults)


def test_experiments_import_the_package_and_not_one_another():
    assert not (faults := house.experiment_faults(EXPERIMENTS)), "\n".join(faults)


@pytest.mark.parametrize("rule", [house.settings_faults, house.pickle_faults])
def test_no_global_settings_and_no_pickle(rule):
    tuners = house.TUNERS if rule is house.settings_faults else set()
    read = {name: source for name, source in {**PACKAGE, **EXPERIMENTS}.items() if name not in tuners}
    faults = [f"{name}: {fault}" for name, source in read.items() for fault in rule(source)]
    assert not faults, "\n".join(faults)


def test_every_module_says_what_it_is_for():
    silent = [name for name, source in {**PACKAGE, **EXPERIMENTS}.items() if not ast.get_docstring(ast.parse(source))]
    assert not silent


def test_modules_and_functions_are_short():
    modules = {name: len(source.splitlines()) for name, source in PACKAGE.items()}
    long = {name: lines for name, lines in modules.items() if lines > 400}
    functions = [length for source in PACKAGE.values() for length in house.function_lengths(source)]
    assert not long
    assert statistics.median(modules.values()) <= 150
    assert statistics.median(functions) <= 8
    assert statistics.quantiles(functions, n=10)[-1] <= 25


def tracked():
    try:
        done = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_names_a_folder_of_one_machine():
    allowed = {ROOT / ".ci" / "run"}  # the one file that may know where the data sets lie beside the clone
    faults = []
    for path in set(tracked()) - allowed:
        text = path.read_bytes().decode("utf-8", errors="ignore")
        faults += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert not faults, "\n".join(sorted(faults))


def test_the_lock_holds_every_direct_requirement_and_the_build_tools():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = {line.split("==")[0].lower().replace("-", "_") for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = [line for group in project["project"]["optional-dependencies"].values() for line in group]
    wanted = [*project["project"]["dependencies"], *extras, *project["build-system"]["requires"], "setuptools"]
    names = {line.split(">")[0].split("=")[0].split("<")[0].strip().lower().replace("-", "_") for line in wanted}
    assert names <= locked
    assert not [line for line in lines if "+" in line.partition("#")[0]], (
        "a build tag would tie the lock to one machine"
    )


MODULES = {"gp_response", "gp_response.kernels", "gp_response.kernels.rbf", "gp_response.solvers", "gp_response.heads"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import gp_response.solvers", "gp_response.solvers"),
        ("from gp_response.solvers import CG", "gp_response.solvers"),
        ("from gp_response import solvers", "gp_response.solvers"),
        ("from gp_response import RBF", "gp_response"),
        ("import gp_response as gr", "gp_response"),
        ("from ..solvers import CG", "gp_response.solvers"),
        ("from .. import solvers", "gp_response.solvers"),
        ("from . import rbf", "gp_response.kernels.rbf"),
        ("from .rbf import RBF", "gp_response.kernels.rbf"),
        ("import importlib\nimportlib.import_module('gp_response.heads')", "gp_response.heads"),
        ("__import__('gp_response.heads')", "gp_response.heads"),
        ("if True:\n    from gp_response import heads", "gp_response.heads"),
    ],
)
def test_the_checker_sees_every_way_to_import(source, expected):
    assert expected in [found.target for found in house.imports(source, "gp_response.kernels.base", MODULES)]


def test_relative_imports_of_a_package_count_from_the_package():
    [found] = house.imports("from .rbf import RBF", "gp_response.kernels", MODULES, package=True)
    assert found.target == "gp_response.kernels.rbf"


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ({"kernels.rbf": "from gp_response.heads import Exact", "heads.__init__": ""}, "stands above"),
        ({"kernels.rbf": "from ..heads import Exact", "heads.__init__": ""}, "stands above"),
        ({"kernels.rbf": "from gp_response import cli", "cli": ""}, "stands above"),
        ({"kernels.rbf": "import gp_response as gr", "__init__": ""}, "the package itself"),
        ({"kernels.rbf": "from gp_response import RBF", "__init__": ""}, "the package itself"),
        ({"heads.exact": "def f():\n    from gp_response import solvers", "solvers": ""}, "inside a function"),
        ({"heads.exact": "g = lambda: __import__('gp_response.solvers')", "solvers": ""}, "inside a function"),
        ({"heads.exact": "class A:\n    def f(self):\n        from ..solvers import CG", "solvers": ""}, "inside a"),
        ({"utils": ""}, "not on the ladder"),
        ({"data.a": "from .b import x", "data.b": "from .c import x", "data.c": "from .a import x"}, "in a circle"),
        ({"data.__init__": "from .a import x", "data.a": "from gp_response.data import y"}, "in a circle"),
    ],
)
def test_a_broken_ladder_is_reported(sources, complaint):
    faults = house.ladder_faults({f"gp_response.{name}": source for name, source in sources.items()})
    assert any(complaint in fault for fault in faults), faults


def test_a_sound_ladder_is_not_reported():
    sources = {
        "gp_response.__init__": "from gp_response.heads import Exact\nfrom gp_response import cli",
        "gp_response.cli": "import torch\nfrom gp_response.heads import Exact",
        "gp_response.heads.__init__": "from gp_response.heads.exact import Exact",
        "gp_response.heads.exact": "from gp_response.heads.base import Head\nfrom gp_response.solvers import CG",
        "gp_response.heads.base": "",
        "gp_response.solvers": "def f():\n    import scipy",
    }
    assert house.ladder_faults(sources) == []


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (house.settings_faults, "import gpytorch\nwith gpytorch.settings.fast_computations(): pass"),
        (house.settings_faults, "from gpytorch import settings"),
        (house.settings_faults, "from gpytorch.settings import cholesky_jitter"),
        (house.settings_faults, "import linear_operator.settings as s"),
        (house.settings_faults, "import linear_operator\nlinear_operator.settings.max_cholesky_size(3)"),
        (house.pickle_faults, "import pickle"),
        (house.pickle_faults, "def f():\n    from joblib import load"),
        (house.pickle_faults, "import torch\ntorch.load('x')"),
        (house.pickle_faults, "import torch\ntorch.load('x', weights_only=False)"),
        (house.pickle_faults, "import numpy as np\nnp.load('x', allow_pickle=True)"),
        (house.pickle_faults, "import pandas as pd\npd.read_pickle('x')"),
        (lambda source: house.solitary_faults({"a": source, "b": source}), "def f():\n    import triton.language"),
        (lambda source: house.solitary_faults({"a": source, "b": source}), "from matplotlib.figure import Figure"),
        (lambda source: house.experiment_faults({"a": source, "b": ""}), "import b"),
        (lambda source: house.experiment_faults({"a": source}), "from experiments.b import main"),
        (lambda source: house.experiment_faults({"a": source}), "import matplotlib.pyplot as plt"),
    ],
)
def test_a_broken_rule_is_reported(rule, source):
    assert rule(source)


@pytest.mark.parametrize("rule", [house.settings_faults, house.pickle_faults])
def test_a_kept_rule_is_not_reported(rule):
    source = (
        "import torch\ntorch.load('x', weights_only=True)\nself.settings.x\nimport gpytorch\ngpytorch.kernels.Kernel"
    )
    assert rule(source) == []


def test_function_lengths_leave_out_signature_and_docstring():
    method = 'class A:\n    def g(self):\n        """Doc."""\n'
    source = 'def f(\n    x,\n):\n    """Doc."""\n    y = x\n    return y\n\n\n' + method
    assert sorted(house.function_lengths(source)) == [1, 2]
