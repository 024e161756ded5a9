"""A real transformer on real sequences, for the experiments on networks: MiniLM on rated sentences, or a small one on digits."""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

import gp_response as gr
from gp_response.data.sentences import sentences
from gp_response.features.bert import Bert
from gp_response.features.minilm import minilm, tokens


class Rated(NamedTuple):
    """Token numbers (n, L), int64, and standardised targets (n,), float32, of training and test rows; what the rows say."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    text: list[str]


class Rater(nn.Module):
    """An encoder and a linear head: token numbers (n, L) -> (n,)."""

    def __init__(self, encoder: Bert, width: int):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))[:, 0]


def rated(data: str, rows: int, tests: int, seed: int, length: int = 48) -> Rated:
    """movie: snippets of film reviews with their ratings. digits: images as 64 tokens of grey, rated +1 from 5 on and -1 below."""
    generator = torch.Generator().manual_seed(seed)
    if data == "movie":
        found = sentences("movie")
        some = torch.randperm(len(found.text), generator=generator)[: rows + tests].tolist()
        text = [found.text[i] for i in some]
        x, y = tokens(text, length=length).long(), torch.tensor(found.rating[some], dtype=torch.float32)
    elif data == "digits":
        table = gr.load("digits", standardise=False, test_fraction=0.0).train
        some = torch.randperm(len(table), generator=generator)[: rows + tests]
        x, y = table.x[some].long() + 1, torch.where(table.y[some] >= 5, 1.0, -1.0).float()
        text = [f"image {int(i)}" for i in some]
    else:
        raise gr.InputError(f"data={data!r}; expected movie or digits")
    y = (y - y[:rows].mean()) / y[:rows].std()
    return Rated(x[:rows], y[:rows], x[rows:], y[rows:], text[:rows])


def network(data: str, seed: int) -> Rater:
    torch.manual_seed(seed)
    if data == "movie":
        return Rater(minilm(), 384)
    return Rater(Bert(vocabulary=18, width=24, layers=2, heads=3, inner=48, longest=64), 24)


def fine_tuned(data: str, at: Rated, *, steps: int, rate: float, seed: int) -> Rater:
    """Every weight trained on the squared loss, in minibatches; dropout is off, as the posterior's network has none."""
    net = network(data, seed)
    with torch.no_grad():  # the head by ridge, so that the encoder starts from a sensible force
        z = torch.cat([net.encoder(part) for part in at.x.split(32)])
        centre = z.mean(dim=0)
        slope = torch.linalg.solve(
            (z - centre).T @ (z - centre) + 0.1 * len(z) * z.var(dim=0).mean() * torch.eye(z.shape[1]),
            (z - centre).T @ at.y,
        )
        net.head.weight.copy_(slope[None])
        net.head.bias.copy_(at.y.mean() - centre @ slope)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        some = torch.randint(len(at.y), (16,), generator=generator)
        optimiser.zero_grad()
        (net(at.x[some]) - at.y[some]).square().mean().backward()
        optimiser.step()
    return net.eval()


def compact(net: Rater, x: Tensor) -> tuple[Rater, Tensor]:
    """The same network on rows x (n, L) without the tokens that are not in them, and the rows in the new numbers.

    The embedding of a token that no row holds has no gradient, so that responses are the same.
    """
    used = torch.cat([torch.zeros(1, dtype=x.dtype), x.flatten()]).unique()  # padding stays number 0
    less = deepcopy(net)
    table = less.encoder.embeddings["word_embeddings"].weight.detach()[used]  # type: ignore[index]
    less.encoder.embeddings["word_embeddings"] = nn.Embedding.from_pretrained(table, freeze=False)
    return less.eval(), torch.searchsorted(used, x)


def layers(net: Rater) -> dict[str, str]:
    """Names of the groups of parameters, and the prefix of each."""
    count = len(list(net.encoder.encoder["layer"].children()))  # type: ignore[union-attr]
    blocks = {f"layer {k + 1}": f"encoder.encoder.layer.{k}" for k in range(count)}
    return {"embeddings": "encoder.embeddings", **blocks, "head": "head"}


__all__ = ["Rated", "Rater", "compact", "fine_tuned", "layers", "network", "rated"]
