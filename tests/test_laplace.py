"""Posteriors of trained networks: against matrices written out, the tangent kernel's process, and refits of it."""

import math

import pytest
import torch
from networks import covariance, jacobian, mlp
from test_cells import OBSERVABLES, PERTURBATIONS

import gp_response as gr
from gp_response.testing import check_posterior, example_data

DATA = example_data(n=40)
X, Y = DATA.test.x[:4], DATA.test.y[:4]
NET = mlp(3, 6, 1)
CELLS = {name: pair for name, pair in PERTURBATIONS.items() if name not in ("lengthscale", "outputscale", "mean")}
CELLS["prior_precision"] = (gr.hyperparameter("prior_precision"), None)


def posterior(**options):
    return gr.laplace(
        NET, options.pop("data", DATA), likelihood=gr.Gaussian(0.2), prior_precision=2.0, beta=1.2, **options
    )


@pytest.mark.parametrize("widths", [(3, 6, 1), (3, 20, 20, 1), pytest.param((3, 67, 67, 1), marks=pytest.mark.slow)])
@pytest.mark.parametrize("known", [False, True])
def test_covariances_are_the_matrix_written_out(widths, known):
    net, data = mlp(*widths), example_data(n=40, known_noise=known)
    x = torch.cat([data.test.x, data.train.x])
    found = gr.laplace(net, data, likelihood=gr.Gaussian(0.2), prior_precision=2.0, beta=1.2, solver=gr.Dense())
    truth = covariance(net, data, x, noise=0.2, prior=2.0, beta=1.2)
    scale = float(truth.diagonal().max())
    assert float((found.cov(x) - truth).abs().max()) <= 1e-10 * scale
    to_train = found.probe(data.test.x).to_train()
    off = (to_train.value - truth[: len(data.test), len(data.test) :]).abs()
    assert float(off.max()) <= 1e-10 * scale
    assert bool((off <= to_train.error + 1e-14 * scale).all())
    assert float((found.mean(x) - net(x)[:, 0].detach()).abs().max()) <= 1e-14


def test_the_solver_is_chosen_by_size():
    few, many = mlp(3, 6, 1), mlp(3, 80, 80, 1)
    assert gr.laplace(few, DATA, likelihood=gr.Gaussian(0.2)).solver == gr.Dense()
    assert gr.laplace(many, DATA, likelihood=gr.Gaussian(0.2)).solver == gr.Cholesky()
    classes = DATA.with_train(y=torch.arange(40).remainder(2).double())
    assert gr.laplace(mlp(3, 80, 80, 2), classes, likelihood=gr.Categorical(2)).solver == gr.CG()


def test_the_prior_may_differ_from_parameter_to_parameter():
    precision = torch.linspace(0.5, 3.0, 31).double()
    found = gr.laplace(NET, DATA, likelihood=gr.Gaussian(0.2), prior_precision=precision, localise=0.7)
    truth = covariance(NET, DATA, X, noise=0.2, prior=precision + 0.7, beta=1.0)
    torch.testing.assert_close(found.cov(X), truth, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found.head.condition(DATA).cov(X), truth, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("solver", [gr.Dense(), gr.CG(tolerance=1e-10), gr.Cholesky()])
def test_posteriors_obey_the_laws(solver):
    found = posterior(solver=solver)
    check_posterior(found, tolerance=1e-8)
    weights = torch.linspace(0.0, 2.0, len(DATA.train)).double()
    check_posterior(found.reweighted(weights), tolerance=1e-8)


def test_other_weights_are_the_same_model_conditioned_again():
    weights = torch.linspace(0.0, 2.0, len(DATA.train)).double()
    ours, theirs = posterior(), posterior().head.condition(DATA)
    again, truth = ours.reweighted(weights), theirs.reweighted(weights)
    for x in (X, DATA.train.x):
        torch.testing.assert_close(again.mean(x), truth.mean(x), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(again.cov(x), truth.cov(x), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(again.residuals.value, truth.residuals.value, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ours.log_evidence(), theirs.log_evidence(), rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(again.log_evidence(), truth.log_evidence(), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("observable", OBSERVABLES)
def test_every_cell_is_the_derivative_of_the_refitted_linear_model(observable):
    found, asked = posterior(), OBSERVABLES[observable]
    for name, (perturbation, _) in CELLS.items():
        chi = gr.susceptibility(found, asked, perturbation)
        refit = gr.refit_response(found.head, DATA, asked, perturbation)
        size, off = float(refit.matrix.abs().max()), (chi.matrix - refit.matrix).abs()
        assert chi.converged, name
        assert float(off.max()) <= 1e-7 * size, name
        assert bool((off <= chi.error + 30.0 * refit.error + 1e-8 * size).all()), name
        assert float(chi.error.max()) <= 1e-6 * max(size, 1e-3), name


@pytest.mark.parametrize("observable", OBSERVABLES)
def test_every_finite_change_is_the_refit_of_the_linear_model(observable):
    found, asked = posterior(), OBSERVABLES[observable]
    for name, (perturbation, h) in CELLS.items():
        if h is None:
            continue
        finite = gr.finite_response(found, asked, perturbation, h=h)
        refit = gr.refit_response(found.head, DATA, asked, perturbation, h=h)
        size, off = float(refit.matrix.abs().max()), (finite.matrix - refit.matrix).abs()
        assert float(off.max()) <= 1e-8 * size + 1e-12, name
        assert bool((off <= finite.error + 1e-11 * size + 1e-12).all()), name


@pytest.mark.parametrize("solver", [gr.Dense(), gr.Cholesky()])
def test_slopes_through_a_layer_norm_are_differences(solver):
    """torch's own second derivative of a weighted norm is off by percents under vmap (torch 2.13)."""
    torch.manual_seed(0)
    norm = torch.nn.LayerNorm(5)
    torch.nn.init.normal_(norm.weight, 1.0, 0.3)
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), norm, torch.nn.Tanh(), torch.nn.Linear(5, 1)).double().eval()
    data = gr.dataset(DATA.train.x, DATA.train.y, standardise=False)
    found = gr.laplace(net, data, likelihood=gr.Gaussian(0.2), solver=solver)
    step, direction = 1e-4, torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)

    ends = [gr.susceptibility(found, gr.value(X[:1] + h * torch.eye(3)), gr.reweight()).matrix for h in (step, -step)]
    slopes = gr.susceptibility(found, gr.gradient(X[:1]), gr.reweight()).matrix
    assert float((slopes - (ends[0] - ends[1]) / (2.0 * step)).abs().max()) <= 1e-6 * float(slopes.abs().max())

    def at(h):
        x = data.train.x.clone()
        x[3] += h * direction
        return found.head.condition(data.with_train(x=x)).mean(X)

    moved = gr.susceptibility(found, gr.value(X), gr.shift_inputs(direction, [3])).matrix[:, 0]
    assert float((moved - (at(step) - at(-step)) / (2.0 * step)).abs().max()) <= 1e-6 * float(moved.abs().max())


def test_labels_do_not_move_the_learning_coefficient_of_a_network_of_running_statistics():
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 1)).double().eval()
    found = gr.laplace(net, DATA, likelihood=gr.Gaussian(0.2), solver=gr.Dense())
    assert not gr.susceptibility(found, gr.learning_coefficient(), gr.relabel([0, 3])).matrix.any()


def test_the_rest_of_the_response_module_reads_it():
    ours, theirs = posterior(), posterior().head.condition(DATA)
    asked, moved = gr.value(X), gr.reweight([1, 2, 3])
    pairs = {
        "second": [gr.second_response(p, asked, moved).matrix for p in (ours, theirs)],
        "leave one out": [gr.leave_one_out(p).mean for p in (ours, theirs)],
        "waic": [gr.waic(p).elpd for p in (ours, theirs)],
        "influence": [gr.influence(p).to_dense() for p in (ours, theirs)],
        "low rank": [gr.influence(p, method="low-rank").to_dense() for p in (ours, theirs)],
        "fluctuation": [gr.fluctuation(p, gr.loss(X, Y), moved).matrix for p in (ours, theirs)],
        "gradient": [gr.predict(p, X).mean for p in (ours, theirs)],
    }
    for name, (one, other) in pairs.items():
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10, msg=name)


def test_a_linear_network_is_a_process_with_the_linear_kernel():
    data = example_data(n=60, dim=5)
    net = torch.nn.Linear(5, 1, bias=False).double()
    gram = data.train.x.T @ (data.train.weights[:, None] * data.train.x) / 0.3 + 2.0 * torch.eye(5).double()
    pull = data.train.x.T @ (data.train.weights * data.train.y) / 0.3
    with torch.no_grad():
        net.weight.copy_(torch.linalg.solve(gram, pull)[None])
    truth = gr.Exact(gr.Linear(lengthscale=1.0, outputscale=0.5), noise=0.3).condition(data)
    x = data.test.x[:3]
    for solver in (gr.Dense(), gr.CG(tolerance=1e-10), gr.Cholesky()):
        found = gr.laplace(net, data, likelihood=gr.Gaussian(0.3), prior_precision=2.0, solver=solver)
        torch.testing.assert_close(found.mean(x), truth.mean(x), rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(found.cov(x), truth.cov(x), rtol=1e-8, atol=1e-9)
        for perturbation in (gr.reweight(), gr.relabel(), gr.shift_inputs(0, [3])):
            one, other = (gr.susceptibility(p, gr.value(x), perturbation).matrix for p in (found, truth))
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("solver", [gr.Dense(), gr.CG(tolerance=1e-12), gr.Lanczos(rank=24, storage="float64")])
def test_batches_do_not_matter(solver):
    found = [posterior(solver=solver, batch_size=b) for b in (1, 7, 40)]
    probes = [p.probe(X) for p in found]
    for probe in probes[1:]:
        for one, other in (
            (probe.to_train().value, probes[0].to_train().value),
            (probe.variance.value, probes[0].variance.value),
        ):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_parts_of_a_network():
    found = gr.laplace(NET, DATA, likelihood=gr.Gaussian(0.2), parameters="head", prior_precision=2.0)
    names = ["2.weight", "2.bias"]
    inside, outside = (jacobian(NET, x, names)[:, 0] for x in (DATA.train.x, X))
    precision = inside.T @ (DATA.train.weights[:, None] / 0.2 * inside) + 2.0 * torch.eye(7).double()
    truth = outside @ torch.linalg.solve(precision, outside.T)
    torch.testing.assert_close(found.cov(X), truth, rtol=1e-10, atol=1e-13)


def test_float32_networks_are_computed_in_float64():
    net = mlp(3, 8, 1).float()
    data = DATA.to(dtype=torch.float32)
    found = gr.laplace(net, data, likelihood=gr.Gaussian(0.2))
    exact = covariance(
        mlp(3, 8, 1).float().double(), data.to(dtype=torch.float64), X.float().double(), noise=0.2, prior=1.0, beta=1.0
    )
    probe = found.probe(X)
    assert found.cov(X).dtype == torch.float32
    torch.testing.assert_close(probe.to(probe).value, exact, rtol=1e-7, atol=1e-9)


def test_inputs_of_any_shape():
    torch.manual_seed(1)
    images = torch.randn(12, 1, 6, 6)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 1))
    found = gr.laplace(net, (images, torch.randn(12)), likelihood=gr.Gaussian(0.2))
    flat = gr.value(images[:2].flatten(1))
    chi = gr.susceptibility(found, flat, gr.reweight())
    exact = copy_in_float64(net)
    inside, outside = (jacobian(exact, x.double())[:, 0] for x in (images, images[:2]))
    precision = inside.T @ inside / 0.2 + torch.eye(inside.shape[1]).double()
    force = (found.data.train.y.double() - exact(images.double())[:, 0].detach()) / 0.2
    truth = outside @ torch.linalg.solve(precision, inside.T) * force
    torch.testing.assert_close(chi.matrix.double(), truth, rtol=1e-5, atol=1e-6)


def copy_in_float64(net):
    import copy

    return copy.deepcopy(net).double()


def test_the_evidence_chooses_the_prior():
    found = gr.laplace(NET, DATA, likelihood=gr.Gaussian(0.2), prior_precision="evidence")
    rows = jacobian(NET, DATA.train.x)[:, 0]
    curvature = rows.T @ (DATA.train.weights[:, None] / 0.2 * rows)
    size = sum(p.square().sum() for p in NET.parameters()).item()

    def evidence(delta):
        return -0.5 * delta * size - 0.5 * float(torch.linalg.slogdet(torch.eye(31).double() + curvature / delta)[1])

    best = found.prior_choice.precision
    assert evidence(best) >= max(evidence(best * 1.001), evidence(best * 0.999))
    effective = float((torch.linalg.eigvalsh(curvature) / (torch.linalg.eigvalsh(curvature) + best)).sum())
    assert abs(found.prior_choice.effective - effective) <= 1e-8 * effective
    assert abs(best * size - effective) <= 1e-8 * effective  # MacKay's fixed point


def test_the_evidence_is_searched_by_quadrature_where_there_are_many_parameters(monkeypatch):
    exact = gr.laplace(NET, DATA, likelihood=gr.Gaussian(0.2), prior_precision="evidence").prior_choice
    monkeypatch.setattr("gp_response.heads.prior_evidence.DENSE", 10)
    found = gr.laplace(NET, DATA, likelihood=gr.Gaussian(0.2), prior_precision="evidence").prior_choice
    assert "Lanczos" in found.method
    assert exact.standard_error == 0.0 < found.standard_error < 0.3
    assert abs(math.log(found.precision / exact.precision)) <= 5.0 * found.standard_error


def test_patterns_and_regimes_read_it():
    ours, theirs = posterior(), posterior().head.condition(DATA)
    target = torch.tensor([0.05, 0.0, 0.0, 0.0]).double()
    weights = [
        gr.pattern(gr.susceptibility(p, gr.value(X), gr.reweight()), target, bounds=(0, 3)).weights
        for p in (ours, theirs)
    ]
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-8)
    modes = [gr.influence(p).eigenmodes(3).values for p in (ours, theirs)]
    torch.testing.assert_close(*modes, rtol=1e-8, atol=1e-10)
    regimes = [gr.regime(p, gr.value(X), gr.delete([1, 2])).first for p in (ours, theirs)]
    torch.testing.assert_close(*regimes, rtol=1e-6, atol=1e-8, equal_nan=True)


def test_the_hessian_may_be_indefinite_and_its_precision_not():
    bad = DATA.with_train(y=20.0 * DATA.train.y)
    with pytest.raises(gr.SolverError, match="not positive definite"):
        gr.laplace(NET, bad, likelihood=gr.Gaussian(0.02), prior_precision=1e-3, curvature="hessian")
    found = gr.laplace(NET, DATA, likelihood=gr.Gaussian(0.2), prior_precision=1e3, curvature="hessian")
    hessian = torch.autograd.functional.hessian(
        lambda v: energy(v, DATA), torch.nn.utils.parameters_to_vector(NET.parameters()).detach()
    )
    precision = hessian + 1e3 * torch.eye(31).double()
    rows = jacobian(NET, X)[:, 0]
    torch.testing.assert_close(found.cov(X), rows @ torch.linalg.solve(precision, rows.T), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("solver", [gr.CG(tolerance=1e-8), gr.Lanczos(rank=31, block=4, storage="float64")])
def test_an_indefinite_hessian_is_solved_by_products(solver):
    options = {"likelihood": gr.Gaussian(0.2), "prior_precision": 200.0, "curvature": "hessian"}
    exact, found = (gr.laplace(NET, DATA, solver=s, **options) for s in (gr.Dense(), solver))
    assert exact.floor < 1.0  # the prior makes up for directions along which the loss bends down
    one, other = (gr.susceptibility(p, gr.value(X), gr.reweight()) for p in (exact, found))
    off = (one.matrix - other.matrix).abs()
    assert bool((off <= one.error + other.error).all())
    assert float(off.max()) <= 1e-5 * float(one.matrix.abs().max())


def energy(vector, data):
    parts, start = {}, 0
    for name, p in NET.named_parameters():
        parts[name] = vector[start : start + p.numel()].view_as(p)
        start += p.numel()
    off = data.train.y - torch.func.functional_call(NET, parts, (data.train.x,))[:, 0]
    return (data.train.weights * off.square()).sum() / 0.4


def test_a_response_under_the_hessian_is_that_of_the_retrained_network():
    """The optimum of the network's own loss, prior included, moves by the Hessian."""
    net = mlp(3, 4, 1, seed=3)
    start = torch.nn.utils.parameters_to_vector(net.parameters()).detach()

    def loss(vector, weights):
        parts, at = {}, 0
        for name, p in net.named_parameters():
            parts[name] = vector[at : at + p.numel()].view_as(p)
            at += p.numel()
        off = DATA.train.y - torch.func.functional_call(net, parts, (DATA.train.x,))[:, 0]
        return (weights * off.square()).sum() / 0.4 + vector.square().sum()

    def trained(weights, vector):
        for _ in range(200):
            slope, bend = torch.func.grad(loss)(vector, weights), torch.func.hessian(loss)(vector, weights)
            values, turn = torch.linalg.eigh(bend)
            step = turn @ ((turn.T @ slope) / values.abs().clamp_min(1e-3))
            size = 1.0
            while loss(vector - size * step, weights) > loss(vector, weights) + 1e-14 and size > 1e-10:
                size *= 0.5
            vector = vector - size * step
            if float(slope.norm()) < 1e-11:
                break
        assert float(slope.norm()) < 1e-8
        return vector

    best = trained(DATA.train.weights, start)
    torch.nn.utils.vector_to_parameters(best, net.parameters())
    found = gr.laplace(net, DATA, likelihood=gr.Gaussian(0.2), prior_precision=2.0, curvature="hessian")
    chi = gr.susceptibility(found, gr.value(X), gr.reweight([5])).matrix[:, 0]
    step = 1e-4
    ends = []
    for sign in (1.0, -1.0):
        weights = DATA.train.weights.clone()
        weights[5] += sign * step
        torch.nn.utils.vector_to_parameters(trained(weights, best), net.parameters())
        ends.append(net(X)[:, 0].detach())
    torch.testing.assert_close(chi, (ends[0] - ends[1]) / (2.0 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": None}, "give the one the network was trained with"),
        ({"likelihood": gr.StudentT()}, "takes precision away"),
        ({"likelihood": gr.Categorical(3)}, "gives outputs of shape"),
        ({"curvature": "gnn"}, "did you mean 'ggn'"),
        ({"prior_precision": -1.0}, "prior_precision -1; expected a positive finite number"),
        ({"prior_precision": "empirical"}, "or 'evidence'"),
        ({"localise": -1.0}, "localise >= 0"),
        ({"beta": 0.0}, "expected numbers beta > 0"),
        ({"beta": "cold"}, "expected numbers beta > 0"),
        ({"batch_size": True}, "integer of 1 or more"),
        ({"solver": gr.Dense}, "the class Dense for a solver"),
        ({"parameters": "5"}, "5"),
        ({"solver": 3}, "expected Dense"),
        ({"batch_size": 0}, "integer of 1 or more"),
        ({"precision": "float16"}, "unknown precision"),
        ({"precision": "float32"}, "got a float64 network"),
        ({"curvature": "hessian", "likelihood": gr.Poisson()}, "sites move"),
    ],
)
def test_what_cannot_be_used_is_refused(options, message):
    with pytest.raises(gr.InputError, match=message):
        gr.laplace(NET, DATA, **{"likelihood": gr.Gaussian(0.2), **options})
