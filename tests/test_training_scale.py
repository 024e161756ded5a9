"""Training by probes against exact evidences and their gradients, on more rows than a tile and with rows that repeat."""

import math

import pytest
import torch

import gp_response as gr
from gp_response.errors import InputError, SolverError
from gp_response.heads import stochastic_training
from gp_response.heads.stochastic import Effort, StochasticEvidence
from gp_response.heads.stochastic_newton import exact_curvature
from gp_response.heads.stochastic_training import telling_rows
from gp_response.heads.trace import Trace
from gp_response.heads.vector import read, read_gradient, write
from gp_response.kernels.system import KernelSystem

SHARP = Effort(tolerance=1e-8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def surface(n, *, noise=0.1, dim=3, seed=0, repeated=60, dtype=torch.float64, weighted=False):
    x = torch.rand(n, dim, generator=generator(seed), dtype=torch.float64)
    x[:repeated] = x[repeated : 2 * repeated] + 1e-9 * torch.arange(repeated).double()[:, None]
    y = (
        torch.sin(5.0 * x[:, 0])
        + x[:, 1] ** 2
        + noise * torch.randn(n, generator=generator(seed + 1), dtype=torch.float64)
    )
    weights = None
    if weighted:
        weights = 0.2 + 2.0 * torch.rand(n, generator=generator(seed + 2), dtype=torch.float64)
        weights[::50] = 0.0
    return gr.dataset(x.to(dtype), y.to(dtype), weights=weights)


def heads():
    deep = gr.RBF(ard=2, lengthscale=[1.0, 1.5]).on(gr.MLP(3, [8, 2], seed=1))
    return {
        "matern": lambda: gr.Exact(gr.Matern32(ard=3, lengthscale=[1.0, 2.0, 4.0], outputscale=1.5), noise=0.02),
        "tiny noise": lambda: gr.Exact(gr.Matern52(ard=3, lengthscale=[1.0, 2.0, 4.0]), noise=1e-5),
        "sum, mean and beta": lambda: gr.Exact(gr.Matern12() + gr.RBF(outputscale=0.3), 0.05, mean=0.2, beta=1.7),
        "features": lambda: gr.Exact(deep, noise=0.05),
    }


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", list(heads()))
def test_value_and_gradient_are_those_of_the_exact_evidence(name, dtype, weighted):
    if name == "tiny noise" and dtype == torch.float32:
        pytest.skip("the exact gradient of this system does not exist in float32")
    data = surface(850, dtype=dtype, weighted=weighted)
    head = heads()[name]()
    parameters = [p for p in head.parameters() if p.requires_grad]
    loss = -head.log_evidence(data.to(dtype=torch.float64)) / len(data.train)
    loss.backward()
    exact, found, works = read_gradient(parameters), [], []
    for seed in range(10):
        head.zero_grad()
        evidence = StochasticEvidence(head, data, generator(seed), SHARP)
        work = evidence.backward()
        found.append(read_gradient(parameters))
        works.append(work)
        assert work.converged
    found = torch.stack(found)
    # Products may run in float32 where the answer allows it.
    error = found.std(dim=0) / math.sqrt(len(found)) + 1e-4 * exact.norm()
    assert float(((found.mean(dim=0) - exact).abs() / error).max()) < 5.0
    losses = torch.tensor([w.loss for w in works], dtype=torch.float64)
    error = sum(w.loss_error for w in works) / 10 / math.sqrt(10) + 1e-4
    assert abs(float(losses.mean() - loss.detach())) < 4.0 * error


def test_the_reported_errors_are_the_spread_over_seeds():
    data, head = surface(820), heads()["matern"]()
    parameters = list(head.parameters())
    works, found = [], []
    for seed in range(16):
        head.zero_grad()
        works.append(StochasticEvidence(head, data, generator(seed), Effort()).backward(measure=True))
        found.append(read_gradient(parameters))
    spread = float(torch.stack(found).std(dim=0).norm())
    said = math.sqrt(sum(w.gradient_error**2 for w in works) / len(works))
    assert 0.5 < said / spread < 2.0
    spread = float(torch.tensor([w.loss for w in works]).double().std())
    assert 0.5 < math.sqrt(sum(w.loss_error**2 for w in works) / len(works)) / spread < 2.0


def test_one_probe_is_at_most_as_uncertain_as_the_data_leave_the_hyperparameter():
    data, head = surface(801), heads()["matern"]()
    white = 1.0 / head.noise.detach()
    with torch.no_grad():
        kernel = head.kernel.matrix(data.train.x)
        values = torch.linalg.eigvalsh(white * kernel + torch.eye(801).double())
    # By the logarithm of the outputscale: dB = B - 1, so that the Fisher information is ½ ‖1 - B⁻¹‖²; that all probes have
    # one length takes the part of the trace away.
    part = 1.0 - 1.0 / values
    information = 0.5 * float(part.square().sum())
    variance = information - 0.5 * float(part.sum()) ** 2 / 801
    slopes = []
    raw = head.kernel.raw_outputscale
    chain = float(torch.sigmoid(raw.detach()) / head.kernel.outputscale.detach())
    for seed in range(40):
        head.zero_grad()
        StochasticEvidence(head, data, generator(seed), Effort(probes=4, tolerance=1e-6)).backward()
        slopes.append(float(raw.grad) / chain * 801)
    found = float(torch.tensor(slopes).double().var())
    assert found == pytest.approx(variance / 4, rel=0.6)
    assert found < information / 4


def test_block_size_of_the_solve_and_memory_for_blocks_change_nothing():
    data = surface(801)
    found = []
    for keep in (0, 2**18, 2**30):
        head = heads()["matern"]()
        StochasticEvidence(head, data, generator(3), Effort(keep=keep, tolerance=1e-8)).backward()
        found.append(read_gradient(list(head.parameters())))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[0], found[2], rtol=1e-4, atol=1e-6)


def test_the_curvature_is_that_of_autograd():
    data, head = surface(200), gr.Exact(gr.RBF(), noise=0.3)
    parameters = list(head.parameters())
    at = read(parameters)

    def gradient(v):
        write(parameters, v)
        head.zero_grad()
        (-head.log_evidence(data) / len(data.train)).backward()
        return read_gradient(parameters)

    found = exact_curvature(head, data)
    step = 1e-5 * torch.eye(len(at)).double()
    expected = torch.stack([(gradient(at + s) - gradient(at - s)) / 2e-5 for s in step])
    values, vectors = torch.linalg.eigh(0.5 * (expected + expected.T))
    expected = (vectors * values.abs().clamp_min(2.0 / 200)) @ vectors.T
    write(parameters, at)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(read(parameters), at)


@pytest.fixture
def few_rows(monkeypatch):
    monkeypatch.setattr(stochastic_training, "FEW_ROWS", 120)
    monkeypatch.setattr(stochastic_training, "CURVATURE_ROWS", 100)


@pytest.mark.parametrize("noise", [0.3, 0.01])
def test_training_ends_where_exact_training_ends(few_rows, noise):
    data = surface(900, noise=noise)
    by_probes, exact = (gr.Exact(gr.Matern32(ard=3), noise=0.1) for _ in range(2))
    posterior = by_probes.fit(data, training=gr.Training(estimator="stochastic", progress=False))
    exact.fit(data, training=gr.Training(progress=False))
    with torch.no_grad():
        ours, theirs = (float(head.log_evidence(data)) for head in (by_probes, exact))
    assert theirs - ours < 4.0  # of log evidence: a fraction of a standard deviation in each of five parameters
    trace = posterior.trace
    assert trace.objective == "negative log evidence per row, all 900 rows, quasi-Newton with gradients by 8 probes"
    frame = trace.to_frame()
    steps, measured = frame[frame.stage == "all rows"], frame[frame.stage == "quadrature"]
    assert len(steps) < 30
    assert steps.products.notna().all()
    assert steps.seconds.notna().all()
    assert abs(-ours / 900 - measured.loss.iloc[-1]) < 4.0 * measured.error.iloc[-1]
    assert trace.converged


def test_training_is_reproducible_and_leaves_the_global_generator_alone(few_rows):
    data, state = surface(400), torch.get_rng_state()

    def run():
        head = gr.Exact(gr.Matern32(ard=3), noise=0.1)
        head.fit(data, training=gr.Training(estimator="stochastic", seed=5, progress=False))
        return read(list(head.parameters()))

    assert torch.equal(run(), run())
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_stays_above_its_floor_without_noise_in_the_data(few_rows):
    data = surface(500, noise=0.0, repeated=0)
    head = gr.Exact(gr.RBF(ard=3), noise=0.1)
    head.fit(data, training=gr.Training(estimator="stochastic", least_noise=1e-3, progress=False))
    assert float(head.noise.detach()) >= 0.999e-3 * float(data.train.y.var())


@pytest.mark.parametrize("optimiser", [None, "adam"])
def test_features_learn_through_gradients_of_all_rows(few_rows, optimiser):
    data = surface(700, noise=0.1)
    head = gr.Exact(gr.Matern32(ard=2).on(gr.MLP(3, [16, 2], seed=0)), noise=0.1)
    before = [p.detach().clone() for p in head.kernel.features.parameters()]
    training = gr.Training(
        estimator="stochastic", optimiser=optimiser, pretrain_steps=60, steps=12, learning_rate=0.1, progress=False
    )
    posterior = head.fit(data, training=training)
    assert any(not torch.equal(b, p) for b, p in zip(before, head.kernel.features.parameters(), strict=True))
    frame = posterior.trace.to_frame()
    steps = frame[frame.stage == "all rows"]
    assert steps.loss.iloc[-1] < steps.loss.iloc[0]
    assert "adam with gradients by 8 probes" in posterior.trace.objective


def test_a_start_that_misleads_is_given_up(few_rows, monkeypatch):
    def misled(head, *_, **__):
        head.kernel.lengthscale = 1e-4
        with torch.no_grad():
            head.raw_noise.copy_(head.noise_constraint.inverse_transform(torch.tensor(1e-6).double()))

    monkeypatch.setattr(stochastic_training, "minimise_evidence", misled)
    data = surface(400)
    head = gr.Exact(gr.Matern32(), noise=0.1)
    head.fit(data, training=gr.Training(estimator="stochastic", progress=False))
    with torch.no_grad():
        assert float(head.log_evidence(data)) > -0.5 * 400 * math.log(2.0 * math.pi * math.e)


def test_a_failure_leaves_the_head_as_good_as_it_was(few_rows, monkeypatch):
    data, head, seen = surface(300), gr.Exact(gr.Matern32(), noise=0.1), []
    backward = StochasticEvidence.backward

    def failing(self, **options):
        seen.append(read(list(head.parameters())))
        if len(seen) == 2:
            raise KeyboardInterrupt("at the second step")
        return backward(self, **options)

    monkeypatch.setattr(StochasticEvidence, "backward", failing)
    monkeypatch.setattr(stochastic_training, "FEW_ROWS", 40)
    with pytest.raises(KeyboardInterrupt, match="second step"):
        head.fit(data, training=gr.Training(estimator="stochastic", progress=False))
    assert torch.equal(read(list(head.parameters())), seen[0])


def test_a_step_to_where_nothing_can_be_solved_is_taken_back(few_rows, monkeypatch):
    data, head, calls = surface(300), gr.Exact(gr.Matern32(), noise=0.1), []
    backward = StochasticEvidence.backward

    def failing(self, **options):
        calls.append(1)
        if len(calls) == 2:
            raise SolverError("not positive definite")
        return backward(self, **options)

    monkeypatch.setattr(StochasticEvidence, "backward", failing)
    monkeypatch.setattr(stochastic_training, "FEW_ROWS", 40)
    trace = head.fit(data, training=gr.Training(estimator="stochastic", progress=False)).trace
    assert len(calls) > 2
    assert trace.steps[-1]["loss"] < next(s["loss"] for s in trace.steps if s["stage"] == "all rows")


def test_products_that_float32_spoils_are_taken_in_float64(monkeypatch):
    data, head = surface(300), heads()["matern"]()
    product = KernelSystem.product

    def spoiled(self, v):
        return -product(self, v) if v.dtype == torch.float32 else product(self, v)

    expected = StochasticEvidence(head, data, generator(), SHARP).backward().loss
    monkeypatch.setattr(KernelSystem, "product", spoiled)
    assert StochasticEvidence(head, data, generator(), SHARP).backward().loss == pytest.approx(expected, rel=1e-4)


def test_rows_choose_the_estimator(monkeypatch):
    monkeypatch.setattr("gp_response.heads.training.FULL_BATCH_ROWS", 200)
    data, quiet = surface(210), {"progress": False, "steps": 2}

    def objective(**options):
        head = gr.Exact(gr.Matern32(), noise=0.1)
        return head.fit(data, training=gr.Training(**quiet, **options)).trace.objective

    assert "all 210 rows, quasi-Newton with gradients by 8 probes" in objective()
    assert objective(rows=100).endswith("a random subset of 100 rows, lbfgs")
    assert objective(estimator="cholesky", rows=210).endswith("all 210 rows, lbfgs")
    assert "probes" not in objective(optimiser="adam")


def test_telling_rows_are_rows_with_their_nearest_neighbours():
    x = torch.rand(300, 2, generator=generator(), dtype=torch.float64)
    x[200:] = x[100:200] + 1e-12
    at = telling_rows(x, 80, generator(1))
    assert torch.equal(at, at.unique())
    assert 40 <= len(at) <= 80
    distance = torch.cdist(x, x).fill_diagonal_(math.inf)
    together = set(at.tolist())
    assert sum(int(distance[i].argmin()) in together for i in at) >= 40
    assert torch.equal(at, telling_rows(x, 80, generator(1)))
    assert torch.equal(telling_rows(x, 300, generator()), torch.arange(300))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "stocastic"}, "stochastic"),
        ({"estimator": "stochastic", "rows": 100}, "leave rows out"),
        ({"probes": 2}, "at least 4"),
    ],
)
def test_what_training_refuses(options, message):
    with pytest.raises(InputError, match=message):
        gr.Training(**options)


def test_a_trace_knows_its_best():
    trace = Trace("loss")
    trace.add("all rows", 2.0)
    trace.add("quadrature", 1.0, error=0.1)
    assert trace.best == 1.0
