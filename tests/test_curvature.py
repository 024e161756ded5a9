"""Curvature operators are the dense matrices, and networks that have none are refused."""

import re
import threading
from copy import deepcopy
from functools import partial

import pytest
import torch
from network_cases import CASES, PAIRS, Attention, Tied, build, mlp, points
from torch import nn

import gp_response as gr
from gp_response.curvature import Curvature, Network, select
from gp_response.curvature.modes import ForwardMode, ReverseMode
from gp_response.curvature.probe import choose_mode
from gp_response.testing.curvature import dense_ggn, dense_hessian, jacobian

FACTORIES = {
    "ggn": gr.ggn, "hessian": gr.hessian, "fisher": gr.fisher, "empirical fisher": partial(gr.fisher, empirical=True)
}  # fmt: skip


def id_of(value):
    return value if isinstance(value, str) else getattr(value, "__name__", None) or repr(value)


@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.parametrize(("name", "likelihood"), PAIRS, ids=id_of)
def test_operators_obey_their_laws(name, likelihood, kind):
    if kind == "fisher" and not isinstance(likelihood, gr.Likelihood):
        pytest.skip("a callable has no distribution")
    net, x, y = build(name, likelihood)
    gr.testing.check_curvature(
        FACTORIES[kind], net, (x, y), likelihood=likelihood, parameters=CASES[name].parameters, beta=0.7
    )


@pytest.mark.parametrize("name", ["tied transformer", "recurrent", "convolutions, batch norm"])
def test_a_network_of_its_modes_agrees_with_the_dense_jacobian(name):
    net, x, _ = build(name, next(iter(CASES[name].labels)), n=6)
    net = Network(net.double())
    V = torch.randn(net.count, 3, dtype=torch.float64)
    J = jacobian(net, x)
    out = net.output(x)
    U = torch.randn(*out.shape, 3, dtype=torch.float64)
    modes = [net.mode(x), ReverseMode()]
    assert isinstance(modes[0], ForwardMode)
    for mode in modes:
        net.use(mode)
        torch.testing.assert_close(net.push(x, V).reshape(6, -1, 3), J @ V, rtol=1e-10, atol=1e-10)
        expected = J.flatten(0, 1).mT @ U.reshape(-1, 3)
        torch.testing.assert_close(net.pull(x, U), expected, rtol=1e-10, atol=1e-10)


def test_fused_attention_is_left_on_for_others_and_off_in_derivatives():
    net, x, y = build("attention", next(iter(CASES["attention"].labels)))
    with pytest.raises(NotImplementedError, match="forward AD"):
        torch.func.jvp(lambda t: nn.functional.scaled_dot_product_attention(t, t, t), (x[:, None],), (x[:, None],))
    before = torch.backends.mha.get_fastpath_enabled()
    op = gr.ggn(net, (x, y), likelihood=gr.Gaussian(noise=0.3))
    op @ torch.ones(op.shape[0])
    assert isinstance(op.net.mode(x), ForwardMode)
    assert torch.backends.mha.get_fastpath_enabled() is before is True


class Halved(torch.autograd.Function):
    """Its rule of forward mode is wrong."""

    @staticmethod
    def forward(x):
        return 0.5 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, u):
        return 0.5 * u

    @staticmethod
    def jvp(ctx, v):
        return torch.zeros_like(v)


class Custom(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(4, 2), function

    def forward(self, x):
        return self.function.apply(self.layer(x).tanh())


class Old(torch.autograd.Function):
    """torch.func refuses it: forward and context are one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, u):
        return 2.0 * ctx.saved_tensors[0] * u


@pytest.mark.parametrize("function", [Halved, Old])
def test_custom_functions_whose_forward_mode_fails_are_taken_by_reverse_mode(function):
    x, y = points(4)(9), torch.randint(2, (9,))
    net = Custom(function).double().eval()
    plain = Custom(function).double()
    plain.load_state_dict(net.state_dict())
    plain.function = type("Plain", (), {"apply": {Halved: lambda x: 0.5 * x, Old: lambda x: x**2}[function]})
    ours, expected = (gr.hessian(module, (x, y), likelihood=gr.Categorical(2)) for module in (net, plain))
    assert isinstance(ours.net.mode(x), ReverseMode)
    torch.testing.assert_close(ours.dense(), expected.dense(), rtol=1e-10, atol=1e-12)


def test_a_mode_that_nothing_saves_is_told():
    def broken(parts):
        raise RuntimeError("no derivative of this")

    with pytest.raises(gr.InputError, match="ForwardMode: no derivative of this; ReverseMode: no derivative"):
        choose_mode(broken, {"w": torch.ones(2)}, (ForwardMode(), ReverseMode()))


def test_hessian_of_a_layer_norm_against_finite_differences():
    """torch.func.hessian is wrong here (torch 2.13), which is why the dense matrix of the laws is made by reverse mode twice."""
    net, x, y = build("mlp, three outputs", next(iter(CASES["mlp, three outputs"].labels)))
    op = gr.hessian(net.double(), (x, y), likelihood=gr.Categorical(3))
    slope = torch.func.grad(lambda theta: op.loss.rows(op.net.call(theta, op.rows.x), op.rows.y).sum())
    v, origin, step = torch.randn(op.shape[0], dtype=torch.float64), op.net.origin, 1e-5
    difference = (slope(origin + step * v) - slope(origin - step * v)) / (2.0 * step)
    torch.testing.assert_close(op @ v, difference, rtol=1e-6, atol=1e-5)


def test_the_network_is_seen_as_it_was_when_it_was_given():
    net, x, y = build("mlp, head", gr_categorical("mlp, head"))
    op = gr.ggn(net, (x, y), likelihood=gr.Categorical(3), parameters="head")
    v = torch.randn(op.shape[0])
    before = op @ v
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert torch.equal(op @ v, before)


@pytest.mark.parametrize(
    "change", [lambda net: net.train(), lambda net: net.__setitem__(1, nn.ReLU())], ids=["train", "swap"]
)
def test_what_becomes_of_the_module_afterwards_does_not_matter(change):
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.4), nn.Linear(5, 1)).double().eval()
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    op = gr.hessian(net, (x, y), likelihood=gr.Gaussian(noise=0.1))
    found = gr.laplace(net, (x, y), likelihood=gr.Gaussian(noise=0.1))
    before, variance = op.dense(), found.variance(x)
    change(net)
    assert torch.equal(op.dense(), before)
    assert torch.equal(found.variance(x), variance)


class Overwriting(nn.Linear):
    """Halves its input where it lies."""

    def forward(self, x):
        return torch.tanh(super().forward(x.mul_(0.5)))


def test_a_forward_that_writes_into_its_input_finds_the_rows_as_they_were():
    net = Overwriting(4, 1).double()
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    kept, plain = x.clone(), nn.Sequential(nn.Linear(4, 1), nn.Tanh()).double()
    plain[0].load_state_dict(net.state_dict())
    op = gr.ggn(net, (x, y), likelihood=gr.Gaussian(noise=0.1), batch_size=2)
    expected = gr.ggn(plain, (0.5 * x, y), likelihood=gr.Gaussian(noise=0.1)).dense()
    torch.testing.assert_close(op.dense(), expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(x, kept)


def gr_categorical(name):
    return next(iter(CASES[name].labels))


def test_weights_and_datasets():
    weights = torch.rand(40, dtype=torch.float64)
    weights[3] = 0.0
    data = gr.dataset(points(4)(40), torch.randn(40, dtype=torch.float64), weights=weights)
    net = mlp(1).double().eval()
    op = gr.ggn(net, data, likelihood=gr.Gaussian(noise=0.5), batch_size=16)
    rows = [
        gr.ggn(net, (data.train.x[[i]], data.train.y[[i]]), likelihood=gr.Gaussian(noise=0.5)).dense()
        for i in range(40)
    ]
    torch.testing.assert_close(
        op.dense(), sum(w * row for w, row in zip(weights, rows, strict=True)), rtol=1e-9, atol=1e-10
    )


def test_a_weighted_row_of_tokens_is_ignored_where_it_has_no_label():
    net, x, y = build("tied transformer", gr_categorical("tied transformer"))
    y[4] = -100
    keep = torch.arange(len(x)) != 4
    whole, part = (
        gr.hessian(net.double(), data, likelihood=gr.Categorical(11)) for data in ((x, y), (x[keep], y[keep]))
    )
    v = torch.randn(whole.shape[0], dtype=torch.float64)
    torch.testing.assert_close(whole @ v, part @ v, rtol=1e-10, atol=1e-10)


def test_many_vectors_go_in_parts_that_do_not_matter(monkeypatch):
    net, x, y = build("mlp, three outputs", gr_categorical("mlp, three outputs"))
    op = gr.ggn(net.double(), (x, y), likelihood=gr.Categorical(3))
    V = torch.randn(op.shape[0], 130, dtype=torch.float64)
    whole = op @ V
    op._budget = 1
    assert op._columns(130) == 1
    torch.testing.assert_close(op @ V, whole, rtol=1e-10, atol=1e-12)
    assert (op @ V[:, :0]).shape == (op.shape[0], 0)


def test_the_default_batch_fits_the_budget(monkeypatch):
    net, x, y = build("convolutions, batch norm", gr_categorical("convolutions, batch norm"))
    monkeypatch.setattr("gp_response.curvature.curvature.byte_budget", lambda budget, device: 100_000)
    small = gr.ggn(net, (x, y), likelihood=gr.Categorical(3))
    assert 1 <= small.batch_size < len(x)
    assert 4 * small._each * small.batch_size <= 100_000


# Laws that can fail.


class Lopsided(Curvature):
    def _batch(self, rows, V):
        found = self.net.pull_rows(rows.x, rows.weigh(self.net.push_rows(rows.x, V)[1]))
        return {name: part * (2.0 if name == self.names[0] else 1.0) for name, part in found.items()}


class Uneven(Curvature):
    def _batch(self, rows, V):
        return self.net.pull_rows(rows.x, self.net.push_rows(rows.x, V)[1] / len(rows))


class Plain(Curvature):
    def _batch(self, rows, V):
        return self.net.pull_rows(rows.x, rows.weigh(self.net.push_rows(rows.x, V)[1]))


def dense_plain(net, rows, loss):
    J = jacobian(net, rows.x).flatten(0, 1)
    return J.mT @ J


def dense_lopsided(net, rows, loss):
    plain = dense_plain(net, rows, loss)
    plain[: net.shapes[0].numel()] *= 2.0
    return plain


@pytest.mark.parametrize(
    ("kind", "dense", "complaint"),
    [
        (Plain, dense_ggn, "the dense matrix"),
        (gr.ggn, dense_hessian, "the dense matrix"),
        (Lopsided, dense_lopsided, "C = Cᵀ"),
        (Uneven, lambda net, rows, loss: dense_plain(net, rows, loss) / len(rows), "batch size 1"),
    ],
)
def test_a_wrong_operator_is_told(kind, dense, complaint):
    x, y = points(4)(9), torch.randint(2, (9,))
    with pytest.raises(AssertionError, match=complaint):
        gr.testing.check_curvature(kind, mlp(2).eval(), (x, y), likelihood=gr.Categorical(2), dense=dense)


def test_an_operator_of_ones_own_is_a_method():
    x, y = points(4)(9), torch.randint(2, (9,))
    gr.testing.check_curvature(Plain, mlp(2).eval(), (x, y), likelihood=gr.Categorical(2), dense=dense_plain)
    with pytest.raises(gr.InputError, match="give dense="):
        gr.testing.check_curvature(Plain, mlp(2).eval(), (x, y), likelihood=gr.Categorical(2))


# What is refused.


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.rand(len(x), 1)


class Coupled(nn.Linear):
    def forward(self, x):
        return super().forward(x) - super().forward(x).mean(dim=0)


class Counting(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1.0
        return super().forward(x)


class Several(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class Spread(nn.Linear):
    def forward(self, x):
        return super().forward(x).sum(dim=0)


class Single(nn.Linear):
    def forward(self, x):
        return super().forward(x).float()


class Holding(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.lock = threading.Lock()


class Rarely(nn.Linear):
    """Random so seldom that a few rows do not show it."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 1e-6, training=True)


class Detached(nn.Linear):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class Infinite(nn.Linear):
    def forward(self, x):
        return super().forward(x) / 0.0


def trained(*layers):
    return nn.Sequential(nn.Linear(4, 4), *layers, nn.Linear(4, 1))


@pytest.mark.parametrize(
    ("net", "complaint"),
    [
        (trained(nn.Dropout(0.1)), r"layer '1' \(Dropout\) is in training mode; call net.eval\(\)"),
        (trained(nn.BatchNorm1d(4)), r"'1' \(BatchNorm1d\) is in training mode"),
        (Tied().train(), r"\(MultiheadAttention\) is in training mode"),
        (trained(nn.BatchNorm1d(4, track_running_stats=False)).eval(), "depends on the other rows"),
        (Noisy(4, 1), "two evaluations of the same rows differ"),
        (Rarely(4, 1), "draws random numbers"),
        (Detached(4, 1), "moves with the parameters chosen but has no gradient"),
        (nn.DataParallel(nn.Linear(4, 1)), "got a DataParallel.*give the module it was made of"),
        (nn.Sequential(torch.jit.script(nn.Linear(4, 1))), "got a RecursiveScriptModule"),
        (nn.Linear(4, 1, device="meta"), "on the meta device"),
        (Coupled(4, 1), "depends on the other rows of its batch"),
        (Counting(4, 1), "changes 'calls'"),
        (Several(4, 1), "returned a tuple; wrap it"),
        (Spread(4, 1), r"shape \(1, 1\) for 4 rows"),
        (Infinite(4, 1), "not finite"),
        (Single(4, 1).double(), "returned float32 from float64 parameters"),
        (Holding(4, 1), "Holding cannot be copied"),
        (nn.Linear(3, 1), r"cannot be called on rows of shape \(4, 4\), float32: mat1 and mat2"),
        (nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1)), "'0.weight' has no shape yet"),
        (nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Linear(4, 1)), "renormalises"),
        (nn.Linear(4, 1).bfloat16(), "bfloat16; call net.float"),
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1).double()), "2 types or devices"),
        (nn.Tanh(), "Tanh has no parameters"),
        (torch.tanh, "expected a torch.nn.Module"),
    ],
)
def test_networks_without_curvature_are_refused(net, complaint):
    with pytest.raises(gr.InputError, match=complaint):
        gr.ggn(net, (torch.randn(7, 4), torch.randn(7)), likelihood=gr.Gaussian(noise=0.1))


def test_a_refused_network_is_left_as_it_was():
    net = Counting(4, 1)
    with pytest.raises(gr.InputError):
        gr.ggn(net, (torch.randn(7, 4), torch.randn(7)), likelihood=gr.Gaussian(noise=0.1))
    assert float(net.calls) == 0.0
    noisy, x = Network(Noisy(4, 1)), torch.randn(7, 4)
    state = torch.random.get_rng_state()
    with pytest.raises(gr.InputError):
        noisy.check(x)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("data", "given", "complaint"),
    [
        ((torch.randn(7, 4), torch.randn(6)), {}, "the same number of rows"),
        ((torch.randn(0, 4), torch.randn(0)), {}, "one or more"),
        (torch.randn(7, 4), {}, "a Dataset or a pair"),
        ((torch.full((7, 4), torch.nan), torch.zeros(7)), {}, "x: row 0 is not finite"),
        ((torch.randn(3, 4), torch.tensor([0.0, 1.0, torch.inf])), {}, "y: row 2 is not finite"),
        (
            (torch.randn(7, 4), torch.zeros(7)),
            {"parameters": [nn.Parameter(torch.ones(2, 2))]},
            "holds a Parameter; expected a name",
        ),
        ((torch.randn(7, 4), torch.randn(7, 2)), {}, "one for each output"),
        ((torch.randn(7, 4), torch.full((7,), 2)), {"likelihood": gr.Bernoulli()}, "Bernoulli got the label 2"),
        ((torch.randn(7, 4), torch.zeros(7)), {"likelihood": gr.Categorical(3)}, r"1 outputs for Categorical\(3\)"),
        ((torch.randn(7, 4), torch.zeros(7)), {"likelihood": lambda f, y: (f[:, 0] - y).sum()}, "one loss for each"),
        ((torch.randn(7, 4), torch.zeros(7)), {"likelihood": "gaussian"}, "expected a gr.Likelihood"),
        ((torch.randn(7, 4), torch.zeros(7)), {"batch_size": 0}, "batch_size=0"),
        ((torch.randn(7, 4), torch.zeros(7)), {"beta": -1.0}, "beta=-1.0"),
        ((torch.randn(7, 4), torch.zeros(7)), {"parameters": "wieght"}, "did you mean 'weight'"),
    ],
)
def test_arguments_are_refused(data, given, complaint):
    with pytest.raises(gr.InputError, match=complaint):
        gr.ggn(nn.Linear(4, 1), data, **{"likelihood": gr.Gaussian(noise=0.1), **given})


def test_products_are_refused():
    op = gr.ggn(nn.Linear(4, 1), (torch.randn(7, 4), torch.zeros(7)), likelihood=gr.Gaussian(noise=0.1))
    for bad in (torch.ones(4, 1), torch.ones(5, 1).double(), torch.ones(5, 1, 1)):
        with pytest.raises(gr.InputError, match=r"expected \(5, t\), torch.float32"):
            op @ bad
    with pytest.raises(gr.InputError, match="no distribution"):
        gr.fisher(
            nn.Linear(4, 1), (torch.randn(7, 4), torch.zeros(7)), likelihood=lambda f, y: f[:, 0] ** 2
        ) @ torch.ones(5)
    with pytest.raises(gr.InputError, match="not written out"):
        gr.ggn(nn.Linear(9000, 1), (torch.randn(7, 9000), torch.zeros(7)), likelihood=gr.Gaussian(noise=0.1)).dense()


# Selections.


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("head", [6, 7]),
        ("0", [0, 1]),
        ("5.bias", [5]),
        (re.compile("weight$"), [0, 2, 4, 6]),
        (lambda name, p: p.ndim == 1, [1, 3, 4, 5, 7]),
        (["6", "0.bias", "0.bias"], [1, 6, 7]),
        (("head", re.compile(r"^3\.")), [2, 3, 6, 7]),
    ],
)
def test_selections(parameters, expected):
    net = mlp(2)
    names = [name for name, _ in net.named_parameters()]
    assert list(select(net, parameters)) == [names[i] for i in expected]


def test_tied_parameters_are_one_under_either_name():
    net = Tied().eval()
    assert select(net, "unembed") == select(net, "embed.weight") == select(net, "head") == ("embed.weight",)
    assert Network(net).count == sum(p.numel() for p in net.parameters())


def test_a_layer_called_head_is_the_head():
    net = nn.ModuleDict({"head": nn.Linear(2, 2), "last": nn.Linear(2, 2)})
    assert select(net, "head") == ("head.weight", "head.bias")


def test_the_head_of_a_parametrised_layer_is_all_of_it():
    norm = nn.utils.parametrizations.weight_norm
    net = nn.Sequential(norm(nn.Linear(3, 4)), nn.Tanh(), norm(nn.Linear(4, 1)))
    assert set(select(net, "head")) == set(select(net, "2"))
    assert len(select(net, "head")) == 3


def test_a_rule_of_other_arguments_is_told():
    with pytest.raises(gr.InputError, match=r"expected \(name, parameter\) -> bool"):
        select(nn.Linear(2, 1), lambda name: True)


def test_vectors_and_trees_are_inverse():
    net = Network(Attention(), ["project", "out"])
    tree = net.tree(net.origin)
    assert torch.equal(net.vector(tree), net.origin)
    with pytest.raises(gr.InputError, match="missing or not among"):
        net.vector({"out.bias": tree["out.bias"]})
    with pytest.raises(gr.InputError, match="has shape"):
        net.vector({**tree, "out.bias": torch.zeros(2)})
    with pytest.raises(gr.InputError, match="expected"):
        net.tree(torch.zeros(3))
    assert "parameters in 4 tensors" in repr(net)


def test_a_networks_call_is_differentiable_in_parameters_and_rows():
    net = Network(mlp(2).double().eval())
    x = points(4)(5).requires_grad_()
    theta = net.origin.clone().requires_grad_()
    torch.testing.assert_close(net.call(theta, x), net.module(x))
    assert torch.autograd.gradcheck(net.call, (theta, x))


def test_a_double_network_computes_in_double():
    net, x, _ = build("convolutions, batch norm", gr_categorical("convolutions, batch norm"))
    double = Network(net).double()
    assert double.output(x).dtype == torch.float64
    torch.testing.assert_close(double.output(x), deepcopy(net).double()(x))
    assert next(net.parameters()).dtype == torch.float32


def test_recurrent_networks_have_no_forward_mode_in_single_precision():
    net, x, y = build("recurrent", gr_categorical("recurrent"))
    single, double = (
        gr.ggn(net.to(dtype), (x, y), likelihood=gr.Categorical(2)) for dtype in (torch.float32, torch.float64)
    )
    assert isinstance(single.net.mode(x), ReverseMode)
    assert isinstance(double.net.mode(x), ForwardMode)
    torch.testing.assert_close(single.dense().double(), double.dense(), rtol=1e-3, atol=1e-4)


def test_random_numbers_of_a_seed_kept_inside_are_no_chance():
    class Seeded(nn.Linear):
        def forward(self, x):
            return super().forward(x) * torch.randn(1, generator=torch.Generator().manual_seed(3), dtype=x.dtype)

    x, y = torch.randn(7, 4, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    op = gr.ggn(Seeded(4, 1).double(), (x, y), likelihood=gr.Gaussian(noise=0.1))
    scale = float(torch.randn(1, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    expected = gr.ggn(nn.Linear(4, 1).double(), (x, y), likelihood=gr.Gaussian(noise=0.1)).dense() * scale**2
    torch.testing.assert_close(op.dense(), expected, rtol=1e-10, atol=1e-12)
