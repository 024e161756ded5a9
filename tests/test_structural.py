"""Components of additive fields, their restriction, and structural susceptibilities, against dense formulas and refits."""

import pytest
import torch
from refusals import assert_refused

import gp_response as gr
from gp_response.testing import example_data

DATA = example_data()
X, Y = DATA.test.x, DATA.test.y


class Bend(torch.nn.Module):
    def forward(self, x):
        return torch.cat([x, torch.tanh(x[..., :1])], dim=-1)


def additive():
    smooth = gr.RBF(lengthscale=1.5, outputscale=0.8, active_dims=[0, 1]).named("smooth")
    rough = gr.Matern32(lengthscale=0.7, outputscale=0.4, active_dims=[2]).named("rough")
    return smooth + rough + gr.Linear()


def heads():
    through = (2.0 * (additive() + gr.Constant())).on(Bend())
    return {
        "cholesky": gr.Exact(additive(), noise=0.2, beta=1.3),
        "cg": gr.Exact(additive(), noise=0.2, mean=0.1, solver=gr.CG(tolerance=1e-11)),
        "features": gr.Exact(through, noise=0.1),
        "sgpr": gr.SGPR(additive(), DATA.train.x[4:24:2].clone(), 0.2),
        "svgp": gr.SVGP(additive(), DATA.train.x[4:24:2].clone(), gr.Gaussian(0.2)),
    }


def dense(head, data, x):
    """Means and joint covariances of the components by the formulas."""
    k, train = head.kernel, data.train
    noise = head.noise.detach().double() / (head.beta * train.weights.double())
    inverse = torch.linalg.inv(k.matrix(train.x.double()).detach() + torch.diag(noise))
    crosses = [part.matrix(x.double(), train.x.double()).detach() for part in k.kernels]
    priors = [part.matrix(x.double()).detach() for part in k.kernels]
    alpha = inverse @ (train.y.double() - float(head.prior_mean))
    means = torch.stack([cross @ alpha for cross in crosses])
    cov = torch.stack([
        torch.stack([(priors[c] if c == d else 0.0) - crosses[c] @ inverse @ crosses[d].T for d in range(len(priors))])
        for c in range(len(priors))
    ])  # fmt: skip
    return means, cov


@pytest.mark.parametrize("name", ["cholesky", "cg"])
def test_components_have_the_textbook_means_and_covariances(name):
    head = heads()[name]
    posterior = head.condition(DATA)
    means, cov = dense(head, DATA, X)
    found = gr.response.expectation(posterior, gr.components(X)).view(len(means), -1)
    assert torch.allclose(found, means, atol=1e-10)
    assert torch.allclose(gr.component_covariance(posterior, X), cov, atol=1e-9)


@pytest.mark.parametrize("name", list(heads()))
def test_components_add_up_to_the_field_and_so_do_their_responses(name):
    head = heads()[name]
    posterior = head.condition(DATA)
    start = float(getattr(head, "prior_mean", 0.0))
    total = gr.response.expectation(posterior, gr.components(X)).view(-1, len(X)).sum(dim=0) + start
    assert torch.allclose(total, posterior.mean(X), atol=1e-9)
    assert torch.allclose(gr.component_covariance(posterior, X).sum(dim=(0, 1)), posterior.cov(X), atol=1e-9)
    for change in (gr.reweight(), gr.relabel(), gr.noise(), gr.shift_inputs(1, [0, 5]), gr.temperature()):
        parts = gr.susceptibility(posterior, gr.components(X), change)
        whole = gr.susceptibility(posterior, gr.value(X), change)
        assert torch.allclose(parts.matrix.view(-1, *whole.shape).sum(dim=0), whole.matrix, atol=1e-9)


CHANGES = [
    gr.reweight([0, 3, 7]), gr.relabel([2]), gr.delete([0, 1, 2]), gr.noise(), gr.shift_inputs(0, [2, 6]),
    gr.insert(X[:1], Y[:1]),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.kind)
@pytest.mark.parametrize("name", ["cholesky", "cg", "features", "sgpr"])
def test_a_component_responds_as_its_refit_does(name, change):
    head = heads()[name]
    posterior = head.condition(DATA)
    chi = gr.susceptibility(posterior, gr.components(X), change)
    refit = gr.refit_response(head, DATA, gr.components(X), change)
    assert chi.rows == refit.rows
    scale = float(refit.matrix.abs().max())
    assert torch.allclose(chi.matrix, refit.matrix, atol=1e-6 * scale)
    assert torch.isfinite(chi.error).all()


@pytest.mark.parametrize("name", ["cholesky", "sgpr"])
@pytest.mark.parametrize("parameter", ["kernels.0.lengthscale", "kernels.1.outputscale", "mean"])
def test_a_component_responds_to_the_prior_as_its_refit_does(name, parameter):
    head = heads()[name]
    change = gr.hyperparameter(parameter)
    chi = gr.susceptibility(head.condition(DATA), gr.components(X), change)
    refit = gr.refit_response(head, DATA, gr.components(X), change)
    assert torch.allclose(chi.matrix, refit.matrix, atol=1e-7)


@pytest.mark.parametrize("name", ["cholesky", "cg", "sgpr"])
@pytest.mark.parametrize("change", [gr.delete([0, 1, 2, 9]), gr.reweight([4]), gr.relabel([5])], ids=lambda c: c.kind)
def test_finite_changes_of_a_component_are_those_of_a_refit(name, change):
    head = heads()[name]
    exact = gr.finite_response(head.condition(DATA), gr.component(X, "rough"), change, h=1.0)
    really = gr.refit_response(head, DATA, gr.component(X, "rough"), change, h=1.0)
    assert torch.allclose(exact.matrix, really.matrix, atol=1e-8)


def test_names_numbers_and_order():
    posterior = heads()["cholesky"].condition(DATA)
    by_name = gr.susceptibility(posterior, gr.component(X, "rough"), gr.reweight())
    by_number = gr.susceptibility(posterior, gr.component(X, 1), gr.reweight())
    assert by_name.rows[:2] == ("rough[0]", "rough[1]")
    assert by_name.rows == by_number.rows
    assert torch.equal(by_name.matrix, by_number.matrix)
    assert gr.fluctuation(posterior, gr.component(X, 1), gr.reweight()).rows == by_name.rows
    assert torch.allclose(
        gr.fluctuation(posterior, gr.component(X, 1), gr.reweight()).matrix, by_name.matrix, atol=1e-12
    )


def test_refusals_say_what_to_do():
    posterior = heads()["cholesky"].condition(DATA)
    plain = gr.Exact(gr.RBF(lengthscale=1.0), noise=0.1).condition(DATA)
    assert_refused(lambda: gr.susceptibility(plain, gr.component(X, 0), gr.reweight()), "no sum of kernels")
    assert_refused(lambda: gr.susceptibility(posterior, gr.component(X, 3), gr.reweight()), "a number from 0 to 2")
    assert_refused(lambda: gr.susceptibility(posterior, gr.component(X, "smoth"), gr.reweight()), "smooth")
    twice = gr.Exact(gr.RBF().named("a") + gr.Matern32().named("a"), noise=0.1).condition(DATA)
    assert_refused(lambda: gr.susceptibility(twice, gr.components(X), gr.reweight()), "its own name")


# Restriction ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cholesky", "cg"])
def test_a_restricted_component_is_the_joint_gaussian_conditioned_on_the_others(name):
    head = heads()[name]
    posterior = head.condition(DATA)
    x = torch.cat([X, DATA.train.x])
    p = len(X)
    means, cov = dense(head, DATA, x)
    for c in range(3):
        others = [d for d in range(3) if d != c]
        rest = torch.cat([torch.cat([cov[d, e][p:, p:] for e in others], dim=1) for d in others])
        across = torch.cat([cov[c, d][:p, p:] for d in others], dim=1)
        conditional = cov[c, c][:p, :p] - across @ torch.linalg.pinv(rest, rtol=1e-11, hermitian=True) @ across.T
        part = gr.restrict(posterior, c)
        assert torch.allclose(part.cov(X), conditional, atol=1e-5)
        assert torch.allclose(part.mean(X), means[c, :p], atol=1e-9)
        assert torch.allclose(part.residuals.value, posterior.residuals.value, atol=1e-9)
        gap = (part.probe(X).mean.value - means[c, :p]).abs()
        assert bool((gap <= part.probe(X).mean.error + 1e-11).all())


def linear_gaussian(n=60, seed=3):
    """Three blocks of linear features, where everything is known in weights."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n + 20, 6, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -0.5, 0.3, 0.0, 0.7, 0.2], dtype=torch.float64)
    y = y + 0.3 * torch.randn(n + 20, generator=generator, dtype=torch.float64)
    data = gr.dataset(x[:n], y[:n], test_x=x[n:], test_y=y[n:], standardise=False)
    blocks = [[0, 1], [2, 3], [4, 5]]
    kernel = gr.Linear(active_dims=blocks[0]) + gr.Linear(active_dims=blocks[1]) + gr.Linear(active_dims=blocks[2])
    return data, blocks, gr.Exact(kernel, noise=0.09).condition(data)


def weights_of(data, posterior):
    noise = float(posterior.noise)
    precision = data.train.x.T @ data.train.x / noise + torch.eye(6, dtype=torch.float64)
    mean = torch.linalg.solve(precision, data.train.x.T @ data.train.y) / noise
    return mean, precision, noise


def test_structural_forms_are_those_of_the_weights():
    data, blocks, posterior = linear_gaussian()
    mean, precision, noise = weights_of(data, posterior)
    x, y, xt, yt = data.train.x, data.train.y, data.test.x, data.test.y
    residual, off = y - x @ mean, yt - xt @ mean
    full = torch.linalg.inv(precision)
    found = gr.two_chain(posterior, xt, yt)
    free = gr.structural(posterior, xt, yt, clamped=False).to("structural").matrix
    for c, block in enumerate(blocks):
        inner = torch.linalg.inv(precision[block][:, block])
        cov = xt[:, block] @ inner @ x[:, block].T
        response = -(residual * off[:, None] * cov / noise**2 + cov**2 / (2 * noise**2)).mean(dim=0)
        response = response - response.mean()
        size = ((xt[:, block] @ inner) * xt[:, block]).sum(dim=1).mean() / (2 * noise)
        own = ((x[:, block] @ inner) * x[:, block]).sum(dim=1) - ((x @ full) * x).sum(dim=1)
        artefact = size * (own - own.mean()) / (2 * noise)
        assert torch.allclose(found.restricted.matrix[c], response, atol=1e-10)
        assert torch.allclose(found.artefact[c], artefact, atol=1e-10)
        assert torch.allclose(found.two_chain.matrix[c], response - artefact, atol=1e-10)
        across = xt[:, block] @ full[block] @ x.T
        share = -(residual * off[:, None] * across / noise**2 + across**2 / (2 * noise**2)).mean(dim=0)
        assert torch.allclose(free[c], share - share.mean(), atol=1e-10)
        assert float(found.two_chain.error[c].max()) < 1e-9


def test_two_chains_by_sampling_both_posteriors():
    data, blocks, posterior = linear_gaussian()
    mean, precision, noise = weights_of(data, posterior)
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(400_000, 6, generator=generator, dtype=torch.float64)
    full = mean + draw @ torch.linalg.cholesky(torch.linalg.inv(precision)).T

    def losses(w, x, y):
        return (y - w @ x.T) ** 2 / (2 * noise)

    found = gr.two_chain(posterior, data.test.x, data.test.y)
    whole = losses(full, data.train.x, data.train.y).mean(dim=0)
    whole = whole - whole.mean()
    block = blocks[1]
    w = mean.repeat(len(draw), 1)
    w[:, block] = mean[block] + draw[:, :2] @ torch.linalg.cholesky(torch.linalg.inv(precision[block][:, block])).T
    phi = losses(w, data.test.x, data.test.y).mean(dim=1) - losses(mean[None], data.test.x, data.test.y).mean()
    delta = losses(w, data.train.x, data.train.y)
    delta = delta - delta.mean(dim=1, keepdim=True)
    sampled = -((phi[:, None] * delta).mean(dim=0) - phi.mean() * whole)
    error = (phi[:, None] * delta).std(dim=0) / len(draw) ** 0.5
    error = error + phi.mean() * losses(full, data.train.x, data.train.y).std(dim=0) / len(draw) ** 0.5
    assert bool(((sampled - found.two_chain.matrix[1]).abs() < 6 * error).all())


def test_the_clamped_share_is_the_gaussian_marginal_of_the_rest():
    data, blocks, posterior = linear_gaussian()
    _, precision, _ = weights_of(data, posterior)
    cov = torch.linalg.inv(precision)
    for c, block in enumerate(blocks):
        rest = [k for k in range(6) if k not in block]
        expected = -0.5 * torch.logdet(cov[rest][:, rest])
        assert torch.allclose(gr.restrict(posterior, c).log_share(), expected, atol=1e-8)


@pytest.mark.parametrize("clamped", [True, False])
def test_structural_rows_are_derivatives_of_refits(clamped):
    head = heads()["cholesky"]
    posterior = head.condition(DATA)
    chi = gr.structural(posterior, X, Y, clamped=clamped)
    assert chi.rows == ("smooth", "rough", "2")
    assert chi.every_sample
    for c in range(3):
        part = gr.restrict(posterior, c)
        loss = gr.loss(X, Y - part.rest(X).value)
        refitted, data = (gr.Exact(part.kernel, noise=0.2, beta=1.3), part.data) if clamped else (head, DATA)
        if not clamped:
            loss.component = torch.full((len(X),), c)
        refit = gr.refit_response(refitted, data, loss, gr.reweight()).matrix.mean(dim=0)
        assert torch.allclose(chi.matrix[c], refit, atol=1e-9)


def test_bounds_hold_at_a_thousand_rows_with_loose_solves():
    data = example_data(n=1000)
    exact, loose = (
        gr.structural(gr.Exact(additive(), noise=1e-3, solver=solver).condition(data), data.test.x, data.test.y)
        for solver in (gr.Cholesky(), gr.CG(tolerance=1e-6))
    )
    assert bool(((loose.matrix - exact.matrix).abs() <= loose.error + exact.error).all())
    assert float(loose.error.max()) < 1e3 * float(exact.matrix.abs().max())


def test_float32_stays_within_its_bounds():
    data = example_data(n=300)
    single = data.to(dtype=torch.float32)
    double = single.to(dtype=torch.float64)
    head = gr.Exact(additive(), noise=0.05)
    got = gr.structural(head.condition(single), single.test.x, single.test.y)
    expected = gr.structural(head.condition(double), double.test.x, double.test.y)
    assert got.matrix.dtype == torch.float32
    assert bool(((got.matrix.double() - expected.matrix).abs() <= got.error.double() + expected.error).all())
    assert float(got.error.max()) < 0.1 * float(expected.matrix.abs().max())


def test_the_artefact_grows_with_temperature_and_centring_over_components_takes_most_of_it_out():
    data, blocks, _ = linear_gaussian()
    kernel = sum((gr.Linear(active_dims=block) for block in blocks[1:]), gr.Linear(active_dims=blocks[0]))
    cold, hot = (
        gr.two_chain(gr.Exact(kernel, noise=0.09, beta=beta).condition(data), data.test.x, data.test.y)
        for beta in (1.0, 0.01)
    )
    told, warm = cold.diagnose(), hot.diagnose()
    assert told["artefact_share"] > 0.5
    assert float(hot.artefact.norm() / hot.restricted.matrix.norm()) > float(
        cold.artefact.norm() / cold.restricted.matrix.norm()
    )
    assert warm["centred_correlation"] > warm["correlation"]
    one = torch.outer(torch.arange(1.0, 4.0), torch.arange(5.0))
    assert gr.first_mode_share(one) == pytest.approx(1.0)


# Groups of lengthscales ---------------------------------------------------------------------------------------------


def test_structure_is_the_derivative_by_a_group_s_lengthscales():
    scales, step = [1.5, 0.9, 1.1], 1e-4

    def at(s):
        changed = [scales[0], scales[1] * s, scales[2] * s]
        head = gr.Exact(gr.Matern52(lengthscale=changed, outputscale=1.3), noise=0.2)
        return gr.response.expectation(head.condition(DATA), gr.value(X))

    head = gr.Exact(gr.Matern52(lengthscale=scales, outputscale=1.3), noise=0.2)
    chi = gr.structure(head.condition(DATA), gr.value(X), {"first": [0], "rest": [1, 2]})
    slope = (at(1 + step) - at(1 - step)) / (2 * step)
    assert chi.columns == ("first", "rest")
    assert torch.allclose(chi.matrix[:, 1], slope, atol=1e-6)
    assert_refused(lambda: gr.structure(head.condition(DATA), gr.value(X), {"none": [3]}), "positions 0 to 2")
    one = gr.Exact(gr.RBF(lengthscale=1.0), noise=0.1).condition(DATA)
    assert_refused(lambda: gr.structure(one, gr.value(X), {"a": [0]}), "ard=d")
