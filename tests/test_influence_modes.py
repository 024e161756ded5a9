"""What is read off the influence operator: eigenpairs, components, representatives."""

import pytest
import torch
from influence_cases import example_data, head, truth

import gp_response as gr

DATA = example_data()


@pytest.mark.parametrize("method", ["exact", "low-rank"])
@pytest.mark.parametrize("solver", [gr.Cholesky(), gr.CG(tolerance=1e-8)], ids=["cholesky", "cg"])
def test_eigenpairs_enclose_those_of_the_dense_matrix(method, solver):
    model = head(0.1, beta=1.7, solver=solver)
    w, expected = gr.influence(model.condition(DATA), method=method, rank=30), truth(model, DATA)
    modes = w.eigenmodes(6)
    values = torch.linalg.eigvalsh(expected).flip(0)
    distance = (modes.values[:, None] - values).abs().amin(dim=1)
    assert bool((distance <= modes.error).all())
    assert torch.allclose(modes.vectors.T @ modes.vectors, torch.eye(6, dtype=torch.float64), atol=1e-10)
    residual = (expected @ modes.vectors - modes.vectors * modes.values).norm(dim=0)
    assert bool((residual <= modes.error + 1e-9).all())
    assert torch.allclose(modes.values, values[:6], rtol=1e-5 if method == "exact" else 0.25)
    if method == "exact":
        assert torch.allclose(modes.share, modes.values / expected.trace(), rtol=1e-5)


def test_all_eigenvalues_of_a_small_matrix_are_found():
    model = head(0.1)
    modes = gr.influence(model.condition(DATA)).eigenmodes(40)
    values = torch.linalg.eigvalsh(truth(model, DATA)).flip(0)
    assert torch.allclose(modes.values, values, atol=1e-9 * float(values[0]))
    assert float(modes.share.sum()) == pytest.approx(1.0, abs=1e-9)


def test_components_are_coordinates_of_the_centred_matrix():
    model = head(0.1)
    expected = truth(model, DATA)
    centring = torch.eye(40, dtype=torch.float64) - 1.0 / 40
    centred = centring @ expected @ centring
    found = gr.influence(model.condition(DATA)).components(39)
    assert torch.allclose(found.coordinates @ found.coordinates.T, centred, atol=1e-7 * float(centred.abs().max()))
    assert torch.allclose(found.coordinates.sum(dim=0), torch.zeros(39, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(found.share, found.values / centred.trace(), rtol=1e-9)
    two = gr.influence(model.condition(DATA)).components(2, seed=5)
    assert torch.allclose(two.coordinates, found.coordinates[:, :2], atol=1e-4 * float(found.coordinates.abs().max()))


@pytest.mark.parametrize("solver", [gr.Cholesky(), gr.CG(tolerance=1e-8)], ids=["cholesky", "cg"])
def test_representatives_are_greedy_pivots_and_leave_the_conditional_trace(solver):
    model = head(0.1, solver=solver)
    expected = truth(model, DATA)
    found = gr.influence(model.condition(DATA)).representatives(12)
    chosen, rest = [], expected.clone()
    for k in range(12):
        pivot = int(rest.diagonal().argmax())
        chosen.append(pivot)
        among = expected[chosen][:, chosen]
        rest = expected - expected[:, chosen] @ torch.linalg.solve(among, expected[chosen])
        assert float(found.left[k]) == pytest.approx(float(rest.trace() / expected.trace()), rel=1e-5)
    assert found.rows.tolist() == chosen
    assert torch.allclose(found.conditional, rest.diagonal().clamp_min(0.0), atol=1e-6 * float(expected.max()))


def test_representatives_stop_where_nothing_is_left():
    """Rows 0 and 1 have equal inputs and different labels, 40 losses in all: no more than 40 dimensions, no NaN."""
    found = gr.influence(head(0.1).condition(DATA)).representatives(40)
    assert len(set(found.rows.tolist())) == len(found.rows) == len(found.left)
    assert float(found.left[-1]) < 1e-9
    assert bool((found.left.diff() <= 0).all())
