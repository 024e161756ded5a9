"""References for total responses: models optimised again, and a dense evidence that autograd differentiates by itself."""

import copy

import torch

import gp_response as gr

TIGHT = gr.Training(progress=False, steps=400)


def optimum(head, data, **options):
    """The head at the optimum of its evidence on these data, by Newton's method from where it stands."""
    found = gr.total_susceptibility(
        head, data, gr.value(data.train.x[:1]), gr.reweight([0]), polish=True, **options
    )  # fmt: skip
    return found.head


def reoptimised(head, data, observable, perturbation, *, step=1e-3, **options):
    """d⟨O⟩/dh of models whose hyperparameters are optimised again after each change, by fourth-order differences, (m, c).

    One-sided where negative amplitudes do not exist.
    """
    count = len(perturbation.columns(data))
    columns = []
    for c in range(count):
        unit = torch.zeros(count, dtype=torch.float64)
        unit[c] = 1.0

        def refit(h, unit=unit):
            changed = perturbation.apply(data, h * unit)
            if h == 0.0 and perturbation.from_zero:
                changed = data
            return gr.response.expectation(optimum(head, changed, **options).condition(changed), observable)

        if perturbation.from_zero:
            weights = {0: -25.0, 1: 48.0, 2: -36.0, 3: 16.0, 4: -3.0}
            columns.append(sum(w * refit(k * step) for k, w in weights.items()) / (12.0 * step))
        else:
            near, far = (refit(k * step) - refit(-k * step) for k in (1, 2))
            columns.append((8.0 * near - far) / (12.0 * step))
    return torch.stack(columns, dim=1)


def gap(got, expected):
    return float((getattr(got, "matrix", got).double() - expected).abs().max() / expected.abs().max())


def textbook_evidence(head, data):
    """`-½ rᵀA⁻¹r - ½ log det A + ½ Σ log D - ½β Σ ρ log 2πσ²` and log priors, by plain differentiable operations, 0-dim."""
    if isinstance(head, gr.SGPR):
        return textbook_bound(head, data)
    train = data.train
    noise = head.noise if train.noise is None else head.noise + train.noise
    site = noise / (head.beta * train.weights)
    matrix = head.kernel.matrix(train.x) + torch.diag(site.expand(len(train.y)))
    residual = train.y - head.prior_mean
    fit = residual @ torch.linalg.solve(matrix, residual) + torch.linalg.slogdet(matrix).logabsdet
    gibbs = head.beta * (train.weights * (2.0 * torch.pi * noise).log()).sum()
    return -0.5 * (fit - site.log().sum() + gibbs) + head.log_prior()


def textbook_bound(head, data):
    """Titsias' bound as the evidence of the Nyström approximation, n x n, less half the trace of what it leaves out, 0-dim."""
    train, basis = data.train, head.basis()
    features = basis.at(train.x)
    site = head.noise / (head.beta * train.weights)
    matrix = features.T @ features + torch.diag(site)
    residual = train.y - head.prior_mean
    fit = residual @ torch.linalg.solve(matrix, residual) + torch.linalg.slogdet(matrix).logabsdet
    gibbs = head.beta * (train.weights * (2.0 * torch.pi * head.noise).log()).sum()
    left_out = ((basis.diagonal(train.x) - features.square().sum(dim=0)) / site).sum()
    return -0.5 * (fit - site.log().sum() + gibbs + left_out) + head.log_prior()


def dense_moves(head, data, x, perturbation, damping):
    """What θ and w together add to the response of the mean at x, (m, c): `-G [∇²J]⁻¹ ∂²M/∂(θ,w)∂h` with every matrix by
    autograd of textbook formulas, in raw parameters."""
    weights = list(head.kernel.features.parameters())
    others = [p for p in head.parameters() if not any(p is w for w in weights)]
    tensors, model = [*others, *weights], _Evidence(copy.deepcopy(head))
    names = {id(p): f"head.{n}" for n, p in head.named_parameters()}
    vector = torch.cat([p.detach().flatten() for p in tensors]).requires_grad_(True)
    pieces = zip(tensors, vector.split([p.numel() for p in tensors]), strict=True)
    moved = {names[id(p)]: v.reshape(p.shape) for p, v in pieces}
    h = torch.zeros(len(perturbation.columns(data)), dtype=torch.float64, requires_grad=True)
    evidence = torch.func.functional_call(model, moved, (perturbation.apply(data, h),))
    slope = torch.autograd.grad(evidence, vector, create_graph=True)[0]
    rows = [torch.autograd.grad(s, [vector, h], retain_graph=True) for s in slope]
    bend, mixed = (torch.stack(part) for part in zip(*rows, strict=True))
    localising = torch.zeros(len(vector), dtype=torch.float64)
    localising[-sum(w.numel() for w in weights) :] = damping
    mean = torch.func.functional_call(model, moved, (data, x))
    reading = torch.stack([torch.autograd.grad(m, vector, retain_graph=True)[0] for m in mean])
    return reading @ torch.linalg.solve(torch.diag(localising) - bend, mixed)


def localised_optimum(head, data, damping, tilt=None, before=None):
    """θ and w at the optimum of `M - ½ δ ‖w - w₀‖² - tilt · (w - w₀)`, by Newton's method on a Hessian by autograd.

    before: (θ, w₀, number of weights) where to start; None starts at the head. Returns the head there, and the tilt.
    """
    weights = list(head.kernel.features.parameters())
    others = [p for p in head.parameters() if not any(p is w for w in [*weights, getattr(head, "points", None)])]
    names = {id(p): n for n, p in head.named_parameters()}
    tensors = [*others, *weights]
    sizes, start = [p.numel() for p in tensors], torch.cat([p.detach().flatten() for p in tensors])
    of_weights = torch.cat([torch.full((p.numel(),), i >= len(others)) for i, p in enumerate(tensors)])
    origin = start if before is None else before

    def evidence(vector):
        pieces = {names[id(p)]: v.reshape(p.shape) for p, v in zip(tensors, vector.split(sizes), strict=True)}
        return torch.func.functional_call(_Evidence(head), {f"head.{k}": v for k, v in pieces.items()}, (data,))

    slope = torch.func.grad(evidence)(start)
    tilt = torch.where(of_weights, slope, 0.0) if tilt is None else tilt

    def objective(vector):
        moved = torch.where(of_weights, vector - origin, 0.0)
        return evidence(vector) - 0.5 * damping * moved @ moved - tilt @ moved

    at = start
    for _ in range(12):
        slope, bend = torch.func.grad(objective)(at), torch.func.hessian(objective)(at)
        at = at - torch.linalg.solve(bend, slope)
    assert float(torch.linalg.eigvalsh(bend)[-1]) < 0.0
    assert float(slope.norm()) < 1e-9
    with torch.no_grad():
        for p, value in zip(tensors, at.split(sizes), strict=True):
            p.copy_(value.reshape(p.shape))
    return head, tilt, origin


class _Evidence(torch.nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, data, x=None):
        """The evidence, or with points x (m, d) the posterior's mean there."""
        if x is None:
            return textbook_evidence(self.head, data)
        train, head = data.train, self.head
        matrix = head.kernel.matrix(train.x) + torch.diag(head.noise / (head.beta * train.weights))
        return head.prior_mean + head.kernel.matrix(x, train.x) @ torch.linalg.solve(matrix, train.y - head.prior_mean)
