"""What is read of whole samples where they have several labels: against matrices written out, refits and draws."""

import copy

import pytest
import torch
from networks import Apart, jacobian, mlp

import gp_response as gr
from gp_response.data import rows_by_sample, sample_weights
from gp_response.posterior import Certified
from gp_response.response.blocks import DefiniteBlocks
from gp_response.testing import check_influence

torch.manual_seed(0)
N, D, C = 24, 3, 3
X, RHO = torch.randn(N, D).double(), torch.rand(N).double() + 0.5
RHO[[4, 9]] = 0.0
NET = mlp(D, 6, C)
Y = NET(X).detach() + 0.4 * torch.randn(N, C).double()
AT, LABELS = torch.randn(4, D).double(), torch.randn(4, C).double()
NOISE, PRIOR, BETA = 0.2, 2.0, 1.2
LOG = torch.tensor(2.0 * torch.pi * NOISE, dtype=torch.float64).log()
SOLVERS = {"dense": gr.Dense(), "cg": gr.CG(tolerance=1e-11), "lanczos": gr.Lanczos(rank=90, storage="float64")}


def posterior(net=NET, data=(X, Y, RHO), **options):
    options = {"likelihood": gr.Gaussian(NOISE), "prior_precision": PRIOR, "beta": BETA, **options}
    return gr.laplace(net, data, **options)


class Written:
    """The linearised network as matrices: S among all labels (n, C, n, C), residuals (n, C)."""

    def __init__(self, net, x, y, weights, *, names=None, prior=PRIOR, beta=BETA, noise=NOISE):
        self.j, self.f, self.y, self.weights = jacobian(net, x, names).detach(), net(x).detach(), y, weights
        self.prior, self.beta, self.noise = prior, beta, noise
        self.cov = torch.linalg.inv(self._precision(weights))
        self.s = torch.einsum("acp,pq,bdq->acbd", self.j, self.cov, self.j)
        self.r = y - self.f

    def _precision(self, weights):
        found = self.beta / self.noise * torch.einsum("n,ncp,ncq->pq", weights, self.j, self.j)
        return found + self.prior * torch.eye(self.j.shape[2]).double()

    def without(self, i):
        """Means and covariance of a sample's labels in a fit of all the others, by its own normal equations."""
        pull = -self.beta / self.noise * torch.einsum("n,ncp,nc->p", self.weights, self.j, self.r)
        left = self.weights.clone()
        left[i] = 0.0
        force = self.beta / self.noise * torch.einsum("n,ncp,nc->p", left, self.j, self.r)
        precision = self._precision(left)
        mean = self.f[i] + self.j[i] @ torch.linalg.solve(precision, force + pull)
        return mean, self.j[i] @ torch.linalg.solve(precision, self.j[i].T)

    def influence(self):
        linear = torch.einsum("ac,acbd,bd->ab", self.r, self.s, self.r)
        return (linear + 0.5 * self.s.square().sum(dim=(1, 3))) / self.noise**2


def within(value, error, truth, slack=1e-11):
    off = (value - truth).abs()
    assert bool((off <= error + slack * (1.0 + truth.abs().max())).all()), float((off - error).max())


@pytest.mark.parametrize("method", ["exact", "low-rank", "sampled"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_influence_is_the_matrix_written_out(solver, method):
    written, w = Written(NET, X, Y, RHO).influence(), gr.influence(posterior(solver=SOLVERS[solver]), method=method)
    assert w.shape == (N, N)
    rows = w.rows(range(N))
    within(rows.value, rows.error, written)
    assert float((rows.value - written).abs().max()) <= 1e-7 * float(written.max())
    variances = w.variances()
    within(variances.value, variances.error, written.diagonal())
    v = torch.randn(N, 3).double()
    found = w.product(v)
    within(found.value, found.error + 6.0 * found.standard_error, written @ v)
    if method == "exact":
        torch.testing.assert_close(w @ v, written @ v, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(w[3:5, 7].to_dense(), written[3:5, 7], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_influence_obeys_its_law(solver):
    check_influence(gr.influence(posterior(solver=SOLVERS[solver])), tolerance=1e-6)


def test_what_reads_the_influence_counts_samples():
    w, written = gr.influence(posterior()), Written(NET, X, Y, RHO).influence()
    values, vectors = torch.linalg.eigh(written)
    modes = w.eigenmodes(3)
    torch.testing.assert_close(modes.values, values.flip(0)[:3], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close((modes.vectors[:, 0] @ vectors[:, -1]).abs().item(), 1.0, rtol=1e-5, atol=0)
    assert w.components(2).coordinates.shape == (N, 2)
    chosen = w.representatives(4)
    assert int(chosen.rows[0]) == int(written.diagonal().argmax())
    left = written.clone()
    for k, row in enumerate(chosen.rows.tolist()):
        left = left - left[:, row, None] * left[row] / left[row, row]
        assert float(chosen.left[k]) == pytest.approx(float(left.trace() / written.trace()), rel=1e-6)
    assert gr.cluster(w, 3).labels.shape == (N,)
    chi = gr.susceptibility(posterior(), gr.value(AT), gr.reweight())
    moved = chi.matrix * RHO
    moved = moved - moved.mean(dim=1, keepdim=True)
    torch.testing.assert_close(gr.jackknife_covariance(chi).value, moved @ moved.T)


def test_covariances_of_losses_are_those_of_draws():
    """Monte Carlo over parameters, with nothing of the formula: every entry within six of its own standard errors."""
    written, draws = Written(NET, X, Y, RHO), 200_000
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(written.cov)
    theta = torch.randn(draws, len(root), generator=generator, dtype=torch.float64) @ root.T
    some = [0, 4, 11]
    field = written.f[some] + torch.einsum("ncp,dp->dnc", written.j[some], theta)
    log_p = -0.5 * (LOG + (Y[some] - field).square() / NOISE).sum(dim=2)
    centred = log_p - log_p.mean(dim=0)
    w, criteria = gr.influence(posterior()), gr.waic(posterior())
    for a, i in enumerate(some):
        for b, j in enumerate(some):
            each = centred[:, a] * centred[:, b]
            assert abs(float(each.mean()) - float(w[i, j])) <= 6.0 * float(each.std()) / draws**0.5
        assert float(criteria.functional_variance[i]) == pytest.approx(float(w[i, i]), rel=1e-9)
        assert abs(float(-log_p[:, a].mean() - criteria.loss[i])) <= 6.0 * float(log_p[:, a].std()) / draws**0.5
        density = log_p[:, a].exp()
        spread = 6.0 * float(density.std()) / draws**0.5
        assert abs(float(density.mean()) - float(criteria.log_density[i].exp())) <= spread


@pytest.mark.parametrize("solver", SOLVERS)
def test_criteria_are_those_written_out(solver):
    found, written = gr.waic(posterior(solver=SOLVERS[solver])), Written(NET, X, Y, RHO)
    own = torch.stack([written.s[i, :, i] for i in range(N)])
    normal = torch.distributions.MultivariateNormal(torch.zeros(C).double(), own + NOISE * torch.eye(C).double())
    truth = {
        "log_density": normal.log_prob(written.r),
        "functional_variance": written.influence().diagonal(),
        "loss": 0.5 * (LOG + (written.r.square() + own.diagonal(dim1=1, dim2=2)) / NOISE).sum(dim=1),
    }
    truth["correction"] = BETA * RHO * truth["functional_variance"]
    truth["elpd"] = truth["log_density"] - truth["correction"]
    truth["pcic"] = truth["loss"] + truth["correction"]
    for name, value in truth.items():
        within(getattr(found, name), getattr(found, f"{name}_error"), value)
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-6, atol=1e-7)
    assert found.waic == pytest.approx(-float(truth["elpd"].sum()), rel=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_left_out_are_those_of_refits(solver):
    found, written = gr.leave_one_out(posterior(solver=SOLVERS[solver])), Written(NET, X, Y, RHO)
    assert found.mean.shape == (N * C,)
    assert found.log_density.shape == (N,)
    for i in range(N):
        mean, cov = written.without(i)
        mine, weight = slice(i * C, (i + 1) * C), float(RHO[i]) or 1.0
        within(found.mean[mine], found.mean_error[mine], mean)
        within(found.residual[mine], found.residual_error[mine], Y[i] - mean)
        within(found.variance[mine], found.variance_error[mine], cov.diagonal())
        total = cov + NOISE / (BETA * weight) * torch.eye(C).double()
        density = torch.distributions.MultivariateNormal(mean, total).log_prob(Y[i])
        within(found.log_density[i], found.log_density_error[i], density)
        torch.testing.assert_close(found.mean[mine], mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found.variance[mine], cov.diagonal(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found.log_density[i], density, rtol=1e-6, atol=1e-6)
    if solver == "dense":
        assert found.exact
        assert float(found.log_density_error.max()) < 1e-9


def test_outputs_that_share_nothing_add_up():
    net = Apart(D)
    nets, together = net.nets, posterior(net, (X, Y[:, :2], RHO))
    each = [posterior(net, gr.dataset(X, Y[:, c], weights=RHO, standardise=False)) for c, net in enumerate(nets)]
    close = {"rtol": 1e-8, "atol": 1e-10}
    one, other = gr.waic(together), [gr.waic(p) for p in each]
    for name in ("log_density", "functional_variance", "loss", "correction", "elpd", "pcic"):
        torch.testing.assert_close(getattr(one, name), sum(getattr(part, name) for part in other), **close)
    one, other = gr.leave_one_out(together), [gr.leave_one_out(p) for p in each]
    torch.testing.assert_close(one.log_density, sum(part.log_density for part in other), **close)
    for name in ("mean", "variance", "residual"):
        torch.testing.assert_close(
            getattr(one, name), torch.stack([getattr(part, name) for part in other], dim=1).flatten(), **close
        )
    dense = sum(gr.influence(p).to_dense() for p in each)
    torch.testing.assert_close(gr.influence(together).to_dense(), dense, **close)


@pytest.mark.parametrize("solver", [gr.Lanczos(rank=40, block=4), gr.Lanczos(rank=8, block=2), gr.CG(tolerance=1e-2)])
def test_answers_are_inside_their_errors(solver):
    found, written = posterior(solver=solver), Written(NET, X, Y, RHO)
    w, truth = gr.influence(found), written.influence()
    rows, variances = w.rows(range(N)), w.variances()
    within(rows.value, rows.error, truth)
    within(variances.value, variances.error, truth.diagonal())
    exact, rough = gr.waic(posterior()), gr.waic(found)
    for name in ("log_density", "functional_variance", "loss", "elpd", "pcic"):
        within(getattr(rough, name), getattr(rough, f"{name}_error"), getattr(exact, name))
    exact, rough = gr.leave_one_out(posterior()), gr.leave_one_out(found)
    for name in ("mean", "variance", "residual", "log_density"):
        value, error = getattr(rough, name), getattr(rough, f"{name}_error")
        known = error.isfinite()
        within(value[known], error[known], getattr(exact, name)[known])
    assert bool(known.any()) or solver != gr.CG(tolerance=1e-2)


def test_float32_networks_are_inside_their_errors():
    data = tuple(part.float() for part in (X, Y, RHO))
    single = copy.deepcopy(NET).float()
    found, exact = (
        posterior(single, data, precision="float32"),
        posterior(copy.deepcopy(single).double(), tuple(d.double() for d in data)),
    )
    for reader, names in (
        (gr.waic, ("log_density", "functional_variance", "loss", "elpd")),
        (gr.leave_one_out, ("mean", "variance", "residual", "log_density")),
    ):
        one, other = reader(found), reader(exact)
        for name in names:
            value, truth = getattr(one, name).double(), getattr(other, name)
            assert bool(((value - truth).abs() <= getattr(one, f"{name}_error").double()).all()), name
            torch.testing.assert_close(value, truth, rtol=1e-3, atol=1e-3)
    one, other = (gr.influence(p) for p in (found, exact))
    rows = one.rows(range(N))
    assert bool(((rows.value.double() - other.to_dense()).abs() <= rows.error.double()).all())


def test_many_samples_are_read_a_block_at_a_time():
    """900 samples of two labels: more than are solved for together, and than low-rank parts hold."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(900, D, generator=generator, dtype=torch.float64)
    net = mlp(D, 8, 2, seed=5)
    y = net(x).detach() + 0.3 * torch.randn(900, 2, generator=generator, dtype=torch.float64)
    weights = 0.5 + torch.rand(900, generator=generator, dtype=torch.float64)
    found, written = posterior(net, (x, y, weights)), Written(net, x, y, weights)
    truth = written.influence()
    torch.testing.assert_close(gr.waic(found).functional_variance, truth.diagonal(), rtol=1e-8, atol=1e-10)
    v = torch.randn(900, 2, generator=generator, dtype=torch.float64)
    for method in ("exact", "low-rank"):
        image = gr.influence(found, method=method).product(v)
        within(image.value, image.error, truth @ v)
    out = gr.leave_one_out(found)
    for i in (0, 255, 256, 899):
        mean, cov = written.without(i)
        torch.testing.assert_close(out.mean[2 * i : 2 * i + 2], mean, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(out.variance[2 * i : 2 * i + 2], cov.diagonal(), rtol=1e-8, atol=1e-10)


def test_samples_may_lack_labels():
    """The same process in function space, given all labels but some: samples of one, two and three."""
    found = posterior()
    kept = torch.ones(N * C, dtype=torch.bool)
    kept[[3, 10, 11, 40]] = False
    data = found.data.keep(kept)
    whole, ragged = found.head.condition(found.data), found.head.condition(data)
    sizes = sorted((rows.shape[1], len(samples)) for samples, rows in rows_by_sample(data.train))
    assert sizes == [(1, 1), (2, 2), (3, N - 3)]
    torch.testing.assert_close(sample_weights(data.train), RHO)
    for name in ("log_density", "functional_variance", "loss"):
        torch.testing.assert_close(getattr(gr.waic(whole), name), getattr(gr.waic(found), name), rtol=1e-7, atol=1e-8)
    dense, each, out = gr.influence(ragged), [], gr.leave_one_out(ragged)
    s, r = ragged.cov(data.train.x), ragged.residuals.value
    labels = (r[:, None] * r * s + 0.5 * s.square()) / NOISE**2
    sums = torch.zeros(N, len(data.train)).double()
    sums[data.train.sample, torch.arange(len(data.train))] = 1.0
    torch.testing.assert_close(dense.to_dense(), sums @ labels @ sums.T, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(dense.variances().value, (sums @ labels @ sums.T).diagonal(), rtol=1e-7, atol=1e-8)
    for i in (1, 3, 13):  # of two, one and two labels
        mine = data.train.sample == i
        rest = found.head.condition(data.with_train(weights=torch.where(mine, 0.0, data.train.weights)))
        torch.testing.assert_close(out.mean[mine], rest.mean(data.train.x[mine]), rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(out.variance[mine], rest.variance(data.train.x[mine]), rtol=1e-7, atol=1e-8)
        each.append(int(mine.sum()))
    assert each == [2, 1, 2]


def test_tokens_are_labels():
    class Running(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(2, 4, 1, seed=7)

        def forward(self, x):
            seen = x.reshape(len(x), -1, 2)
            return self.net(seen.cumsum(dim=1))[..., 0]

    x, y = torch.randn(N, 8).double(), torch.randn(N, 4).double()
    found = posterior(Running(), (x, y, RHO))
    written = Written(Running(), x, y, RHO)
    torch.testing.assert_close(gr.influence(found).to_dense(), written.influence(), rtol=1e-8, atol=1e-9)
    out, mean = gr.leave_one_out(found), written.without(2)[0]
    torch.testing.assert_close(out.mean.reshape(N, 4)[2], mean, rtol=1e-8, atol=1e-9)


NAMES = {"first": ["0.weight", "0.bias"], "last": ["2.weight", "2.bias"]}


@pytest.mark.parametrize("solver", SOLVERS)
def test_structural_responses_are_those_of_each_part_refitted(solver):
    """The derivative of the mean loss as refits of one part of the parameters alone, by dense solves, have it."""
    found = posterior(solver=SOLVERS[solver]).grouped(NAMES)
    chi, h = gr.structural(found, AT, LABELS), 1e-4
    assert chi.rows == ("first", "last")
    assert chi.shape == (2, N)
    free = gr.structural(found, AT, LABELS, clamped=False)
    assert free.shape == (2, N)
    for c, names in enumerate(NAMES.values()):
        there = jacobian(NET, AT, names).detach()

        def mean_loss(weights, names=names, there=there):
            part = Written(NET, X, Y, RHO, names=names)
            pull = torch.einsum("n,ncp,nc->p", RHO, part.j, part.r)
            force = BETA / NOISE * (torch.einsum("n,ncp,nc->p", weights, part.j, part.r) - pull)
            cov = torch.linalg.inv(part._precision(weights))
            mean = NET(AT).detach() + there @ (cov @ force)
            spread = torch.einsum("mcp,pq,mcq->mc", there, cov, there)
            return 0.5 * (LOG + ((LABELS - mean).square() + spread) / NOISE).sum(dim=1).mean()

        for i in (0, 7):
            unit = torch.nn.functional.one_hot(torch.tensor(i), N).double()
            slope = (mean_loss(RHO + h * unit) - mean_loss(RHO - h * unit)) / (2.0 * h)
            assert float(chi.matrix[c, i]) == pytest.approx(float(slope), rel=1e-5, abs=1e-7)
        # Free: the part's field in the posterior of all, by its covariance with every label.
        whole = Written(NET, X, Y, RHO)
        order = [name for name, _ in NET.named_parameters()]
        mine = torch.cat([torch.full((dict(NET.named_parameters())[n].numel(),), n in names) for n in order])
        across = torch.einsum("mcp,pq,ndq->mcnd", jacobian(NET, AT) * mine, whole.cov, whole.j)
        truth = (
            -BETA
            * (
                torch.einsum("mc,mcnd,nd->n", (LABELS - NET(AT).detach()), across, whole.r)
                + 0.5 * torch.einsum("mcnd->n", across.square())
            )
            / NOISE**2
            / len(AT)
        )
        torch.testing.assert_close(free.matrix[c], truth, rtol=1e-6, atol=1e-7)
        assert bool(((free.matrix[c] - truth).abs() <= free.error[c] + 1e-10).all())


def test_two_chains_are_their_definition():
    found = posterior().grouped(NAMES)
    two = gr.two_chain(found, AT, LABELS)
    whole, f = Written(NET, X, Y, RHO), NET(AT).detach()
    for c, names in enumerate(NAMES.values()):
        part, there = Written(NET, X, Y, RHO, names=names), jacobian(NET, AT, names).detach()
        spread = torch.einsum("mcp,pq,mcq->mc", there, part.cov, there)
        phi = 0.5 * (spread / NOISE).sum(dim=1).mean()  # ⟨L - L*⟩ under the part alone
        inside = [
            0.5 * (torch.stack([w.s[i, :, i] for i in range(N)]).diagonal(dim1=1, dim2=2) / NOISE).sum(dim=1)
            for w in (part, whole)
        ]
        change = inside[0] - inside[1]
        across = torch.einsum("mcp,pq,ndq->mcnd", there, part.cov, part.j)
        cov = torch.einsum("mc,mcnd,nd->n", LABELS - f, across, whole.r) + 0.5 * torch.einsum(
            "mcnd->n", across.square()
        )
        cov = cov / NOISE**2 / len(AT)
        truth = -((cov - cov.mean()) + phi * (change - change.mean()))
        torch.testing.assert_close(two.two_chain.matrix[c], truth, rtol=1e-6, atol=1e-7)
        off = (two.two_chain.matrix[c] - truth).abs()
        assert bool((off <= two.two_chain.error[c] + 1e-10).all())


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-2])
def test_bounds_of_blocks_cover_whatever_is_within_them(size):
    generator = torch.Generator().manual_seed(1)
    k, q = 30, 4
    root = torch.randn(k, q, q, generator=generator, dtype=torch.float64)
    a = root @ root.mT + 0.3 * torch.eye(q).double()
    c = torch.randn(k, q, generator=generator, dtype=torch.float64)
    error = size * torch.rand(k, q, q, generator=generator, dtype=torch.float64)
    error = 0.5 * (error + error.mT)
    off = size * torch.rand(k, q, generator=generator, dtype=torch.float64)
    blocks = DefiniteBlocks(Certified(a, error))
    assert bool(blocks.norm.isfinite().all())
    for _ in range(20):
        sign = torch.randint(2, (k, q, q), generator=generator).double() * 2.0 - 1.0
        sign = torch.tril(sign) + torch.tril(sign, -1).mT
        b, d = a + sign * error, c + off * (torch.randint(2, (k, q), generator=generator).double() * 2.0 - 1.0)
        columns = Certified(c[:, :, None], off[:, :, None])
        within(*blocks.solve(columns), torch.linalg.solve(b, d[:, :, None]), slack=1e-13)
        within(*blocks.form(columns), torch.einsum("kq,kq->k", d, torch.linalg.solve(b, d))[:, None], slack=1e-13)
        within(*blocks.logdet(), torch.logdet(b), slack=1e-13)
        normal = torch.distributions.MultivariateNormal(torch.zeros(q).double(), b)
        within(*blocks.log_density(Certified(c, off)), normal.log_prob(d), slack=1e-13)


def test_blocks_that_may_not_be_definite_have_no_bound():
    a = torch.eye(2).double().repeat(2, 1, 1)
    a[1, 0, 0] = -1.0
    blocks = DefiniteBlocks(Certified(a, torch.tensor([[[0.6, 0.6], [0.6, 0.6]], [[0.0, 0.0], [0.0, 0.0]]]).double()))
    assert bool(blocks.logdet().error.isinf().all())
    assert bool(
        blocks.solve(Certified(torch.ones(2, 2, 1).double(), torch.zeros(2, 2, 1).double())).error.isinf().all()
    )


def test_what_has_no_closed_form_is_refused():
    counts = posterior(data=(X, torch.poisson(Y.exp()).double(), RHO), likelihood=gr.Poisson())
    classes = gr.laplace(NET, (X, torch.arange(N) % C), likelihood=gr.Categorical(C))
    found = posterior()
    for bad, message in (
        (lambda: gr.influence(counts), "needs a Gaussian likelihood"),
        (lambda: gr.waic(counts), "closed for Gaussian"),
        (lambda: gr.leave_one_out(counts), "needs a Gaussian likelihood"),
        (lambda: gr.structural(counts, AT, LABELS), "closed form for Gaussian noise"),
        (lambda: gr.structural(classes, AT, LABELS), "closed form for Gaussian noise"),
        (lambda: gr.influence(classes), "several classes"),
        (lambda: gr.structural(found, AT, LABELS[:, 0]), r"expected \(4, 3\)"),
        (lambda: gr.structural(found, AT[:, :2], LABELS), r"expected \(p, 3\)"),
    ):
        with pytest.raises(gr.InputError, match=message):
            bad()
