"""Both sides of the inverse, the solves between them and the log determinant, against dense float64."""

import pytest
import torch
from krylov_cases import SEMIDEFINITE, STORAGE, N, matrix, name_of, product, rotated

from gp_response.errors import InputError, SolverError
from gp_response.linalg.bracket import Bracket
from gp_response.linalg.deflated_cg import deflated_cg, estimate_logdet
from gp_response.linalg.krylov import KrylovBasis

EYE = torch.eye(N, dtype=torch.float64)


def inverse(a):
    found = torch.linalg.inv(a + EYE)
    return 0.5 * (found + found.T)


def bracket(a, rank, block=2, storage=torch.float64, **more):
    return Bracket(KrylovBasis(product(a), N, rank=rank, block=block, storage=storage).build(), **more)


def least(a):
    return float(torch.linalg.eigvalsh(0.5 * (a + a.T))[0])


@pytest.mark.parametrize("storage", STORAGE, ids=name_of)
@pytest.mark.parametrize("name", SEMIDEFINITE)
def test_the_inverse_lies_between_the_sides(name, storage):
    a = matrix(name)
    exact, logdet = inverse(a), float(torch.linalg.slogdet(a + EYE).logabsdet)
    for block in (1, 3, 8):
        for rank in (1, 8, 30, N):
            found = bracket(a, rank, block, storage)
            assert least(exact - found.lower(EYE)) >= -1e-12
            assert least(found.upper(EYE) - exact) >= -1e-12
            low, high = found.logdet(float(a.trace()))
            assert low <= logdet + 1e-9 * abs(logdet) + 1e-12
            assert high >= logdet - 1e-9 * abs(logdet) - 1e-12


@pytest.mark.parametrize("block", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("name", ["zero", "identity", "low rank", "exponential", "clustered"])
def test_the_sides_meet_at_full_depth(name, block):
    found = bracket(matrix(name), N, block)
    seen = found.basis.lift(torch.eye(found.basis.k, dtype=torch.float64))  # zero may be seen without being spanned
    width = seen.T @ (found.upper(seen) - found.lower(seen))
    assert float(torch.linalg.matrix_norm(width, 2)) <= 10.0 * found.slack + 1e-12


def test_intervals_cover_every_entry():
    entries = 0
    for name in ("exponential", "clustered", "low rank"):
        a = matrix(name)
        exact = inverse(a)
        for storage in STORAGE:
            for rank in (4, 16, 48):
                found = bracket(a, rank, 2, storage)
                all_of = found.coordinates(EYE)
                for inner in (EYE, None):
                    value, error = found.between(all_of, all_of, inner)
                    assert bool(((value - exact).abs() <= error).all())
                    entries += value.numel()
                low, high = found.diagonal(all_of)
                assert bool(((low <= exact.diagonal()) & (exact.diagonal() <= high)).all())
    assert entries >= 10_000


def test_an_indefinite_operator_needs_a_floor():
    with pytest.raises(SolverError, match=r"an eigenvalue of -5 or less.*no minimum"):
        bracket(matrix("indefinite"), N)
    a = rotated(torch.linspace(-0.4, 20.0, N, dtype=torch.float64))
    with pytest.raises(SolverError, match="Give floor="):
        bracket(a, 60)
    for storage in STORAGE:
        found = bracket(a, 40, 2, storage, floor=0.4 + 1e-9)
        assert least(inverse(a) - found.lower(EYE)) >= -1e-12
        assert least(found.upper(EYE) - inverse(a)) >= -1e-12
        logdet = float(torch.linalg.slogdet(a + EYE).logabsdet)
        low, high = found.logdet(float(a.trace()))
        assert low <= logdet <= high
    for floor in (-0.1, 1.0):
        with pytest.raises(InputError, match="from 0 to below 1"):
            bracket(a, 10, floor=floor)


def test_an_empty_basis_is_refused():
    with pytest.raises(InputError, match="empty"):
        Bracket(KrylovBasis(product(EYE), N, rank=4))


@pytest.mark.parametrize("storage", STORAGE, ids=name_of)
@pytest.mark.parametrize("reference", [True, False], ids=["reference", "alone"])
@pytest.mark.parametrize("name", ["zero", "identity", "low rank", "exponential", "tiny"])
def test_solves_are_as_good_as_they_say(name, storage, reference):
    a = matrix(name)
    exact, generator = inverse(a), torch.Generator().manual_seed(3)
    g = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    g[:, 2], g[:, 3] = a @ g[:, 0] + 0.1 * g[:, 1], 0.0
    found = bracket(a, 20, 2, storage)
    for tolerance in (1e-2, 1e-6):
        solved = deflated_cg(product(a), g, found, tolerance=tolerance, reference=product(a) if reference else None)
        off, variance = solved.value - exact @ g, (g * (exact @ g)).sum(dim=0)
        energy = (off * ((a + EYE) @ off)).sum(dim=0).clamp_min(0.0).sqrt()
        assert bool((energy <= solved.energy * (1 + 1e-9) + 1e-14).all())
        assert bool((off.abs() <= exact.diagonal().sqrt()[:, None] * solved.energy * (1 + 1e-9) + 1e-14).all())
        assert bool((solved.variance <= variance * (1 + 1e-9)).all())
        assert bool((variance <= (solved.variance + solved.spread) * (1 + 1e-9)).all())
        done = energy <= tolerance * variance.sqrt() * (1 + 1e-9) + 1e-14
        assert bool(done[solved.converged].all())
        if reference or storage == torch.float64:
            assert bool(solved.converged.all())


def test_a_solve_that_cannot_be_certified_is_flagged():
    a = matrix("exponential")
    solved = deflated_cg(product(a), torch.ones(N, 1).double(), bracket(a, 8, storage=torch.float32), tolerance=1e-8)
    assert not bool(solved.converged.any())
    with pytest.raises(InputError, match="rhs of shape"):
        deflated_cg(product(a), torch.ones(3, 1), bracket(a, 8), tolerance=1e-3)
    with pytest.raises(InputError, match="tolerance"):
        deflated_cg(product(a), torch.ones(N, 1), bracket(a, 8), tolerance=2.0)


def test_the_log_determinant_is_right_within_its_errors():
    a = rotated(torch.logspace(3, -6, N, dtype=torch.float64))
    exact = float(torch.linalg.slogdet(a + EYE).logabsdet)
    for seed in range(4):
        found = estimate_logdet(product(a), bracket(a, 20), probes=8, most=40, seed=seed)
        assert abs(found.value - exact) <= 4.5 * found.standard_error + found.below
