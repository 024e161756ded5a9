"""The best state of a module by a score, and when to stop looking for a better one."""

import copy

from torch import nn


class EarlyStopping:
    """Keeps the state with the lowest score offered.

    Args:
        module: whose state is kept; its present state is the first.
        patience: offers in a row without improvement after which to stop.
        score: of the present state.
    """

    def __init__(self, module: nn.Module, *, patience: int, score: float = float("inf")):
        self.module, self.patience, self.best_score, self.waited = module, patience, score, 0
        self.best = copy.deepcopy(module.state_dict())

    def offer(self, score: float) -> bool:
        """Take the module's present state if its score is lower; whether it is time to stop."""
        if score < self.best_score:
            self.best, self.best_score, self.waited = copy.deepcopy(self.module.state_dict()), score, 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self) -> None:
        self.module.load_state_dict(self.best)


__all__ = ["EarlyStopping"]
