"""Sparse heads handed over to the exact one."""

import gpytorch
import pytest
import torch
from refusals import assert_refused
from sparse_cases import X, Y, matern

import gp_response as gr
from gp_response.testing import check_head, example_data

KERNELS = {
    "plain": matern,
    "scaled sum": lambda: matern() + 0.3 * gr.Linear(),
    "deep": lambda: gr.Matern32(ard=2).on(gr.MLP(3, [8, 2], seed=1)),
    "foreign": lambda: gpytorch.kernels.ScaleKernel(gpytorch.kernels.RQKernel()),
}


class Slope(torch.nn.Module):
    def forward(self, x):
        return 0.3 * x[:, 0] - 0.2


def same(got, want, tolerance=1e-9):
    assert float((got - want).abs().max()) <= tolerance * float(want.abs().max().clamp_min(1e-9))


def by_hand(name: str, head: gr.SGPR | gr.SVGP, **more) -> gr.Exact:
    """An exact head built anew from the numbers of a sparse one."""
    kernel = KERNELS[name]()
    own = gr.Exact(kernel, noise=float(head.noise.detach()), mean=Slope(), beta=head.beta, **more)
    own.kernel.load_state_dict(head.kernel.state_dict())
    return own


@pytest.mark.parametrize("known", [False, True], ids=["one noise", "known noise"])
@pytest.mark.parametrize("make", [gr.SGPR, gr.SVGP])
@pytest.mark.parametrize("name", KERNELS)
def test_the_posterior_handed_over_is_the_exact_heads_built_by_hand(name, make, known):
    data = example_data(known_noise=known)
    more = {"noise": 0.3} if make is gr.SGPR else {"likelihood": gr.Gaussian(0.3)}
    sparse = make(KERNELS[name](), 7, mean=Slope(), beta=1.4, **more)
    sparse.fit(data, training=gr.Training(steps=4, pretrain_steps=20, held_out=0.0, progress=False))
    assert float(sparse.noise.detach()) != 0.3
    got = sparse.exact(gr.Cholesky()).condition(data)
    want = by_hand(name, sparse, solver=gr.Cholesky()).condition(data)
    rough = sparse.condition(data)
    for ask in ("mean", "variance", "cov"):
        same(getattr(got, ask)(X), getattr(want, ask)(X))
    assert float((got.mean(X) - rough.mean(X)).abs().max()) > 1e-4  # seven points are not all rows
    same(got.log_evidence(), want.log_evidence())
    assert float(got.log_evidence()) == pytest.approx(float(by_hand(name, sparse).log_evidence(data)), rel=1e-9)
    for observable in (gr.value(X), gr.variance(X), gr.loss(X, Y)):
        for perturbation in (gr.reweight(), gr.relabel(), gr.delete([2, 5])):
            a, b = (gr.susceptibility(p, observable, perturbation).matrix for p in (got, want))
            same(a, b, 1e-8)


def test_at_inducing_points_that_are_all_rows_nothing_changes():
    data = example_data(n=900)
    sparse = gr.SGPR(matern(), data.train.x.clone(), noise=0.05, mean=0.2)
    exact = sparse.exact(gr.CG(tolerance=1e-10)).condition(data)
    same(exact.mean(X), sparse.condition(data).mean(X), 1e-7)
    same(exact.variance(X), sparse.condition(data).variance(X), 1e-7)


def test_responses_after_the_handover_are_derivatives_of_refits():
    data = example_data()
    sparse = gr.SGPR(matern(), 9, noise=0.2)
    sparse.fit(data, training=gr.Training(steps=5, progress=False))
    head = sparse.exact()
    observable, perturbation = gr.value(X), gr.reweight([1, 4])
    found = gr.susceptibility(head.condition(data), observable, perturbation)
    same(found.matrix, gr.refit_response(head, data, observable, perturbation).matrix, 1e-9)


def test_the_head_handed_over_obeys_the_laws():
    check_head(gr.SGPR(matern(), 6, noise=0.2).exact())


def test_both_heads_learn_apart():
    data = example_data()
    sparse = gr.SGPR(KERNELS["deep"](), 9, noise=0.2)
    sparse.place(data)
    before = [p.detach().clone() for p in sparse.parameters()]
    exact = sparse.exact()
    kept = [p.detach().clone() for p in exact.parameters()]
    exact.fit(data, training=gr.Training(steps=3, pretrain_steps=5, progress=False))
    assert all(torch.equal(a, b) for a, b in zip(before, sparse.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(kept, exact.parameters(), strict=True))


def test_noise_is_handed_over_to_the_last_digit():
    for noise in (1e-9, 0.3, 1e4):
        sparse = gr.SVGP(matern(), 5, gr.Gaussian(noise))
        assert torch.equal(sparse.exact().raw_noise, sparse.likelihood.raw_noise)


@pytest.mark.parametrize("likelihood", [gr.Bernoulli(), gr.Poisson(), gr.StudentT(0.1), gr.Categorical(3)], ids=repr)
def test_other_likelihoods_are_refused(likelihood):
    assert_refused(lambda: gr.SVGP(matern(), 5, likelihood).exact(), "Gaussian noise", error=gr.InputError)


def test_a_solver_that_is_none_is_refused():
    assert_refused(lambda: gr.SGPR(matern(), 5).exact("cg"), "type str", error=gr.InputError)
