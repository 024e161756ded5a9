"""Whether what a response was asked of is what it can be asked of, in the order in which it was to be given."""

from typing import Any

from gp_response.arguments import shown
from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.sampling import Draws
from gp_response.posterior import Posterior
from gp_response.response.observable import Observable
from gp_response.response.perturbation import Perturbation


def require_posterior(posterior: Any, what: str) -> None:
    """Refuse what is no posterior; a head that has not seen data is told so."""
    if isinstance(posterior, Posterior | Draws) or hasattr(posterior, "probe"):
        return
    advice = "give head.fit(data) or head.condition(data)" if hasattr(posterior, "condition") else "see gr.Exact"
    raise InputError(f"{what} got {_named(posterior)} for the posterior; {advice}")


def require_head(head: Any, data: Any, what: str) -> None:
    """Refuse what cannot be conditioned, and what is no data."""
    if not hasattr(head, "condition"):
        advice = (
            "give the head itself (posterior.head)" if hasattr(head, "probe") else "give one such as gr.Exact(kernel)"
        )
        raise InputError(f"{what} got {_named(head)} for the head; {advice}")
    if not isinstance(data, Dataset):
        raise InputError(f"{what} got {_named(data)} for the data; expected a Dataset, e.g. gr.dataset(x, y)")


def require_asked(observable: Any, perturbation: Any, what: str) -> None:
    """Refuse what is no observable, and what is no perturbation."""
    if not isinstance(observable, Observable):
        raise InputError(f"{what} got {_named(observable)} for the observable; expected one such as gr.value(x)")
    if not isinstance(perturbation, Perturbation):
        raise InputError(f"{what} got {_named(perturbation)} for the perturbation; expected one such as gr.reweight()")


def _named(thing: Any) -> str:
    plain = isinstance(thing, Observable | Perturbation) or type(thing).__module__.startswith("gp_response")
    return f"a {type(thing).__name__}" if plain else shown(thing)


__all__ = ["require_asked", "require_head", "require_posterior"]
