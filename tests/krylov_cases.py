"""Symmetric matrices of every spectrum, as products and dense."""

import torch

N = 90
SPECTRA = {
    "zero": torch.zeros(N),
    "identity": torch.ones(N),
    "rank one": torch.tensor([3.0] + [0.0] * (N - 1)),
    "low rank": torch.tensor([5.0, 4.0, 3.0, 3.0, 3.0, 2.0, 1.0, 1.0] + [0.0] * (N - 8)),
    "exponential": torch.logspace(4, -12, N, dtype=torch.float64),
    "clustered": torch.cat([100.0 + 1e-6 * torch.arange(30), torch.ones(30), 1e-3 * torch.ones(N - 60)]),
    "badly scaled": torch.logspace(12, -12, N, dtype=torch.float64),
    "tiny": torch.logspace(-12, -15, N, dtype=torch.float64),
    "huge": torch.logspace(12, 9, N, dtype=torch.float64),
    "indefinite": torch.linspace(-5.0, 5.0, N),
}
SEMIDEFINITE = [name for name in SPECTRA if name != "indefinite"]
STORAGE = [torch.float64, torch.float32, torch.bfloat16]


def rotated(values, seed=0):
    values = values.double()
    if bool((values == values[0]).all()):
        return torch.diag(values)
    normal = torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q = torch.linalg.qr(normal).Q
    matrix = (q * values) @ q.T
    return 0.5 * (matrix + matrix.T)


def matrix(name):
    return rotated(SPECTRA[name])


def product(a):
    """v -> A v in the precision of v."""
    return lambda v: a.to(v.dtype) @ v


def name_of(dtype):
    return str(dtype).removeprefix("torch.")
