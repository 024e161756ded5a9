"""Sentences, their tokens and the network that reads them."""

import io
import tarfile
from importlib.util import find_spec

import pooch
import pytest
import torch
from refusals import assert_refused
from torch import nn
from torch.func import functional_call, jvp

from gp_response.data import sentences as module
from gp_response.data.sentences import FILE, INSIDE, SETS, VARIABLE, sentences
from gp_response.errors import DataError, InputError
from gp_response.features.bert import Bert
from gp_response.features.minilm import PACKAGE, minilm, tokens

packaged = pytest.mark.skipif(
    find_spec(PACKAGE) is None or find_spec("tokenizers") is None, reason="MiniLM or tokenizers is not installed"
)


def small(**more):
    torch.manual_seed(0)
    return (
        Bert(**{"vocabulary": 40, "width": 24, "layers": 2, "heads": 3, "inner": 32, "longest": 16, **more})
        .double()
        .eval()
    )


def rows(n=5, length=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 40, (n, length), generator=generator).double()
    for row, kept in enumerate(torch.randint(2, length + 1, (n,), generator=generator).tolist()):
        ids[row, kept:] = 0
    return ids


def same_as_torch(net: Bert, ids: torch.Tensor) -> torch.Tensor:
    """The same network of torch's own layers."""
    e, there = net.embeddings, ids != 0
    z = e["LayerNorm"](
        e["word_embeddings"](ids.long())
        + e["position_embeddings"].weight[: ids.shape[1]]
        + e["token_type_embeddings"].weight[0]
    )
    for layer in net.encoder["layer"]:
        own, out = layer.attention.get_submodule("self"), layer.attention.output
        width = z.shape[-1]
        peer = nn.TransformerEncoderLayer(
            width, layer.attention.heads, layer.intermediate["dense"].out_features, activation="gelu",
            layer_norm_eps=1e-12, batch_first=True, dtype=z.dtype,
        ).train()  # fmt: skip
        peer.dropout.p = peer.dropout1.p = peer.dropout2.p = peer.self_attn.dropout = 0.0
        three = [own[name] for name in ("query", "key", "value")]
        peer.load_state_dict({
            "self_attn.in_proj_weight": torch.cat([part.weight for part in three]),
            "self_attn.in_proj_bias": torch.cat([part.bias for part in three]),
            **{f"self_attn.out_proj.{k}": v for k, v in out["dense"].state_dict().items()},
            **{f"norm1.{k}": v for k, v in out["LayerNorm"].state_dict().items()},
            **{f"linear1.{k}": v for k, v in layer.intermediate["dense"].state_dict().items()},
            **{f"linear2.{k}": v for k, v in layer.output["dense"].state_dict().items()},
            **{f"norm2.{k}": v for k, v in layer.output["LayerNorm"].state_dict().items()},
        })  # fmt: skip
        z = peer(z, src_key_padding_mask=~there)
    return torch.stack([z[i, there[i]].mean(dim=0) for i in range(len(z))])


def test_the_encoder_equals_the_same_network_of_torchs_layers():
    net, ids = small(), rows()
    torch.testing.assert_close(net(ids), same_as_torch(net, ids), rtol=1e-10, atol=1e-10)


def test_padding_and_the_rows_beside_it_do_not_change_a_row():
    net, ids = small(), rows()
    padded = torch.cat([ids, torch.zeros(len(ids), 5, dtype=ids.dtype)], dim=1)
    torch.testing.assert_close(net(padded), net(ids), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net(ids[2:3]), net(ids)[2:3], rtol=1e-12, atol=1e-12)


def test_forward_mode_through_the_encoder_equals_differences():
    net, ids = small(), rows()
    state = {k: v.detach() for k, v in net.named_parameters()}
    step = {k: torch.randn_like(v) for k, v in state.items()}
    slope = jvp(lambda s: functional_call(net, s, (ids,)), (state,), (step,))[1]
    h = 1e-6
    moved = [functional_call(net, {k: v + sign * h * step[k] for k, v in state.items()}, (ids,)) for sign in (1, -1)]
    torch.testing.assert_close(slope, (moved[0] - moved[1]) / (2 * h), rtol=1e-6, atol=1e-6)


def test_a_width_that_heads_do_not_divide_is_refused():
    assert_refused(lambda: Bert(width=10, heads=3), "not a multiple", error=InputError)


@packaged
def test_minilm_says_which_sentences_are_alike():
    ids = tokens(["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."])
    with torch.no_grad():
        z = nn.functional.normalize(minilm()(ids), dim=1)
    alike = z @ z.T
    assert alike[0, 1] > 0.7
    assert alike[0, 2] < 0.1


def archive(path, lines):
    def put(tar, name, data):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))

    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        put(tar, f"hutto_ICWSM_2014/{SETS['movie']}", "\n".join(lines).encode())
    with tarfile.open(path, "w:gz") as tar:
        put(tar, INSIDE, inner.getvalue())


def test_sentences_are_read_with_their_ratings(tmp_path, monkeypatch):
    archive(tmp_path / FILE, ["1\t2.5\tA fine film.", "2\t-1.25\tNot\tso fine."])
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(module, "_cache", lambda: tmp_path / "cache")
    assert_refused(sentences, "differs from the tested one", error=DataError)
    monkeypatch.setattr(module, "SHA256", pooch.file_hash(tmp_path / FILE))
    found = sentences("movie")
    assert found.text == ("A fine film.", "Not\tso fine.")
    assert found.rating.tolist() == [2.5, -1.25]


def test_an_unknown_set_is_answered_with_the_nearest():
    assert_refused(lambda: sentences("movies"), "movie", error=InputError)
