"""One archive of responses, filled by several processes, one of which is killed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from sweep_cases import wait_until

import gp_response as gr
from gp_response.claims import Claims
from gp_response.response.shared import shared
from gp_response.response.store import Layout, open_store, take_up

ROOT = Path(__file__).parent.parent
ASK = """
import time
import torch
import gp_response as gr
from gp_response.testing import example_data

data = example_data(n=400, dim=2, dtype=torch.float64)
posterior = gr.Exact(gr.Matern32(lengthscale=1.2, outputscale=1.5), noise=0.05).condition(data)
x = torch.randn(300, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
ask = (posterior, gr.value(x), gr.reweight())
"""
FILL = """
import os, sys
from gp_response.response.store import BlockStore
write = BlockStore.write
def slow(self, block, values):
    with open(sys.argv[2], "a") as tracks:
        print(os.getpid(), block, file=tracks, flush=True)
    time.sleep(float(sys.argv[3]))
    write(self, block, values)
BlockStore.write = slow
chi = gr.susceptibility(*ask, out=sys.argv[1], share=True, budget=8 * 20 * 400 * 20)
assert chi.complete
"""


def fill(folder, pause):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ASK + FILL), folder / "chi.zarr", folder / "tracks", str(pause)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def blocks(folder):
    path = folder / "tracks"
    return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_processes_fill_one_archive_and_the_blocks_of_a_killed_one_are_taken_over(tmp_path):
    first = fill(tmp_path, 60)  # takes a block, and would be a minute at it
    wait_until(lambda: blocks(tmp_path), 60, what="the first block")
    others = [fill(tmp_path, 0.05) for _ in range(2)]
    wait_until(lambda: len(blocks(tmp_path)) > 5, 60, what="blocks of the others")
    os.kill(first.pid, signal.SIGKILL)
    assert [process.wait(timeout=60) for process in others] == [0, 0]
    written = blocks(tmp_path)
    store = open_store(tmp_path / "chi.zarr")
    count = len(list(store.ranges()))
    assert count > 8
    assert store.pending() == []
    assert len({pid for pid, _ in written}) == 3
    done = [block for pid, block in written if pid != first.pid]
    assert sorted(done) == list(range(count))  # each once, the killed one's among them
    names: dict = {}
    exec(ASK, names)
    whole = gr.susceptibility(*names["ask"])
    found = gr.StoredSusceptibility.open(tmp_path / "chi.zarr").part()
    scale = float(whole.matrix.abs().max())
    assert torch.allclose(found.matrix, whole.matrix, rtol=0.0, atol=1e-12 * scale)
    assert found.rows == whole.rows


def test_a_block_that_another_holds_is_waited_for_and_not_computed(tmp_path):
    arrays = {"a": Layout(("row",), (4,), "float64")}
    store = take_up(tmp_path / "a.zarr", "mark", arrays=arrays, names={}, attributes={}, block=1)
    elsewhere = Claims(tmp_path / ".a.zarr.claims").take("0")
    mine = shared(store)
    assert next(mine) == 1  # block 0 is held by another
    store.write(1, {"a": torch.ones(1, dtype=torch.float64)})
    assert next(mine) == 2
    store.write(2, {"a": torch.ones(1, dtype=torch.float64)})
    assert next(mine) == 3
    store.write(3, {"a": torch.ones(1, dtype=torch.float64)})
    store.write(0, {"a": torch.ones(1, dtype=torch.float64)})
    elsewhere.release()
    assert list(mine) == []
    assert list((tmp_path / ".a.zarr.claims").iterdir()) == []


def test_an_archive_begun_by_two_at_once_is_one(tmp_path, monkeypatch):
    arrays = {"a": Layout(("row",), (4,), "float64")}
    ask = {"arrays": arrays, "names": {}, "attributes": {}, "block": 1}
    rename = os.rename

    def late(source, target):
        monkeypatch.setattr(os, "rename", rename)
        take_up(tmp_path / "a.zarr", "mark", **ask)  # the other was quicker
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    assert take_up(tmp_path / "a.zarr", "mark", **ask).pending() == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_sharing_needs_an_archive():
    names: dict = {}
    exec(ASK, names)
    with pytest.raises(gr.InputError, match="needs out="):
        gr.susceptibility(*names["ask"], share=True)
