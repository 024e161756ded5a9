"""Every kernel by name, for whoever sweeps over them."""

from collections.abc import Iterator

from gp_response.errors import unknown_name
from gp_response.kernels.base import Kernel
from gp_response.kernels.dot import DotKernel
from gp_response.kernels.stationary import StationaryKernel

HOME = "gp_response.kernels."


def families() -> dict[str, type[Kernel]]:
    """The kernels of the package that read points through lengthscales, by name: those that can stand for one another.

    Each is made by `family(lengthscale=…)`. A kernel that `gp_response.kernels` imports is among them, with nothing else to be
    done; kernels made of kernels, and the constant, are not.
    """
    found = (kind for kind in _below(Kernel) if kind.__module__.startswith(HOME) and not kind.__name__.startswith("_"))
    return {kind.__name__: kind for kind in sorted(found, key=lambda kind: kind.__name__) if _reads_points(kind)}


def family(name: str) -> type[Kernel]:
    """One of them. Raises InputError for a name that is not among them, with the nearest that is."""
    known = families()
    if name not in known:
        raise unknown_name("kernel", name, known)
    return known[name]


def _below(kind: type[Kernel]) -> Iterator[type[Kernel]]:
    for below in kind.__subclasses__():
        yield below
        yield from _below(below)


def _reads_points(kind: type[Kernel]) -> bool:
    """Whether it has a formula of its own, and a lengthscale without being given anything."""
    own = {kind.formula, getattr(kind, "profile", None)}
    if kind.formula is Kernel.formula or own & {StationaryKernel.profile, DotKernel.profile}:
        return False
    try:
        return kind().has_lengthscale
    except TypeError:  # it is made of kernels
        return False


__all__ = ["families", "family"]
