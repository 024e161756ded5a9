"""Total responses: against models optimised again, against autograd, and what they refuse or flag."""

import copy

import gpytorch
import pytest
import torch
from gpytorch.priors import GammaPrior, LogNormalPrior
from total_cases import TIGHT, gap, localised_optimum, optimum, reoptimised, textbook_evidence

import gp_response as gr
from gp_response.response.total.exact_evidence import ExactEvidence
from gp_response.response.total.parameters import flat
from gp_response.testing import example_data

DATA = example_data()
X, Y = DATA.test.x, DATA.test.y
OBSERVABLES = {
    "value": gr.value(X), "loss": gr.loss(X, Y), "variance": gr.variance(X), "contrast": gr.contrast(X[:3], X[3:6]),
    "average": gr.average(X),
}  # fmt: skip
PERTURBATIONS = {
    "reweight": gr.reweight([0, 5]), "group": gr.reweight({"a": [1, 2, 7]}), "relabel": gr.relabel([3]),
    "delete": gr.delete([4, 6]), "insert": gr.insert(X[:1] + 0.1, Y[:1] - 0.3),
}  # fmt: skip


def fitted(head, data=DATA, **options):
    head.fit(data, training=TIGHT)
    return optimum(head, data, **options)


@pytest.fixture(scope="module")
def head():
    return fitted(gr.Exact(gr.Matern52(lengthscale=[1.5] * 3, outputscale=1.3), noise=0.2, mean=0.1))


@pytest.mark.parametrize("change", PERTURBATIONS)
@pytest.mark.parametrize("asked", OBSERVABLES)
def test_the_total_is_the_derivative_of_models_optimised_again(head, asked, change):
    chi = gr.total_susceptibility(head, DATA, OBSERVABLES[asked], PERTURBATIONS[change])
    real = reoptimised(head, DATA, OBSERVABLES[asked], PERTURBATIONS[change])
    # One-sided differences, where a new row's weight starts at zero, are worth fewer digits.
    assert gap(chi, real) < (1e-6 if change == "insert" else 1e-8)
    assert gap(chi.parts["field"], real) > 5e-3  # hyperparameters held fixed
    assert chi.converged


stock = gpytorch.kernels.ScaleKernel
CASES = {
    "temperature": (lambda: gr.Exact(gr.Matern52(lengthscale=[1.5] * 3), noise=0.2, beta=0.7), DATA, {}),
    "known noise": (  # of its own the noise beside it would vanish, and with it that of a new row
        lambda: gr.Exact(gr.Matern52(lengthscale=1.5), noise=0.1, noise_prior=LogNormalPrior(-2.0, 0.5)),
        example_data(known_noise=True), {},
    ),
    "a sum": (lambda: gr.Exact(gr.Matern52(lengthscale=1.5) + gr.Linear(outputscale=0.3), noise=0.2), DATA, {}),
    "an exponent": (
        lambda: gr.Exact(gr.RationalQuadratic(lengthscale=1.5, alpha=1.0, alpha_prior=GammaPrior(4.0, 3.0)), noise=0.2), DATA, {}
    ),
    "priors": (
        lambda: gr.Exact(
            gr.Matern32(
                lengthscale=[1.5] * 3, lengthscale_prior=LogNormalPrior(0.0, 1.0), outputscale_prior=GammaPrior(2.0, 1.0)
            ), noise=0.2, noise_prior=LogNormalPrior(-2.0, 1.0),
        ), DATA, {},
    ),
    "gpytorch's own kernel": (lambda: gr.Exact(stock(gpytorch.kernels.MaternKernel(nu=2.5)), noise=0.2), DATA, {}),
    "gpytorch's own kernel, sparse": (lambda: gr.SGPR(stock(gpytorch.kernels.RBFKernel()), 9, 0.2), DATA, {}),
    "sparse": (lambda: gr.SGPR(gr.Matern52(lengthscale=1.5), 9, 0.2), DATA, {}),
    "sparse, its points respond": (
        lambda: gr.SGPR(
            gr.Matern52(lengthscale=1.5),
            torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 0.2,
        ), DATA, {"inducing": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("change", ["reweight", "relabel", "insert"])
def test_heads_kernels_priors_and_temperatures_respond_as_their_refits(case, change):
    make, data, options = CASES[case]
    head = fitted(make(), data, **options)
    chi = gr.total_susceptibility(head, data, gr.loss(X, Y), PERTURBATIONS[change], **options)
    real = reoptimised(head, data, gr.loss(X, Y), PERTURBATIONS[change], **options)
    assert gap(chi, real) < (1e-5 if change == "insert" else 1e-8)
    assert chi.optimum.maximum


def test_second_derivatives_are_those_of_autograd_through_the_textbook_evidence(head):
    """Nothing shared: weights, labels, inputs and noise through a dense solve and a determinant."""
    data, model = example_data(known_noise=True), copy.deepcopy(head)
    tensors = list(model.parameters())
    x, y, weights, noise = (getattr(data.train, n).clone().requires_grad_(True) for n in ("x", "y", "weights", "noise"))
    value = textbook_evidence(model, data.with_train(x=x, y=y, weights=weights, noise=noise))
    slopes = torch.autograd.grad(value, tensors, create_graph=True)
    moved = {"x": x, "y": y, "weights": weights, "noise": noise}
    ours = ExactEvidence(model, data, tensors, X, tuple(moved))
    ours.settle()
    assert ours.value() == pytest.approx(value.item(), rel=1e-12)
    assert torch.allclose(flat(ours.gradient()), flat(list(slopes)), atol=1e-9)
    for k in range(3):
        direction = [torch.randn(p.shape, generator=torch.Generator().manual_seed(k), dtype=p.dtype) for p in tensors]
        along = ours.along(direction)
        scalar = sum((s * d).sum() for s, d in zip(slopes, direction, strict=True))
        expected = torch.autograd.grad(scalar, [*tensors, *moved.values()], retain_graph=True)
        for got, truth in zip([*along.parameters, *along.data.values()], expected, strict=True):
            assert float((got - truth).abs().max()) < 1e-9 * (1.0 + float(truth.abs().max()))


def test_marginals_along_and_back_are_each_others_transpose_and_the_refits_derivative(head):
    model = copy.deepcopy(head)
    tensors = list(model.parameters())
    ours = ExactEvidence(model, DATA, tensors, X)
    ours.settle()
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in tensors]
    mean, variance = (torch.randn(len(X), generator=generator, dtype=torch.float64) for _ in range(2))
    along = ours.along(direction)
    back = ours.pullback(mean, variance, torch.tensor(0.7, dtype=torch.float64))
    forward = mean @ along.mean + variance @ along.variance + 0.7 * along.noise
    assert float(forward) == pytest.approx(float(flat(back) @ flat(direction)), rel=1e-9)
    step, found = 1e-5, []
    for sign in (1.0, -1.0):
        moved = copy.deepcopy(head)
        with torch.no_grad():
            for p, d in zip(moved.parameters(), direction, strict=True):
                p += sign * step * d
        found.append(moved.condition(DATA))
    assert torch.allclose(along.mean, (found[0].mean(X) - found[1].mean(X)) / (2 * step), atol=1e-7)
    assert torch.allclose(along.variance, (found[0].variance(X) - found[1].variance(X)) / (2 * step), atol=1e-7)


def test_more_than_eight_hundred_rows_near_duplicates_and_a_row_of_weight_zero():
    data = example_data(n=820, dim=2)
    weights = data.train.weights.clone()
    weights[7] = 0.0
    data = data.with_train(weights=weights)
    head = fitted(gr.Exact(gr.Matern32(lengthscale=1.2, outputscale=1.5), noise=0.05), data)
    change = gr.reweight({"a": [0, 1]})
    chi = gr.total_susceptibility(head, data, gr.loss(data.test.x, data.test.y), change)
    assert gap(chi, reoptimised(head, data, gr.loss(data.test.x, data.test.y), change, step=2e-3)) < 1e-6
    every = gr.total_susceptibility(head, data, gr.loss(data.test.x, data.test.y), gr.reweight())
    assert torch.allclose(every.matrix[:, [0, 1]].sum(dim=1), chi.matrix[:, 0], rtol=1e-9, atol=1e-12)
    unseen = gr.insert(data.train.x[7:8], data.train.y[7:8])
    new = gr.total_susceptibility(head, data.keep(weights > 0), gr.loss(data.test.x, data.test.y), unseen)
    assert torch.allclose(every.matrix[:, 7], new.matrix[:, 0], rtol=1e-6, atol=1e-9)


def test_float32_data_are_computed_in_float64_and_rounded(head):
    single = DATA.to(dtype=torch.float32)
    chi = gr.total_susceptibility(head, single, gr.value(X), gr.reweight())
    exact = gr.total_susceptibility(head, single.to(dtype=torch.float64), gr.value(X), gr.reweight())
    assert chi.matrix.dtype == chi.hyperparameters.matrix.dtype == torch.float32
    assert bool(((chi.matrix.double() - exact.matrix).abs() <= chi.error.double()).all())


@pytest.fixture(scope="module")
def deep():
    prior = LogNormalPrior(0.0, 0.5)
    kernel = gr.Matern52(lengthscale=1.0, outputscale=1.2, lengthscale_prior=prior, outputscale_prior=prior)
    head = gr.Exact(kernel.on(gr.MLP(3, [4, 2])), noise=0.2)
    head.fit(DATA, training=gr.Training(progress=False, pretrain_steps=100, steps=30))
    return optimum(head, DATA)


def test_features_respond_as_the_localised_objective_optimised_again(deep):
    observable, step = gr.loss(X, Y), 2e-3
    chi = gr.total_susceptibility(deep, DATA, observable, gr.reweight([5, 8]), features=True)
    delta = chi.optimum.damping
    start, tilt, origin = localised_optimum(copy.deepcopy(deep), DATA, delta)
    ends = zip(start.parameters(), deep.parameters(), strict=True)
    assert max(float((a - b).abs().max()) for a, b in ends) < 1e-8  # the tilt makes the head its optimum
    for c, row in enumerate((5, 8)):
        found = {}
        for k in (1, -1, 2, -2):
            changed = gr.reweight([row]).apply(DATA, k * step)
            model = localised_optimum(copy.deepcopy(deep), changed, delta, tilt, origin)[0]
            losses = gr.response.expectation(model.condition(changed), observable)
            found[k] = torch.cat([losses, model.noise.detach()[None]])
        slope = (8.0 * (found[1] - found[-1]) - (found[2] - found[-2])) / (12.0 * step)
        assert gap(chi.matrix[:, c], slope[:-1]) < 1e-6
        assert gap(chi.hyperparameters.matrix[-1:, c], slope[-1:]) < 1e-6
        assert gap(chi.parts["field"].matrix[:, c] + chi.parts["hyperparameters"].matrix[:, c], slope[:-1]) > 1e-3


def test_features_that_may_hardly_move_are_features_held_fixed(deep):
    held = gr.total_susceptibility(deep, DATA, gr.value(X), gr.reweight())
    stiff = gr.total_susceptibility(deep, DATA, gr.value(X), gr.reweight(), features=True, damping=1e12)
    assert gap(stiff, held.matrix) < 1e-7
    assert set(held.parts) == {"field", "hyperparameters"}
    some = gr.total_susceptibility(deep, DATA, gr.value(X), gr.reweight([1]), features=["features.layers.2"])
    assert some.optimum.damping >= 1.0


def test_parts_add_up_names_and_shapes(head):
    chi = gr.total_susceptibility(head, DATA, gr.value(X), gr.reweight())
    assert torch.allclose(sum(p.matrix for p in chi.parts.values()), chi.matrix, atol=1e-14)
    assert chi.hyperparameters.rows == ("lengthscale[0]", "lengthscale[1]", "lengthscale[2]", "outputscale", "noise")
    assert chi.hyperparameters.shape == (5, len(DATA.train))
    assert torch.equal(
        chi.parts["field"].matrix, gr.susceptibility(head.condition(DATA), gr.value(X), gr.reweight()).matrix
    )
    assert chi.order == "total"
    assert "optimised again" in chi.sign
    assert "at a maximum" in repr(chi)
    assert type(chi + chi) is gr.Susceptibility
    assert bool((chi.share("hyperparameters") > 0).all())
    chosen = gr.total_susceptibility(head, DATA, gr.value(X), gr.reweight([3]))
    assert torch.allclose(chosen.matrix[:, 0], chi.matrix[:, 3], atol=1e-13)


def test_results_survive_the_disk(head, tmp_path):
    chi = gr.total_susceptibility(head, DATA, gr.value(X), gr.reweight())
    back = gr.Susceptibility.load(chi.save(tmp_path / "chi.safetensors"))
    assert torch.equal(back.matrix, chi.matrix)
    assert back.sign == chi.sign
    assert chi.to_xarray().response.shape == chi.shape


def test_a_head_off_its_optimum_is_flagged_refused_or_polished(head):
    near, far = copy.deepcopy(head), copy.deepcopy(head)
    with torch.no_grad():
        near.raw_noise += 1e-3
        far.raw_noise += 2.0
    before = {name: p.detach().clone() for name, p in near.named_parameters()}
    truth = gr.total_susceptibility(head, DATA, gr.value(X), gr.reweight())
    flagged = gr.total_susceptibility(near, DATA, gr.value(X), gr.reweight())
    assert not flagged.converged
    assert "polish=True" in flagged.optimum.message
    off = (flagged.matrix - truth.matrix).abs()
    assert bool((off <= 2.0 * flagged.error + 1e-4 * float(off.max())).all())  # the estimate is worth something
    polished = gr.total_susceptibility(near, DATA, gr.value(X), gr.reweight(), polish=True)
    assert polished.converged
    assert polished.optimum.polished > 0
    assert gap(polished, truth.matrix) < 1e-8
    assert all(torch.equal(p, before[name]) for name, p in near.named_parameters())
    with pytest.raises(gr.InputError, match=r"no optimum.*noise.*polish=True"):
        gr.total_susceptibility(far, DATA, gr.value(X), gr.reweight())


def test_a_noise_at_its_floor_is_held_and_parameters_without_gradient_are_not_there(head):
    x = torch.linspace(-1.0, 1.0, 25, dtype=torch.float64)[:, None]
    data = gr.dataset(x, torch.sin(3.0 * x[:, 0]), test_x=x[:5] + 0.02, test_y=x[:5, 0], standardise=False)
    clean = gr.Exact(gr.Matern52(lengthscale=1.0), noise=0.1)
    clean.fit(data, training=gr.Training(progress=False, least_noise=1e-3))
    chi = gr.total_susceptibility(clean, data, gr.value(data.test.x), gr.relabel(), polish=True)
    assert "at its floor" in chi.optimum.held["noise"]
    assert bool((chi.hyperparameters.matrix[-1] == 0).all())
    frozen = copy.deepcopy(head)
    frozen.raw_noise.requires_grad_(False)
    frozen = optimum(frozen, DATA)
    found = gr.total_susceptibility(frozen, DATA, gr.value(X), gr.reweight([0]))
    assert "noise" not in found.hyperparameters.rows
    assert gap(found, reoptimised(frozen, DATA, gr.value(X), gr.reweight([0]))) < 1e-8


def test_a_flat_direction_is_flagged_and_nothing_moves_along_it():
    """A kernel written as the sum of its halves: the difference of their outputscales means nothing."""
    one = fitted(gr.Exact(gr.Matern52(lengthscale=1.5), noise=0.2))
    length, half = float(one.kernel.lengthscale), 0.5 * float(one.kernel.outputscale)
    halves = [gr.Matern52(lengthscale=length, outputscale=half) for _ in range(2)]
    two = gr.Exact(halves[0] + halves[1], noise=float(one.noise))
    expected = gr.total_susceptibility(one, DATA, gr.value(X), gr.reweight())
    chi = gr.total_susceptibility(two, DATA, gr.value(X), gr.reweight())
    assert not chi.converged
    assert "no strict maximum" in chi.optimum.message
    assert all("kernels." in name for name in chi.optimum.direction)
    assert gap(chi, expected.matrix) < 1e-6


REFUSED = {
    "another likelihood": (
        lambda: gr.total_susceptibility(gr.Exact(gr.RBF(), likelihood=gr.Bernoulli()), DATA, gr.value(X), gr.reweight()),
        "use gr.Exact or gr.SGPR",
    ),
    "features that are not there": (
        lambda: gr.total_susceptibility(gr.Exact(gr.RBF()), DATA, gr.value(X), gr.reweight(), features=True), "no features"
    ),
    "inducing points of an exact head": (
        lambda: gr.total_susceptibility(gr.Exact(gr.RBF()), DATA, gr.value(X), gr.reweight(), inducing=True), "inducing=True"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_total_response_is_refused(case):
    call, said = REFUSED[case]
    with pytest.raises(gr.InputError, match=said):
        call()


def test_wrong_names_and_too_little_damping_are_refused(deep):
    with pytest.raises(gr.InputError, match=r"names none of the weights features\.layers\.0\.weight"):
        gr.total_susceptibility(deep, DATA, gr.value(X), gr.reweight([0]), features=["head"])
    with pytest.raises(gr.InputError, match="give damping above"):
        gr.total_susceptibility(deep, DATA, gr.value(X), gr.reweight([0]), features=True, damping=1e-9)
