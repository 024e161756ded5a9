"""How Sphinx builds the documentation: `make docs`, warnings are errors, tutorials are executed."""

import inspect
from pathlib import Path

import gp_response
import gp_response.sweep

project = "gp_response"
author = "the authors of gp_response"
copyright = author
version = release = gp_response.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = "gp_response"
exclude_patterns = ["_build"]
default_role = "code"
templates_path = ["_templates"]

# A tutorial that raises, or an assertion in it that fails, fails the build.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "deflist"]

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]  # names of attributes are looked up everywhere, and several classes share some

TITLES = {
    "data": "Data",
    "features": "Features",
    "kernels": "Kernels",
    "likelihoods": "Likelihoods",
    "solvers": "Solvers",
    "curvature": "Curvature of networks",
    "posterior": "Posterior",
    "heads": "Heads",
    "response": "Responses",
    "acquisition": "Acquisition",
    "testing": "Laws",
    "sweep": "Sweeps",
    "scores": "Scores",
    "errors": "Errors",
}


def write_reference(folder: Path) -> None:
    """A page for each part of the package with every public name that comes from it, so that none is forgotten."""
    parts: dict[str, list[str]] = {part: [] for part in TITLES}
    for name in sorted(gp_response.__all__, key=str.lower):
        thing = getattr(gp_response, name)
        if not inspect.ismodule(thing):
            parts[thing.__module__.split(".")[1]].append(name)
    parts["sweep"] = [f"sweep.{name}" for name in gp_response.sweep.__all__]
    parts["testing"] = [f"testing.{name}" for name in gp_response.testing.__all__ if name.startswith("check_")]
    folder.mkdir(exist_ok=True)
    for part, names in parts.items():
        if names:
            listed = "\n".join(f"   {name}" for name in names)
            title = f"{TITLES[part]}\n{'=' * len(TITLES[part])}"
            text = f"{title}\n\n.. currentmodule:: gp_response\n\n.. autosummary::\n   :toctree: names\n\n{listed}\n"
            (folder / f"{part}.rst").write_text(text)


def as_rst(app, what, name, thing, options, lines) -> None:
    """Docstrings are plain text with code in single quotes of code: elsewhere bars and stars mean themselves."""
    for at, line in enumerate(lines):
        bullet = line[: len(line) - len(line.lstrip())] + "* " if line.lstrip().startswith("* ") else ""
        pieces = line[len(bullet) :].split("`")
        plain = [piece if k % 2 else piece.replace("|", "\\|").replace("*", "\\*") for k, piece in enumerate(pieces)]
        lines[at] = bullet + "`".join(plain)


def setup(app) -> None:
    write_reference(Path(__file__).with_name("reference"))
    app.connect("autodoc-process-docstring", as_rst, priority=100)  # before napoleon
