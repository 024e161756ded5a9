"""What every pattern of weights is held to: its mass and its bounds, and what a refit says."""

import torch

import gp_response as gr


def refit_change(found, head, data, observable):
    """⟨O⟩ of the head conditioned on the new weights less that on the old ones."""
    new = data.with_train(weights=found.weights)
    old, now = (gr.response.expectation(head.condition(d), observable) for d in (data, new))
    return (now - old).double()


def assert_kept(found, start=None, *, within=1e-9):
    """Bounds hold to the last digit, and where the weights `start` are given, their mass to `within` of it (or of one)."""
    weights, (low, high) = found.weights.double().cpu(), (torch.as_tensor(bound).double() for bound in found.bounds)
    assert bool((weights >= low).all())
    assert bool((weights <= high).all())
    if start is not None:
        mass = float(start.double().sum())
        assert abs(found.mass - mass) < within * max(1.0, mass)
