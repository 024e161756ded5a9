"""A Krylov basis in a folder: rows are written once, when they are new; the small state is renamed into place last.

Whenever the process is killed, the folder holds the state after some step, whole. Only tensors and text are stored
(safetensors), and a run that goes on from it finds the numbers that it would have found anyway.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gp_response.errors import InputError
from gp_response.files import replacing
from gp_response.linalg.recurrence import Recurrence
from gp_response.linalg.rows import Rows

STATE = "state.safetensors"
SMALL = ("matrix", "coupling", "gram", "left")


def save_state(folder: Path, rows: Rows, small: Recurrence, run: dict[str, Any], counts: dict[str, int]) -> None:
    """Write the rows that are new since the last state in the folder, then the state.

    Args:
        run: what has to agree for another run to go on from here.
        counts: integers, with `restarts` among them, which renews all rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = _read(folder)
    same = before is not None and before["run"] == run and before["counts"]["restarts"] == counts["restarts"]
    files = before["files"] if before is not None and same else []
    done = files[-1][2] if files else 0
    if done < small.m:
        name = f"rows-{counts['restarts']}-{done}.safetensors"
        _write(folder / name, {"rows": rows.data[done : small.m].contiguous()}, None)
        files = [*files, [name, done, small.m]]
    facts = {"run": run, "counts": counts, "files": files, "numbers": small.numbers()}
    tensors = {name: getattr(small, name).cpu().contiguous() for name in SMALL}
    _write(folder / STATE, tensors, {"facts": json.dumps(facts)})
    for stale in {path.name for path in folder.glob("rows-*.safetensors")} - {name for name, _, _ in files}:
        (folder / stale).unlink()


def load_state(folder: Path, rows: Rows, run: dict[str, Any]) -> tuple[Recurrence, dict[str, int]] | None:
    """The state in a folder, its rows read into `rows`; None where there is none.

    Raises:
        InputError: it belongs to another run, or does not fit into `rows`, or cannot be read.
    """
    facts = _read(folder)
    if facts is None:
        return None
    for name, value in run.items():
        if facts["run"].get(name) != value:
            raise InputError(
                f"the checkpoint in {folder} was made with {name}={facts['run'].get(name)!r} and this run has {value!r}; "
                "give the same arguments, or another folder"
            )
    device = rows.data.device
    with safe_open(folder / STATE, framework="pt") as file:
        small = Recurrence(*(file.get_tensor(name).to(device) for name in SMALL), **facts["numbers"])
    if small.m > rows.capacity:
        raise InputError(
            f"the checkpoint in {folder} holds {small.m} rows, and there is room for {rows.capacity}; raise rank"
        )
    for name, start, stop in facts["files"]:
        with safe_open(folder / name, framework="pt") as file:
            part = file.get_slice("rows")
            for row in range(start, stop):  # one at a time: a second copy may not fit
                rows.data[row] = part[row - start]
    return small, facts["counts"]


def _read(folder: Path) -> dict[str, Any] | None:
    if not (folder / STATE).exists():
        return None
    try:
        with safe_open(folder / STATE, framework="pt") as file:
            return json.loads(file.metadata()["facts"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / STATE} is no state of a Krylov basis ({error}); delete the folder") from error


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    """Atomically, from the tensors' memory: the bytes of a basis may not fit a second time."""
    with replacing(path) as temporary:
        save_file({name: value.cpu() for name, value in tensors.items()}, temporary, metadata)


__all__ = ["load_state", "save_state"]
