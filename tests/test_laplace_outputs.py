"""Networks of several outputs a sample: against matrices written out, models of one output, and refits of the linear model."""

import pytest
import torch
from networks import Apart, jacobian, mlp

import gp_response as gr
from gp_response.data import by_label, samples_of, with_places

torch.manual_seed(0)
N, D, C = 20, 3, 2
X, Y, RHO = torch.randn(N, D).double(), torch.randn(N, C).double(), torch.rand(N).double() + 0.5
AT, LABELS = torch.randn(4, D).double(), torch.randn(4, C).double()
NET = mlp(D, 6, C)
NOISE, PRIOR, BETA = 0.2, 2.0, 1.2
SOLVERS = {"dense": gr.Dense(), "cg": gr.CG(tolerance=1e-12), "lanczos": gr.Lanczos(rank=70, storage="float64")}
COARSE = gr.Lanczos(rank=6, block=2)
ONE = torch.cat([AT[:2], torch.tensor([[1.0], [0.0]]).double()], dim=1)  # points that name their output
OBSERVABLES = {
    "value": gr.value(AT),
    "loss": gr.loss(AT, LABELS),
    "variance": gr.variance(AT),
    "contrast": gr.contrast(AT, AT.flip(0) + 0.1),
    "average": gr.average(AT),
    "gradient": gr.gradient(AT[:1]),
    "pointwise": gr.pointwise(AT, torch.sigmoid),
    "component": gr.component(AT, 0),
    "evidence": gr.evidence(),
    "learning_coefficient": gr.learning_coefficient(),
    "value of one output": gr.value(ONE),
    "loss of one output": gr.loss(ONE, LABELS[0]),
}
TOWARD = by_label(AT, LABELS, shape=(C,), names=["output"])
PERTURBATIONS = {
    "reweight": (gr.reweight([0, 4]), -0.5),
    "reweight of groups": (gr.reweight({"a": [1, 2], "b": [3]}), -0.4),
    "relabel": (gr.relabel([3, 5]), 1.0),
    "relabel of groups": (gr.relabel({"a": [3, 5]}), 1.0),
    "delete": (gr.delete([3, 17]), 1.0),
    "insert": (gr.insert(AT[:2] + 0.2, LABELS[:2]), 1.0),
    "insert each": (gr.insert(AT[:2] + 0.2, LABELS[:2], each=True), 1.0),
    "shift": (gr.shift_inputs([1.0, -0.5, 0.3], [3, 5]), 0.4),
    "shift of groups": (gr.shift_inputs(1, {"a": [1, 2]}), 0.5),
    "noise": (gr.noise(), 0.1),
    "noise of samples": (gr.noise([2, 7]), 0.2),
    "temperature": (gr.temperature(), 0.4),
    "mixture": (gr.mixture(TOWARD), 0.3),
    "prior_precision": (gr.hyperparameter("prior_precision"), None),
}


def posterior(net=NET, data=(X, Y, RHO), **options):
    options = {"likelihood": gr.Gaussian(NOISE), "prior_precision": PRIOR, "beta": BETA, **options}
    return gr.laplace(net, data, **options)


class Ridge:
    """The linearised network in its parameters, refitted on other weights and labels by one dense solve."""

    def __init__(self, net, x, y, weights):
        self.j, self.f, self.y, self.weights = jacobian(net, x), net(x).detach(), y, weights
        self.pull = -self.gathered(weights, y)  # of the prior that makes the trained network the mean

    def gathered(self, weights, y):
        return BETA / NOISE * torch.einsum("n,ncp,nc->p", weights, self.j, y - self.f)

    def covariance(self, weights):
        precision = BETA / NOISE * torch.einsum("n,ncp,ncq->pq", weights, self.j, self.j)
        return torch.linalg.inv(precision + PRIOR * torch.eye(len(precision)).double())

    def read(self, net, x, *, weights=None, y=None):
        """Means and variances of all outputs at x, (m, C) each."""
        weights, y = self.weights if weights is None else weights, self.y if y is None else y
        j, covariance = jacobian(net, x), self.covariance(weights)
        mean = net(x).detach() + j @ (covariance @ (self.gathered(weights, y) + self.pull))
        return mean, torch.einsum("mcp,pq,mcq->mc", j, covariance, j)

    def losses(self, net, x, labels, **changed):
        mean, variance = self.read(net, x, **changed)
        each = 0.5 * (torch.tensor(2.0 * torch.pi * NOISE).log() + ((labels - mean).square() + variance) / NOISE)
        return each.sum(dim=1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("widths", [(D, 6, C), (D, 30, 20, 3)])
def test_covariances_are_the_matrix_written_out(widths, solver):
    net, outputs = mlp(*widths), widths[-1]
    y = torch.randn(N, outputs).double()
    found = posterior(net, (X, y, RHO), solver=SOLVERS[solver])
    inside, outside = jacobian(net, X), jacobian(net, AT)
    covariance = Ridge(net, X, y, RHO).covariance(RHO)
    truth = torch.einsum("acp,pq,bdq->acbd", outside, covariance, outside)
    torch.testing.assert_close(found.mean(AT), net(AT).detach(), rtol=1e-12, atol=1e-13)
    probe = found.probe(found.every(AT))
    off = (probe.to(probe).value - truth.reshape(4 * outputs, -1)).abs()
    assert bool((off <= probe.to(probe).error + 1e-12).all())
    if solver != "lanczos" or widths == (D, 6, C):  # which encloses what data do not reach
        torch.testing.assert_close(found.cov(AT), truth, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found.variance(AT), torch.einsum("acac->ac", truth), rtol=1e-8, atol=1e-8)
    seen = probe.to_train()
    across = torch.einsum("acp,pq,bdq->acbd", outside, covariance, inside).reshape(4 * outputs, -1)
    assert bool(((seen.value - across).abs() <= seen.error + 1e-12).all())
    assert float((seen.value - across).abs().max()) <= 1e-8


@pytest.mark.parametrize("observable", OBSERVABLES)
def test_every_cell_is_the_refit_of_the_linear_model(observable):
    found, asked = posterior(), OBSERVABLES[observable]
    for name, (perturbation, h) in PERTURBATIONS.items():
        chi = gr.susceptibility(found, asked, perturbation)
        refit = gr.refit_response(found.head, found.data, asked, perturbation)
        size, off = float(refit.matrix.abs().max()), (chi.matrix - refit.matrix).abs()
        assert chi.converged, name
        assert (chi.rows, chi.columns) == (refit.rows, refit.columns)
        assert float(off.max()) <= 1e-7 * size, name
        assert bool((off <= chi.error + 30.0 * refit.error + 1e-8 * size).all()), name
        if h is None:
            continue
        finite = gr.finite_response(found, asked, perturbation, h=h)
        refit = gr.refit_response(found.head, found.data, asked, perturbation, h=h)
        size, off = float(refit.matrix.abs().max()), (finite.matrix - refit.matrix).abs()
        assert float(off.max()) <= 1e-8 * size + 1e-12, name
        assert bool((off <= finite.error + 1e-11 * size + 1e-12).all()), name


def test_columns_are_samples_and_labels():
    found = posterior()
    whole = gr.susceptibility(found, gr.value(AT), gr.reweight())
    assert whole.shape == (4 * C, N)
    assert whole.every_sample
    assert whole.rows[:3] == ("value[0], output 0", "value[0], output 1", "value[1], output 0")
    assert whole.columns[-1] == str(N - 1)
    assert gr.susceptibility(found, gr.loss(AT, LABELS), gr.relabel([3])).columns == ("3, output 0", "3, output 1")
    structural = whole.to("structural").matrix
    torch.testing.assert_close(structural @ RHO / RHO.sum() * 0.0 + structural.sum(dim=1), torch.zeros(4 * C).double())


@pytest.mark.parametrize("solver", SOLVERS)
def test_responses_are_those_of_ridge_refitted(solver):
    """Independent of the package: parameters solved for by torch.linalg, derivatives by central differences."""
    found, ridge, h = posterior(solver=SOLVERS[solver]), Ridge(NET, X, Y, RHO), 1e-4
    value, spread, loss = (
        gr.susceptibility(found, asked, gr.reweight()).matrix
        for asked in (gr.value(AT), gr.variance(AT), gr.loss(AT, LABELS))
    )
    for i in (0, 7):
        unit = torch.nn.functional.one_hot(torch.tensor(i), N).double()
        (up, wide), (down, narrow) = (ridge.read(NET, AT, weights=RHO + s * h * unit) for s in (1.0, -1.0))
        torch.testing.assert_close(value[:, i], ((up - down) / (2 * h)).flatten(), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(spread[:, i], ((wide - narrow) / (2 * h)).flatten(), rtol=1e-6, atol=1e-8)
        up, down = (ridge.losses(NET, AT, LABELS, weights=RHO + s * h * unit) for s in (1.0, -1.0))
        torch.testing.assert_close(loss[:, i], (up - down) / (2 * h), rtol=1e-6, atol=1e-7)
    moved = gr.susceptibility(found, gr.value(AT), gr.relabel()).matrix
    y = Y.clone()
    y[5, 1] += 1.0
    step = ridge.read(NET, AT, y=y)[0] - ridge.read(NET, AT)[0]
    torch.testing.assert_close(moved[:, 5 * C + 1], step.flatten(), rtol=1e-8, atol=1e-10)
    assert moved.shape == (4 * C, N * C)


@pytest.mark.parametrize("solver", SOLVERS)
def test_finite_changes_are_those_of_ridge_refitted(solver):
    found, ridge, gone = posterior(solver=SOLVERS[solver]), Ridge(NET, X, Y, RHO), [3, 8, 17]
    kept = RHO.clone()
    kept[gone] = 0.0
    (mean, variance), (new_mean, new_variance) = ridge.read(NET, AT), ridge.read(NET, AT, weights=kept)
    before, after = ridge.losses(NET, AT, LABELS), ridge.losses(NET, AT, LABELS, weights=kept)
    for asked, truth in (
        (gr.value(AT), (new_mean - mean).flatten()),
        (gr.variance(AT), (new_variance - variance).flatten()),
        (gr.loss(AT, LABELS), after - before),
    ):
        change = gr.finite_response(found, asked, gr.delete(gone))
        torch.testing.assert_close(change.matrix[:, 0], truth, rtol=1e-7, atol=1e-9)
        assert bool(((change.matrix[:, 0] - truth).abs() <= change.error[:, 0] + 1e-11).all())
    more = Ridge(NET, torch.cat([X, AT[:2]]), torch.cat([Y, LABELS[:2]]), torch.cat([RHO, torch.ones(2).double()]))
    more.pull = ridge.pull
    change = gr.finite_response(found, gr.value(AT), gr.insert(AT[:2], LABELS[:2]))
    truth = (more.read(NET, AT)[0] - mean).flatten()
    torch.testing.assert_close(change.matrix[:, 0], truth, rtol=1e-7, atol=1e-9)


def test_outputs_that_share_nothing_are_models_of_one():
    net = Apart(D)
    joint, nets = posterior(net), net.nets
    each = [posterior(net, gr.dataset(X, Y[:, c], weights=RHO, standardise=False)) for c, net in enumerate(nets)]
    cov = joint.cov(AT)
    value = gr.susceptibility(joint, gr.value(AT), gr.reweight()).matrix.reshape(4, C, N)
    loss, gone = (
        gr.susceptibility(joint, gr.loss(AT, LABELS), gr.reweight()).matrix,
        gr.finite_response(joint, gr.loss(AT, LABELS), gr.delete([3, 17])).matrix,
    )
    for c, one in enumerate(each):
        torch.testing.assert_close(cov[:, c, :, c], one.cov(AT), rtol=1e-10, atol=1e-12)
        assert float(cov[:, c, :, 1 - c].abs().max()) <= 1e-14
        torch.testing.assert_close(
            value[:, c], gr.susceptibility(one, gr.value(AT), gr.reweight()).matrix, rtol=1e-9, atol=1e-11
        )
        loss = loss - gr.susceptibility(one, gr.loss(AT, LABELS[:, c]), gr.reweight()).matrix
        gone = gone - gr.finite_response(one, gr.loss(AT, LABELS[:, c]), gr.delete([3, 17])).matrix
    assert float(loss.abs().max()) <= 1e-10
    assert float(gone.abs().max()) <= 1e-10
    assert float(joint.log_evidence()) == pytest.approx(sum(float(one.log_evidence()) for one in each), abs=1e-9)


@pytest.mark.parametrize("solver", [gr.Dense(), gr.CG(tolerance=1e-12), gr.Lanczos(rank=24, storage="float64")])
def test_batches_do_not_matter(solver):
    found = [posterior(solver=solver, batch_size=b) for b in (1, 7, N)]
    for asked in (gr.value(AT), gr.loss(AT, LABELS)):
        first, *others = (gr.susceptibility(p, asked, gr.reweight()).matrix for p in found)
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", [COARSE, gr.Lanczos(rank=16, block=4), gr.CG(tolerance=1e-2)])
def test_answers_are_inside_their_errors(solver):
    exact, found = posterior(), posterior(solver=solver)
    for name in ("value", "loss", "variance", "contrast", "value of one output"):
        for perturbation, h in list(PERTURBATIONS.values())[:7]:
            one, other = (gr.susceptibility(p, OBSERVABLES[name], perturbation) for p in (exact, found))
            assert bool(((one.matrix - other.matrix).abs() <= one.error + other.error).all()), (name, perturbation.kind)
            if solver == COARSE:  # encloses variances too loosely to say what is left of a set's
                continue
            one, other = (gr.finite_response(p, OBSERVABLES[name], perturbation, h=h) for p in (exact, found))
            assert bool(((one.matrix - other.matrix).abs() <= one.error + other.error).all()), (name, perturbation.kind)


@pytest.mark.parametrize("precision", [None, "float32"])
@pytest.mark.parametrize("solver", [gr.Dense(), gr.CG(tolerance=1e-4)])
def test_float32_networks_are_inside_their_errors(precision, solver):
    import copy

    single, data = copy.deepcopy(NET).float(), tuple(part.float() for part in (X, Y, RHO))
    found = posterior(single, data, precision=precision, solver=solver)
    exact = posterior(single.double(), tuple(part.double() for part in data))
    at, labels = AT.float(), LABELS.float()
    for perturbation in (gr.reweight(), gr.relabel([3]), gr.delete([3, 17])):
        for asked, same in (
            (gr.value(at), gr.value(at.double())),
            (gr.loss(at, labels), gr.loss(at.double(), labels.double())),
        ):
            chi, truth = gr.susceptibility(found, asked, perturbation), gr.susceptibility(exact, same, perturbation)
            assert chi.matrix.dtype == torch.float32
            off = (chi.matrix.double() - truth.matrix).abs()
            assert bool((off <= chi.error.double() + truth.error).all())
            assert float(off.max()) <= 1e-3 * float(truth.matrix.abs().max())


def test_other_weights_are_the_same_model_conditioned_again():
    weights = torch.linspace(0.0, 2.0, N).double()
    again, ridge = posterior().reweighted(weights), Ridge(NET, X, Y, RHO)
    mean, variance = ridge.read(NET, AT, weights=weights)
    torch.testing.assert_close(again.mean(AT), mean, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(again.variance(AT), variance, rtol=1e-8, atol=1e-10)
    chi = gr.susceptibility(again, gr.value(AT), gr.reweight([4]))
    refit = gr.refit_response(posterior().head, again.data, gr.value(AT), gr.reweight([4]))
    torch.testing.assert_close(chi.matrix, refit.matrix, rtol=1e-7, atol=1e-9)


def test_the_rest_of_the_response_module_reads_them(tmp_path):
    found, ridge, h = posterior(), Ridge(NET, X, Y, RHO), 1e-3
    asked, moved = gr.value(AT), gr.reweight([2, 9])
    bent = gr.second_response(found, asked, moved).matrix[:, 0, 1]
    one, other = (torch.nn.functional.one_hot(torch.tensor(i), N).double() for i in (2, 9))
    corners = [
        s * t * ridge.read(NET, AT, weights=RHO + h * (s * one + t * other))[0].flatten()
        for s in (1.0, -1.0)
        for t in (1.0, -1.0)
    ]
    torch.testing.assert_close(bent, sum(corners) / (4 * h * h), rtol=1e-4, atol=1e-7)
    chi = gr.susceptibility(found, gr.loss(AT, LABELS), moved)
    fluctuation = gr.fluctuation(found, gr.loss(AT, LABELS), moved)
    torch.testing.assert_close(fluctuation.matrix, chi.matrix, rtol=1e-9, atol=1e-11)
    by_label = gr.susceptibility(found, asked, gr.relabel()).matrix
    deviation = gr.noise_response(found, asked).deviation
    torch.testing.assert_close(deviation, (by_label.square() * NOISE).sum(dim=1).sqrt(), rtol=1e-9, atol=1e-11)
    stored = gr.susceptibility(found, gr.loss(AT, LABELS), moved, out=tmp_path / "chi.zarr")
    torch.testing.assert_close(stored[:], chi.matrix)
    torch.testing.assert_close(gr.predict(found, found.every(AT)).mean, NET(AT).detach().flatten())
    head = posterior(parameters="head")
    clamped = gr.restrict(found, "2")
    torch.testing.assert_close(clamped.cov(AT), head.cov(AT), rtol=1e-10, atol=1e-12)


def test_the_evidence_chooses_the_prior():
    found = posterior(prior_precision="evidence", beta=1.0).prior_choice
    curvature = torch.einsum("n,ncp,ncq->pq", RHO / NOISE, *(jacobian(NET, X),) * 2)
    values = torch.linalg.eigvalsh(curvature).clamp_min(0.0)
    size = sum(p.square().sum() for p in NET.parameters()).item()
    effective = float((values / (values + found.precision)).sum())
    assert effective == pytest.approx(found.precision * size, rel=1e-8)


def test_patterning_moves_samples_whole():
    chi = gr.susceptibility(posterior(), gr.value(AT[:1]), gr.reweight())
    wanted = torch.tensor([0.02, -0.01]).double()
    found = gr.pattern(chi, wanted, bounds=(0, 3))
    per_sample = found.weights.reshape(N, C)
    assert torch.equal(per_sample[:, 0], per_sample[:, 1])
    moved = Ridge(NET, X, Y, RHO).read(NET, AT[:1], weights=per_sample[:, 0])[0] - NET(AT[:1]).detach()
    torch.testing.assert_close(moved[0], wanted, rtol=1e-3, atol=1e-5)


def test_counts_of_several_outputs_are_the_refit_of_the_linear_model():
    counts = torch.poisson(Y.exp()).double()
    found = posterior(data=(X, counts, RHO), likelihood=gr.Poisson())
    some, labels = gr.insert(AT[:2] + 0.2, counts[:2]), counts[:4]
    for asked in (gr.value(AT), gr.loss(AT, labels), gr.variance(AT)):
        for perturbation in (gr.reweight(), gr.reweight({"a": [1, 2]}), gr.delete([3, 17]), some, gr.temperature()):
            chi = gr.susceptibility(found, asked, perturbation)
            refit = gr.refit_response(found.head, found.data, asked, perturbation)
            size, off = float(refit.matrix.abs().max()), (chi.matrix - refit.matrix).abs()
            assert float(off.max()) <= 1e-6 * size
            assert bool((off <= chi.error + 30.0 * refit.error + 1e-7 * size).all())


def test_rows_of_samples_are_the_naive_ones():
    y = torch.tensor([[1.0, -100.0, 2.0], [0.0, 1.0, 1.0], [-100.0, -100.0, 3.0]])
    data = by_label(X[:3], y, shape=(3,), names=["token"], ignored=-100.0)
    assert data.train.samples == 3
    assert data.train.sample.tolist() == [0, -1, 0, 1, 1, 1, -1, -1, 2]
    at, which = data.train.rows_of(torch.tensor([2, 0, 2]))
    assert at.tolist() == [8, 0, 2, 8]
    assert which.tolist() == [0, 1, 1, 2]
    torch.testing.assert_close(data.train.x[:, D:].flatten(), torch.arange(3.0).double().repeat(3))
    whole = samples_of(data)
    assert torch.equal(whole.x, X[:3])
    assert torch.equal(whole.given, y != -100.0)
    left = data.keep(data.train.sample > 0)
    assert left.train.sample.tolist() == [0, 0, 0, 1]
    assert left.train.rows.tolist() == [1, 1, 1, 2]
    assert data.fingerprint() != data.with_train(sample=data.train.sample.clamp_min(0)).fingerprint()
    assert with_places(X[:2], (2, 2))[:5, D:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 0]]
    with pytest.raises(gr.DataError, match="sample 1 has no label"):
        by_label(X[:2], torch.tensor([[1.0], [-100.0]]), shape=(1,), names=["token"], ignored=-100.0)


def test_what_does_not_fit_says_what_was_expected():
    found = posterior()
    for bad, message in (
        (lambda: posterior(data=(X, Y[:, 0])), r"labels are \(n, 2\).*they are \(n,\)"),
        (lambda: posterior(data=(X, torch.randn(N, 3))), r"labels are \(n, 2\).*they are \(n, 3\)"),
        (lambda: posterior(mlp(D, 4, 1), (X, Y)), r"labels are \(n,\).*they are \(n, 2\)"),
        (lambda: posterior(data=gr.dataset(X, Y[:, 0], standardise=False)), "give a pair"),
        (lambda: posterior(data=found.data), "the pair"),
        (lambda: posterior(data=(X, Y[:5])), "labels for every row"),
        (lambda: posterior(data=(X, Y.clone().fill_(float("nan")))), "nan"),
        (lambda: posterior(data=(X, [[1.0, 2.0], [1.0]])), "different lengths"),
        (lambda: posterior(data=(X.clone().fill_(float("inf")), Y)), "infinite"),
        (lambda: posterior(data=(X, Y, RHO[:3])), "one value for every row"),
        (lambda: posterior(solver=gr.Cholesky()), "of one output"),
        (lambda: gr.Gaussian(torch.tensor([0.1, 0.2])), "by the root of its own"),
        (lambda: found.mean(AT[:, :2]), r"expected \(n, 3\)"),
        (lambda: found.points(torch.cat([AT, torch.full((4, 1), 2.0)], dim=1)), "expected 0 to 1"),
        (lambda: gr.susceptibility(found, gr.value(AT[:, :2]), gr.reweight()), "3 columns and the output"),
        (lambda: gr.susceptibility(found, gr.loss(AT, LABELS[:, 0]), gr.reweight()), r"expected \(4, 2\)"),
        (lambda: gr.susceptibility(found, gr.value(AT), gr.insert(AT, LABELS[:, 0])), r"expected \(4, 2\)"),
        (lambda: gr.susceptibility(found, gr.value(AT), gr.insert(ONE, LABELS[:2])), "4 columns"),
        (lambda: gr.susceptibility(found, gr.value(AT), gr.reweight([N])), f"rows 0 to {N - 1}"),
        (lambda: gr.susceptibility(found, gr.value(AT), gr.shift_inputs([0.0, 0, 0, 1])), r"expected \(3,\)"),
        (lambda: gr.susceptibility(found, gr.value(AT), gr.shift_inputs("output")), "there are x0, x1, x2"),
        (lambda: gr.susceptibility(found, gr.value(AT), gr.mixture(gr.dataset(X, Y[:, 0]))), "labels of shape"),
        (lambda: found.reweighted(torch.rand(N, C).flatten()), "one weight"),
        (lambda: gr.third_cumulant(found, [[0, 1, 2]]), "samples whole"),
    ):
        with pytest.raises(gr.InputError, match=message):
            bad()
    one = posterior(mlp(D, 4, 1), (X, Y[:, 0]))
    with pytest.raises(gr.InputError, match=r"expected \(4,\)"):
        gr.susceptibility(one, gr.loss(AT, LABELS), gr.reweight())
    with pytest.raises(gr.InputError, match=r"expected \(4,\)"):
        gr.susceptibility(one, gr.value(AT), gr.insert(AT, LABELS))
