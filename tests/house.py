"""The rules of the house, as functions from source text to complaints; `test_house.py` applies and breaks them."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Imports go strictly down this ladder, first rung lowest; modules and packages directly under gp_response.
LADDER = (
    "shapes",
    "errors",
    "arguments",
    "files",
    "keops_cache",
    "claims",
    "scores",
    "data",
    "linalg",
    "features",
    "kernels",
    "likelihoods",
    "solvers",
    "curvature",
    "posterior",
    "heads",
    "response",
    "acquisition",
    "testing",
    "plots",
    "provenance",
    "experiment",
    "scales",
    "sweep",
    "sources",
    "report",
    "reproduce",
    "respond",
    "cli",
)
# These are imported in one file at most, so that each can be left out or replaced; pykeops by its backend, and to mend its cache.
SOLITARY = {"pykeops": 2, "triton": 1, "botorch": 1, "matplotlib": 1, "submitit": 1, "ray": 1, "zarr": 1, "clarabel": 1}
# Benchmarks that tune the peers they are measured against may use the peers' settings, around the peers' calls alone.
TUNERS = {"scaling"}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNPICKLERS = {"read_pickle", "to_pickle"}


@dataclass(frozen=True)
class Import:
    """One imported module, by absolute name, and whether the statement stands inside a function."""

    target: str
    line: int
    local: bool


def imports(source: str, module: str, modules: set[str], *, package: bool = False) -> list[Import]:
    """Every import in a module's syntax tree (relative, function-local, by importlib too), made absolute.

    `modules` are the module names that exist: `from a import b` means the module a.b where there is one, else a.
    """
    tree = ast.parse(source)
    local = {
        id(inner) for node in ast.walk(tree) if _is_function(node) for inner in ast.walk(node) if inner is not node
    }
    found = []
    for node in ast.walk(tree):
        found += [Import(name, node.lineno, id(node) in local) for name in _targets(node, module, modules, package)]
    return found


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _targets(node: ast.AST, module: str, modules: set[str], package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _base(node, module, package)
        return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names]
    if isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
        return [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return []


def _base(node: ast.ImportFrom, module: str, package: bool) -> str:
    if not node.level:
        return node.module or ""
    parents = module.split(".")
    parents = parents[: len(parents) - node.level + package]
    return ".".join([*parents, node.module] if node.module else parents)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def own(name: str) -> bool:
    return name == "gp_response" or name.startswith("gp_response.")


def rung(name: str) -> int | None:
    """Height of a module on the ladder; None for the package itself, which stands above everything."""
    parts = name.split(".")
    return LADDER.index(parts[1]) if len(parts) > 1 and parts[1] in LADDER else None


def ladder_faults(sources: Mapping[str, str]) -> list[str]:
    """Complaints about imports among `sources` (module -> text, `a.__init__` a package): direction, place, cycles."""
    modules = {name.removesuffix(".__init__") for name in sources}
    faults, edges = [], {}
    for name, source in sources.items():
        module, package = name.removesuffix(".__init__"), name.endswith(".__init__")
        here = [found for found in imports(source, module, modules, package=package) if own(found.target)]
        edges[module] = {found.target for found in here if found.target in modules}
        faults += [f"{name}:{found.line}: {text}" for found in here for text in _import_faults(module, found)]
        if module != "gp_response" and rung(module) is None:
            faults.append(f"{name}: not on the ladder; give {module.split('.')[1]!r} a place in LADDER")
    return faults + [f"imports run in a circle: {' -> '.join(cycle)}" for cycle in _cycles(edges)]


def _import_faults(module: str, found: Import) -> Iterator[str]:
    if found.local:
        yield f"imports {found.target} inside a function; import it at the top"
    above, below = rung(module), rung(found.target)
    if module == "gp_response":
        return
    if found.target == "gp_response":
        yield "imports the package itself; import the module that is meant"
    elif below is not None and above is not None and below > above:
        yield f"imports {found.target}, which stands above it on the ladder"


def _cycles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """One cycle for each module that can reach itself first in depth-first order."""
    done: set[str] = set()
    cycles = []

    def visit(node: str, path: list[str]) -> None:
        if node in path:
            cycles.append([*path[path.index(node) :], node])
        elif node not in done:
            for after in sorted(edges.get(node, ())):
                visit(after, [*path, node])
            done.add(node)

    for node in sorted(edges):
        visit(node, [])
    return cycles


def solitary_faults(sources: Mapping[str, str]) -> list[str]:
    """Complaints about libraries that are imported in more files than they may be."""
    faults = []
    for library, most in SOLITARY.items():
        users = [
            name
            for name, source in sources.items()
            if any(found.target.split(".")[0] == library for found in imports(source, name, set(), package=False))
        ]
        if len(users) > most:
            faults.append(f"{library} is imported in {len(users)} files ({', '.join(users)}); {most} at most")
    return faults


def experiment_faults(sources: Mapping[str, str]) -> list[str]:
    """Complaints about experiments (name -> text) that import one another, or what only the package may import.

    Helpers, whose names begin with an underscore, may be imported."""
    experiments = [name for name in sources if not name.startswith("_")]
    faults = []
    for name, source in sources.items():
        for found in imports(source, name, set()):
            first = found.target.split(".")[0]
            if first in (*experiments, "experiments", "tests", "paper") or first in SOLITARY:
                faults.append(f"{name}:{found.line}: an experiment may not import {found.target}")
    return faults


def settings_faults(source: str) -> list[str]:
    """Complaints about the global settings of gpytorch and linear_operator, which change algorithms silently."""
    libraries = ("gpytorch", "linear_operator")
    faults = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        used = [library for library in libraries if any(_inside(name, f"{library}.settings") for name in names)]
        faults += [f"line {node.lineno}: uses {library}.settings" for library in used]
    return faults


def _inside(name: str, module: str) -> bool:
    return f"{name}.".startswith(f"{module}.")


def pickle_faults(source: str) -> list[str]:
    """Complaints about everything that can run code while it reads data."""
    faults = [
        f"line {found.line}: imports {found.target}"
        for found in imports(source, "m", set())
        if found.target.split(".")[0] in PICKLES
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            faults += [f"line {node.lineno}: {text}" for text in _unpickling(node)]
    return faults


def _unpickling(node: ast.Call) -> Iterator[str]:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if ast.unparse(node.func) == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if given.get("allow_pickle", "False") != "False":
        yield "allow_pickle"
    if _called(node) in UNPICKLERS:
        yield _called(node)


def function_lengths(source: str) -> list[int]:
    """Lines of each function of a module, signature and docstring not counted."""
    lengths = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lengths.append(node.end_lineno - body[0].lineno + 1 if body else 1)
    return lengths
