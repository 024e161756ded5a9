"""A linearised classifier conditioned again: its mode, refits, other weights, patterns."""

import copy

import numpy as np
import pytest
import torch
from networks import jacobian, mlp
from scipy.optimize import minimize

import gp_response as gr
from gp_response.heads.network_classes import NetworkClassPosterior

BETA, PRIOR = 1.2, 0.7
SOLVERS = {
    "dense": gr.Dense(),
    "cg": gr.CG(tolerance=1e-10),
    "lanczos": gr.Lanczos(rank=24, block=4, storage="float64"),
}


def trained(net, data, *, prior):
    """The network at the minimum of its loss and a ridge, nearly."""
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def objective():
        optimiser.zero_grad()
        ridge = 0.5 * prior * sum(p.square().sum() for p in net.parameters())
        value = torch.nn.functional.cross_entropy(net(data.train.x), data.train.y.long(), reduction="sum") + ridge
        value.backward()
        return value

    optimiser.step(objective)
    return net.eval()


def digits(count=3, n=500):
    """Real digits 0 to count - 1."""
    every = gr.load("digits", n=n)
    few, other = (part.y < count for part in (every.train, every.test))
    return gr.dataset(
        every.train.x[few],
        every.train.y[few],
        test_x=every.test.x[other],
        test_y=every.test.y[other],
        standardise=False,
    )


IRIS = gr.load("iris")
IRIS = IRIS.with_train(weights=torch.linspace(0.5, 1.5, len(IRIS.train)).double())
NET = trained(mlp(4, 6, 3), IRIS, prior=PRIOR)
X, Y = IRIS.test.x[:3], IRIS.test.y[:3]
NEW = gr.insert(IRIS.test.x[3:5], IRIS.test.y[3:5])
OBSERVABLES = {
    "value": gr.value(X),
    "contrast": gr.contrast(X, X.flip(0) + 0.1),
    "average": gr.average(X),
    "loss": gr.loss(X, Y),
}
MOVES = {
    "reweight": gr.reweight([3, 50]),
    "groups": gr.reweight({"a": [1, 70], "b": [30]}),
    "delete": gr.delete([3, 17, 80]),
    "insert": NEW,
    "insert each": gr.insert(NEW.x, NEW.y, each=True),
    "temperature": gr.temperature(),
}


def classifier(net=NET, data=IRIS, *, classes=3, prior=PRIOR, **options):
    return gr.laplace(net, data, likelihood=gr.Categorical(classes), prior_precision=prior, beta=BETA, **options)


def moved_weights(data, seed=0):
    """Other weights: some rows gone, some many times as heavy."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(len(data.train), generator=generator, dtype=torch.float64)
    return torch.where(drawn < 0.2, 0.0, torch.where(drawn > 0.9, 8.0, 2.0 * drawn))


class Written:
    """The energy of a linearised classifier in its own parameters, by matrices, and its derivatives by hand."""

    def __init__(self, net, data, x, *, prior, beta=BETA):
        self.rows, self.there = (jacobian(net, part).detach().numpy() for part in (data.train.x, x))
        self.start, self.begin = (net(part).detach().numpy() for part in (data.train.x, x))
        self.labels = np.eye(self.start.shape[1])[data.train.y.long().numpy()]
        self.prior, self.beta = prior, beta
        force = self._weight(data.train.weights) * (self.labels - self._soft(self.start))
        self.centre = -np.einsum("ncp,nc->p", self.rows, force) / prior  # θ₀ - θ*

    def gradient(self, move, weights):
        """Of the energy, (P,)."""
        force = self._weight(weights) * (self.labels - self._soft(self.start + self.rows @ move))
        return self.prior * (move - self.centre) - np.einsum("ncp,nc->p", self.rows, force)

    def mode(self, weights):
        """θ - θ* by L-BFGS."""

        def energy(move):
            outputs = self.start + self.rows @ move
            top = outputs.max(axis=1, keepdims=True)
            chosen = (self.labels * outputs).sum(axis=1) - top[:, 0] - np.log(np.exp(outputs - top).sum(axis=1))
            off = move - self.centre
            value = -(self._weight(weights)[:, 0] * chosen).sum() + 0.5 * self.prior * off @ off
            return value, self.gradient(move, weights)

        options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 50}
        return minimize(energy, 0.0 * self.centre, jac=True, method="L-BFGS-B", options=options).x

    def newton(self, weights):
        """The same by Newton's method, to rounding; from L-BFGS's, so that whole steps do."""
        move = self.mode(weights)
        for _ in range(4):
            move = move - np.linalg.solve(self.precision(move, weights), self.gradient(move, weights))
        return move

    def covariance(self, move, weights):
        """`J_* Λ⁻¹ J_*ᵀ` at a mode, (m C, m C)."""
        flat = self.there.reshape(-1, len(move))
        return flat @ np.linalg.solve(self.precision(move, weights), flat.T)

    def precision(self, move, weights):
        p = self._soft(self.start + self.rows @ move)
        bend = np.einsum("nc,cd->ncd", p, np.eye(p.shape[1])) - p[:, :, None] * p[:, None, :]
        bend = self._weight(weights)[:, :, None] * bend
        precision = np.einsum("ncp,ncd,ndq->pq", self.rows, bend, self.rows, optimize=True)
        return precision + self.prior * np.eye(len(move))

    def _weight(self, weights):
        return self.beta * weights.double().numpy()[:, None]

    def _soft(self, outputs):
        raised = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_mode_is_the_minimum_of_the_energy_written_out(solver):
    weights = moved_weights(IRIS)
    found = classifier(solver=SOLVERS[solver]).head.condition(IRIS.with_train(weights=weights))
    assert isinstance(found, NetworkClassPosterior)
    written = Written(NET, IRIS, X, prior=PRIOR)
    theirs = written.mode(weights)
    ours = (found.move.value[:, 0] / PRIOR**0.5).numpy()
    assert np.linalg.norm(ours) > 0.1  # it has moved
    assert np.abs(written.gradient(ours, weights)).max() < 1e-10  # which the whitened gradient's bound is about
    assert np.linalg.norm(written.gradient(ours, weights)) / PRIOR**0.5 <= found.change < 1e-8
    mean = torch.from_numpy(written.begin + written.there @ ours)
    torch.testing.assert_close(found.mean(X), mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        found.mean(X), torch.from_numpy(written.begin + written.there @ theirs), rtol=1e-6, atol=1e-6
    )
    covariance = torch.from_numpy(written.covariance(ours, weights))
    probe = found.probe(found.every_class(X))
    value, error = probe.to(probe)
    assert bool(((value - covariance).abs() <= error + 1e-12).all())
    outputs = torch.from_numpy(written.start + written.rows @ ours)
    torch.testing.assert_close(found.outputs, outputs, rtol=1e-11, atol=1e-11)
    residuals = torch.from_numpy(written.labels) - torch.softmax(outputs, dim=1)
    assert bool(((found.residuals.value - residuals).abs() <= found.residuals.error).all())


def test_digits_have_the_mode_written_out():
    data = digits()
    net = trained(mlp(64, 8, 3), data, prior=1.0)
    found, weights = classifier(net, data, prior=1.0), moved_weights(data)
    assert found.model.tangent.count == 547
    written = Written(net, data, data.test.x[:4], prior=1.0)
    theirs = written.mode(weights)
    again = found.reweighted(weights)
    assert np.abs(written.gradient(again.move.value[:, 0].numpy(), weights)).max() < 1e-9
    mean = torch.from_numpy(written.begin + written.there @ theirs)
    torch.testing.assert_close(again.mean(data.test.x[:4]), mean, rtol=1e-5, atol=1e-5)
    refit = found.head.condition(data.with_train(weights=weights))
    torch.testing.assert_close(again.mean(data.test.x), refit.mean(data.test.x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_weights_there_were_give_the_posterior_there_was(solver):
    found = classifier(solver=SOLVERS[solver])
    for again in (found.reweighted(IRIS.train.weights), found.head.condition(IRIS)):
        assert float(again.move.value.abs().max()) == 0.0
        torch.testing.assert_close(again.mean(X), found.mean(X), rtol=0.0, atol=0.0)
        one, other = (p.probe(found.every_class(X)).variance for p in (found, again))
        assert bool(((one.value - other.value).abs() <= one.error + other.error).all())
        torch.testing.assert_close(again.residuals.value, found.residuals.value, rtol=0.0, atol=0.0)
    there = found.reweighted(moved_weights(IRIS))
    back = there.reweighted(IRIS.train.weights)
    torch.testing.assert_close(back.mean(X), found.mean(X), rtol=1e-11, atol=1e-11)


def test_a_posterior_that_has_moved_obeys_the_laws():
    found = classifier().reweighted(moved_weights(IRIS))
    one, other = (found.cov(x, y).reshape(9, 9) for x, y in ((X, X), (X.clone(), X)))
    torch.testing.assert_close(one, other.T, rtol=1e-9, atol=1e-12)
    assert float(torch.linalg.eigvalsh(one)[0]) > 0.0
    torch.testing.assert_close(found.variance(X).flatten(), one.diagonal(), rtol=1e-9, atol=1e-12)
    mean, wide = found.mean_of(found.look(found.every_class(X))), found.probe(found.every_class(X)).mean
    torch.testing.assert_close(mean.value, wide.value, rtol=1e-13, atol=1e-13)
    to_train = found.probe(found.every_class(X)).to_train().value
    torch.testing.assert_close(to_train, found.cov(X, IRIS.train.x).reshape(9, -1), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("observable", OBSERVABLES)
@pytest.mark.parametrize("moved", [False, True])
def test_every_cell_is_the_derivative_of_refits(observable, moved):
    data = IRIS.with_train(weights=moved_weights(IRIS)) if moved else IRIS
    found, asked = classifier(), OBSERVABLES[observable]
    found = found.head.condition(data) if moved else found
    for name, perturbation in MOVES.items():
        chi = gr.susceptibility(found, asked, perturbation)
        refit = gr.refit_response(found.head, data, asked, perturbation)
        size, off = float(refit.matrix.abs().max()), (chi.matrix - refit.matrix).abs()
        assert refit.order == "refit derivative"
        assert chi.rows == refit.rows
        assert chi.columns == refit.columns
        assert chi.converged, name
        assert float(off.max()) <= 1e-7 * size, name
        assert bool((off <= chi.error + 30.0 * refit.error + 1e-8 * size).all()), name
        assert float(chi.error.max()) <= 1e-5 * size, name


@pytest.mark.parametrize("solver", ["cg", "lanczos"])
def test_refits_by_products_are_those_of_the_factor(solver):
    exact, found = classifier(), classifier(solver=SOLVERS[solver])
    for asked in (gr.value(X), gr.loss(X, Y)):
        for perturbation in (gr.reweight([3]), gr.delete([3, 17]), NEW):
            one, other = (gr.refit_response(p.head, IRIS, asked, perturbation, h=1.0).matrix for p in (exact, found))
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    asked, perturbation = gr.value(X), gr.reweight([3, 50])
    chi, refit = gr.susceptibility(found, asked, perturbation), gr.refit_response(found.head, IRIS, asked, perturbation)
    off, size = (chi.matrix - refit.matrix).abs(), refit.matrix.abs().max()
    assert bool((off <= chi.error + 30.0 * refit.error + 1e-9 * size).all())


def test_finite_refits_tend_to_the_derivative():
    found = classifier()
    for asked in (gr.value(X), gr.loss(X, Y)):
        for perturbation in (MOVES["groups"], MOVES["delete"], NEW):
            chi = gr.susceptibility(found, asked, perturbation).matrix
            off = []
            for h in (1e-2, 1e-3, 1e-4):
                slope = gr.refit_response(found.head, IRIS, asked, perturbation, h=h).matrix / h
                off.append(float((slope - chi).abs().max() / chi.abs().max()))
            assert off[0] > 5.0 * off[1] > 25.0 * off[2]  # first order in h
            assert off[2] < 1e-3


def test_a_deleted_row_is_gone():
    found, rest = classifier(), torch.arange(len(IRIS.train)) != 50
    change = gr.refit_response(found.head, IRIS, gr.value(X), gr.delete([50]), h=1.0).matrix[:, 0]
    without = found.head.condition(IRIS.with_train(weights=IRIS.train.weights * rest))
    torch.testing.assert_close(change.reshape(3, 3), without.mean(X) - found.mean(X), rtol=1e-9, atol=1e-12)


def changed(name):
    """Weights, labels and rows beyond the first of a finite change, and the change itself."""
    weights, labels = IRIS.train.weights.clone(), IRIS.train.y.clone()
    if name == "delete":
        weights[[3, 17, 80]] = 0.0
        return weights, labels, None, gr.delete([3, 17, 80]), 1.0
    if name == "reweight":
        weights[[1, 70]] += 4.0
        return weights, labels, None, gr.reweight({"a": [1, 70]}), 4.0
    if name == "relabel":
        assert float(labels[0]) == 0.0
        labels[0] = 2.0
        return weights, labels, None, gr.relabel([0]), 2.0
    return torch.cat([weights, torch.full((2,), 3.0).double()]), labels, NEW, NEW, 3.0


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["delete", "reweight", "relabel", "insert"])
def test_finite_changes_are_those_of_the_mode_written_out(name, solver):
    weights, labels, new, perturbation, h = changed(name)
    found, written = classifier(solver=SOLVERS[solver]), Written(NET, IRIS, X, prior=PRIOR)
    if new is not None:
        more = Written(
            NET,
            gr.dataset(torch.cat([IRIS.train.x, new.x]), torch.cat([labels, new.y]), standardise=False),
            X,
            prior=PRIOR,
        )
        more.centre = written.centre
        written = more
    elif name == "relabel":
        written.labels = np.eye(3)[labels.long().numpy()]
    move = written.newton(weights)
    assert np.abs(written.gradient(move, weights)).max() < 1e-11
    before, after = (torch.from_numpy(part) for part in (written.begin, written.begin + written.there @ move))
    chosen = torch.nn.functional.one_hot(Y.long(), 3).double()
    losses = [-(chosen * torch.log_softmax(f, dim=1)).sum(dim=1) for f in (before, after)]
    for asked, truth in ((gr.value(X), (after - before).flatten()), (gr.loss(X, Y), losses[1] - losses[0])):
        change = gr.finite_response(found, asked, perturbation, h=h)
        assert (change.order, change.h, change.shape) == ("conditioned again", h, (len(truth), 1))
        assert change.unit == ("of the field" if len(truth) == 9 else "nat")
        assert change.converged
        off = (change.matrix[:, 0] - truth).abs()
        assert float(truth.abs().max()) > 1e-4
        assert bool((off <= change.error[:, 0] + 1e-12).all())
        assert float(change.error.max()) < 1e-7
        refit = gr.refit_response(found.head, IRIS, asked, perturbation, h=h)
        torch.testing.assert_close(change.matrix, refit.matrix, rtol=1e-9, atol=1e-10)
        assert (change.rows, change.columns) == (refit.rows, refit.columns)


def test_finite_changes_of_each_row_are_left_out_rows():
    found, rows = classifier(), [0, 41, 97]
    change = gr.finite_response(found, gr.loss(X, Y), gr.delete(rows, each=True))
    assert change.shape == (3, 3)
    for c, row in enumerate(rows):
        one = gr.finite_response(found, gr.loss(X, Y), gr.reweight([row]), h=-float(IRIS.train.weights[row]))
        torch.testing.assert_close(change.matrix[:, c], one.matrix[:, 0], rtol=1e-9, atol=1e-11)


def test_finite_changes_in_float32_are_inside_their_bounds():
    net, data = copy.deepcopy(NET).float(), IRIS.to(dtype=torch.float32)
    exact, rough = classifier(copy.deepcopy(net).double()), classifier(net, data, precision="float32")
    exact = classifier(copy.deepcopy(net).double(), data.to(dtype=torch.float64))
    for perturbation, h in ((gr.delete([3, 17]), 1.0), (gr.reweight([50]), 5.0)):
        for asked, same in ((gr.value(X), gr.value(X.float())), (gr.loss(X, Y), gr.loss(X.float(), Y.float()))):
            one = gr.finite_response(exact, asked, perturbation, h=h)
            other = gr.finite_response(rough, same, perturbation, h=h)
            off = (one.matrix - other.matrix.double()).abs()
            assert bool((off <= one.error + other.error.double()).all())
            assert float(off.max()) < 1e-3


def test_digits_change_as_the_mode_written_out_does():
    data = digits(n=900)
    net = trained(mlp(64, 8, 3), data, prior=1.0)
    found, written = classifier(net, data, prior=1.0), Written(net, data, data.test.x[:4], prior=1.0)
    gone, weights = list(range(0, 60, 2)), data.train.weights.clone()
    weights[gone] = 0.0
    change = gr.finite_response(found, gr.value(data.test.x[:4]), gr.delete(gone))
    truth = torch.from_numpy(written.there @ written.newton(weights)).flatten()
    off = (change.matrix[:, 0] - truth).abs()
    assert bool((off <= change.error[:, 0] + 1e-11).all())
    assert float(change.error.max()) < 1e-6 * float(truth.abs().max())


def test_rows_without_weight_are_differentiated_from_one_side():
    data = IRIS.with_train(weights=torch.where(torch.arange(len(IRIS.train)) < 3, 0.0, IRIS.train.weights))
    found = classifier(data=data)
    for perturbation in (gr.reweight([0, 50]), gr.reweight({"a": [1, 60]})):
        chi = gr.susceptibility(found, gr.value(X), perturbation).matrix
        refit = gr.refit_response(found.head, data, gr.value(X), perturbation)
        assert float((chi - refit.matrix).abs().max() / chi.abs().max()) < 1e-7


def test_patterns_are_reached_by_conditioning_again():
    found = classifier()
    chi = gr.susceptibility(found, gr.value(X[:1]), gr.reweight())
    target = torch.tensor([0.15, -0.1, -0.05]).double()
    pattern = gr.pattern(chi, target, bounds=(0, 3))
    assert pattern.reached
    assert len(pattern.history) > 1  # first order alone does not get there
    moved = pattern.posterior.mean(X[:1]) - found.mean(X[:1])
    assert bool(((moved[0] - target).abs() <= 1e-3 * target.abs()).all())
    torch.testing.assert_close(pattern.refitted(found.head, IRIS), pattern.exact, rtol=1e-8, atol=1e-10)
    assert bool(((pattern.refitted(found.head, IRIS) - pattern.exact).abs() <= pattern.exact_error).all())


def test_two_classes_are_the_logistic_of_their_difference():
    class Difference(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            both = self.net(x)
            return both[:, 1] - both[:, 0]

    chosen = IRIS.train.y > 0
    data = gr.dataset(IRIS.train.x[chosen], IRIS.train.y[chosen] - 1.0, standardise=False)
    net = trained(mlp(4, 5, 2), data, prior=1.0)
    two = classifier(net, data, classes=2, prior=1.0)
    one = gr.laplace(Difference(net), data, likelihood=gr.Bernoulli(), prior_precision=1.0, beta=BETA)
    for perturbation, h in ((gr.reweight([5, 40]), 2.0), (gr.delete([1, 2, 60]), 1.0)):
        fields = gr.refit_response(two.head, data, gr.value(X), perturbation, h=h).matrix.reshape(3, 2, -1)
        field = gr.refit_response(one.head, data, gr.value(X), perturbation, h=h).matrix
        torch.testing.assert_close(fields[:, 1] - fields[:, 0], field, rtol=1e-6, atol=1e-8)


def test_a_head_on_features_is_refitted_as_the_process_of_classes_on_them():
    before = torch.nn.Sequential(*list(NET)[:2])

    class Last(torch.nn.Module):
        def __init__(self, weights):
            super().__init__()
            self.before, self.last = before, torch.nn.Linear(6, 3, bias=False).double()
            with torch.no_grad():
                self.last.weight.copy_(weights)

        def forward(self, x):
            return self.last(self.before(x))

    head = gr.Exact(gr.Linear(lengthscale=1.0).on(before), likelihood=gr.Categorical(3), beta=BETA)
    process = head.condition(IRIS)
    weights = torch.linalg.lstsq(before(IRIS.train.x).detach(), process.mean(IRIS.train.x)).solution.T
    found = classifier(Last(weights), prior=1.0, parameters="head")
    for perturbation, h in ((gr.reweight([3]), 1.0), (gr.delete([3, 17]), 1.0), (NEW, 1.0)):
        one, other = (
            gr.refit_response(each, IRIS, gr.value(X), perturbation, h=h).matrix for each in (found.head, head)
        )
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_a_network_in_float32_is_inside_its_bounds():
    net = copy.deepcopy(NET).float()
    data, weights = IRIS.to(dtype=torch.float32), moved_weights(IRIS)
    exact = classifier(net, data).reweighted(weights)
    rough = classifier(net, data, precision="float32").reweighted(weights)
    assert exact.change < 1e-8 < rough.change < 0.1
    points = exact.every_class(X.float())
    one, other = (p.probe(points).mean for p in (exact, rough))
    assert bool(((one.value - other.value).abs() <= one.error + other.error).all())
    assert float((one.value - other.value).abs().max()) < 1e-4
    for asked in (gr.value(X.float()), gr.loss(X.float(), Y.float())):
        chi, off = (gr.susceptibility(p, asked, gr.reweight()) for p in (exact, rough))
        assert bool(((chi.matrix - off.matrix).abs() <= chi.error + off.error).all())


def test_a_prior_of_its_own_for_each_parameter():
    precision = torch.linspace(0.5, 2.0, 51).double()
    found = classifier(prior=precision)
    chi = gr.susceptibility(found, gr.value(X), gr.reweight([3, 50]))
    refit = gr.refit_response(found.head, IRIS, gr.value(X), gr.reweight([3, 50]))
    assert float((chi.matrix - refit.matrix).abs().max() / refit.matrix.abs().max()) < 1e-7


def test_what_cannot_be_conditioned_is_refused():
    found = classifier()
    with pytest.raises(gr.InputError, match="rows of 4 columns; the data have 3"):
        found.head.condition(gr.dataset(torch.randn(5, 3), torch.zeros(5), standardise=False))
    with pytest.raises(gr.InputError, match="a class, 0 to 2"):
        found.head.condition(IRIS.with_train(y=IRIS.train.y + 1))
    with pytest.raises(gr.InputError, match="finite and 0 or more"):
        found.reweighted(-IRIS.train.weights)
    with pytest.raises(gr.InputError, match="leaves a weight of -1"):
        gr.refit_response(found.head, IRIS, gr.value(X), gr.reweight([0]), h=-1.5)
    bent = classifier(prior=50.0, curvature="hessian")
    with pytest.raises(gr.InputError, match="under the Hessian"):
        bent.reweighted(IRIS.train.weights)
    with pytest.raises(gr.InputError, match="under the Hessian"):
        gr.finite_response(bent, gr.value(X), gr.reweight([0]))
    assert bent.head.model.kind == "ggn"


@pytest.mark.parametrize(("prior", "scale"), [(1e-3, 1.0), (1e-3, 100.0), (1e-6, 1e4)])
def test_weak_priors_and_heavy_rows_end_at_the_mode(prior, scale):
    """Where whole steps of Newton's method overshoot, and rounding is large beside the prior."""
    weights = scale * moved_weights(IRIS, seed=1)
    found = classifier(prior=prior).reweighted(weights)
    written = Written(NET, IRIS, X, prior=prior)
    left = np.linalg.norm(written.gradient((found.move.value[:, 0] / prior**0.5).numpy(), weights)) / prior**0.5
    assert left <= found.change < 1e-4


def test_a_mode_that_is_not_found_is_no_posterior(monkeypatch):
    monkeypatch.setattr("gp_response.heads.softmax_mode.MOST", 2)
    with pytest.raises(gr.SolverError, match="not found in 2 Newton steps"):
        classifier().reweighted(moved_weights(IRIS))
