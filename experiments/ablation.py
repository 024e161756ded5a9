"""One choice at a time: what kernel, features, inducing points, likelihood, noise, preconditioner and data do to fit and response.

A head is trained on some rows of a real set and conditioned on n of them. Measured: RMSE, negative log predictive density and
CRPS on 300 test rows, and the responses of ten predictions to every weight. `refit_gap`: from the derivative of an actual refit
(three weights, by Cholesky); `exact_gap`: from the dense float64 response of the exact GP with the same hyperparameters; `bound`:
`chi.error`; all relative to the largest response. `covered`: share of entries within `chi.error` of the dense ones. `products`:
of the iterative solver with the kernel matrix.

The sweeps of `ablations/*.yaml` ask what each choice does, and say what came out; some of them run other experiments.

Claim: whatever the choice, a response is the derivative of the refit of the same model.

Command: gp-response ablations [NAME ...] [--smoke]; one run: gp-response run ablation kernel=RBF
Cost: 3 to 10 seconds a run on one core; the files of `ablations` say theirs.
Expected: `refit_gap` below 1e-6 in every run; what else is expected stands in the files, and is checked.

Data: packaged.
"""

import time
from typing import Any, Literal

import torch
from _dense import dense_responses
from torch import Tensor

import gp_response as gr
from gp_response.data import Dataset

GRID: dict[str, list[Any]] = {}
SMOKE = {"n": 120, "fit_rows": 60, "refits": 1}
LIKELIHOODS = {"student_t": gr.StudentT, "bernoulli": gr.Bernoulli, "probit": gr.Probit}
TESTS, ASKED, FAR = 300, 10, 3.0


def main(
    dataset: str = "weather", n: int = 800, kernel: Literal[*gr.kernels.families()] = "Matern32",
    features: Literal["none", "mlp", "resnet"] = "none", depth: int = 0, head: Literal["exact", "sgpr"] = "exact",
    inducing: int = 100, likelihood: Literal["gaussian", "student_t", "bernoulli", "probit"] = "gaussian", outliers: float = 0.0,
    noise: float | None = None, solver: Literal["cholesky", "cg"] = "cholesky", rank: int | None = None, tolerance: float = 1e-6,
    fit_rows: int = 400, steps: int = 40, refits: int = 3, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """One choice.

    depth: hidden layers of the features. outliers: share of training labels moved by 3 deviations. noise: variance that takes the
    place of the trained one. solver: of the response; scores and refits are by Cholesky. rank: of the preconditioner. fit_rows:
    that hyperparameters and features are trained on. steps: of that training. refits: weights that refits are made for.
    """
    data = with_outliers(dataset, n, outliers, seed)
    started = time.perf_counter()
    chosen = with_features(gr.kernels.family(kernel), data.dim, features, depth, seed)
    model: Any = trained(chosen, data, likelihood, fit_rows, steps, seed)
    if likelihood == "gaussian":
        variance = float(model.noise.detach()) if noise is None else noise
        model = gr.Exact(model.kernel, variance, solver=gr.Cholesky())
    if head == "sgpr":
        model = gr.SGPR(model.kernel, inducing, variance, seed=seed)
        model.place(data)
    fitted = time.perf_counter()
    how = gr.CG(tolerance=tolerance, rank=rank)
    posterior = (gr.Exact(model.kernel, variance, solver=how) if solver == "cg" else model).condition(data)
    asked = gr.value(data.test.x[:ASKED])
    chi = gr.susceptibility(posterior, asked, gr.reweight())
    answered = time.perf_counter()
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:refits].tolist()
    real = gr.refit_response(model, data, asked, gr.reweight(rows)).matrix
    judged = model.condition(data)
    return {
        "training_rows": len(data.train), "columns": data.dim, **scores(model, judged, data),
        "refit_gap": apart(chi.matrix[:, rows], real), "largest": float(chi.matrix.abs().amax(dim=1).median()),
        "fluctuation_gap": apart(gr.fluctuation(judged, asked, gr.reweight(rows)).matrix, real),
        **(against_dense(model, data, chi) if likelihood == "gaussian" else {}),
        "converged": bool(chi.converged), "products": posterior.target.iterations if solver == "cg" else 0,
        "fit_seconds": fitted - started, "response_seconds": answered - fitted,
    }  # fmt: skip


def with_outliers(dataset: str, n: int, outliers: float, seed: int) -> Dataset:
    """n training rows and 300 test rows; a share of the training labels moved up or down."""
    data = gr.load(dataset, n=n + TESTS, seed=seed, test_fraction=TESTS / (n + TESTS))
    if not outliers:
        return data
    generator = torch.Generator().manual_seed(seed)
    moved = torch.rand(len(data.train), generator=generator) < outliers
    sign = torch.randint(0, 2, (len(data.train),), generator=generator).double() * 2.0 - 1.0
    y = data.train.y + FAR * sign * moved
    return gr.dataset(data.train.x, y, test_x=data.test.x, test_y=data.test.y, standardise=False)


def with_features(family: Any, dim: int, features: str, depth: int, seed: int) -> gr.Kernel:
    """A kernel on the columns, a lengthscale each, or on four outputs of a network with hidden layers of 32."""
    if (features == "none") != (depth == 0):
        raise gr.InputError(
            f"features {features} of depth {depth}; none goes with depth 0, networks with depth 1 or more"
        )
    if features == "none":
        return family(lengthscale=[dim**0.5] * dim)
    if features == "mlp":
        return family(ard=4).on(gr.MLP(dim, [32] * depth + [4], activation="silu", seed=seed))
    return family(ard=4).on(gr.SpectralResNet(dim, 32, depth, out=4, seed=seed))


def trained(kernel: gr.Kernel, data: Dataset, likelihood: str, rows: int, steps: int, seed: int) -> gr.Exact:
    """An exact head, its hyperparameters (and features) trained on the first rows."""
    if likelihood == "gaussian":
        head = gr.Exact(kernel, noise=0.1)
    else:
        head = gr.Exact(kernel, likelihood=LIKELIHOODS[likelihood]())
    few = data.keep(torch.arange(min(rows, len(data.train))))
    head.fit(few, training=gr.Training(steps=steps, pretrain_steps=20 * steps, seed=seed, progress=False))
    return head


def scores(model: Any, posterior: Any, data: Dataset) -> dict[str, float]:
    """On the test rows, of the distribution of a new label; RMSE of two classes is the root of their Brier score."""
    field, y = gr.predict(posterior, data.test.x), data.test.y
    likelihood = getattr(model, "likelihood", None) or gr.Gaussian(float(model.noise.detach()))
    mean, variance = likelihood.predictive(field.mean, field.variance)
    density = likelihood.log_density(field.mean, field.variance, y)
    found = {"rmse": gr.scores.rmse(mean, y), "nll": -density.mean()}
    if isinstance(likelihood, gr.Gaussian):
        found["crps"] = gr.scores.gaussian_crps(mean, variance, y)
    return {name: float(score.detach()) for name, score in found.items()}


@torch.no_grad()
def against_dense(model: Any, data: Dataset, chi: gr.Susceptibility) -> dict[str, float]:
    """The responses beside those of the exact GP."""
    exact = dense_responses(model, data.train.x, data.train.y, data.test.x[:ASKED])
    off, bound = (chi.matrix - exact).abs(), chi.error
    return {
        "exact_gap": apart(chi.matrix, exact), "bound": float(bound.max() / exact.abs().max()),
        "covered": float((off <= bound).double().mean()),
    }  # fmt: skip


def apart(found: Tensor, real: Tensor) -> float:
    """Largest difference over the largest entry."""
    return float((found - real).abs().max() / real.abs().max())
