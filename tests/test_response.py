"""Responses: formulas of the theory, certificates, sizes beyond 800 rows, conversions, results on disk."""

import numpy as np
import pytest
import torch
from refusals import assert_refused

import gp_response as gr
from gp_response.testing import example_data, example_head

DATA = example_data()
HEAD = example_head()
POSTERIOR = HEAD.condition(DATA)
X, Y = DATA.test.x, DATA.test.y


def gp(n, *, dim=2, noise=0.05, dtype=torch.float64, seed=0):
    data = example_data(n=n, dim=dim, seed=seed, dtype=dtype)
    head = gr.Exact(gr.Matern32(lengthscale=1.2, outputscale=1.5), noise=noise)
    return data, head, head.condition(data)


def test_one_solve_gives_the_textbook_formulas():
    cov = POSTERIOR.cov(X, DATA.train.x)
    residual = DATA.train.y - POSTERIOR.mean(DATA.train.x)
    noise = HEAD.noise.detach()
    weight = gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight())
    label = gr.susceptibility(POSTERIOR, gr.value(X), gr.relabel())
    assert torch.allclose(weight.matrix, cov * residual / noise, atol=1e-12)
    assert torch.allclose(label.matrix, cov * DATA.train.weights / noise, atol=1e-12)


def test_loss_against_loss_is_the_covariance_of_losses_with_its_hadamard_term():
    chi = gr.susceptibility(POSTERIOR, gr.loss(DATA.train.x, DATA.train.y), gr.reweight()).to("kernel")
    cov, noise = POSTERIOR.cov(DATA.train.x), HEAD.noise.detach()
    residual = DATA.train.y - POSTERIOR.mean(DATA.train.x)
    expected = residual[:, None] * residual * cov / noise**2 + cov**2 / (2.0 * noise**2)
    assert torch.allclose(chi.matrix, expected, atol=1e-11)
    assert torch.allclose(chi.matrix, chi.matrix.T, atol=1e-11)
    assert float(torch.linalg.eigvalsh(0.5 * (chi.matrix + chi.matrix.T))[0]) > -1e-10


def test_a_deletion_is_minus_the_weighted_sum_of_its_rows_to_first_order():
    rows = [2, 5, 9]
    whole = gr.susceptibility(POSTERIOR, gr.loss(X, Y), gr.delete(rows)).matrix[:, 0]
    parts = gr.susceptibility(POSTERIOR, gr.loss(X, Y), gr.reweight(rows)).matrix
    assert torch.allclose(whole, -(parts * DATA.train.weights[rows]).sum(dim=1), atol=1e-13)


def test_groups_are_sums_of_their_rows_and_keep_their_names():
    grouped = gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight({"a": [0, 1], "b": [5]}))
    single = gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight())
    assert grouped.columns == ("a", "b")
    assert torch.allclose(grouped.matrix[:, 0], single.matrix[:, 0] + single.matrix[:, 1], atol=1e-14)
    assert torch.allclose(grouped.matrix[:, 1], single.matrix[:, 5], atol=1e-14)


def test_deleting_a_set_equals_a_refit_without_it_although_its_rows_interact():
    rows = [0, 1, 2, 3, 20]  # 0 and 1 are the same input, 2 and 3 nearly
    exact = gr.finite_response(POSTERIOR, gr.value(X), gr.delete(rows))
    one_by_one = gr.finite_response(POSTERIOR, gr.value(X), gr.delete(rows, each=True))
    refit = gr.refit_response(HEAD, DATA, gr.value(X), gr.delete(rows), h=1.0)
    assert torch.allclose(exact.matrix, refit.matrix, atol=1e-12)
    assert not torch.allclose(one_by_one.matrix.sum(dim=1), refit.matrix[:, 0], rtol=0.05)


def test_a_whole_deletion_takes_the_rows_out_and_a_part_of_it_does_not():
    rows = gr.delete([3, 8], each=True)
    one = rows.apply(DATA, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert one.train.rows.tolist() == [r for r in range(40) if r != 8]
    assert len(gr.delete([3, 8]).apply(DATA, 1).train) == 38
    half = gr.delete([3, 8]).apply(DATA, 0.5)
    assert torch.equal(half.train.weights[[3, 8]], 0.5 * DATA.train.weights[[3, 8]])
    assert len(half.train) == 40


def test_a_row_of_weight_zero_responds_like_an_insertion():
    weights = DATA.train.weights.clone()
    weights[4] = 0.0
    unseen = DATA.with_train(weights=weights)
    chi = gr.susceptibility(HEAD.condition(unseen), gr.value(X), gr.reweight([4]))
    without = unseen.keep(weights > 0)
    new = gr.insert(DATA.train.x[4:5], DATA.train.y[4:5])
    assert torch.allclose(chi.matrix, gr.susceptibility(HEAD.condition(without), gr.value(X), new).matrix, atol=1e-12)


@pytest.mark.parametrize("n", [799, 800, 801, 1500])
def test_nothing_happens_at_801_rows(n):
    data, head, posterior = gp(n)
    x = data.test.x
    chosen = [0, 1, n // 2, n - 1]
    chi = gr.susceptibility(posterior, gr.value(x), gr.reweight())
    step = 1e-3
    up, down = (gr.refit_response(head, data, gr.value(x), gr.reweight(chosen), h=s * step).matrix for s in (1, -1))
    assert torch.allclose(chi.matrix[:, chosen], (up - down) / (2 * step), atol=1e-6 * float(chi.matrix.abs().max()))
    gone = gr.refit_response(head, data, gr.value(x), gr.delete(chosen, each=True), h=1.0)
    exact = gr.finite_response(posterior, gr.value(x), gr.delete(chosen, each=True))
    assert float((gone - exact).abs().max() / gone.matrix.abs().max()) < 1e-8


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_error_bounds_cover_the_true_error_or_the_result_is_flagged(noise, dtype):
    """Against a float64 (float32 data) or a refined float64 solution of the dense system in another form."""
    data = example_data(n=300, dim=2, dtype=dtype)
    head = gr.Exact(gr.Matern32(lengthscale=1.2, outputscale=1.5), noise=noise)
    chi = gr.susceptibility(head.condition(data), gr.value(data.test.x), gr.reweight())
    truth = exact_weights(head, data)
    assert bool(((chi.matrix.double() - truth).abs() <= chi.error.double()).all())
    assert chi.converged  # also where single precision has too few digits: the solve is then in float64


def exact_weights(head, data):
    """χ by weight from `(K + σ²/ρ)⁻¹` refined with residuals in extended precision."""
    train, x = data.train, data.test.x.double()
    k, cross = (head.kernel.matrix(a.double(), train.x.double()).detach() for a in (train.x, x))
    diagonal = head.noise.detach() / train.weights.double()
    system = k + torch.diag(diagonal)
    right = torch.cat([cross.T, train.y.double()[:, None]], dim=1)
    solved = torch.linalg.solve(system, right)
    for _ in range(3):  # residuals in extended precision
        a, b, v = (t.numpy().astype(np.longdouble) for t in (system, right, solved))
        solved = solved + torch.linalg.solve(system, torch.from_numpy((b - a @ v).astype(np.float64)))
    s, residual = solved[:, :-1].T * diagonal, diagonal * solved[:, -1]
    return s * residual / head.noise.detach()


def test_the_bound_is_not_idle():
    data, _, posterior = gp(300, noise=1e-2)
    chi = gr.susceptibility(posterior, gr.loss(data.test.x, data.test.y), gr.reweight())
    assert 0.0 < float((chi.error / chi.matrix.abs().max()).max()) < 1e-6
    finite = gr.finite_response(posterior, gr.variance(data.test.x), gr.delete([1, 5]))
    really = gr.refit_response(
        gr.Exact(posterior.kernel, noise=1e-2), data, gr.variance(data.test.x), gr.delete([1, 5]), h=1.0
    )
    assert bool(((finite - really).abs() <= finite.error + 1e-13).all())


def test_a_tolerance_that_cannot_be_met_is_flagged_not_hidden():
    data = example_data(n=200, dim=2)
    head = gr.Exact(gr.Matern32(lengthscale=1.2), noise=1e-3, solver=gr.Cholesky(tolerance=1e-18))
    chi = gr.susceptibility(head.condition(data), gr.value(data.test.x), gr.reweight())
    assert not chi.converged
    assert chi.flagged == tuple(range(len(data.test.x)))
    assert "not converged" in repr(chi)


def test_a_bound_that_cannot_be_had_is_infinite_and_flagged():
    """Precisions of 1e14 on a smooth kernel: one minus the leverage of the first row is smaller than its own error."""
    x = torch.linspace(0.0, 1.0, 60, dtype=torch.float64)[:, None]
    weights = torch.full((60,), 1e7, dtype=torch.float64)
    data = gr.dataset(x, torch.sin(3.0 * x[:, 0]), weights=weights, standardise=False)
    posterior = gr.Exact(gr.RBF(lengthscale=2.0), noise=1e-7).condition(data)
    change = gr.finite_response(posterior, gr.value(x[:3] + 0.005), gr.delete([0, 30], each=True))
    assert bool(change.error[:, 0].isinf().all())
    assert not bool(change.error.isnan().any())
    assert change.flagged == (0, 1, 2)


@pytest.mark.parametrize("seed", range(8))
def test_finite_answers_lie_within_the_bounds_of_refits_on_random_problems(seed):
    """Scales of inputs, targets, weights, noise and temperature drawn over decades, with a row of weight zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return float(10.0 ** (low + (high - low) * torch.rand((), generator=generator)))

    x, t = (torch.randn(m, 3, generator=generator, dtype=torch.float64) for m in (40, 6))
    x, y = draw(-1, 1) * x, draw(0, 2) * torch.randn(40, generator=generator, dtype=torch.float64)
    weights = draw(-1, 3) * (0.01 + torch.rand(40, generator=generator, dtype=torch.float64))
    weights[5] = 0.0
    data = gr.dataset(x, y, test_x=t, test_y=t[:, 0], weights=weights, standardise=False)
    head = gr.Exact(gr.Matern32(outputscale=draw(-1, 2)), noise=draw(-4, 1), beta=draw(-1, 1), mean=draw(-1, 1))
    posterior, observable = head.condition(data), gr.value(t)
    for perturbation in (gr.delete([1, 2]), gr.reweight([5, 7]), gr.insert(t[:2] + 0.1, y[:2])):
        change = gr.finite_response(posterior, observable, perturbation, h=1.0)
        refit = gr.refit_response(head, data, observable, perturbation, h=1.0)
        own = 4.0 * posterior.probe(t).mean.error[:, None]  # a difference of two refits has errors too
        assert bool(((change - refit).abs() <= change.error + own).all())


def test_float32_data_give_float32_responses_close_to_float64():
    data, head, posterior = gp(200, dtype=torch.float32)
    chi = gr.susceptibility(posterior, gr.value(data.test.x), gr.reweight())
    exact = gr.susceptibility(head.condition(data.to(dtype=torch.float64)), gr.value(data.test.x), gr.reweight())
    assert chi.matrix.dtype == torch.float32
    assert float((chi.matrix - exact.matrix).abs().max() / exact.matrix.abs().max()) < 1e-4


CHI = gr.susceptibility(example_head(beta=0.5).condition(DATA), gr.loss(X, Y), gr.reweight())


def test_conversions_are_the_definitions_of_other_work():
    n, beta = len(DATA.train), 0.5
    assert torch.allclose(CHI.to("bif").matrix, CHI.matrix / beta)
    assert torch.allclose(CHI.to("devinterp").matrix, -CHI.matrix / beta)
    assert torch.allclose(CHI.to("kernel").matrix, -CHI.matrix / beta)
    assert torch.allclose(CHI.to("ij").matrix, n * CHI.matrix)
    structural = CHI.to("structural")
    assert torch.allclose(structural.matrix.sum(dim=1), torch.zeros(len(X), dtype=torch.float64), atol=1e-12)
    assert structural.convention == "structural"
    assert "structural" not in CHI.unit


def test_the_structural_convention_is_the_derivative_along_the_mixture_path():
    data, head = DATA.with_train(weights=torch.ones(len(DATA.train), dtype=torch.float64)), example_head(beta=0.5)
    chi = gr.susceptibility(head.condition(data), gr.loss(X, Y), gr.reweight()).to("structural")
    n, j, h = len(data.train), 6, 1e-5

    def losses(h):
        weights = torch.full((n,), 1.0 - h, dtype=torch.float64)
        weights[j] += n * h
        return gr.response.expectation(head.condition(data.with_train(weights=weights)), gr.loss(X, Y))

    assert torch.allclose(chi.matrix[:, j], (losses(h) - losses(-h)) / (2 * h) / (n * head.beta), atol=1e-8)


@pytest.mark.parametrize(
    ("chi", "name", "said"),
    [
        (CHI, "biff", "did you mean 'bif'"),
        (gr.susceptibility(POSTERIOR, gr.value(X), gr.relabel()), "bif", "this is relabel"),
        (gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight([1])), "structural", "reweight() without rows"),
        (gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight()), "kernel", "observable here is value"),
        (gr.finite_response(POSTERIOR, gr.value(X), gr.reweight()), "ij", "derivatives"),
        (CHI.to("bif"), "ij", "already in convention 'bif'"),
    ],
)
def test_conversions_without_meaning_are_refused(chi, name, said):
    with pytest.raises(gr.InputError) as caught:
        chi.to(name)
    assert said in str(caught.value)


def test_results_survive_the_disk(tmp_path):
    path = CHI.save(tmp_path / "deep" / "chi.safetensors")
    back = gr.Susceptibility.load(path)
    assert torch.equal(back.matrix, CHI.matrix)
    assert torch.equal(back.error, CHI.error)
    assert back.metadata() == CHI.metadata()
    assert [p.name for p in path.parent.iterdir()] == ["chi.safetensors"]


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_unreadable_results_say_so(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(gr.InputError, match=r"does not exist|not a readable result file"):
        gr.Susceptibility.load(path)


def test_results_read_as_tables_arrays_modes_and_matrices():
    top = CHI.top(3)
    assert len(top) == 3 * len(X)
    assert top["value"].abs().iloc[0] == pytest.approx(float(CHI.matrix[0].abs().max()))
    assert CHI.columns[top["position"].iloc[0]] == top["column"].iloc[0]
    table = CHI.to_xarray()
    assert table.response.shape == CHI.shape
    assert table.attrs["beta"] == 0.5
    assert "Cov(O, V)" in table.attrs["sign"]
    modes = CHI.modes(k=len(X))
    assert torch.allclose(modes.rows @ torch.diag(modes.values) @ modes.columns.T, CHI.matrix, atol=1e-12)
    assert torch.allclose(torch.abs(CHI), CHI.matrix.abs())
    assert np.asarray(CHI).shape == CHI.shape
    assert isinstance(CHI + CHI, gr.Susceptibility)
    assert torch.equal((CHI + CHI).error, 2 * CHI.error)


BAD = {
    "row out of range": (lambda: gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight([400])), "row 400"),
    "a row twice": (lambda: gr.delete([1, 1]), "twice"),
    "no rows": (lambda: gr.delete([]), "non-empty"),
    "rows that are no integers": (lambda: gr.reweight([0.5]), "row numbers"),
    "points of another width": (lambda: gr.susceptibility(POSTERIOR, gr.value(X[:, :2]), gr.reweight()), "(n, 3)"),
    "points with one axis": (lambda: gr.value(X[0]), "(p, d)"),
    "NaN in the points": (lambda: gr.value(X * float("nan")), "nan at point 0, column 0"),
    "labels of another length": (lambda: gr.loss(X, Y[:3]), "expected (7,)"),
    "insertion of another width": (
        lambda: gr.susceptibility(POSTERIOR, gr.value(X), gr.insert(X[:, :1], Y)),
        "1 columns",
    ),
    "contrast of unequal sets": (lambda: gr.contrast(X, X[:2]), "equal shapes"),
    "average with wrong weights": (lambda: gr.average(X, [1.0]), "weights of shape (1,)"),
    "top of nothing": (lambda: CHI.top(0), "at least 1"),
    "deletion of everything": (
        lambda: gr.refit_response(HEAD, DATA, gr.value(X), gr.delete(list(range(len(DATA.train)))), h=1.0),
        "all 40 training rows",
    ),
    "negative noise": (lambda: gr.Exact(gr.RBF(), noise=-1.0), "noise=-1.0"),
    "a kernel that is none": (lambda: gr.Exact("rbf"), "type str"),
    "an impossible tolerance": (lambda: gr.Cholesky(tolerance=2.0), "between 0 and 1"),
    "a solver that is none": (lambda: gr.Exact(gr.RBF(), solver="cholesky"), "solver"),
    "more precision removed than there is": (
        lambda: gr.finite_response(POSTERIOR, gr.value(X), gr.reweight([3]), h=-30.0),
        "smaller amplitude",
    ),
    "negative weights refitted": (
        lambda: gr.refit_response(HEAD, DATA, gr.value(X), gr.reweight([3]), h=-30.0),
        "weight",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_that_names_the_cause(case):
    assert_refused(*BAD[case])
