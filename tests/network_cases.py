"""Small networks of every kind that curvature is asked of, with rows for them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import gp_response as gr


class Tied(nn.Module):
    """A language model whose embedding is its unembedding."""

    def __init__(self, words: int = 11, width: int = 8):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(width, 2, 12, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.unembed = nn.Linear(width, words, bias=False)
        self.unembed.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.unembed(self.encoder(self.embed(x)))


class Attention(nn.Module):
    """Scaled dot products called by name, then one number a row, (n,)."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.project = nn.Linear(3, 3 * width)
        self.multihead = nn.MultiheadAttention(width, 2, batch_first=True)
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.project(x)[:, None].chunk(3, dim=-1)
        z = nn.functional.scaled_dot_product_attention(*heads)[:, 0]
        z = z + self.multihead(z, z, z, need_weights=False)[0]
        return self.out(z.mean(dim=1))[:, 0]


class Recurrent(nn.Module):
    """Has no forward mode in float32."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0])


@dataclass(frozen=True)
class Case:
    """`net()` in evaluation mode, rows and the likelihoods that fit, each with labels for them."""

    net: Callable[[], nn.Module]
    x: Callable[[int], Tensor]
    labels: dict[Any, Callable[[int, torch.Generator], Tensor]]
    parameters: Any = "all"


def mlp(outputs: int, *, dropout: float = 0.0) -> nn.Module:
    hidden = [nn.Linear(4, 12), nn.Tanh(), nn.Dropout(dropout), nn.Linear(12, 9), nn.GELU(), nn.LayerNorm(9)]
    return nn.Sequential(*hidden, nn.Linear(9, outputs))


def convolutional() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 3),
        nn.GroupNorm(2, 6), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    for _ in range(3):  # running statistics that are not those of a new layer
        net(torch.randn(16, 2, 6, 6))
    return net


def points(*shape: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, *shape, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


def words(length: int, count: int = 11) -> Callable[[int], Tensor]:
    return lambda n: torch.randint(count, (n, length), generator=torch.Generator().manual_seed(n))


def reals(*shape: int) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, generator: torch.randn(n, *shape, generator=generator, dtype=torch.float64)


def counts(most: int, *shape: int, ignored: bool = False) -> Callable[[int, torch.Generator], Tensor]:
    def draw(n: int, generator: torch.Generator) -> Tensor:
        y = torch.randint(most, (n, *shape), generator=generator)
        return torch.where(torch.rand(y.shape, generator=generator) < 0.3, -100, y) if ignored else y

    return draw


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.movedim(-1, 1), y, reduction="none").flatten(1).sum(dim=1)


def log_cosh(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs - y).cosh().log().sum(dim=1)


ONE = {
    gr.Gaussian(noise=0.3): reals(), gr.StudentT(scale=0.5): reals(), gr.Bernoulli(): counts(2), gr.Probit(): counts(2),
    gr.Poisson(): counts(4),
}  # fmt: skip
CASES = {
    "mlp, one output": Case(lambda: mlp(1), points(4), ONE),
    "mlp, three outputs": Case(
        lambda: mlp(3, dropout=0.3), points(4), {gr.Categorical(3): counts(3), gr.Gaussian(noise=2.0): reals(3), log_cosh: reals(3)}
    ),
    "mlp, head": Case(lambda: mlp(3), points(4), {gr.Categorical(3): counts(3)}, "head"),
    "mlp, names": Case(lambda: mlp(2), points(4), {gr.Bernoulli(): counts(2, 2, ignored=True)}, ["0.bias", re.compile("^[56]")]),
    "linear": Case(lambda: nn.Linear(4, 1), points(4), {gr.Gaussian(noise=0.1): reals()}),
    "convolutions, batch norm": Case(convolutional, points(2, 6, 6), {gr.Categorical(3): counts(3)}),
    "tied transformer": Case(
        Tied, words(5), {gr.Categorical(11): counts(11, 5, ignored=True), cross_entropy: counts(11, 5, ignored=True)}
    ),
    "transformer layer": Case(
        Tied, words(5), {gr.Categorical(11): counts(11, 5)}, ["encoder.layers.1", lambda name, p: p.ndim == 1, "unembed.weight"]
    ),
    "attention": Case(Attention, points(5, 3), {gr.Gaussian(noise=0.3): reals(), gr.Poisson(): counts(3)}),
    "recurrent": Case(
        Recurrent, points(5, 3), {gr.Categorical(2): counts(2, 5, ignored=True), gr.Gaussian(noise=0.5): reals(5, 2)}
    ),
}  # fmt: skip
PAIRS = [(name, likelihood) for name, case in CASES.items() for likelihood in case.labels]


def build(name: str, likelihood: Any, n: int = 15) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, its rows and labels."""
    case = CASES[name]
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = case.net().eval()
    return net, case.x(n), case.labels[likelihood](n, generator)
