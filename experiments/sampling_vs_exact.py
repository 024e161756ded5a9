"""What sampling costs to find an influence matrix that is known exactly, and what a Gaussian that is known saves.

Claim: (linear, gp) the influence matrix `W_ij = Cov(ℓ_i, ℓ_j)` of a 50-dimensional linear-Gaussian model of condition number
above 500, and of a Gaussian process on weather in its whitened coordinates, is found to Pearson correlation 0.95 by Lanczos
in at most 1/50 of the gradient evaluations that Langevin dynamics takes; the budgets in use (4 chains of 200 draws,
minibatches of 32) do not find it. (bent, network) where the model is not linear, its Laplace approximation as a control variate
leaves at most a third of the plain estimate's error at equal cost: of a model slightly bent by a chain on the linearised model
that is moved by the same random numbers, of a network by HMC around the approximation and the threshold of `gr.control_variate`.

A gradient evaluation is one of the whole loss, minibatches counted by their share, all chains and the burn-in together; a
Lanczos product (J v and Jᵀ u) counts as one, so does a step of the twin, and so do the P products of the Laplace approximation
and those that HMC takes for its own. Of linear and gp every sampler starts at the mode and is given the best of several step
sizes, judged by the truth; W is the closed form of `gr.Exact`. Of bent and network W is that of many draws of HMC, which has no
step's bias, in two halves of different settings, and `truth_error` half their distance. Error: relative, in norm, root mean
square over repeats. plain: SGLD; twin: regressed on the twin; hmc: HMC alone; drawn: HMC, drawn towards the approximation;
paired: the same with HMC's own twin; drawn_sgld: SGLD, drawn towards the approximation.

Command: gp-response run sampling_vs_exact [--smoke]; one case: gp-response run sampling_vs_exact problem=gp seed=1
Cost: half a minute to two minutes a case on one thread, 8 cases, below 2 GiB.
Expected: products of Lanczos for a correlation of 0.95: 42 to 44 (linear), 134 to 142 (gp). SGLD with full gradients takes
24,000 to 32,000 (linear) and more than the 64,000 spent (gp), RMSprop with minibatches 3,840 to 5,120 and more than 10,240,
SGLD with minibatches more than 10,240 in both; 4 chains of 200 draws reach 0.71 (linear) and 0.28 (gp). Of the plain error the
twin leaves 0.08 to 0.09 in bent, and 0.74 to 0.78 in network, where the chains separate. HMC drawn towards the approximation
leaves 0.24 and 0.30 in network (HMC alone 0.35 and 0.41, the approximation alone 0.37 and 0.44, SGLD drawn towards it likewise)
and 0.10 to 0.13 in bent, there 0.06 to 0.08 with its twin. Its intervals hold the truth in 0.997 of the entries, those of HMC
alone in 0.94; the truth is known to 0.02 (network) and 0.0014 (bent).
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gp_response as gr
from gp_response.heads.sampling import Target, langevin
from gp_response.linalg.lanczos import Lanczos
from gp_response.plots import save, size_curves
from gp_response.report import number
from gp_response.response.control import controlled

GRID = {"problem": ["linear", "gp", "bent", "network"], "seed": [0, 1]}
SMOKE = {"problem": "linear", "steps": 60, "rows": 60}
QUICK = {"problem": GRID["problem"], "steps": [800], "repeats": [2], "draws": [40]}
WANTED, CHAINS, BATCH = 0.95, 8, 32
NOISE, BURN, EACH = 0.1, 8, 4  # of bent and network: noise, steps of HMC before the first draw, estimates in a group
TRUTH_PARTS, TRUTH_DRAWS = 2, 400  # of either half of the truth of bent and network
LOCALISED = 50.0  # γ of the network, around where it is: without, it is far from linear and the twin is of no use
PUBLISHED = (4, 200)  # chains and draws of the packages' defaults
NAMES = {"sgld": "SGLD", "minibatch": "SGLD, minibatches", "rmsprop": "RMSprop-SGLD, minibatches", "ours": "Lanczos"}


def main(
    problem: str = "linear", seed: int = 0, rows: int = 200, steps: int = 8000, repeats: int = 4, draws: int = 80
) -> dict[str, Any]:
    """One problem. steps: of each chain of linear and gp. draws: of bent and network, a chain with the twin. repeats: of
    theirs, in groups of four."""
    if problem in ("linear", "gp"):
        return {"problem": problem, "rows": rows, **against_exact(problem, seed, rows, steps)}
    if problem in ("bent", "network"):
        return {"problem": problem, **with_laplace(problem, seed, min(rows, 80), repeats, draws)}
    raise gr.InputError(f"problem {problem!r}; expected linear, gp, bent or network")


# Linear and gp ----------------------------------------------------------------------------------------------------------


def against_exact(problem: str, seed: int, rows: int, steps: int) -> dict[str, Any]:
    """Pearson correlations with the exact W against gradients, of every method."""
    jacobian, y, noise, prior, exact = linear(seed, rows) if problem == "linear" else process(seed, rows)
    train = exact.data.train
    truth = gr.susceptibility(exact, gr.loss(train.x, train.y), gr.reweight()).to("kernel").matrix
    precision = jacobian.T @ jacobian / noise + prior * torch.eye(jacobian.shape[1], dtype=torch.float64)
    spectrum = torch.linalg.eigvalsh(precision)
    mode = torch.linalg.solve(precision, jacobian.T @ y / noise)
    n = len(y)
    target = Target(mean_gradient(jacobian, y, noise), float(n), prior, torch.zeros_like(mode))

    def pearson_of(theta: Tensor) -> float:
        losses = 0.5 * (y - theta.flatten(0, 1) @ jacobian.T) ** 2 / noise
        return pearson(torch.cov(losses.T), truth)

    curves, published = {}, {}
    for name in ("sgld", "minibatch", "rmsprop"):
        share = 1.0 if name == "sgld" else BATCH / n
        batch = None if name == "sgld" else (n, BATCH)
        tried = []
        for bias in (0.05, 0.2, 0.5):
            method = sampler(name, gr.plan_sampling(spectrum, bias=bias).step, target, mode, n)
            thin = max(1, steps // 2000)
            theta = langevin(
                target, mode, method=method, draws=steps // thin, chains=CHAINS, thin=thin, rows=batch, seed=seed
            )[0]
            places = counts(steps // thin)
            tried.append([(CHAINS * thin * k * share, pearson_of(theta[:, :k])) for k in places])
            few = langevin(target, mode, method=method, draws=PUBLISHED[1], chains=PUBLISHED[0], rows=batch, seed=seed)[
                0
            ]
            published[name] = max(published.get(name, -1.0), pearson_of(few))
        curves[name] = min(tried, key=lambda c: (reached(c) or math.inf, -c[-1][1]))
    curves["ours"] = lanczos_curve(jacobian, y, noise, prior, mode, truth, seed)
    independent = mode + torch.randn(1, 800, len(mode), generator=torch.Generator().manual_seed(seed)).double() @ (
        torch.linalg.cholesky(torch.linalg.inv(precision)).T
    )
    return {
        "parameters": len(mode), "condition": float(spectrum[-1] / spectrum[0]), "curves": curves, "published": published,
        "reached": {name: reached(curve) for name, curve in curves.items()},
        "spent": {name: curve[-1][0] for name, curve in curves.items()}, "independent": pearson_of(independent),
    }  # fmt: skip


def linear(seed: int, rows: int) -> tuple[Tensor, Tensor, float, float, gr.Posterior]:
    """50 parameters, features whose scales span a factor 30; the exact posterior is that of a linear kernel."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 50, generator=generator, dtype=torch.float64) * torch.logspace(0.0, -1.5, 50)
    theta = torch.randn(50, generator=generator, dtype=torch.float64)
    noise, prior = 0.1, 1.0
    y = x @ theta + noise**0.5 * torch.randn(rows, generator=generator, dtype=torch.float64)
    data = gr.dataset(x, y, standardise=False)
    return x, y, noise, prior, gr.Exact(gr.Linear(outputscale=1.0 / prior), noise=noise).condition(data)


def process(seed: int, rows: int) -> tuple[Tensor, Tensor, float, float, gr.Posterior]:
    """Weather under a Matérn-3/2 kernel, `f = L u` of whitened u: one parameter a row."""
    data = gr.load("weather", n=2000, seed=seed).to(dtype=torch.float64)
    data = data.keep(torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:rows])
    kernel, noise = gr.Matern32(lengthscale=data.dim**0.5), 0.05
    gram = kernel.matrix(data.train.x, data.train.x).detach()
    root = torch.linalg.cholesky(gram + 1e-12 * torch.eye(rows, dtype=torch.float64))
    return root, data.train.y, noise, 1.0, gr.Exact(kernel, noise=noise).condition(data)


def mean_gradient(jacobian: Tensor, y: Tensor, noise: float) -> Callable[[Tensor, Tensor | None], Tensor]:
    def gradient(theta: Tensor, which: Tensor | None) -> Tensor:
        if which is None:
            return (theta @ jacobian.T - y) @ jacobian / (noise * len(y))
        some = jacobian[which]  # (chains, b, P)
        off = torch.bmm(some, theta[:, :, None])[..., 0] - y[which]
        return torch.bmm(off[:, None], some)[:, 0] / (noise * which.shape[1])

    return gradient


def sampler(name: str, step: float, target: Target, mode: Tensor, n: int) -> Any:
    """RMSprop's step is such that its first steps are as long as those of SGLD."""
    if name != "rmsprop":
        return gr.SGLD(step)
    which = torch.randint(n, (64, BATCH), generator=torch.Generator().manual_seed(0))
    level = target.gradient(mode.expand(64, -1), which).square().mean(dim=0).sqrt() + 0.1
    return gr.PreconditionedSGLD(step * float(level.mean()))


def lanczos_curve(
    jacobian: Tensor, y: Tensor, noise: float, prior: float, mode: Tensor, truth: Tensor, seed: int
) -> list[tuple[float, float]]:
    """W from the truncated inverse `Q (T + λ)⁻¹ Qᵀ` after k products with the Gauss-Newton matrix.

    Products counted: k, and one for the residuals that W needs.
    """
    start = jacobian.T @ torch.randn(len(y), 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    space = Lanczos(lambda v: jacobian.T @ (jacobian @ v) / noise, start, most=jacobian.shape[1])
    residual = y - jacobian @ mode
    curve = []
    while not space.exhausted:
        space.step()
        q, k = space.basis[0, : space.steps], space.steps
        t = torch.diag(space.diagonal[0]) + sum(torch.diag(space.beside[0, : k - 1], s) for s in (1, -1))  # type: ignore[arg-type]
        moved = jacobian @ q.T
        cov = moved @ torch.linalg.solve(t + prior * torch.eye(k, dtype=torch.float64), moved.T)
        w = residual[:, None] * residual * cov / noise**2 + cov**2 / (2.0 * noise**2)
        curve.append((float(k + 1), pearson(w, truth)))
        if curve[-1][1] > 0.9999:
            break
    return curve


def pearson(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def counts(most: int) -> list[int]:
    """Numbers of draws at which to look, 8 a factor of ten, from 10 on."""
    found = {min(most, round(10 * 10 ** (k / 8))) for k in range(int(8 * math.log10(max(most, 10) / 10)) + 2)}
    return sorted(k for k in found if k >= 2)


def reached(curve: list[tuple[float, float]]) -> float | None:
    """Gradients from which on the correlation stays at what is wanted; None if it does not."""
    found = None
    for gradients, value in reversed(curve):
        if value < WANTED:
            break
        found = gradients
    return found


# Bent and network -------------------------------------------------------------------------------------------------------


class Bent(nn.Module):
    """A linear model bent a little: `g + κ g²` of `g = x·θ`."""

    def __init__(self, columns: int, bend: float = 0.1):
        super().__init__()
        self.weight, self.bend = nn.Parameter(torch.zeros(columns, dtype=torch.float64)), bend

    def forward(self, x: Tensor) -> Tensor:
        line = x @ self.weight
        return line + self.bend * line**2


def with_laplace(problem: str, seed: int, rows: int, repeats: int, draws: int) -> dict[str, Any]:
    """Errors of W at equal cost: `draws` with the twin, twice as many without, and as many of HMC as that leaves."""
    data, net, prior = fitted(problem, seed, rows)
    likelihood = gr.Gaussian(noise=NOISE)
    parameters = sum(p.numel() for p in net.parameters())
    exact = gr.laplace(net, data, likelihood=likelihood, prior_precision=prior, solver=gr.Dense())
    precision = gr.ggn(net, data, likelihood=likelihood).dense() + prior * torch.eye(parameters, dtype=torch.float64)
    spectrum = torch.linalg.eigvalsh(precision)
    step = gr.plan_sampling(spectrum, bias=0.1).step
    asked = (gr.loss(data.train.x, data.train.y), gr.reweight())
    laplace = gr.susceptibility(exact, *asked).to("kernel").matrix

    def chains(**settings: Any) -> gr.Chains:
        return gr.sample(
            net, data, likelihood=likelihood, prior_precision=prior, stationary=True, at=data.train.x, **settings
        )

    def losses(of: gr.Chains) -> Tensor:
        return gr.draws(of, data).losses(data.train.x, data.train.y)

    def regressed(of: gr.Chains) -> Tensor:
        assert of.twin is not None
        here, twin = losses(of), losses(of.twin)
        return controlled(here, here, twin, twin, laplace).value

    # Two halves that share no random numbers and no step; where the twin is of use, with it.
    halves = [
        truth(chains, losses, regressed, twin=problem == "bent", method=method, seed=10_000 + 100 * seed + k)
        for k, method in enumerate((gr.HMC(kicks=4, turn=math.pi / 2), gr.HMC(kicks=3)))
    ]
    known = (halves[0] + halves[1]) / 2.0
    burn, thin = 40, 3
    gradients = 4 * (2 * burn + thin * 2 * draws)
    errors: dict[str, list[float]] = {}
    coverage: dict[str, list[float]] = {"hmc": [], "drawn": []}
    taken: list[float] = []
    for k in range(EACH * repeats):
        own = 100 * seed + k
        alone = chains(method=step, chains=4, draws=2 * draws, burn_in=2 * burn, thin=thin, seed=own)
        same = chains(method=step, chains=4, draws=draws, burn_in=burn, thin=thin, twin=True, seed=own)
        fast, both = (
            chains(method=gr.HMC(), chains=4, draws=left(gradients, parameters, copies), burn_in=BURN, seed=own, twin=copies == 2)
            for copies in (1, 2)
        )  # fmt: skip
        assert max(fast.gradients, both.gradients) + parameters <= gradients
        assert both.twin is not None
        assert fast.acceptance is not None
        plain = gr.susceptibility(gr.draws(fast, data), *asked).to("kernel")
        drawn = gr.control_variate(gr.draws(fast, data), None, exact, *asked).to("kernel")
        paired = gr.control_variate(gr.draws(both, data), gr.draws(both.twin, data), exact, *asked).to("kernel")
        drawn_sgld = gr.control_variate(gr.draws(alone, data), None, exact, *asked).to("kernel")
        found = {
            "plain": torch.cov(losses(alone).flatten(0, 1).T), "same_draws": torch.cov(losses(same).flatten(0, 1).T),
            "twin": regressed(same), "hmc": plain.matrix, "drawn": drawn.matrix, "paired": paired.matrix,
            "drawn_sgld": drawn_sgld.matrix,
        }  # fmt: skip
        for name, estimate in found.items():
            errors.setdefault(name, []).append(relative(estimate, known))
        for name, chi in (("hmc", plain), ("drawn", drawn)):
            coverage[name].append(float(((chi.matrix - known).abs() <= chi.error).double().mean()))
        taken.append(fast.acceptance)
    rms = {name: math.sqrt(sum(e * e for e in found) / len(found)) for name, found in errors.items()}
    return {
        "rows": rows, "parameters": parameters, "gradients": gradients, "errors": errors, "rms": rms,
        "ratio": rms["twin"] / rms["plain"], "ratios": {name: value / rms["plain"] for name, value in rms.items()},
        "coverage": {name: sum(c) / len(c) for name, c in coverage.items()}, "acceptance": sum(taken) / len(taken),
        "laplace": relative(laplace, known), "truth_error": relative(halves[0], halves[1]) / 2.0,
        "condition": float(spectrum[-1] / spectrum[0]),
    }  # fmt: skip


def fitted(problem: str, seed: int, rows: int) -> tuple[gr.Dataset, nn.Module, float]:
    """Data, a model at the mode of its posterior with prior 2, and the prior's precision it is sampled with."""
    data = gr.load("weather", n=2000, seed=seed).to(dtype=torch.float64)
    data = data.keep(torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:rows])
    torch.manual_seed(seed)
    bent = problem == "bent"
    net = Bent(data.dim) if bent else nn.Sequential(nn.Linear(data.dim, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    train_to_mode(net, data, NOISE, 2.0)
    return data, net, 2.0 if bent else LOCALISED


def truth(chains: Any, losses: Any, regressed: Any, *, twin: bool, method: gr.HMC, seed: int) -> Tensor:
    """W of many draws, in parts that fit into memory."""
    parts = []
    for k in range(TRUTH_PARTS):
        made = chains(method=method, chains=128, draws=TRUTH_DRAWS, burn_in=20, twin=twin, seed=seed + 20 * k)
        parts.append(regressed(made) if twin else torch.cov(losses(made).flatten(0, 1).T))
    return torch.stack(parts).mean(dim=0)


def left(gradients: int, parameters: int, copies: int) -> int:
    """Draws of each of 4 chains of HMC for so many gradients, of which the Laplace approximation takes its products first.

    Its own P, at most as many for HMC's Gaussian, the mode's, and each chain's first.
    """
    method = gr.HMC()
    spent = parameters + min(method.rank, parameters) + 1 + 4 * copies
    return (gradients - spent) // (4 * method.cost * copies) - BURN


def relative(found: Tensor, known: Tensor) -> float:
    return float((found - known).norm() / known.norm())


def train_to_mode(net: nn.Module, data: gr.Dataset, noise: float, prior: float) -> None:
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        fit = 0.5 * (data.train.y - net(data.train.x).flatten()).square().sum() / noise
        energy = fit + 0.5 * prior * sum(p.square().sum() for p in net.parameters())
        energy.backward()
        return energy

    optimiser.step(closure)  # type: ignore[arg-type]


# The paper --------------------------------------------------------------------------------------------------------------


def report(results: list[dict[str, Any]], figures: Path) -> dict[str, str]:
    """Correlation against gradients, and the numbers."""
    found = [r["result"] for r in results]
    exact = [f for f in found if "curves" in f and f["rows"] >= 150]
    gaussian = [f for f in found if "ratios" in f]
    if exact:
        panels = {
            {"linear": "linear-Gaussian", "gp": "Gaussian process"}[p]: {NAMES[m]: one["curves"][m] for m in NAMES}
            for p in ("linear", "gp") if (one := next((f for f in exact if f["problem"] == p), None))
        }  # fmt: skip
        save(size_curves({"Pearson with W": panels}, xlabel="gradient evaluations"), figures / "sampling.pdf")
    return numbers_exact(exact) | numbers_laplace(gaussian)


def numbers_exact(found: list[dict[str, Any]]) -> dict[str, str]:
    variables = {}
    for problem in ("linear", "gp"):
        some = [f for f in found if f["problem"] == problem]
        if not some:
            continue
        stem = f"Sampling{problem.capitalize()}"
        ours = max(f["reached"]["ours"] for f in some)
        variables |= {
            f"{stem}Rows": number(some[0]["rows"]), f"{stem}Parameters": number(some[0]["parameters"]),
            f"{stem}ConditionMin": number(min(f["condition"] for f in some), digits=3), f"{stem}Ours": number(round(ours)),
            f"{stem}Independent": number(min(f["independent"] for f in some), digits=2),
        }  # fmt: skip
        for method in ("sgld", "minibatch", "rmsprop"):
            variables |= {
                f"{stem}{method.capitalize()}": least(some, method),
                f"{stem}Published{method.capitalize()}": number(max(f["published"][method] for f in some), digits=2),
            }
        saved = min((f["reached"]["sgld"] or f["spent"]["sgld"]) / f["reached"]["ours"] for f in some)
        variables[f"{stem}Factor"] = number(round(saved))
    return variables


def least(found: list[dict[str, Any]], method: str) -> str:
    """The fewest gradients of any seed, or that none of what was spent was enough."""
    there = [f["reached"][method] for f in found if f["reached"][method] is not None]
    if there:
        return number(round(min(there)))
    return f"more than {number(round(min(f['spent'][method] for f in found)))}"


def numbers_laplace(found: list[dict[str, Any]]) -> dict[str, str]:
    variables = {}
    for problem in ("bent", "network"):
        some = [f for f in found if f["problem"] == problem]
        if not some:
            continue
        stem = f"Sampling{problem.capitalize()}"

        def most(of: str, name: str, some: list[dict[str, Any]] = some) -> str:
            return number(max(f[of][name] for f in some), digits=2)

        variables |= {
            f"{stem}RatioMax": most("ratios", "twin"), f"{stem}DrawnRatioMax": most("ratios", "drawn"),
            f"{stem}DrawnRatioMin": number(min(f["ratios"]["drawn"] for f in some), digits=2),
            f"{stem}PairedRatioMax": most("ratios", "paired"), f"{stem}HmcRatioMax": most("ratios", "hmc"),
            f"{stem}Plain": most("rms", "plain"), f"{stem}Twin": most("rms", "twin"), f"{stem}Hmc": most("rms", "hmc"),
            f"{stem}Drawn": most("rms", "drawn"), f"{stem}DrawnSgld": most("rms", "drawn_sgld"),
            f"{stem}Laplace": number(max(f["laplace"] for f in some), digits=2),
            f"{stem}TruthError": number(max(f["truth_error"] for f in some), digits=1),
            f"{stem}CoverageMin": number(min(f["coverage"]["drawn"] for f in some), digits=3),
            f"{stem}HmcCoverageMin": number(min(f["coverage"]["hmc"] for f in some), digits=3),
            f"{stem}Acceptance": number(min(f["acceptance"] for f in some), digits=2),
            f"{stem}Gradients": number(some[0]["gradients"]), f"{stem}Parameters": number(some[0]["parameters"]),
        }  # fmt: skip
    return variables
