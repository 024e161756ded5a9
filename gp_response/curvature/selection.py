"""Which of a module's parameters are meant: all, its head, names, prefixes, patterns, or a rule."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from torch import nn

from gp_response.errors import InputError, unknown_name

Rule: TypeAlias = str | re.Pattern[str] | Callable[[str, nn.Parameter], bool]
Selection: TypeAlias = Rule | Iterable[Rule]


def select(module: nn.Module, parameters: Selection = "all") -> tuple[str, ...]:
    """Names of the parameters chosen, in the module's order; a parameter of several names is counted once, by its first.

    Parameters are chosen whether or not they require gradients.

    Args:
        parameters: "all"; "head" (the last layer that holds parameters, unless a layer is called so); the name of a parameter
            or of a layer (all below it); a compiled pattern, searched in names; a callable (name, parameter) -> bool; or
            several of these.

    Raises:
        InputError: a rule that no parameter meets, or a module without parameters.
    """
    first = _first_names(module)
    if not first:
        raise InputError(f"{type(module).__name__} has no parameters; give a torch.nn.Module that has been trained")
    chosen = {first[name] for rule in _rules(parameters) for name in _matching(module, rule, first)}
    return tuple(name for name, _ in module.named_parameters() if name in chosen)


def _first_names(module: nn.Module) -> dict[str, str]:
    """Every name of every parameter, and the first name of the same one."""
    seen: dict[int, str] = {}
    return {name: seen.setdefault(id(p), name) for name, p in module.named_parameters(remove_duplicate=False)}


def _rules(parameters: Selection) -> list[Rule]:
    if isinstance(parameters, str | re.Pattern) or callable(parameters):
        return [parameters]
    if not isinstance(parameters, Iterable) or not (rules := list(parameters)):
        raise InputError(
            f"parameters={parameters!r}; expected 'all', 'head', names, re.compile(...), a callable, or a list of these"
        )
    return rules


def _matching(module: nn.Module, rule: Rule, names: Iterable[str]) -> list[str]:
    found = list(_found(module, rule, names))
    if found:
        return found
    if isinstance(rule, str):
        raise unknown_name("parameter or layer", rule, [*names, *(name for name, _ in module.named_modules() if name)])
    shown = ", ".join(list(names)[:6])
    raise InputError(f"parameters={rule!r} chooses none of {shown}, …; widen the rule or name the parameters")


def _found(module: nn.Module, rule: Rule, names: Iterable[str]) -> Iterator[str]:
    if isinstance(rule, re.Pattern):
        return (name for name in names if rule.search(name))
    if isinstance(rule, str):
        return _below(module, rule, names)
    if callable(rule):
        by_name = dict(module.named_parameters(remove_duplicate=False))
        try:
            return iter([name for name in names if rule(name, by_name[name])])
        except TypeError as error:
            raise InputError(f"parameters={rule!r} failed ({error}); expected (name, parameter) -> bool") from error
    raise InputError(
        f"parameters holds a {type(rule).__name__}; expected a name, re.compile(...) or a callable (name, parameter) -> bool"
    )


def _below(module: nn.Module, rule: str, names: Iterable[str]) -> Iterator[str]:
    named = [name for name in names if name == rule or name.startswith(f"{rule}.")]
    if not named and rule == "all":
        return iter(names)
    if not named and rule == "head":
        last = _last_layer(module)
        return (name for name in names if _layer(name.rpartition(".")[0]) == last)
    return iter(named)


def _last_layer(module: nn.Module) -> str:
    holding = [
        name for name, layer in module.named_modules() if next(layer.parameters(recurse=False), None) is not None
    ]
    return _layer(holding[-1])


def _layer(holder: str) -> str:
    """The layer that parameters held here are of: those of a parametrised one are held below it, "2.parametrizations.weight"."""
    return re.split(r"(?:^|\.)parametrizations(?:\.|$)", holder)[0]


__all__ = ["Selection", "select"]
