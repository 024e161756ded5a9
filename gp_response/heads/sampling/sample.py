"""Sampling chosen parameters of a network around where it stands."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp

from gp_response.curvature import Curvature, Network, ggn
from gp_response.curvature.loss import Loss, loss_of
from gp_response.curvature.rows import Labelled, Rows, labelled_rows
from gp_response.curvature.selection import Selection
from gp_response.errors import InputError
from gp_response.heads.sampling.chain_files import ChainFiles
from gp_response.heads.sampling.chains import Chains
from gp_response.heads.sampling.hmc import HMC
from gp_response.heads.sampling.langevin import SGLD, Method, Target
from gp_response.heads.sampling.reference import Reference, reference
from gp_response.heads.sampling.run import Outputs, Run, mean_gradient, mean_loss, run_mark
from gp_response.likelihoods import Gaussian, Likelihood

LEAST_TAKEN = 0.1


@torch.no_grad()
def sample(
    net: nn.Module | Network,
    data: Labelled,
    *,
    likelihood: Likelihood,
    parameters: Selection = "all",
    method: Method | float,
    draws: int = 200,
    chains: int = 4,
    burn_in: int = 0,
    thin: int = 1,
    batch_size: int | None = None,
    beta: float | None = None,
    n_beta: float | None = None,
    localise: float = 0.0,
    prior_precision: float | Tensor = 0.0,
    stationary: bool = False,
    at: Tensor | None = None,
    twin: bool = False,
    seed: int = 0,
    out: Path | str | None = None,
    block: int = 50,
    progress: bool = False,
) -> Chains:
    """Draws of `exp(-β Σ ρ_i ℓ_i(θ) - ½ γ |θ - θ*|² - ½ Σ λ_p θ_p²)` by dynamics that start at the network, θ*.

    Args:
        net: as it stands; never changed. parameters: which move, see `gr.ggn`.
        data: a Dataset (weights ρ used), or a pair (x, y).
        likelihood: of the losses; the same that `gr.draws` then uses.
        method: `gr.SGLD(step)`, `gr.PreconditionedSGLD(step)`, or a step of SGLD; `gr.plan_sampling` finds one. `gr.HMC()` has no
            step and no bias, is fast where the posterior is nearly Gaussian, and needs a pull on every parameter and all rows.
        draws: kept of each chain. burn_in: steps before the first. thin: steps from one to the next.
        batch_size: rows of a minibatch, drawn with replacement; None: full gradients. Minibatches widen what is sampled.
        beta: β, or n_beta: nβ of the papers on susceptibilities, n rows; both None: β = 1.
        localise: γ. prior_precision: λ of a Gaussian prior around zero, a number or (P,).
        stationary: the centre of both pulls is put where θ* is stationary, as `gr.laplace` has it: what is sampled then has
            its mode at θ* whatever the network was trained with.
        at: (p, d) points whose outputs are kept, instead of parameters (which `gr.draws` reads anywhere).
        twin: also the linearised network, moved by the same random numbers, for `gr.control_variate`; Gaussian likelihoods. Its
            gradients count, too.
        seed: of all random numbers. Chains and steps are reproducible on one kind of device.
        out: folder to which blocks of draws are written; called again with the same arguments, an interrupted run goes on.
        block: draws written together.

    Raises:
        InputError: arguments that do not fit, a chain that diverges or stands still, `out` of another run.
    """
    model = net if isinstance(net, Network) else Network(net, parameters)
    counts = {"draws": draws, "chains": chains, "thin": thin, "block": block, "batch_size": batch_size or 1}
    _check(likelihood, twin, counts)
    method = SGLD(float(method)) if isinstance(method, int | float) else method
    _check_method(method, batch_size)
    rows, loss = _labelled(model, data, likelihood)
    _require_side_by_side(model, loss, rows[:1])
    n, beta = len(rows), _beta(beta, n_beta, len(rows))
    calls: tuple[Outputs, ...] = (model.call, *([partial(linearised, model)] if twin else []))
    precision = _precision(localise, prior_precision, model)
    push = beta * n * mean_gradient(model.call, loss, rows)(model.origin[None], None)[0] if stationary else None
    centre = _centre(localise, precision, model.origin, push)
    around = None
    if isinstance(method, HMC):
        target = _target(model.call, loss, rows, beta=beta, precision=precision, centre=centre)
        around = _around(target, ggn(model, rows, likelihood=likelihood, beta=beta), method.rank)
    targets = tuple(
        _target(call, loss, rows, beta=beta, precision=precision, centre=centre, around=around) for call in calls
    )
    run = Run(
        targets, calls, model.origin, method=method, chains=chains, burn_in=burn_in, thin=thin, seed=seed, at=at,
        rows=None if batch_size is None else (n, batch_size),
    )  # fmt: skip
    mark = run_mark(
        (rows.x, rows.y, rows.weights, precision, centre, model.origin, *([] if at is None else [at])),
        (method, chains, burn_in, thin, seed, batch_size, beta, repr(likelihood), model.names, twin, block),
    )
    files = None if out is None else ChainFiles(out, mark)
    kept, states = run.draws(draws, files=files, block=block, progress=progress)
    taken = [float((state.memory["taken"] / state.steps).mean()) if method.refuses else None for state in states]
    _check_taken(method, taken[0])
    settings = {
        "method": repr(method), "burn_in": burn_in, "thin": thin, "batch_size": batch_size, "n_beta": beta * n, "rows": n,
        "localise": localise, "seed": seed, "parameters": list(model.names),
    }  # fmt: skip
    share = method.cost * chains * (burn_in + thin * draws) * (1.0 if batch_size is None else batch_size / n)
    # Of HMC also its Gaussian's products and where that is centred, and the energies that chains start with.
    extra = 0 if around is None else around.products + 1 + chains * len(calls)
    made = [
        Chains(
            theta=values if at is None else None, values=None if at is None else values, call=_squeezed(call), at=at,
            likelihood=likelihood, beta=beta, gradients=share * len(calls) + extra, settings=settings,
            acceptance=share_taken,
        )
        for call, values, share_taken in zip(calls, kept, taken, strict=True)
    ]  # fmt: skip
    return replace(made[0], twin=made[1]) if twin else made[0]


def _check(likelihood: Any, twin: bool, counts: dict[str, Any]) -> None:
    if not isinstance(likelihood, Likelihood) or (twin and not isinstance(likelihood, Gaussian)):
        expected = (
            "a gr.Gaussian, where the linearised network is Gaussian, for twin=True" if twin else "a gr.Likelihood"
        )
        raise InputError(f"likelihood={likelihood!r}; expected {expected}")
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"sample({name}={count!r}): expected an integer of 1 or more")


def _require_side_by_side(model: Network, loss: Loss, row: Rows) -> None:
    """Chains are computed beside each other by vmap, which not every forward can be."""
    try:
        mean_gradient(model.call, loss, row)(model.origin.expand(2, -1), None)
    except (RuntimeError, NotImplementedError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"chains are computed beside each other, which this network's forward does not allow: {said}; write it without "
            "branches on numbers, masks as indices and checkpoints"
        ) from error


def _check_method(method: Any, batch_size: int | None) -> None:
    if not isinstance(method, Method):
        raise InputError(f"method={method!r}; expected gr.SGLD(step), gr.PreconditionedSGLD(step), gr.HMC() or a step")
    if method.refuses and batch_size is not None:
        raise InputError(f"batch_size={batch_size} with {method!r}, which takes the whole loss; leave batch_size away")


def _check_taken(method: Method, taken: float | None) -> None:
    """Draws that hardly move look as if they were certain."""
    if taken is not None and taken < LEAST_TAKEN:
        raise InputError(
            f"{method!r} took {taken:.1%} of its steps; expected {LEAST_TAKEN:.0%} or more: take more kicks, a smaller turn, or a "
            "rank that reaches all stiff modes, or localise more"
        )


def _target(
    call: Outputs, loss: Loss, rows: Rows, *, beta: float, precision: Tensor, centre: Tensor, around: Reference | None = None
) -> Target:  # fmt: skip
    gradient, whole = mean_gradient(call, loss, rows), mean_loss(call, loss, rows)
    return Target(gradient, beta * len(rows), precision, centre, loss=whole, around=around)


def _around(target: Target, curvature: Curvature, rank: int) -> Reference:
    """The Gaussian at the end of a Newton step from the network, which is where the linearised network has its mode."""
    precision, origin = torch.as_tensor(target.precision), curvature.net.origin
    if bool((precision == 0).any()):
        raise InputError("gr.HMC() needs a pull on every parameter; give localise or prior_precision above 0")
    found = reference(curvature, precision, origin, rank=rank)
    push = target.force(origin[None], target.gradient(origin[None], None))
    return found.around(found.place(-found.pull(push))[0])


def _labelled(model: Network, data: Labelled, likelihood: Likelihood) -> tuple[Rows, Loss]:
    """Rows whose labels are as their loss takes them."""
    rows = labelled_rows(data).to(model.device, model.dtype)
    model.check(rows.x)
    loss, first = loss_of(likelihood), model.output(rows.x[:1])
    return Rows(rows.x, loss.labels(rows.y, first.expand(len(rows), *first.shape[1:])), rows.weights), loss


def _precision(localise: float, prior: float | Tensor, model: Network) -> Tensor:
    found = localise + torch.as_tensor(prior, dtype=model.dtype, device=model.device)
    if found.shape not in ((), (model.count,)) or not bool((torch.isfinite(found) & (found >= 0)).all()):
        raise InputError(
            f"localise={localise!r} and prior_precision of shape {tuple(found.shape)}; expected finite numbers of 0 or more, "
            f"one or ({model.count},)"
        )
    return found.expand(model.count)


def _centre(localise: float, precision: Tensor, origin: Tensor, push: Tensor | None) -> Tensor:
    """Of both pulls together: `γ (θ - θ*) + λ θ = (γ + λ)(θ - γ θ*/(γ + λ))`; or where they balance the data's push at θ*."""
    if push is not None and bool((precision == 0).any()):
        raise InputError("stationary=True needs a pull on every parameter; give localise or prior_precision above 0")
    divisor = torch.where(precision > 0, precision, torch.ones_like(precision))
    return localise * origin / divisor if push is None else origin + push / divisor


def linearised(model: Network, theta: Tensor, x: Tensor) -> Tensor:
    """`f(x; θ*) + J(x) (θ - θ*)`, shaped as the outputs; differentiable in θ."""
    value, slope = jvp(lambda t: model.call(t, x), (model.origin,), (theta - model.origin,))[:2]
    return value + slope


def _beta(beta: float | None, n_beta: float | None, n: int) -> float:
    if beta is not None and n_beta is not None:
        raise InputError(f"beta={beta!r} and n_beta={n_beta!r} say the same; give one")
    found = float(beta) if beta is not None else 1.0 if n_beta is None else float(n_beta) / n
    if not 0.0 <= found < float("inf"):
        raise InputError(f"beta={beta!r}, n_beta={n_beta!r}; expected a finite number of 0 or more")
    return found


def _squeezed(call: Outputs) -> Outputs:
    def field(theta: Tensor, x: Tensor) -> Tensor:
        found = call(theta, x)
        return found[..., 0] if found.shape[-1] == 1 else found

    return field


__all__ = ["linearised", "sample"]
