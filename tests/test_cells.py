"""Every observable by every perturbation: closed form = derivative of the refit, exact finite answer = refit, within bounds."""

import pytest
import torch

import gp_response as gr
from gp_response.testing import example_data

DATA = example_data(n=40)
X, Y = DATA.test.x[:4], DATA.test.y[:4]
V = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
TOWARD = gr.dataset(X[:3] + 0.3, Y[:3], standardise=False)


def kernel() -> gr.Kernel:
    return gr.Matern52(lengthscale=[1.5, 1.2, 1.0], outputscale=1.3)


HEADS = {
    "cholesky": lambda: gr.Exact(kernel(), noise=0.2, mean=0.1, beta=1.2),
    "cg": lambda: gr.Exact(kernel(), noise=0.2, mean=0.1, beta=1.2, solver=gr.CG(tolerance=1e-10)),
    "sgpr": lambda: gr.SGPR(kernel(), 12, noise=0.2, mean=0.1, beta=1.2),
    "svgp": lambda: gr.SVGP(kernel(), 12, gr.Gaussian(0.3), beta=0.8),
    "deep": lambda: gr.Exact(gr.Matern52(lengthscale=1.2).on(gr.MLP(3, [8, 2])), noise=0.1),
}
OBSERVABLES = {
    "value": gr.value(X),
    "loss": gr.loss(X, Y),
    "variance": gr.variance(X),
    "contrast": gr.contrast(X, X.flip(0) + 0.1),
    "average": gr.average(X),
    "gradient": gr.gradient(X[:2]),
    "pointwise": gr.pointwise(X, torch.sigmoid),
    "evidence": gr.evidence(),
    "learning_coefficient": gr.learning_coefficient(),
}
# name: (perturbation, amplitude of the finite change; None where a finite change is a refit)
PERTURBATIONS = {
    "reweight": (gr.reweight({"a": [1, 2], "b": [3]}), -0.4),
    "relabel": (gr.relabel([3, 5]), 1.0),
    "delete": (gr.delete([3, 17]), 1.0),
    "insert": (gr.insert(X[:2] + 0.2, Y[:2]), 1.0),
    "shift": (gr.shift_inputs(V, [3, 5]), 0.4),
    "shift of groups": (gr.shift_inputs(1, {"a": [1, 2]}), 0.5),
    "noise": (gr.noise(), 0.1),
    "noise of rows": (gr.noise([2, 7]), 0.2),
    "lengthscale": (gr.hyperparameter("lengthscale"), None),
    "outputscale": (gr.hyperparameter("outputscale"), None),
    "mean": (gr.hyperparameter("mean"), None),
    "temperature": (gr.temperature(), 0.4),
    "mixture": (gr.mixture(TOWARD), 0.3),
}


def refitting(name):
    """The head whose refits are the truth: a factor gives the evidence that conjugate gradients do not."""
    return HEADS["cholesky" if name == "cg" else name]()


@pytest.mark.parametrize("observable", OBSERVABLES)
@pytest.mark.parametrize("head", HEADS)
def test_every_cell_is_the_derivative_of_the_refit(head, observable):
    posterior, asked = HEADS[head]().condition(DATA), OBSERVABLES[observable]
    for name, (perturbation, _) in PERTURBATIONS.items():
        chi = gr.susceptibility(posterior, asked, perturbation)
        refit = gr.refit_response(refitting(head), DATA, asked, perturbation)
        size = float(refit.matrix.abs().max())
        off = (chi.matrix - refit.matrix).abs()
        assert chi.converged, name
        assert chi.columns == refit.columns
        assert float(off.max()) <= 1e-7 * size, name
        # Differences of whole refits know their own error to a factor.
        assert bool((off <= chi.error + 30.0 * refit.error + 1e-8 * size).all()), name
        assert float(chi.error.max()) <= 1e-5 * max(size, 1e-3), name


@pytest.mark.parametrize("observable", OBSERVABLES)
@pytest.mark.parametrize("head", HEADS)
def test_every_finite_change_is_the_refit(head, observable):
    posterior, asked = HEADS[head]().condition(DATA), OBSERVABLES[observable]
    for name, (perturbation, h) in PERTURBATIONS.items():
        if h is None:
            with pytest.raises(gr.InputError, match="is a refit"):
                gr.finite_response(posterior, asked, perturbation)
            continue
        finite = gr.finite_response(posterior, asked, perturbation, h=h)
        refit = gr.refit_response(refitting(head), DATA, asked, perturbation, h=h)
        size = float(refit.matrix.abs().max())
        off = (finite.matrix - refit.matrix).abs()
        assert float(off.max()) <= 1e-8 * size + 1e-12, name
        assert bool((off <= finite.error + 1e-11 * size + 1e-12).all()), name


@pytest.mark.parametrize("noise", [1e-2, 1e-5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_new_cells_on_820_rows_with_near_duplicates(noise, dtype):
    data = example_data(n=820, dim=2, dtype=dtype)
    head = gr.Exact(gr.Matern32(lengthscale=0.7), noise=noise)
    posterior, x = head.condition(data), data.test.x[:3]
    truth = gr.Exact(gr.Matern32(lengthscale=0.7), noise=noise)
    exact = data.to(dtype=torch.float64)
    for observable, same in ((gr.value(x), gr.value(x.double())), (gr.gradient(x), gr.gradient(x.double()))):
        for perturbation in (gr.shift_inputs(0, [0, 3, 500]), gr.noise([1, 3]), gr.temperature()):
            chi = gr.susceptibility(posterior, observable, perturbation)
            refit = gr.refit_response(truth, exact, same, perturbation)
            off = (chi.matrix.double() - refit.matrix).abs()
            size = float(refit.matrix.abs().max())
            slack = 30.0 * refit.error + (1e-9 + 1e-14 / noise) * size
            assert chi.matrix.dtype == dtype
            assert bool((off <= chi.error.double() + slack).all())


def test_sums_of_columns_are_the_whole():
    """Noise of every row adds up to the model's (but for new observations); weights times a share to the temperature."""
    posterior = HEADS["cholesky"]().condition(DATA)
    each = gr.susceptibility(posterior, gr.value(X), gr.noise(each=True)).matrix.sum(dim=1)
    torch.testing.assert_close(each, gr.susceptibility(posterior, gr.value(X), gr.noise()).matrix[:, 0])
    weights = gr.susceptibility(posterior, gr.value(X), gr.reweight()).matrix @ DATA.train.weights / posterior.beta
    torch.testing.assert_close(weights, gr.susceptibility(posterior, gr.value(X), gr.temperature()).matrix[:, 0])


def test_shifting_every_input_moves_predictions_against_their_gradient():
    """A stationary kernel sees differences: all rows moved together are the test points moved the other way."""
    head = gr.Exact(gr.RBF(lengthscale=1.3), noise=0.1)
    posterior = head.condition(DATA)
    together = gr.shift_inputs(V, {"all": list(range(len(DATA.train)))})
    moved = gr.susceptibility(posterior, gr.value(X), together).matrix[:, 0]
    probe = posterior.probe(gr.gradient(X).look())
    slopes = probe.mean.value.reshape(len(X), -1) @ V
    torch.testing.assert_close(moved, -slopes, rtol=1e-9, atol=1e-10)


def test_gradients_are_those_of_the_mean_and_of_draws():
    posterior = gr.Exact(kernel(), noise=0.05, mean=0.2).condition(DATA)
    x = X.clone().requires_grad_(True)
    cross = posterior.kernel.matrix(x, DATA.train.x)
    weight = posterior.beta * DATA.train.weights / posterior.noise * posterior.residuals.value
    (expected,) = torch.autograd.grad((cross @ weight).sum(), x)
    probe = posterior.probe(gr.gradient(X).look())
    torch.testing.assert_close(probe.mean.value.reshape(4, 3), expected)
    step = 1e-4
    far = torch.cat([X + step * V, X - step * V])
    cov = posterior.cov(far)
    difference = (cov[:4, :4] + cov[4:, 4:] - cov[:4, 4:] - cov[4:, :4]) / (4.0 * step**2)
    along = probe.to(probe).value.reshape(4, 3, 4, 3)
    torch.testing.assert_close(torch.einsum("aibj,i,j->ab", along, V, V), difference, rtol=1e-5, atol=1e-6)


def test_a_mixture_with_itself_moves_nothing():
    posterior = HEADS["cholesky"]().condition(DATA)
    chi = gr.susceptibility(posterior, gr.loss(X, Y), gr.mixture(DATA))
    assert float(chi.matrix.abs().max()) < 1e-12


def test_a_mixture_converts_units():
    data = gr.load("diabetes", n=200)
    raw = gr.dataset(data.undo_x(data.test.x), data.undo_y(data.test.y), standardise=False)
    own = gr.dataset(data.test.x, data.test.y, standardise=False)
    posterior = gr.Exact(gr.RBF(lengthscale=3.0), noise=0.3).condition(data)
    x = data.test.x[:3]
    one = gr.susceptibility(posterior, gr.value(x), gr.mixture(raw)).matrix
    # `own` has the units of the training set but says they are its own: the same numbers, converted as if they were raw.
    other = gr.susceptibility(posterior, gr.value(x), gr.mixture(gr.dataset(raw.train.x, raw.train.y))).matrix
    assert own.dim == data.dim
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_cells_without_a_meaning_say_why():
    posterior = HEADS["cholesky"]().condition(DATA)
    with pytest.raises(gr.InputError, match=r"held fixed here.*total_susceptibility"):
        gr.susceptibility(posterior, gr.parameter("lengthscale"), gr.reweight([1]))
    with pytest.raises(gr.InputError, match="has no slope"):
        gr.susceptibility(gr.Exact(gr.Matern12(), 0.1).condition(DATA), gr.gradient(X), gr.reweight([1]))
    with pytest.raises(gr.InputError, match="lengthscal"):
        gr.susceptibility(posterior, gr.value(X), gr.hyperparameter("lengthscal"))
    with pytest.raises(gr.InputError, match="entries 0 to 2"):
        gr.susceptibility(posterior, gr.value(X), gr.hyperparameter("lengthscale[3]"))
    with pytest.raises(gr.InputError, match=r"direction of shape \(2,\)"):
        gr.susceptibility(posterior, gr.value(X), gr.shift_inputs([1.0, 2.0]))
    with pytest.raises(gr.InputError, match="there are x0, x1, x2"):
        gr.susceptibility(posterior, gr.value(X), gr.shift_inputs("x7"))
    with pytest.raises(gr.InputError, match="have no noise variance"):
        gr.susceptibility(gr.Exact(kernel(), likelihood=gr.StudentT(0.1, 4.0)).condition(DATA), gr.value(X), gr.noise())
    with pytest.raises(gr.InputError, match="expected a Dataset"):
        gr.mixture(X)
    with pytest.raises(gr.InputError, match="leaves a variance of"):
        gr.finite_response(posterior, gr.value(X), gr.noise(), h=-1.0)


def test_a_parameter_moves_with_itself():
    posterior = HEADS["cholesky"]().condition(DATA)
    chi = gr.susceptibility(posterior, gr.parameter("lengthscale"), gr.hyperparameter("lengthscale"))
    assert torch.equal(chi.matrix, torch.eye(3, dtype=torch.float64))
    assert chi.rows == chi.columns == ("lengthscale[0]", "lengthscale[1]", "lengthscale[2]")
    assert float(gr.susceptibility(posterior, gr.parameter("noise"), gr.noise())[0, 0]) == 1.0


@pytest.mark.parametrize("likelihood", [gr.Bernoulli(), gr.Poisson()])
@pytest.mark.parametrize("make", [gr.Exact, lambda k, likelihood: gr.SVGP(k, 12, likelihood)])
def test_temperature_responds_under_other_likelihoods(make, likelihood):
    data = DATA.with_train(y=(DATA.train.y > 0).double())
    head = make(kernel(), likelihood=likelihood)
    chi = gr.susceptibility(head.condition(data), gr.value(X), gr.temperature())
    refit = gr.refit_response(head, data, gr.value(X), gr.temperature())
    assert float((chi.matrix - refit.matrix).abs().max()) <= 1e-6 * float(refit.matrix.abs().max())


def test_new_responses_stream_to_disk(tmp_path):
    posterior = HEADS["cholesky"]().condition(DATA)
    for name, (perturbation, _) in PERTURBATIONS.items():
        whole = gr.susceptibility(posterior, gr.gradient(X), perturbation)
        stored = gr.susceptibility(posterior, gr.gradient(X), perturbation, out=tmp_path / f"{name}.zarr")
        torch.testing.assert_close(stored[:], whole.matrix, msg=name)
