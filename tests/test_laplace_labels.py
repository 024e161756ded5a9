"""Networks under likelihoods that are not Gaussian: of one output, and of several classes."""

import numpy
import pytest
import torch
from networks import jacobian, mlp

import gp_response as gr
from gp_response.testing import check_posterior, example_data

DATA = example_data(n=40)
X = DATA.test.x[:4]
LAWS = {"bernoulli": gr.Bernoulli(), "probit": gr.Probit(), "poisson": gr.Poisson()}
LABELS = DATA.with_train(y=(DATA.train.y > 0).double())
Y = (DATA.test.y[:4] > 0).double()
CLASSES = 3
CLASSED = DATA.with_train(y=torch.arange(40).remainder(CLASSES).double())
CLASS_OF = torch.tensor([0.0, 1.0, 2.0, 1.0]).double()
MOVES = {
    "reweight": gr.reweight(),
    "groups": gr.reweight({"a": [1, 2], "b": [3]}),
    "delete": gr.delete([3, 17]),
    "insert": gr.insert(X[:2] + 0.2, Y[:2]),
    "temperature": gr.temperature(),
}
SITE_OBSERVABLES = {
    "value": gr.value(X),
    "loss": gr.loss(X, Y),
    "variance": gr.variance(X),
    "contrast": gr.contrast(X, X.flip(0) + 0.1),
    "gradient": gr.gradient(X[:2]),
    "pointwise": gr.pointwise(X, torch.sigmoid),
}


def sites(law, **options):
    return gr.laplace(mlp(3, 6, 1), LABELS, likelihood=LAWS[law], prior_precision=2.0, beta=1.2, **options)


@pytest.mark.parametrize("law", LAWS)
def test_every_cell_is_the_refit_of_the_linear_model(law):
    found = sites(law)
    check_posterior(found)
    truth = found.head.condition(LABELS)
    torch.testing.assert_close(found.mean(X), truth.mean(X), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.cov(X), truth.cov(X), rtol=1e-8, atol=1e-10)
    for asked in SITE_OBSERVABLES.values():
        for perturbation in MOVES.values():
            chi = gr.susceptibility(found, asked, perturbation)
            refit = gr.refit_response(found.head, LABELS, asked, perturbation)
            size, off = float(refit.matrix.abs().max()), (chi.matrix - refit.matrix).abs()
            assert float(off.max()) <= 1e-6 * size
            assert bool((off <= chi.error + 30.0 * refit.error + 1e-7 * size).all())


def test_sites_by_conjugate_gradients_are_those_of_the_factor():
    one, other = sites("bernoulli"), sites("bernoulli", solver=gr.CG(tolerance=1e-9))
    for asked in SITE_OBSERVABLES.values():
        a, b = (gr.susceptibility(p, asked, gr.reweight()) for p in (one, other))
        off = (a.matrix - b.matrix).abs()
        assert float(off.max()) <= 1e-6 * float(a.matrix.abs().max())
        assert bool((off <= a.error + b.error).all())


@pytest.mark.parametrize("solver", [gr.Lanczos(rank=4, block=2), gr.Lanczos(rank=12, block=4), gr.CG(tolerance=1e-2)])
def test_answers_under_labels_are_inside_their_errors(solver):
    exact, found = sites("bernoulli"), sites("bernoulli", solver=solver)
    for name, asked in SITE_OBSERVABLES.items():
        for perturbation in MOVES.values():
            one, other = (gr.susceptibility(p, asked, perturbation) for p in (exact, found))
            assert bool(((one.matrix - other.matrix).abs() <= one.error + other.error).all()), (name, perturbation.kind)
    exact, found = classifier(), classifier(solver=solver)
    for asked in (gr.value(X), gr.loss(X, CLASS_OF)):
        for perturbation in (gr.reweight(), gr.delete([3, 17]), gr.insert(X[:2], CLASS_OF[:2]), gr.temperature()):
            one, other = (gr.susceptibility(p, asked, perturbation) for p in (exact, found))
            assert bool(((one.matrix - other.matrix).abs() <= one.error + other.error).all()), perturbation.kind


def test_fluctuations_of_sites_are_those_of_the_process():
    found = sites("bernoulli")
    one, other = (gr.fluctuation(p, gr.loss(X, Y), gr.reweight()).matrix for p in (found, found.head.condition(LABELS)))
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_continuous_labels_move():
    data = DATA.with_train(y=DATA.train.y)
    found = gr.laplace(mlp(3, 6, 1), data, likelihood=gr.Gaussian(0.3))
    chi = gr.susceptibility(found, gr.value(X), gr.relabel())
    assert chi.converged
    with pytest.raises(gr.InputError, match="use delete and insert"):
        gr.susceptibility(sites("poisson"), gr.value(X), gr.relabel())


def classifier(**options):
    return gr.laplace(mlp(3, 6, CLASSES), CLASSED, likelihood=gr.Categorical(CLASSES), beta=1.2, **options)


def test_classes_have_the_covariance_written_out():
    net, found = mlp(3, 6, CLASSES), classifier(prior_precision=2.0)
    p = torch.softmax(net(CLASSED.train.x).detach(), dim=-1)
    inside, outside = jacobian(net, CLASSED.train.x), jacobian(net, X)
    bend = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    weight = 1.2 * CLASSED.train.weights
    precision = torch.einsum("n,ncp,ncd,ndq->pq", weight, inside, bend, inside)
    precision += 2.0 * torch.eye(len(precision)).double()
    flat = outside.flatten(0, 1)
    truth = (flat @ torch.linalg.solve(precision, flat.T)).reshape(4, CLASSES, 4, CLASSES)
    torch.testing.assert_close(found.cov(X), truth, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.mean(X), net(X).detach(), rtol=1e-12, atol=1e-13)
    force = torch.nn.functional.one_hot(CLASSED.train.y.long(), CLASSES).double() - p
    across = (flat @ torch.linalg.solve(precision, inside.flatten(0, 1).T)).reshape(4, CLASSES, 40, CLASSES)
    chi = gr.susceptibility(found, gr.value(X), gr.reweight())
    expected = 1.2 * torch.einsum("acnd,nd->acn", across, force).reshape(-1, 40)
    torch.testing.assert_close(chi.matrix, expected, rtol=1e-9, atol=1e-12)
    assert bool(((chi.matrix - expected).abs() <= chi.error + 1e-14).all())


def features():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh()).double()


class Classifier(torch.nn.Module):
    def __init__(self, before, weights):
        super().__init__()
        self.before, self.last = before, torch.nn.Linear(5, CLASSES, bias=False).double()
        with torch.no_grad():
            self.last.weight.copy_(weights)

    def forward(self, x):
        return self.last(self.before(x))


@pytest.mark.parametrize("solver", [gr.Dense(), gr.CG(tolerance=1e-10)])
def test_a_head_on_features_is_the_process_of_classes_on_them(solver):
    before = features()
    process = gr.Exact(gr.Linear(lengthscale=1.0).on(before), likelihood=gr.Categorical(CLASSES), beta=1.2).condition(
        CLASSED
    )
    phi = before(CLASSED.train.x).detach()
    weights = torch.linalg.lstsq(phi, process.mean(CLASSED.train.x)).solution.T
    found = gr.laplace(
        Classifier(before, weights),
        CLASSED,
        likelihood=gr.Categorical(CLASSES),
        parameters="head",
        beta=1.2,
        solver=solver,
    )
    torch.testing.assert_close(found.mean(X), process.mean(X), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.cov(X), process.cov(X), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.predictive(X), process.predictive(X), rtol=1e-6, atol=1e-7)
    insert = gr.insert(X[:2] + 0.2, CLASS_OF[:2])
    for asked in (gr.value(X), gr.loss(X, CLASS_OF), gr.contrast(X, X.flip(0) + 0.1), gr.average(X)):
        for perturbation in (gr.reweight(), gr.delete([3, 17]), gr.reweight({"a": [1, 2]}), insert, gr.temperature()):
            one, other = (gr.susceptibility(p, asked, perturbation) for p in (found, process))
            assert one.converged
            torch.testing.assert_close(one.matrix, other.matrix, rtol=1e-6, atol=1e-8)


def test_tokens_are_rows_of_integers():
    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.last = torch.nn.Embedding(7, 4), torch.nn.Linear(4, CLASSES)

        def forward(self, x):
            return self.last(self.table(x).mean(dim=1))

    torch.manual_seed(2)
    x, y = torch.randint(0, 7, (20, 5)), torch.randint(0, CLASSES, (20,))
    found = gr.laplace(Tokens(), (x, y), likelihood=gr.Categorical(CLASSES))
    chi = gr.susceptibility(found, gr.loss(x[:3], y[:3]), gr.reweight())
    assert chi.matrix.shape == (3, 20)
    assert float(chi.matrix[0, 0]) < 0.0  # more weight on a row lowers its own loss
    one_output = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Flatten(), torch.nn.Linear(20, 1))
    numbers = gr.laplace(one_output, (x, y.float()), likelihood=gr.Gaussian(0.1))
    with pytest.raises(gr.InputError, match="do not move by a little"):
        gr.susceptibility(numbers, gr.gradient(x[:1].double()), gr.reweight())


def test_what_classes_cannot_be_asked_says_so():
    found = classifier()
    with pytest.raises(gr.InputError, match="several classes"):
        gr.susceptibility(found, gr.variance(X), gr.reweight())
    with pytest.raises(gr.InputError, match="of one output"):
        classifier(solver=gr.Cholesky())
    with pytest.raises(gr.InputError, match="a class, 0 to 2"):
        gr.laplace(mlp(3, 6, CLASSES), DATA, likelihood=gr.Categorical(CLASSES))
    with pytest.raises(gr.InputError, match="several classes"):
        gr.influence(found)
    binary = gr.dataset(DATA.train.x, (DATA.train.y > 0).double(), standardise=False)
    sites = gr.laplace(mlp(3, 6, 1), binary, likelihood=gr.Bernoulli())
    for posterior in (found, sites):
        with pytest.raises(gr.InputError, match="closed forms under Gaussian noise"):
            gr.susceptibility(posterior, gr.value(X), gr.hyperparameter("prior_precision"))


class Sites:
    """The linearised network of one output in its parameters: its mode by Newton steps on dense matrices."""

    def __init__(self, law, net, data, *, prior=2.0, beta=1.2):
        self.law, self.net, self.prior, self.beta = law, net, prior, beta
        self.j, self.f = self.seen(data.train.x)
        self.pull = -self.force(self.f, data.train.weights, data.train.y)

    def seen(self, x):
        return jacobian(self.net, x)[:, 0].detach(), self.net(x)[:, 0].detach()

    def force(self, f, weights, y):
        return self.beta * self.j.T @ (weights * self.law.slopes(f, y).first)

    def marginals(self, x, weights, y):
        """Means and variances at x at the mode of rows of other weights and labels."""
        move = torch.zeros(self.j.shape[1]).double()
        for _ in range(15):
            f = self.f + self.j @ move
            bend = -self.beta * weights * self.law.slopes(f, y).second
            precision = self.j.T @ (bend[:, None] * self.j) + self.prior * torch.eye(len(move)).double()
            move = move + torch.linalg.solve(precision, self.force(f, weights, y) + self.pull - self.prior * move)
        there, start = self.seen(x)
        return start + there @ move, (there * torch.linalg.solve(precision, there.T).T).sum(dim=1)


def expected(law, mean, variance, labels):
    """Values, variances, losses and sigmoids by a rule of many points."""
    at, weights = (torch.from_numpy(part) for part in numpy.polynomial.hermite_e.hermegauss(80))
    field = mean[:, None] + variance.sqrt()[:, None] * at
    weights = weights / weights.sum()
    return mean, variance, -(law.log_prob(field, labels[:, None]) @ weights), torch.sigmoid(field) @ weights


@pytest.mark.parametrize("law", LAWS)
def test_finite_changes_are_those_of_the_mode_found_again(law):
    found, sites_of = sites(law), Sites(LAWS[law], mlp(3, 6, 1), LABELS)
    weights, labels = LABELS.train.weights.double(), LABELS.train.y
    gone, heavy, turned = weights.clone(), weights.clone(), labels.clone()
    gone[[3, 17]], heavy[[1, 2]] = 0.0, weights[[1, 2]] + 3.0
    row = int(torch.nonzero(labels == 0)[0])
    turned[row] = 1.0
    asked = (gr.value(X), gr.variance(X), gr.loss(X, Y), gr.pointwise(X, torch.sigmoid))
    before = expected(LAWS[law], *sites_of.marginals(X, weights, labels), Y)
    for perturbation, h, now in (
        (gr.delete([3, 17]), 1.0, (gone, labels)),
        (gr.reweight({"a": [1, 2]}), 3.0, (heavy, labels)),
        (gr.relabel([row]), 1.0, (weights, turned)),
    ):
        after = expected(LAWS[law], *sites_of.marginals(X, *now), Y)
        for observable, one, other in zip(asked, after, before, strict=True):
            change = gr.finite_response(found, observable, perturbation, h=h)
            off = (change.matrix[:, 0] - (one - other)).abs()
            assert change.order == "conditioned again"
            assert float(off.max()) <= 1e-6 * float((one - other).abs().max()), (perturbation.kind, observable.kind)
            if observable.kind in ("value", "variance"):  # the others are had by a rule of fewer points than these
                assert bool((off <= change.error[:, 0] + 1e-11).all()), (perturbation.kind, observable.kind)


def test_finite_changes_of_other_approximations_are_refused():
    process = gr.Exact(gr.Matern32(lengthscale=1.0), likelihood=gr.Bernoulli()).condition(LABELS)
    for bad, message in (
        (lambda: gr.finite_response(process, gr.value(X), gr.delete([1])), "exact for Gaussian likelihoods"),
        (lambda: gr.finite_response(sites("bernoulli"), gr.value(X), gr.relabel([0]), h=0.5), "label"),
        (lambda: gr.finite_response(sites("bernoulli"), gr.value(X), gr.reweight([0]), h=-2.0), "weight"),
    ):
        with pytest.raises(gr.InputError, match=message):
            bad()
