"""The encoder of BERT (Devlin et al. 2019), in plain products, so that forward and reverse mode both go through it.

Names of parameters are those of the published weights. Attention is written out: the fused one has no forward mode.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_response.errors import InputError


class Attention(nn.Module):
    """Self-attention of several heads, with its residual."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.add_module("self", nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}))
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        n, length, width = x.shape
        own = self.get_submodule("self")
        query, key, value = (
            own[name](x).reshape(n, length, self.heads, -1).transpose(1, 2)  # type: ignore[index]
            for name in ("query", "key", "value")
        )
        scores = query @ key.mT / (width // self.heads) ** 0.5 + bias
        seen = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).reshape(n, length, width)
        return self.output["LayerNorm"](x + self.output["dense"](seen))


class Layer(nn.Module):
    """Attention, then two linear maps with a GELU between, each with its residual and normalisation."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.attention = Attention(width, heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention(x, bias)
        inner = functional.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](x + self.output["dense"](inner))


class Bert(nn.Module):
    """Rows of token numbers (n, L) -> the mean of the last layer over a row's tokens, (n, width).

    Token 0 is padding: it is neither attended to nor averaged, so a row's features do not depend on how far it is padded.
    Numbers may be given as floats, as rows of a data set are.

    Args:
        vocabulary, width, layers, heads, inner: sizes; the defaults are MiniLM-L6's.
        longest: most tokens of a row.
    """

    def __init__(
        self, vocabulary: int = 30522, width: int = 384, layers: int = 6, heads: int = 12, inner: int = 1536,
        longest: int = 512,
    ):  # fmt: skip
        super().__init__()
        if width % heads:
            raise InputError(f"width={width} is not a multiple of heads={heads}")
        self.embeddings = nn.ModuleDict({
            "word_embeddings": nn.Embedding(vocabulary, width),
            "position_embeddings": nn.Embedding(longest, width),
            "token_type_embeddings": nn.Embedding(2, width),
            "LayerNorm": nn.LayerNorm(width, eps=1e-12),
        })  # fmt: skip
        self.encoder = nn.ModuleDict({"layer": nn.Sequential(*(Layer(width, heads, inner) for _ in range(layers)))})

    def forward(self, x: Tensor) -> Tensor:
        ids = x.long()
        there = ids != 0
        place = torch.arange(ids.shape[-1], device=ids.device)
        e = self.embeddings
        z = (
            e["word_embeddings"](ids)
            + e["position_embeddings"](place)
            + e["token_type_embeddings"](torch.zeros_like(place))
        )
        z = e["LayerNorm"](z)
        bias = torch.zeros(there.shape, dtype=z.dtype, device=z.device).masked_fill(~there, torch.finfo(z.dtype).min)
        for layer in self.encoder["layer"].children():
            z = layer(z, bias[:, None, None, :])
        kept = there[..., None].to(z)
        return (z * kept).sum(dim=-2) / kept.sum(dim=-2).clamp_min(1.0)


__all__ = ["Bert"]
