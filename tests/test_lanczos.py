"""Lanczos, its quadrature, and the evidence estimated with it, against dense factorisations."""

import math

import pytest
import torch

from gp_response.errors import SolverError
from gp_response.linalg.block_lanczos import krylov_space
from gp_response.linalg.evidence_estimate import log_determinant, log_evidence, quadratic_form, spherical_probes
from gp_response.linalg.lanczos import Lanczos
from gp_response.linalg.preconditioner import diagonal_only, randomly_pivoted
from gp_response.linalg.system import DenseSystem


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetric(n, low=1.0, high=50.0, seed=0):
    q = torch.linalg.qr(torch.randn(n, n, generator=generator(seed), dtype=torch.float64)).Q
    return (q * torch.linspace(low, high, n, dtype=torch.float64)) @ q.T


class Whitened(DenseSystem):
    """`c + p K p` for Matérn-like entries of points on a line, some of them nearly equal."""

    def __init__(self, n=900, noise=1e-2, seed=0):
        x = torch.rand(n, 2, generator=generator(seed), dtype=torch.float64)
        x[: n // 10] = x[n // 10 : 2 * (n // 10)] + 1e-9
        r = 3.0**0.5 * torch.cdist(x, x) / 0.3
        matrix = (1.0 + r) * torch.exp(-r) / noise
        super().__init__(matrix + torch.eye(n).double(), floor=1.0)
        self.shift = torch.ones(n, dtype=torch.float64)
        self.kernel = matrix

    def columns(self, index):
        return self.kernel[:, index]


def test_the_basis_is_orthonormal_and_tridiagonalises():
    a, start = symmetric(60), torch.randn(60, 3, generator=generator(1), dtype=torch.float64)
    lanczos = Lanczos(lambda v: a @ v, start, most=20)
    for _ in range(20):
        lanczos.step()
    for k in range(3):
        q = lanczos.basis[k]
        t = q @ a @ q.T
        torch.testing.assert_close(q @ q.T, torch.eye(20).double(), atol=1e-13, rtol=0)
        torch.testing.assert_close(t.diagonal(), lanczos.diagonal[k], atol=1e-11, rtol=0)
        torch.testing.assert_close(t.diagonal(1), lanczos.beside[k, :-1], atol=1e-11, rtol=0)


@pytest.mark.parametrize(("steps", "width"), [(1, 0.0), (2, 0.1), (3, 0.1), (5, 1.0)])
def test_the_largest_eigenvalue_is_bounded_but_for_the_chance_asked(steps, width):
    values = torch.cat([width * torch.rand(300, generator=generator()) - 1.0, torch.ones(1)]).double()
    start = torch.randn(301, 4000, generator=generator(1), dtype=torch.float64)
    lanczos = Lanczos(lambda v: values[:, None] * v, start, most=8)
    for _ in range(steps):
        lanczos.step()
    for chance in (0.3, 0.1, 0.03):
        failed = float((lanczos.above(chance) < 1.0 - 1e-12).double().mean())
        assert failed <= chance + 3.0 * (chance / 4000) ** 0.5
        assert failed > 0.7 * chance or steps > 1  # with two eigenvalues the bound is sharp
    sure = lanczos.above(1e-6)
    assert bool((sure >= 1.0 - 1e-12).all())
    lanczos.step()
    assert float(lanczos.above(1e-6).mean()) < float(sure.mean())


def test_the_rule_is_exact_at_full_depth():
    a, start = symmetric(12), torch.randn(12, 2, generator=generator(1), dtype=torch.float64)
    lanczos = Lanczos(lambda v: a @ v, start, most=50)
    while not lanczos.exhausted:
        lanczos.step()
    values, vectors = torch.linalg.eigh(a)
    unit = start / start.norm(dim=0)
    expected = ((vectors.T @ unit).square() * values.log()[:, None]).sum(dim=0)
    torch.testing.assert_close(lanczos.gauss().apply(torch.log), expected, rtol=1e-12, atol=0)


def test_gauss_is_above_and_radau_below_the_logarithm():
    a, start = symmetric(200, 1.0, 1e4), torch.randn(200, 4, generator=generator(1), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(a)
    expected = ((vectors.T @ (start / start.norm(dim=0))).square() * values.log()[:, None]).sum(dim=0)
    lanczos, widths = Lanczos(lambda v: a @ v, start, most=40), []
    for _ in range(40):
        lanczos.step()
        above, below = lanczos.gauss().apply(torch.log), lanczos.radau(1.0).apply(torch.log)
        assert bool((above >= expected - 1e-12).all())
        assert bool((below <= expected + 1e-12).all())
        widths.append(float((above - below).max()))
    assert widths[-1] < 0.03 * widths[4]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("kind", ["identity", "rank one", "zero", "two values"])
def test_a_krylov_space_that_ends_is_no_trouble(kind, scale):
    n = 30
    one = torch.ones(n, 1, dtype=torch.float64) / n**0.5
    flip = torch.diag(torch.cat([torch.ones(n // 2), 3.0 * torch.ones(n - n // 2)]).double())
    a = {
        "identity": torch.eye(n).double(),
        "rank one": one @ one.T,
        "zero": torch.zeros(n, n).double(),
        "two values": flip,
    }
    a = scale * a[kind]
    start = torch.randn(n, 3, generator=generator(2), dtype=torch.float64)
    lanczos = Lanczos(lambda v: a @ v, start, most=10)
    while not lanczos.exhausted:
        lanczos.step()
    assert lanczos.steps <= 4
    unit = start / start.norm(dim=0)
    expected = (unit * (a @ (a @ unit))).sum(dim=0)
    torch.testing.assert_close(lanczos.gauss().apply(torch.square), expected, rtol=1e-12, atol=1e-15 * scale**2)


@pytest.mark.parametrize("rank", [0, 60, 300])
@pytest.mark.parametrize("noise", [1e-1, 1e-4])
def test_the_log_determinant_is_right_within_its_standard_error(rank, noise):
    system = Whitened(noise=noise)
    found = diagonal_only(system) if rank == 0 else randomly_pivoted(system, rank, generator=generator())
    exact = float(torch.linalg.slogdet(system.matrix).logabsdet)
    estimates = [
        log_determinant(system, found, spherical_probes(system.n, 16, generator(seed)), most=120) for seed in range(8)
    ]
    off = torch.tensor([(e.value - exact) / e.standard_error for e in estimates])
    assert float(off.abs().max()) < 4.5
    assert abs(float(off.mean())) < 2.0
    assert all(e.below < 0.1 * e.standard_error + 1e-9 * system.n for e in estimates)


def test_a_preconditioner_takes_variance_and_steps_away():
    system = Whitened(noise=1e-3)
    probes = spherical_probes(system.n, 16, generator())
    plain = log_determinant(system, diagonal_only(system), probes, most=200)
    better = log_determinant(system, randomly_pivoted(system, 300, generator=generator()), probes, most=200)
    assert better.standard_error < 0.3 * plain.standard_error
    assert better.steps < 0.5 * plain.steps


def test_an_unfinished_solve_bounds_the_evidence():
    system = Whitened()
    y = torch.randn(system.n, generator=generator(3), dtype=torch.float64)
    exact = torch.linalg.solve(system.matrix, y)
    found = randomly_pivoted(system, 100, generator=generator())
    rough = exact * (1.0 + 1e-3 * torch.randn(system.n, generator=generator(4), dtype=torch.float64))
    value, gap = quadratic_form(y, rough, y - system.matrix @ rough, found)
    assert value <= float(y.dot(exact)) <= value + gap
    estimate = log_evidence(system, found, y, exact, spherical_probes(system.n, 32, generator()))
    truth = float(-0.5 * y.dot(exact) - 0.5 * torch.linalg.slogdet(system.matrix).logabsdet)
    assert abs(estimate.value - truth) < 4.0 * estimate.standard_error
    assert math.isfinite(estimate.above)


def test_float32_products_move_the_estimate_by_less_than_its_error():
    system = Whitened(noise=1e-2)
    found = randomly_pivoted(system, 200, generator=generator())
    probes = spherical_probes(system.n, 8, generator())
    double, single = (log_determinant(system, found, probes, dtype=d) for d in (torch.float64, torch.float32))
    assert abs(double.value - single.value) < 0.1 * double.standard_error


def test_an_indefinite_system_is_refused():
    system = Whitened(n=200)
    system.matrix = system.matrix - 5.0 * torch.eye(200).double()
    with pytest.raises(SolverError, match="not positive definite"):
        log_determinant(system, diagonal_only(system), spherical_probes(200, 4, generator()), most=100)


def test_products_that_are_not_finite_are_refused():
    with pytest.raises(SolverError, match="NaN or inf"):
        Lanczos(lambda v: v * float("nan"), torch.ones(4, 1, dtype=torch.float64), most=3).step()


FUNCTIONS = {"inverse": torch.reciprocal, "inverse root": torch.rsqrt, "logarithm": torch.log}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_functions_of_a_matrix_from_one_krylov_space(name):
    a, start = symmetric(300, 1.0, 300.0), torch.randn(300, 5, generator=generator(1), dtype=torch.float64)
    space = krylov_space(lambda v: a @ v, start, tolerance=1e-11, most=60)
    values, vectors = torch.linalg.eigh(a)
    f = FUNCTIONS[name]
    expected = vectors @ (f(values)[:, None] * (vectors.T @ start))
    torch.testing.assert_close(space.apply(f(space.nodes)), expected, rtol=0, atol=1e-8 * float(expected.abs().max()))
    torch.testing.assert_close(space.quadratic(f(space.nodes)), (start * expected).sum(dim=0), rtol=1e-9, atol=0)


def test_the_residual_said_is_the_residual_measured():
    a, start = symmetric(300, 1.0, 3000.0), torch.randn(300, 4, generator=generator(1), dtype=torch.float64)
    space = krylov_space(lambda v: a @ v, start, tolerance=1e-2, most=60)
    left = start - a @ space.apply(1.0 / space.nodes)
    torch.testing.assert_close(space.residual, left.norm(dim=0) / start.norm(dim=0), rtol=1e-8, atol=1e-12)
    assert float(space.residual.max()) <= 1e-2
    assert space.products < 60


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_start_vectors_that_depend_on_each_other_are_no_trouble(scale):
    a, one = scale * symmetric(120), torch.randn(120, 2, generator=generator(1), dtype=torch.float64)
    start = torch.cat([one, one[:, :1] + one[:, 1:], torch.zeros(120, 1).double()], dim=1)
    space = krylov_space(lambda v: a @ v, start, tolerance=1e-10, most=29)
    expected = torch.linalg.solve(a, start)
    torch.testing.assert_close(
        space.apply(1.0 / space.nodes), expected, rtol=0, atol=1e-7 * float(expected.abs().max())
    )


def test_a_space_that_ends_early_is_exact():
    start = torch.randn(40, 3, generator=generator(1), dtype=torch.float64)
    space = krylov_space(lambda v: 2.0 * v, start, tolerance=1e-12, most=8)
    torch.testing.assert_close(space.apply(1.0 / space.nodes), 0.5 * start, rtol=1e-12, atol=1e-13)


def test_a_krylov_space_of_an_indefinite_matrix_is_refused():
    a, start = symmetric(60, -1.0, 5.0), torch.randn(60, 2, generator=generator(), dtype=torch.float64)
    with pytest.raises(SolverError, match="not positive definite"):
        krylov_space(lambda v: a @ v, start, tolerance=1e-8, most=20)
    with pytest.raises(SolverError, match="NaN or inf"):
        krylov_space(lambda v: a @ v * float("nan"), start, tolerance=1e-8, most=20)
