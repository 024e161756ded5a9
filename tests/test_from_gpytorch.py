"""Models trained elsewhere: the same predictions, and responses that are derivatives of dense refits of theirs."""

import warnings

import gpytorch
import pytest
import torch
from refusals import assert_refused
from trained_models import ExactGP, Variational, fixed_noise, matern_ard, rows, sgpr, single_task, svgp

import gp_response as gr
from gp_response.errors import InputError
from gp_response.kernels import Foreign
from gp_response.testing import check_posterior

G = gpytorch.kernels


def plain(model):
    """The model's own mean in GPyTorch, by Cholesky, and without what it adds to SGPR's noise only when it predicts."""
    exactly = gpytorch.settings.fast_computations(False, False, False)

    def mean(x):
        with torch.no_grad(), exactly, gpytorch.settings.sgpr_diagonal_correction(False):
            return model.eval()(x).mean

    return mean


def botorch_mean(model):
    return lambda x: model.posterior(x).mean[:, 0].detach()


def dense_exact(model, x, y):
    """Everything of the trained model by its own modules and dense float64 algebra, in its own units."""
    with torch.no_grad():
        noise = model.likelihood.noise.expand(len(y)) + 0.0
        covariance, centre = model.covar_module, model.mean_module

        def mean(new, weights):
            system = covariance(x, x).to_dense() + torch.diag(noise / weights)
            return centre(new) + covariance(new, x).to_dense() @ torch.linalg.solve(system, y - centre(x))

    return lambda *args: mean(*args).detach()


def in_units(model):
    """The same for a BoTorch model with Normalize and Standardize, in its user's units."""
    transform, outcome = model.input_transform, model.outcome_transform
    x, y = model.train_inputs[0], model.train_targets
    inner = dense_exact(model, x, y)
    return lambda new, weights: outcome.means[0, 0] + outcome.stdvs[0, 0] * inner(transform(new), weights)


def own(model):
    return dense_exact(model, model.train_inputs[0], model.train_targets)


CASES = {
    "ExactGP, Matern ARD": (matern_ard, plain, own),
    "ExactGP, linear mean": (lambda **k: matern_ard(mean=gpytorch.means.LinearMean(3), **k), plain, own),
    "ExactGP, fixed noise": (fixed_noise, plain, own),
    "ExactGP, fixed and learned noise": (lambda **k: fixed_noise(additional=True, **k), plain, own),
    "SingleTaskGP": (single_task, botorch_mean, in_units),
    "SingleTaskGP, train_Yvar": (lambda **k: single_task(known=True, **k), botorch_mean, in_units),
}


def slopes(refit, new, n, at):
    """d mean / d weight of some rows by central differences of refits, (p, k)."""
    columns = []
    for row in at:
        step = torch.zeros(n, dtype=torch.float64)
        step[row] = 1e-3
        columns.append((refit(new, 1.0 + step) - refit(new, 1.0 - step)) / 2e-3)
    return torch.stack(columns, dim=1)


def assert_same_model(name, n, steps, at=None):
    make, their_mean, refit_of = CASES[name]
    if "SingleTask" in name:
        pytest.importorskip("botorch")
    model = make(n=n, steps=steps)
    posterior = gr.from_gpytorch(model)
    new = posterior.data.train.x[:40] + 0.01
    theirs = their_mean(model)(new)
    assert float((posterior.mean(new) - theirs).abs().max()) < 1e-6 * float(theirs.std())
    at = at or [0, n // 3, n - 1]
    chi = gr.susceptibility(posterior, gr.value(new), gr.reweight(at)).matrix
    expected = slopes(refit_of(model), new, n, at)
    assert float((chi - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    return posterior


@pytest.mark.parametrize("name", CASES)
def test_the_posterior_is_the_models_and_responses_are_those_of_its_refits(name):
    posterior = assert_same_model(name, 500, 10)
    check_posterior(posterior, posterior.data.train.x[:20] + 0.02, tolerance=1e-7)
    kernels = [type(m).__name__ for m in posterior.kernel.modules() if isinstance(m, Foreign)]
    assert not kernels
    x = gr.value(posterior.data.train.x[:3])
    refit = gr.refit_response(posterior.head, posterior.data, x, gr.delete([3, 5]), h=1.0).matrix
    assert torch.allclose(gr.finite_response(posterior, x, gr.delete([3, 5])).matrix, refit, atol=1e-7)
    some = posterior.data.keep(list(range(60)))
    chi = gr.susceptibility(posterior.head.condition(some), x, gr.reweight())
    assert torch.allclose(chi.matrix, gr.refit_response(posterior.head, some, x, gr.reweight()).matrix, atol=1e-7)


@pytest.mark.slow
def test_the_same_at_three_thousand_rows():
    assert_same_model("SingleTaskGP", 3000, 0, at=[1000])


# Sparse models --------------------------------------------------------------------------------------------------------


def dense_sparse(kernel, centre, z, x, y, noise, jitter):
    """The collapsed bound's mean by dense algebra: `K_*u Σ⁻¹ K_ux y/σ²`, Σ = K_uu + K_ux diag(ρ/σ²) K_xu."""

    def mean(new, weights):
        with torch.no_grad():
            across = kernel(z, x)
            precision = weights / noise
            system = kernel(z, z) + jitter * torch.eye(len(z)).to(z) + (across * precision) @ across.T
            seen = torch.linalg.solve(system, across @ (precision * (y - centre(x))))
            return centre(new) + kernel(new, z) @ seen

    return mean


def assert_sparse(posterior, theirs, refit, x, *, responses=1e-5, means=1e-6):
    new, n = x[:40] + 0.01, len(x)
    assert float((posterior.mean(new) - theirs(new)).abs().max()) < means * float(theirs(new).std())
    at = [0, n // 3, n - 1]
    chi = gr.susceptibility(posterior, gr.value(new), gr.reweight(at)).matrix
    expected = slopes(refit, new, n, at)
    assert float((chi - expected).abs().max()) < responses * float(expected.abs().max())
    refitted = gr.refit_response(posterior.head, posterior.data, gr.value(new[:3]), gr.delete([3, 5]), h=1.0).matrix
    finite = gr.finite_response(posterior, gr.value(new[:3]), gr.delete([3, 5])).matrix
    assert torch.allclose(finite, refitted, atol=1e-7 * float(theirs(new).std()))


def test_sgpr_is_taken_over():
    model = sgpr(500)
    x, y = model.train_inputs[0], model.train_targets
    posterior = gr.from_gpytorch(model)
    assert isinstance(posterior.head, gr.SGPR)
    base = model.covar_module.base_kernel
    refit = dense_sparse(
        lambda a, b: base(a, b).to_dense(), model.mean_module, model.covar_module.inducing_points.detach(), x, y,
        model.likelihood.noise.detach(), 0.0,
    )  # fmt: skip
    assert_sparse(posterior, plain(model), refit, x)


@pytest.mark.parametrize(
    ("n", "whitened"), [(500, True), (500, False), pytest.param(3000, True, marks=pytest.mark.slow)]
)
def test_variational_models_are_taken_over(n, whitened):
    model, likelihood, x, y = svgp(n, whitened=whitened)
    posterior = gr.from_gpytorch(model, likelihood=likelihood, train_x=x, train_y=y)
    assert isinstance(posterior.head, gr.SVGP)
    strategy = model.variational_strategy
    refit = dense_sparse(
        lambda a, b: model.covar_module(a, b).to_dense(), model.mean_module, strategy.inducing_points.detach(), x, y,
        likelihood.noise.detach(), strategy.jitter_val,
    )  # fmt: skip
    assert_sparse(posterior, plain(model), refit, x)


def test_a_student_t_likelihood_goes_along():
    x, y, _ = rows(60)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    model, likelihood = Variational(x[:10].clone()).double(), gpytorch.likelihoods.StudentTLikelihood().double()
    posterior = gr.from_gpytorch(model, likelihood=likelihood, train_x=x, train_y=y)
    law = posterior.head.likelihood
    assert float(law.scale.detach()) == pytest.approx(float(likelihood.noise.detach()))
    assert law.degrees == pytest.approx(7.0)
    chi = gr.susceptibility(posterior, gr.value(x[:3]), gr.reweight([4])).matrix
    refit = gr.refit_response(posterior.head, posterior.data, gr.value(x[:3]), gr.reweight([4])).matrix
    assert torch.allclose(chi, refit, atol=1e-7)


def test_classification_goes_along():
    """Natural gradients take GPyTorch's model to the best q, which ours finds by itself."""
    x, y, _ = rows(200)
    x, y = (x - x.mean(0)) / x.std(0), (y > y.mean()).double()
    model, likelihood = Variational(x[:15].clone()).double(), gpytorch.likelihoods.BernoulliLikelihood()
    natural = gpytorch.optim.NGD(model.variational_parameters(), num_data=200, lr=0.5)
    objective = gpytorch.mlls.VariationalELBO(likelihood, model.train(), num_data=200)
    for _ in range(60):
        natural.zero_grad()
        (-objective(model(x), y)).backward()
        natural.step()
    posterior = gr.from_gpytorch(model, likelihood=likelihood, train_x=x, train_y=y)
    new = x[:20] + 0.1
    assert torch.allclose(posterior.mean(new), plain(model)(new), atol=1e-4)
    chi = gr.susceptibility(posterior, gr.value(new), gr.reweight([4, 9])).matrix
    refit = gr.refit_response(posterior.head, posterior.data, gr.value(new), gr.reweight([4, 9])).matrix
    assert torch.allclose(chi, refit, atol=1e-7)


def test_the_slopes_of_the_probit_are_its_derivatives():
    f, law = torch.linspace(-8.0, 8.0, 33, dtype=torch.float64), gr.Probit()
    for y in (torch.zeros(33).double(), torch.ones(33).double()):
        for got, expected in zip(law.slopes(f, y), gr.Likelihood.slopes(law, f, y), strict=True):
            assert torch.allclose(got, expected, rtol=1e-8, atol=1e-10)
        spread = torch.full_like(f, 0.7)
        assert torch.allclose(law.log_density(f, spread, y), gr.Likelihood.log_density(law, f, spread, y), atol=1e-5)


def test_other_sparse_models_are_refused():
    x, y, _ = rows(30)
    model, gaussian = Variational(x[:5].clone()).double(), gpytorch.likelihoods.GaussianLikelihood()
    refuse(model, "needs likelihood, train_x, train_y")
    refuse(model, "needs train_y", likelihood=gaussian, train_x=x)
    laplace = gpytorch.likelihoods.LaplaceLikelihood()
    refuse(model, "LaplaceLikelihood has no counterpart", likelihood=laplace, train_x=x, train_y=y)
    refuse(model, "needs no solver", likelihood=gaussian, train_x=x, train_y=y, solver=gr.CG())
    inside = G.ScaleKernel(G.InducingPointKernel(G.RBFKernel(), x[:5].clone(), gaussian))
    refuse(with_kernel(inside), "inside a ScaleKernel")


# Exact models ---------------------------------------------------------------------------------------------------------


def test_reading_a_model_changes_nothing_in_it():
    pytest.importorskip("botorch")
    model = single_task(60, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluated = gr.from_gpytorch(model)
    assert not model.training
    model.train()
    trained = gr.from_gpytorch(model)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(evaluated.data.train.x, trained.data.train.x)
    x = evaluated.data.train.x[:5]
    assert torch.allclose(evaluated.mean(x), trained.mean(x), rtol=1e-12)
    again = evaluated.head.fit(evaluated.data, training=gr.Training(steps=2, progress=False))
    assert float(again.log_evidence()) >= float(evaluated.log_evidence())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_chained_transforms_are_undone():
    pytest.importorskip("botorch")
    from botorch.models.transforms import ChainedInputTransform, Normalize
    from botorch.models.transforms.input import InputStandardize, Warp

    warp = Warp(d=3, indices=[0, 1], batch_shape=torch.Size())
    chain = ChainedInputTransform(box=Normalize(3), warp=warp, unit=InputStandardize(3))
    model = single_task(80, 3, input_transform=chain)
    posterior = gr.from_gpytorch(model)
    new = posterior.data.train.x[:20] + 0.01
    assert torch.allclose(posterior.mean(new), botorch_mean(model)(new), rtol=1e-8)
    theirs = model.posterior(new).mvn.covariance_matrix.detach()
    assert torch.allclose(posterior.cov(new), theirs, atol=1e-7 * float(theirs.max()))


def test_a_float32_model_is_taken_at_its_precision():
    pytest.importorskip("botorch")
    from botorch.models import SingleTaskGP

    x, y, _ = rows(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SingleTaskGP(((x - x.mean(0)) / x.std(0)).float(), y[:, None].float()).eval()
    posterior = gr.from_gpytorch(model)
    assert posterior.data.train.x.dtype == torch.float32
    new = posterior.data.train.x[:9] + 0.01
    assert torch.allclose(posterior.mean(new), botorch_mean(model)(new), rtol=1e-3)


KERNELS = {
    "RBF": lambda: G.RBFKernel(),
    "RBF ard": lambda: G.ScaleKernel(G.RBFKernel(ard_num_dims=3)),
    "Matern12": lambda: G.ScaleKernel(G.MaternKernel(nu=0.5)),
    "Matern52 on two columns": lambda: G.ScaleKernel(G.MaternKernel(nu=2.5, ard_num_dims=2, active_dims=(0, 2))),
    "scale of scale": lambda: G.ScaleKernel(G.ScaleKernel(G.RBFKernel(active_dims=(1,)))),
    "periodic": lambda: G.ScaleKernel(G.PeriodicKernel(ard_num_dims=3)),
    "periodic, one for all": lambda: G.PeriodicKernel(),
    "RQ": lambda: G.ScaleKernel(G.RQKernel(ard_num_dims=3)),
    "linear": lambda: G.LinearKernel(),
    "linear ard": lambda: G.ScaleKernel(G.LinearKernel(ard_num_dims=3)),
    "polynomial": lambda: G.PolynomialKernel(power=3),
    "constant": lambda: G.ScaleKernel(G.ConstantKernel()),
    "sum": lambda: G.ScaleKernel(G.RBFKernel(active_dims=(0, 1)) + G.ScaleKernel(G.LinearKernel(active_dims=(2,)))),
    "product": lambda: G.ScaleKernel(G.RBFKernel() * G.PeriodicKernel(active_dims=(2,))) + G.MaternKernel(nu=1.5),
    "sum on two columns": lambda: G.AdditiveKernel(G.RBFKernel(), G.RBFKernel(active_dims=(1,))),
}


def jiggled(kernel, seed=0):
    """Hyperparameters that are no defaults."""
    generator = torch.Generator().manual_seed(seed)
    kernel = kernel.double()
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return kernel


def with_kernel(kernel, n=60):
    x, y, _ = rows(n)
    return ExactGP((x - x.mean(0)) / x.std(0), y, gpytorch.likelihoods.GaussianLikelihood(), kernel).double().eval()


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_translated_exactly(name):
    model = with_kernel(jiggled(KERNELS[name]()))
    posterior = gr.from_gpytorch(model)
    assert not any(isinstance(module, Foreign) for module in posterior.kernel.modules())
    x, y = posterior.data.train.x, posterior.data.train.x[:7] + 0.1
    truth = model.covar_module(x, y).to_dense().detach()
    assert torch.allclose(posterior.kernel.matrix(x, y), truth, rtol=1e-9, atol=1e-9 * float(truth.abs().max()))


def test_kernels_without_a_translation_go_through_their_own_code():
    class Odd(G.RBFKernel):
        def forward(self, x1, x2, diag=False, **params):
            return super().forward(x1, x2, diag=diag, **params) ** 1.1

    kernels = [G.ScaleKernel(Odd()), G.CosineKernel(active_dims=(0,)) + G.RBFKernel()]
    for kernel in kernels:
        model = with_kernel(jiggled(kernel))
        posterior = gr.from_gpytorch(model)
        assert any(isinstance(module, Foreign) for module in posterior.kernel.modules())
        new = posterior.data.train.x[:5] + 0.1
        assert torch.allclose(posterior.mean(new), plain(model)(new), rtol=1e-6)
        chi = gr.susceptibility(posterior, gr.value(new), gr.reweight([2])).matrix
        expected = slopes(own(model), new, 60, [2])
        assert torch.allclose(chi, expected, atol=1e-5 * float(expected.abs().max()))


# Refused --------------------------------------------------------------------------------------------------------------


class Deep(ExactGP):
    def __init__(self, *args, width=2):
        super().__init__(*args)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Tanh())

    def forward(self, x):
        return super().forward(self.net(x))


def refuse(model, said, **options):
    assert_refused(lambda: gr.from_gpytorch(model, **options), said, error=InputError)


@pytest.mark.parametrize("n", [1, 4, 5, 6])
@pytest.mark.parametrize("kind", [gpytorch.kernels.AdditiveStructureKernel, gpytorch.kernels.ProductStructureKernel])
def test_as_many_points_as_columns_are_not_taken_for_a_matrix(kind, n):
    """Of which gpytorch's own `diag=True` takes the diagonal once more."""
    theirs = gpytorch.kernels.ScaleKernel(kind(gpytorch.kernels.RBFKernel(), 5)).double()
    kernel, x = gr.kernels.Foreign(theirs), torch.randn(n, 5, dtype=torch.float64)
    torch.testing.assert_close(kernel.diagonal(x), kernel.matrix(x).diagonal())


def test_hidden_features_are_refused():
    x, y, _ = rows(30)
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    refuse(Deep(x, y, likelihood, G.RBFKernel(), width=3).double(), "the covariance of forward differs")
    refuse(Deep(x, y, likelihood, G.RBFKernel(ard_num_dims=2)).double(), "cannot be evaluated at the training inputs")


def test_other_models_are_refused():
    x, y, _ = rows(30)
    gaussian = gpytorch.likelihoods.GaussianLikelihood
    refuse("model", "got a str")
    refuse(torch.nn.Linear(1, 1), "no mean_module and covar_module")
    two = torch.stack([y, y])
    batch = ExactGP(x.expand(2, 30, 3), two, gaussian(batch_shape=torch.Size([2])), G.RBFKernel())
    refuse(batch.double(), "training inputs of shape (2, 30, 3)")
    refuse(with_kernel(G.RBFKernel()), "one of train_x and train_y", train_x=x)
    refuse(with_kernel(G.RBFKernel()), "StudentTLikelihood", likelihood=gpytorch.likelihoods.StudentTLikelihood())
    short = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(torch.ones(7).double())
    refuse(with_kernel(G.RBFKernel()), "noise of the 60 training rows", likelihood=short)


def test_other_botorch_models_are_refused():
    pytest.importorskip("botorch")
    from botorch.models import MultiTaskGP, SingleTaskGP
    from botorch.models.transforms import Log
    from botorch.models.transforms.input import InputPerturbation

    x, y, _ = rows(30)
    refuse(SingleTaskGP(x, torch.stack([y, y], dim=1)), "a model of one output")
    refuse(SingleTaskGP(x, y[:, None], outcome_transform=Log()), "outcome transform Log is not affine")
    tasks = torch.cat([x, (torch.arange(30) % 2)[:, None]], dim=1)
    refuse(MultiTaskGP(tasks, y[:, None], task_feature=-1), "")
    perturbed = InputPerturbation(torch.zeros(2, 3, dtype=torch.float64))
    refuse(SingleTaskGP(x, y[:, None], input_transform=perturbed), "treats training and new points differently")
