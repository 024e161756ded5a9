"""Networks of several outputs for each token of a sequence: against matrices written out and refits of the linear model."""

import pytest
import torch
from networks import jacobian, mlp

import gp_response as gr
from gp_response.data import by_label, with_places

N, T, C, WORDS = 12, 4, 3, 7
PRIOR, BETA = 2.0, 1.2
NONE = -100


class Sequences(torch.nn.Module):
    """Each token sees the mean of those before it, and its own; outputs (n, T, C), or as `shape` has them."""

    def __init__(self, outputs, shape=(T, -1)):
        super().__init__()
        torch.manual_seed(3)
        self.table, self.last, self.shape = torch.nn.Embedding(WORDS, 4), torch.nn.Linear(4, outputs), shape

    def forward(self, x):
        seen = self.table(x)
        mean = seen.cumsum(dim=1) / torch.arange(1, T + 1, dtype=seen.dtype)[:, None]
        return self.last(torch.tanh(mean + 0.5 * seen)).reshape(len(x), *self.shape)


torch.manual_seed(1)
X, Y = torch.randint(0, WORDS, (N, T)), torch.randint(0, C, (N, T))
Y[0, 2:], Y[3, :3], Y[7, 1] = NONE, NONE, NONE
RHO = torch.rand(N).double() + 0.5
AT, LABELS = torch.randint(0, WORDS, (3, T)), torch.randint(0, C, (3, T))
LABELS[1, 1:3] = NONE
NET = Sequences(C).double()
SOLVERS = {"dense": gr.Dense(), "cg": gr.CG(tolerance=1e-12), "lanczos": gr.Lanczos(rank=60, storage="float64")}


def tokens(x):
    return x.double()


def classifier(net=NET, data=(X, Y, RHO), **options):
    options = {"likelihood": gr.Categorical(C), "prior_precision": PRIOR, "beta": BETA, **options}
    return gr.laplace(net, data, **options)


class Mode:
    """The linearised classifier in its parameters, whose mode is found again by Newton steps on a dense matrix."""

    def __init__(self, x, y, weights):
        self.j, self.f, self.y, self.weights = jacobian4(NET, x), NET(x).detach(), y, weights
        self.pull = -self.force(self.f, weights)

    def force(self, f, weights):
        given = (self.y != NONE).double()[:, :, None]
        one = torch.nn.functional.one_hot(self.y.clamp_min(0), C).double()
        return BETA * torch.einsum("n,ntcp,ntc->p", weights, self.j, given * (one - torch.softmax(f, dim=-1)))

    def precision(self, f, weights):
        p = torch.softmax(f, dim=-1) * (self.y != NONE).double()[:, :, None]
        bend = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
        found = BETA * torch.einsum("n,ntcp,ntcd,ntdq->pq", weights, self.j, bend, self.j)
        return found + PRIOR * torch.eye(len(found)).double()

    def found(self, weights):
        """θ - θ* of the mode, (P,)."""
        move = torch.zeros(self.j.shape[-1]).double()
        for _ in range(12):
            f = self.f + self.j @ move
            slope = self.force(f, weights) + self.pull - PRIOR * move
            move = move + torch.linalg.solve(self.precision(f, weights), slope)
        return move


def jacobian4(net, x):
    """J (n, T, C, P)."""
    flat = torch.nn.Sequential(net, torch.nn.Flatten())
    return jacobian(flat, x).reshape(len(x), T, -1, sum(p.numel() for p in net.parameters()))


def each_loss(f, y):
    chosen = torch.log_softmax(f, dim=-1).gather(-1, y.clamp_min(0)[..., None])[..., 0]
    return -torch.where(y != NONE, chosen, 0.0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_covariances_are_the_matrix_written_out(solver):
    found, mode = classifier(solver=SOLVERS[solver]), Mode(X, Y, RHO)
    outside, precision = jacobian4(NET, AT), mode.precision(mode.f, RHO)
    truth = torch.einsum("atcp,pq,bsdq->atcbsd", outside, torch.linalg.inv(precision), outside)
    at = tokens(AT)
    torch.testing.assert_close(found.cov(at), truth, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.mean(at), NET(AT).detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.variance(at), torch.einsum("atcatc->atc", truth), rtol=1e-8, atol=1e-8)
    ggn = gr.ggn(NET, gr.curvature.rows.Rows(X, Y, RHO), likelihood=gr.Categorical(C), beta=BETA).dense()
    torch.testing.assert_close(precision, ggn + PRIOR * torch.eye(len(ggn)).double(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_responses_are_those_of_the_mode_found_again(solver):
    found, mode, h, at = classifier(solver=SOLVERS[solver]), Mode(X, Y, RHO), 1e-4, tokens(AT)
    outside, start = jacobian4(NET, AT), NET(AT).detach()
    value = gr.susceptibility(found, gr.value(at), gr.reweight())
    loss = gr.susceptibility(found, gr.loss(at, LABELS), gr.reweight())
    assert value.shape == (3 * T * C, N)
    assert loss.shape == (3, N)
    assert value.rows[:4] == tuple(f"value[0], token {t}, class {c}" for t, c in ((0, 0), (0, 1), (0, 2), (1, 0)))
    masks = LABELS[:1].repeat(T, 1).where(torch.eye(T, dtype=torch.bool), NONE)
    single = gr.susceptibility(found, gr.loss(at[:1].repeat(T, 1), masks), gr.reweight())
    for i in (0, 3, 5):
        unit = torch.nn.functional.one_hot(torch.tensor(i), N).double()
        up, down = (start + outside @ mode.found(RHO + s * h * unit) for s in (1.0, -1.0))
        slopes = (each_loss(up, LABELS) - each_loss(down, LABELS)) / (2 * h)
        torch.testing.assert_close(value.matrix[:, i], ((up - down) / (2 * h)).flatten(), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(loss.matrix[:, i], slopes.sum(dim=1), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(single.matrix[:, i], slopes[0], rtol=1e-6, atol=1e-8)
    gone = gr.susceptibility(found, gr.loss(at, LABELS), gr.delete([3, 5])).matrix[:, 0]
    torch.testing.assert_close(gone, -loss.matrix[:, [3, 5]] @ RHO[[3, 5]], rtol=1e-8, atol=1e-10)
    whole = gr.susceptibility(found, gr.loss(at, LABELS), gr.temperature()).matrix[:, 0]
    torch.testing.assert_close(whole, loss.matrix @ RHO / BETA, rtol=1e-8, atol=1e-10)


def test_the_hessian_may_stand_for_the_ggn():
    found, rows = classifier(curvature="hessian", prior_precision=20.0), gr.curvature.rows.Rows(X, Y, RHO)
    hessian = gr.hessian(NET, rows, likelihood=gr.Categorical(C), beta=BETA).dense()
    outside = jacobian4(NET, AT).flatten(0, 2)
    truth = outside @ torch.linalg.solve(hessian + 20.0 * torch.eye(len(hessian)).double(), outside.T)
    torch.testing.assert_close(found.cov(tokens(AT)).reshape(truth.shape), truth, rtol=1e-8, atol=1e-9)


def test_a_sequence_put_in_is_one_reweighted_from_nothing():
    kept = torch.tensor([i for i in range(N) if i != 3])
    weights = RHO.clone()
    weights[3] = 0.0
    lacking, with_none = classifier(data=(X[kept], Y[kept], RHO[kept])), classifier(data=(X, Y, weights))
    asked = gr.loss(tokens(AT), LABELS)
    put = gr.susceptibility(lacking, asked, gr.insert(tokens(X[3:4]), Y[3:4]))
    grown = gr.susceptibility(with_none, asked, gr.reweight([3]))
    torch.testing.assert_close(put.matrix, grown.matrix, rtol=1e-9, atol=1e-11)


def test_points_may_name_the_token_and_the_class():
    found = classifier()
    whole = gr.susceptibility(found, gr.value(tokens(AT)), gr.reweight()).matrix.reshape(3, T, C, N)
    token = torch.cat([tokens(AT), torch.tensor([[2.0], [0.0], [1.0]]).double()], dim=1)
    every = gr.susceptibility(found, gr.value(token), gr.reweight()).matrix.reshape(3, C, N)
    torch.testing.assert_close(every, whole[torch.arange(3), [2, 0, 1]], rtol=1e-10, atol=1e-12)
    one = torch.cat([token, torch.tensor([[1.0], [2.0], [0.0]]).double()], dim=1)
    single = gr.susceptibility(found, gr.value(one), gr.reweight()).matrix
    torch.testing.assert_close(single, whole[torch.arange(3), [2, 0, 1], [1, 2, 0]], rtol=1e-10, atol=1e-12)


def test_a_single_token_is_a_row_of_a_classifier():
    class Single(torch.nn.Module):
        def __init__(self, axes):
            super().__init__()
            self.net, self.axes = mlp(3, 5, C), axes

        def forward(self, x):
            return self.net(x).reshape(len(x), *self.axes)

    x, y = torch.randn(N, 3).double(), torch.arange(N) % C
    long = classifier(Single((1, C)), (x, y[:, None], RHO))
    plain = classifier(Single((C,)), (x, y, RHO))
    torch.testing.assert_close(long.cov(x[:2]).reshape(2, C, 2, C), plain.cov(x[:2]), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(long.predictive(x).reshape(N, C), plain.predictive(x), rtol=1e-10, atol=1e-12)
    for one, other in (
        (gr.loss(x[:2], y[:2, None]), gr.loss(x[:2], y[:2])), (gr.average(x[:4]), gr.average(x[:4]))
    ):  # fmt: skip
        for perturbation in (gr.reweight(), gr.delete([1, 2]), gr.temperature()):
            a, b = (gr.susceptibility(p, asked, perturbation) for p, asked in ((long, one), (plain, other)))
            torch.testing.assert_close(a.matrix, b.matrix, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("solver", [gr.Dense(), gr.CG(tolerance=1e-12), gr.Lanczos(rank=24, storage="float64")])
def test_batches_do_not_matter(solver):
    found = [classifier(solver=solver, batch_size=b) for b in (1, 7, N)]
    for asked in (gr.value(tokens(AT)), gr.loss(tokens(AT), LABELS)):
        first, *others = (gr.susceptibility(p, asked, gr.reweight()).matrix for p in found)
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", [gr.Lanczos(rank=4, block=2), gr.Lanczos(rank=12, block=4), gr.CG(tolerance=1e-2)])
def test_answers_are_inside_their_errors(solver):
    exact, found, at = classifier(), classifier(solver=solver), tokens(AT)
    for asked in (gr.value(at), gr.loss(at, LABELS), gr.contrast(at[:2], at[1:])):
        for perturbation in (gr.reweight(), gr.delete([3, 5]), gr.insert(at, LABELS), gr.temperature()):
            one, other = (gr.susceptibility(p, asked, perturbation) for p in (exact, found))
            assert bool(((one.matrix - other.matrix).abs() <= one.error + other.error).all()), perturbation.kind


def test_float32_networks_are_inside_their_errors():
    found = classifier(Sequences(C), (X, Y), precision="float32")
    exact = classifier(Sequences(C).double(), (X, Y))
    for asked in (gr.value(tokens(AT)), gr.loss(tokens(AT), LABELS)):
        one, other = (gr.susceptibility(p, asked, gr.reweight()) for p in (exact, found))
        off = (one.matrix - other.matrix.double()).abs()
        assert bool((off <= one.error + other.error.double()).all())
        assert float(off.max()) <= 1e-3 * float(one.matrix.abs().max())


NUMBERS = {"(T,)": (1, (T,)), "(T, 1)": (1, (T, 1)), "(T, C)": (2, (T, 2))}


@pytest.mark.parametrize("shape", NUMBERS)
def test_numbers_for_every_token_are_the_refit_of_the_linear_model(shape):
    outputs, axes = NUMBERS[shape]
    net = Sequences(outputs, axes).double()
    y, labels = torch.randn(N, T, outputs).double(), torch.randn(3, T, outputs).double()
    y, labels = (part.reshape(len(part), *axes) for part in (y, labels))
    if shape == "(T, 1)":  # labels may lack the last axis
        y, labels = y[..., 0], labels[..., 0]
    found = gr.laplace(net, (X, y, RHO), likelihood=gr.Gaussian(0.3), prior_precision=PRIOR, beta=BETA)
    at, inside, outside = tokens(AT), jacobian4(net, X), jacobian4(net, AT)
    precision = BETA / 0.3 * torch.einsum("n,ntcp,ntcq->pq", RHO, inside, inside)
    precision += PRIOR * torch.eye(len(precision)).double()
    truth = torch.einsum("atcp,pq,bsdq->atcbsd", outside, torch.linalg.inv(precision), outside)
    torch.testing.assert_close(found.cov(at), truth.reshape(3, *axes, 3, *axes), rtol=1e-8, atol=1e-9)
    for asked in (gr.value(at), gr.loss(at, labels), gr.variance(at)):
        for perturbation in (gr.reweight([0, 4]), gr.relabel([1]), gr.delete([3, 5]), gr.insert(at[:2], labels[:2])):
            chi, refit = (
                gr.susceptibility(found, asked, perturbation),
                gr.refit_response(found.head, found.data, asked, perturbation),
            )
            torch.testing.assert_close(chi.matrix, refit.matrix, rtol=1e-6, atol=1e-8)
            finite, refit = (
                gr.finite_response(found, asked, perturbation, h=0.5),
                gr.refit_response(found.head, found.data, asked, perturbation, h=0.5),
            )
            torch.testing.assert_close(finite.matrix, refit.matrix, rtol=1e-7, atol=1e-9)


def test_tokens_of_two_classes_may_have_no_label():
    y = torch.where(Y == NONE, NONE, (Y > 0).long())
    net = Sequences(1, (T,)).double()
    found = gr.laplace(net, (X, y, RHO), likelihood=gr.Bernoulli(), prior_precision=PRIOR, beta=BETA)
    at, labels = tokens(AT), torch.where(LABELS == NONE, NONE, (LABELS > 0).long())
    for asked in (gr.value(at), gr.loss(at, labels)):
        for perturbation in (gr.reweight(), gr.delete([3, 5]), gr.temperature()):
            chi = gr.susceptibility(found, asked, perturbation)
            refit = gr.refit_response(found.head, found.data, asked, perturbation)
            torch.testing.assert_close(chi.matrix, refit.matrix, rtol=1e-6, atol=1e-7)
            off = (chi.matrix - refit.matrix).abs()
            assert bool((off <= chi.error + 30.0 * refit.error + 1e-7 * float(refit.matrix.abs().max())).all())


def test_what_does_not_fit_says_what_was_expected():
    found, at = classifier(), tokens(AT)
    for bad, message in (
        (lambda: classifier(data=(X, Y[:, 0])), r"labels are \(n, 4\).*they are \(n,\)"),
        (lambda: classifier(likelihood=gr.Categorical(5)), "a number for each class"),
        (lambda: classifier(data=(X, Y + 1)), "a class, 0 to 2"),
        (lambda: classifier(data=(X, torch.full_like(Y, NONE))), "sample 0 has no label"),
        (lambda: classifier(solver=gr.Cholesky()), "of one output"),
        (lambda: gr.susceptibility(found, gr.loss(at, LABELS[:, 0]), gr.reweight()), r"expected \(3, 4\)"),
        (lambda: gr.susceptibility(found, gr.loss(at, LABELS * 0 + NONE), gr.reweight()), "loss got sample 0 without"),
        (
            lambda: gr.susceptibility(found, gr.value(at), gr.insert(at, LABELS * 0 + NONE)),
            "insert got sample 0 without",
        ),
        (lambda: gr.susceptibility(found, gr.variance(at), gr.reweight()), "several classes"),
        (lambda: gr.susceptibility(found, gr.value(at), gr.relabel()), "classes cannot"),
        (lambda: gr.influence(found), "several classes"),
        (lambda: found.points(with_places(at, (T + 1, C))), "expected 0 to 3 and 2"),
        (lambda: found.mean(at[:, :2]), r"expected \(n, 4\)"),
        (lambda: by_label(X, Y, shape=(T, 2), names=["a", "b"]), r"expected \(12, 4, 2\)"),
    ):
        with pytest.raises(gr.InputError, match=message):
            bad()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_classifier_of_tokens_is_conditioned_on_other_weights_at_its_mode(solver):
    found, mode, at = classifier(solver=SOLVERS[solver]), Mode(X, Y, RHO), tokens(AT)
    weights = RHO * torch.linspace(0.0, 2.0, N).double()
    theta = mode.found(weights)
    moved = found.reweighted(weights)
    torch.testing.assert_close(moved.mean(at), NET(AT).detach() + jacobian4(NET, AT) @ theta, rtol=1e-9, atol=1e-10)
    outside, precision = jacobian4(NET, AT), mode.precision(mode.f + mode.j @ theta, weights)
    truth = torch.einsum("atcp,pq,bsdq->atcbsd", outside, torch.linalg.inv(precision), outside)
    torch.testing.assert_close(moved.cov(at), truth, rtol=1e-8, atol=1e-8)


def test_refits_of_a_classifier_of_tokens_are_its_responses():
    found = classifier(solver=gr.Dense())
    for asked in (gr.value(tokens(AT)), gr.loss(tokens(AT), LABELS)):
        chi = gr.susceptibility(found, asked, gr.reweight([0, 3, 5]))
        refit = gr.refit_response(found.head, found.data, asked, gr.reweight([0, 3, 5]))
        torch.testing.assert_close(refit.matrix, chi.matrix, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_finite_changes_of_a_classifier_of_tokens_are_those_of_its_mode(solver):
    found, at = classifier(solver=SOLVERS[solver]), tokens(AT)
    outside, start = jacobian4(NET, AT), NET(AT).detach()

    def truth(mode, weights):
        f = start + outside @ mode.found(weights)
        return (f - start).flatten(), (each_loss(f, LABELS) - each_loss(start, LABELS)).sum(dim=1)

    gone = RHO.clone()
    gone[[3, 5]] = 0.0
    heavy = RHO + 3.0 * torch.nn.functional.one_hot(torch.tensor(7), N)
    for perturbation, h, weights in (
        (gr.delete([3, 5]), 1.0, gone),
        (gr.reweight([7]), 3.0, heavy),
    ):
        for asked, expected in zip((gr.value(at), gr.loss(at, LABELS)), truth(Mode(X, Y, RHO), weights), strict=True):
            change = gr.finite_response(found, asked, perturbation, h=h)
            off = (change.matrix[:, 0] - expected).abs()
            assert bool((off <= change.error[:, 0] + 1e-11).all())
            assert float(off.max()) <= 1e-8
    i = next(i for i in range(N) if bool((Y[i] < C - 1).all() & (Y[i] >= 0).all()))
    moved = gr.finite_response(found, gr.loss(at, LABELS), gr.relabel([i]))
    assert moved.shape == (3, T)
    for t in range(T):
        mode = Mode(X, Y, RHO)
        mode.y = Y.clone()
        mode.y[i, t] += 1
        off = (moved.matrix[:, t] - truth(mode, RHO)[1]).abs()
        assert bool((off <= moved.error[:, t] + 1e-11).all())
        assert float(moved.matrix[:, t].abs().max()) > 1e-3
