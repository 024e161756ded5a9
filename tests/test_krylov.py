"""The Krylov basis: what Lanczos' theorems say of it, whatever the operator, the block and the storage."""

import pytest
import torch
from krylov_cases import SPECTRA, STORAGE, N, matrix, name_of, product, rotated

from gp_response.errors import InputError, SolverError
from gp_response.linalg.krylov import KrylovBasis

ORTHONORMAL = {torch.float64: 1e-13, torch.float32: 3e-7, torch.bfloat16: 8e-3}


def rows(basis):
    return basis.rows.data[: basis.m].double()


def norm(a):
    return max(float(torch.linalg.matrix_norm(a, 2)), 1e-300)


@pytest.mark.parametrize("storage", STORAGE, ids=name_of)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_operator_on_the_basis_is_the_recurrence_and_a_measured_rest(name, storage):
    a = matrix(name)
    for block in (1, 3, 8):
        for rank in (1, 20, N):
            basis = KrylovBasis(product(a), N, rank=rank, block=block, storage=storage).build()
            q, small = rows(basis), basis.small
            k = q[: basis.k]
            torch.testing.assert_close(q @ q.T, torch.eye(basis.m).double(), atol=ORTHONORMAL[storage], rtol=0)
            torch.testing.assert_close(q @ q.T, small.gram, atol=1e-13, rtol=0)
            rounding = 2.0 * small.rounding * norm(a) * basis.k**0.5
            torch.testing.assert_close(k @ a @ k.T, small.matrix, atol=rounding, rtol=0)
            rest = a @ k.T - q.T @ small.coupling
            stored = (small.parts * torch.linalg.matrix_norm(small.left, 2)) ** 0.5
            assert float(torch.linalg.matrix_norm(rest, 2)) <= float(stored) + rounding
            assert basis.k == rank or basis.complete


def test_at_full_depth_the_ritz_values_are_the_eigenvalues():
    for name in SPECTRA:
        a = matrix(name)
        basis = KrylovBasis(product(a), N, rank=N, block=4, storage=torch.float64).build()
        values, ritz = torch.linalg.eigvalsh(a).flip(0), basis.ritz()
        # What a complete basis leaves out is zero beside the norm.
        assert basis.complete
        found = torch.cat([ritz.values, torch.zeros(N - basis.k).double()]).sort(descending=True).values
        torch.testing.assert_close(found, values, atol=1e-13 * N * norm(a), rtol=0)


@pytest.mark.parametrize("storage", STORAGE, ids=name_of)
@pytest.mark.parametrize("name", ["exponential", "indefinite", "clustered", "huge", "tiny"])
def test_an_eigenvalue_lies_within_the_residual_of_every_ritz_value(name, storage):
    a = matrix(name)
    basis = KrylovBasis(product(a), N, rank=24, block=3, storage=storage).build()
    ritz, values = basis.ritz(), torch.linalg.eigvalsh(a)
    distance = (ritz.values[:, None] - values).abs().amin(dim=1)
    # Residuals are said, measured and compared in float64, whose rounding is one of the norm.
    said = ritz.residual * (1 + 1e-9) + 1e-14 * N * norm(a)
    assert bool((distance <= said).all())
    vectors = basis.lift(ritz.turn)
    torch.testing.assert_close(vectors.norm(dim=0), torch.ones(24).double(), rtol=1e-12, atol=0)
    measured = (a @ vectors - vectors * ritz.values).norm(dim=0)
    assert bool((measured <= said).all())
    if storage == torch.float64:
        torch.testing.assert_close(measured, ritz.residual, rtol=1e-3, atol=1e-13 * norm(a))


def test_a_space_that_ends_is_gone_on_from_with_fresh_directions_until_nothing_is_left():
    for name, most in [("zero", 3), ("rank one", 9), ("low rank", 24)]:
        basis = KrylovBasis(product(matrix(name)), N, rank=N, block=3, storage=torch.float64).build()
        assert basis.complete
        assert basis.products <= most
    identity = KrylovBasis(product(matrix("identity")), N, rank=20, block=3, storage=torch.float64).build()
    assert not identity.complete
    torch.testing.assert_close(identity.ritz().values, torch.ones(20).double(), rtol=1e-13, atol=0)


def test_multiplicities_up_to_the_block_and_more_are_found():
    a = rotated(torch.cat([torch.full((5,), 7.0), torch.full((4,), 2.0), torch.zeros(N - 9)]))
    basis = KrylovBasis(product(a), N, rank=40, block=2, storage=torch.float64).build()
    values = basis.ritz().values
    assert int((values > 6.9).sum()) == 5
    assert int(((values > 1.9) & (values < 2.1)).sum()) == 4


def test_a_start_whose_columns_depend_on_each_other_is_no_trouble():
    a = matrix("exponential")
    one = torch.randn(N, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for scale in (1e-10, 1.0, 1e10):
        start = scale * torch.cat([one, one[:, :1] + one[:, 1:], torch.zeros(N, 1).double()], dim=1)
        basis = KrylovBasis(product(a), N, rank=12, block=4, storage=torch.float64, start=start)
        assert basis.m == 2
        low = basis.project(start)
        torch.testing.assert_close(basis.lift(low), start, rtol=0, atol=1e-13 * float(start.abs().max()))
        basis.build()
        q = rows(basis)
        torch.testing.assert_close(q @ q.T, torch.eye(basis.m).double(), atol=1e-13, rtol=0)


def test_images_that_nearly_agree_stay_orthonormal():
    """One direction is 1e12 times the others: every image of a block is almost the same vector."""
    a = rotated(torch.cat([torch.tensor([1e12]).double(), torch.logspace(0, -3, N - 1, dtype=torch.float64)]))
    basis = KrylovBasis(product(a), N, rank=32, block=8, storage=torch.float64).build()
    q = rows(basis)
    torch.testing.assert_close(q @ q.T, torch.eye(basis.m).double(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("storage", STORAGE, ids=name_of)
def test_restarts_within_a_budget_find_what_a_large_basis_finds(storage):
    values = torch.cat([torch.tensor([90.0, 80.0, 70.0, 60.0, -75.0]), torch.linspace(0.0, 30.0, N - 5)])
    a = rotated(values)
    budget = 18 * N * storage.itemsize
    basis = KrylovBasis(product(a), N, rank=60, block=2, storage=storage, budget=budget)
    assert basis.rows.data.numel() * storage.itemsize <= budget
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 3e-2}[storage]
    basis.build(tolerance=tolerance, wanted=5, most=400)
    if not basis.restarts:  # bfloat16 is content with less
        basis.restart(8)
        basis.build(most=basis.products + 8)
    assert basis.k <= 16
    found = basis.ritz()
    top = found.values.abs().argsort(descending=True)[:5]
    assert bool((found.residual[top] <= tolerance * 90.0).all())
    torch.testing.assert_close(
        found.values[top], torch.tensor([90.0, 80.0, -75.0, 70.0, 60.0]).double(), rtol=tolerance, atol=0
    )
    q, small = rows(basis), basis.small
    rest = a @ q[: basis.k].T - q.T @ small.coupling
    stored = (small.parts * torch.linalg.matrix_norm(small.left, 2)) ** 0.5
    rounding = 4.0 * small.rounding * 90.0 * basis.k**0.5
    assert float(torch.linalg.matrix_norm(rest, 2)) <= float(stored) + rounding
    inside = q[: basis.k] @ a @ q[: basis.k].T - small.matrix
    assert float(torch.linalg.matrix_norm(inside, 2)) <= small.blur + rounding


class Killed(Exception):
    pass


@pytest.mark.parametrize("storage", STORAGE, ids=name_of)
@pytest.mark.parametrize("budget", [None, 14], ids=["whole", "restarted"])
def test_a_run_killed_anywhere_goes_on_to_the_same_numbers(tmp_path, storage, budget):
    a = matrix("exponential")

    def basis(die_at=None):
        calls = 0

        def multiply(v):
            nonlocal calls
            calls += 1
            if calls == die_at:
                raise Killed
            return product(a)(v)

        size = None if budget is None else budget * N * storage.itemsize
        return KrylovBasis(multiply, N, rank=20, block=2, storage=storage, budget=size)

    asked = {"tolerance": None if budget is None else 1e-14, "most": 30}
    whole = basis().build(**asked)
    for die_at in (1, 3, 4):  # three lives of a process, each of them cut short
        with pytest.raises(Killed):
            basis(die_at).build(checkpoint=tmp_path, **asked)
    again = basis().build(checkpoint=tmp_path, **asked)
    assert torch.equal(whole.rows.data[: whole.m], again.rows.data[: again.m])
    for name in ("matrix", "coupling", "gram", "left"):
        assert torch.equal(getattr(whole.small, name), getattr(again.small, name))
    assert whole.small.numbers() == again.small.numbers()
    assert (whole.products, whole.restarts) == (again.products, again.restarts)
    done = basis(die_at=2).build(checkpoint=tmp_path, **asked)  # finished: one product, which says that it is the same
    assert torch.equal(done.small.matrix, whole.small.matrix)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    a = matrix("exponential")
    KrylovBasis(product(a), N, rank=8, block=2).build(checkpoint=tmp_path)
    with pytest.raises(InputError, match=r"made with block=2 and this run has 3"):
        KrylovBasis(product(a), N, rank=8, block=3).build(checkpoint=tmp_path)
    with pytest.raises(InputError, match="raise rank"):
        KrylovBasis(product(a), N, rank=2, block=2).build(checkpoint=tmp_path)
    grown = KrylovBasis(product(a), N, rank=16, block=2).build(checkpoint=tmp_path)
    torch.testing.assert_close(
        grown.small.matrix, KrylovBasis(product(a), N, rank=16, block=2).build().small.matrix, rtol=0, atol=0
    )
    for other in (2.0 * a, a + 50.0 * torch.eye(N, dtype=torch.float64)):
        with pytest.raises(InputError, match="another operator"):
            KrylovBasis(product(other), N, rank=16, block=2).build(checkpoint=tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="delete the folder"):
        KrylovBasis(product(a), N, rank=8, block=2).build(checkpoint=tmp_path)


@pytest.mark.parametrize("storage", STORAGE, ids=name_of)
def test_the_slices_in_which_rows_are_read_do_not_matter(storage, monkeypatch):
    values = torch.logspace(2, -2, 3000, dtype=torch.float64)[:, None]
    whole = KrylovBasis(lambda v: values.to(v.dtype) * v, 3000, rank=12, block=3, storage=storage).build()
    monkeypatch.setattr("gp_response.linalg.rows.SLICE_CPU", 1)
    parts = KrylovBasis(lambda v: values.to(v.dtype) * v, 3000, rank=12, block=3, storage=storage).build()
    close = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 3e-2}[storage]
    torch.testing.assert_close(whole.ritz().values[:4], parts.ritz().values[:4], rtol=close, atol=0)


def test_what_is_not_symmetric_or_finite_or_of_the_right_shape_is_refused():
    a = matrix("low rank") + torch.triu(torch.ones(N, N).double())
    with pytest.raises(SolverError, match="not symmetric"):
        KrylovBasis(product(a), N, rank=20, block=2).build()
    with pytest.raises(SolverError, match="NaN or inf"):
        KrylovBasis(lambda v: v * float("nan"), N, rank=4).build()
    with pytest.raises(InputError, match="product of shape"):
        KrylovBasis(lambda v: v[:5], N, rank=4).build()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"rank": 0}, "rank=0"),
        ({"block": 1.5}, "block=1.5"),
        ({"storage": torch.float16}, "bfloat16"),
        ({"budget": 10}, "raise it"),
        ({"start": torch.ones(3, 1)}, "start of shape"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(given, complaint):
    with pytest.raises(InputError, match=complaint):
        KrylovBasis(lambda v: v, N, **{"rank": 4, **given})
