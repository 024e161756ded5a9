"""Tensors and their metadata in one safetensors file, written atomically."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gp_response.errors import InputError
from gp_response.files import write_atomically

FORMAT = "gp_response/1"


def write_archive(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
    """Write atomically: a killed process leaves the old file or none."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "metadata": json.dumps(dict(metadata))}
    return write_atomically(path, save(plain, metadata=header))


def read_archive(path: str | Path, names: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the named tensors and the metadata, or say what is wrong with the file."""
    try:
        with safe_open(path, framework="pt") as archive:
            header = archive.metadata() or {}
            if header.get("format") != FORMAT:
                raise InputError(f"{path} holds format {header.get('format')!r}; expected {FORMAT!r}")
            return {name: archive.get_tensor(name) for name in names}, json.loads(header["metadata"])
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not a readable result file: {error}") from error


__all__ = ["read_archive", "write_archive"]
