"""How well attributions foretell retraining: rank correlation over removals, its bootstrap, and the size of the error."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

Table = dict[str, "Guess"]  # by damping


@dataclass(frozen=True)
class Guess:
    """Changes foretold of each asked output, (points, sets) for the half-subsets and (points, rows) for single rows."""

    halves: Tensor
    singles: Tensor


def additive(scores: dict[str, Tensor], removed: Tensor, singles: Tensor) -> Table:
    """Of scores that add up, (points, rows), by damping; removed: (rows, sets), one where a row is taken away."""
    return {damping: Guess(found @ removed, found[:, singles]) for damping, found in scores.items()}


def lds(guess: Tensor, truth: Tensor) -> float:
    """Linear datamodelling score: Spearman's correlation over sets, mean over points; (points, sets) each."""
    return float(_correlation(_ranks(guess), _ranks(truth)).mean())


def pearson(guess: Tensor, truth: Tensor) -> float:
    """Correlation over sets, mean over points."""
    return float(_correlation(guess.numpy(), truth.numpy()).mean())


def errors(guess: Tensor, truth: Tensor, held: int) -> dict[str, float]:
    """Relative error of the size of all but the first `held`, as it is and after the one factor that suits those best."""
    tried, known, rest, true = guess[:, :held], truth[:, :held], guess[:, held:], truth[:, held:]
    factor = float((tried * known).sum() / tried.square().sum())
    found = {"error": rest, "error_scaled": factor * rest}
    return {name: float((value - true).norm() / true.norm()) for name, value in found.items()} | {"factor": factor}


def bootstrap(guesses: dict[str, Tensor], truth: Tensor, draws: int, seed: int) -> dict[str, np.ndarray]:
    """LDS of every guess under the same draws of points and of sets with replacement, (draws,)."""
    generator, (m, q) = np.random.default_rng(seed), truth.shape
    found: dict[str, list[float]] = {name: [] for name in guesses}
    for _ in range(draws):
        at = np.ix_(generator.integers(m, size=m), generator.integers(q, size=q))
        true = _ranks(truth.numpy()[at])
        for name, guess in guesses.items():
            found[name].append(float(_correlation(_ranks(guess.numpy()[at]), true).mean()))
    return {name: np.array(values) for name, values in found.items()}


def interval(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.quantile(values, [0.025, 0.975])]


def _ranks(values: Any) -> np.ndarray:
    return rankdata(values, axis=1)


def _correlation(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Of each row; 0 for a row that does not vary."""
    one, two = (part - part.mean(axis=1, keepdims=True) for part in (one, two))
    size = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return (one * two).sum(axis=1) / np.where(size > 0.0, size, 1.0)


def assess(
    tables: dict[str, Table], halves: Tensor, singles: Tensor, held: int, held_rows: int, seed: int
) -> dict[str, Any]:
    """Every method at the damping that suits the first `held` half-subsets best, scored on the others; and so for single rows.

    halves: changes of retrained networks, (points, sets); singles: (points, rows). A method with a damping "1", in units of the
    training's precision, is scored at that one, too ("untuned").
    """
    found: dict[str, Any] = {}
    kept: dict[str, Tensor] = {}
    for name, table in tables.items():
        by_halves = {d: lds(guess.halves[:, :held], halves[:, :held]) for d, guess in table.items()}
        by_singles = {d: pearson(guess.singles[:, :held_rows], singles[:, :held_rows]) for d, guess in table.items()}
        best, best_single = max(by_halves, key=by_halves.__getitem__), max(by_singles, key=by_singles.__getitem__)
        guess, single = table[best].halves, table[best_single].singles
        kept[name] = guess[:, held:]
        found[name] = {
            "damping": best, "lds": lds(kept[name], halves[:, held:]), **errors(guess, halves, held),
            "loo_damping": best_single, "loo": pearson(single[:, held_rows:], singles[:, held_rows:]),
            **{f"loo_{k}": v for k, v in errors(single, singles, held_rows).items()},
        }  # fmt: skip
        if "1" in table:
            found[name] |= {
                "lds_untuned": lds(table["1"].halves[:, held:], halves[:, held:]),
                "loo_untuned": pearson(table["1"].singles[:, held_rows:], singles[:, held_rows:]),
            }
    draws = bootstrap(kept, halves[:, held:], 300, seed)
    for name, result in found.items():
        result["lds_interval"] = interval(draws[name])
        others = {other: found[other]["lds"] for other in found if other != name}
        result["lds_minus"] = {
            other: [result["lds"] - score, *interval(draws[name] - draws[other])] for other, score in others.items()
        }
    return found
