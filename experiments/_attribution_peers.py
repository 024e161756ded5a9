"""Peers of attribution, each as its authors offer it: EK-FAC (kronfluence), influence functions and TRAK (dattri).

Every function returns, per damping, what taking away a row is said to change each asked output by, averaged over networks:
(points, rows). Dampings are multiples of the precision λ of the training. The packages are optional (`pip install .[peers]`).
"""

import importlib.util
import logging
import tempfile
from collections.abc import Callable

import torch
from _attribution_nets import Case, Parameters
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

PACKAGES = ("kronfluence", "dattri")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
if "kronfluence" not in MISSING:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
else:
    Task = object
if "dattri" not in MISSING:
    from dattri.algorithm.influence_function import IFAttributorExplicit
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask

Scores = dict[str, Tensor]


class _Attributed(Task):
    """Losses and outputs of a case in kronfluence's words."""

    def __init__(self, case: Case):
        super().__init__()
        self.case = case

    def compute_train_loss(self, batch: list[Tensor], model: nn.Module, sample: bool = False) -> Tensor:
        x, y = batch
        out = model(x)
        return self.case.loss(out, self._drawn(out.detach()) if sample else y).sum()

    def compute_measurement(self, batch: list[Tensor], model: nn.Module) -> Tensor:
        x, y = batch
        return self.case.asked(model(x), y).sum()

    def _drawn(self, out: Tensor) -> Tensor:
        """Targets as the network expects them, for the true Fisher matrix."""
        noise = self.case.pair.noise
        if noise is not None:
            return out[:, 0] + noise**0.5 * torch.randn_like(out[:, 0])
        if self.case.outputs == 1:
            return torch.bernoulli(out[:, 0].sigmoid())
        return torch.multinomial(out.softmax(dim=-1), 1)[:, 0].to(out)


def ekfac(case: Case, trained: Parameters, dampings: list[float], seed: int) -> Scores:
    """kronfluence's EK-FAC, true Fisher matrix, in float32 as its default is. It averages over rows where we sum."""
    count, n = len(next(iter(trained.values()))), len(case.x)
    found = {name_of(damping): torch.zeros(len(case.points), n, dtype=torch.float64) for damping in dampings}
    rows, points = (TensorDataset(x.float(), y.float()) for x, y in ((case.x, case.y), (case.points, case.targets)))
    for which in range(count):
        torch.manual_seed(seed + which)
        task = _Attributed(case)
        model = prepare_model(case.load(trained, which).float(), task)
        with tempfile.TemporaryDirectory() as folder:
            analyzer = Analyzer(
                "attribution", model, task, cpu=True, output_dir=folder, disable_tqdm=True, log_level=logging.ERROR
            )
            analyzer.fit_all_factors(
                "ekfac", rows, per_device_batch_size=n, factor_args=FactorArguments(strategy="ekfac")
            )
            for damping in dampings:
                name = name_of(damping)
                analyzer.compute_pairwise_scores(
                    name, "ekfac", points, rows, per_device_query_batch_size=len(case.points), per_device_train_batch_size=n,
                    score_args=ScoreArguments(damping_factor=damping * case.pair.precision / n),
                )  # fmt: skip
                found[name] += analyzer.load_pairwise_scores(name)["all_modules"].detach().double() / (n * count)
    return found


def influence(case: Case, trained: Parameters, dampings: list[float]) -> Scores:
    """dattri's influence function with the explicit Hessian; one batch of all rows, for it sums the inverses of batches."""
    task = _task(case, trained, case.loss, case.asked)
    found = {}
    rows, points = _batch(case.x, case.y), _batch(case.points, case.targets)
    for damping in dampings:
        attributor = IFAttributorExplicit(task, regularization=damping * case.pair.precision)
        attributor.cache(rows)
        found[name_of(damping)] = attributor.attribute(rows, points).detach().T.double()
    return found


def trak(case: Case, trained: Parameters, dampings: list[float], dimensions: list[int], seed: int) -> Scores:
    """dattri's TRAK. Its `1 - p` is the slope of a class's loss by its log-odds; a regression has the residual there."""
    task = _task(case, trained, case.asked, case.asked)
    net = case.network(0)

    def right(parameters: Parameters, row: tuple[Tensor, Tensor]) -> Tensor:
        x, y = row
        out = functional_call(net, parameters, (x[None],))
        if case.pair.noise is not None:
            return 1.0 - (y - out[0]) / case.pair.noise
        return torch.exp(-case.loss(out, y[None]))

    found = {}
    for size in dimensions:
        for damping in dampings:
            # Its Gram matrix is of gradients over √P under a projection of unit entries, so λ is in other units.
            scale = damping * case.pair.precision * size / sum(value[0].numel() for value in trained.values())
            attributor = TRAKAttributor(
                task, right, projector_kwargs={"proj_dim": size, "proj_seed": seed, "device": "cpu"}, regularization=scale
            )  # fmt: skip
            attributor.cache(_batch(case.x, case.y))
            with torch.no_grad():
                found[f"{name_of(damping)}, {size}"] = (
                    -attributor.attribute(_batch(case.points, case.targets)).detach().T.double()
                )
    return found


def _task(
    case: Case, trained: Parameters, loss: Callable[..., Tensor], target: Callable[..., Tensor]
) -> "AttributionTask":
    net = case.network(0)

    def summed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def of(parameters: Parameters, data: tuple[Tensor, Tensor]) -> Tensor:
            x, y = data
            return function(functional_call(net, parameters, (x,)), y).sum()

        return of

    states = [case.load(trained, which).state_dict() for which in range(len(next(iter(trained.values()))))]
    return AttributionTask(
        loss_func=summed(loss), target_func=summed(target), model=case.load(trained, 0), checkpoints=states
    )


def _batch(x: Tensor, y: Tensor) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=len(x), shuffle=False)


def name_of(damping: float) -> str:
    return f"{damping:g}"
