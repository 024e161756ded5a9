"""A claim has one holder; it passes on when its holder is gone, and never while it lives."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from gp_response.claims import Claims
from gp_response.files import write_once

ROOT = Path(__file__).parent.parent


def other_process(folder, source):
    """Code in a process of its own, with `claims` on the folder; what it prints."""
    code = f"from gp_response.claims import Claims\nclaims = Claims({str(folder)!r})\n{textwrap.dedent(source)}"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_a_claim_has_one_holder_and_is_free_again_when_released(tmp_path):
    claims = Claims(tmp_path)
    claim = claims.take("a")
    assert claim.count == 1
    assert claim.held()
    assert Claims(tmp_path).take("a") is None
    assert claims.take("b") is not None
    claim.release()
    assert Claims(tmp_path).take("a").count == 1


def test_of_many_that_try_at_once_one_succeeds(tmp_path):
    won, start = [], threading.Barrier(16)

    def attempt():
        claims = Claims(tmp_path)
        start.wait()
        won.append(sum(claims.take(str(name)) is not None for name in range(25)))

    threads = [threading.Thread(target=attempt) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won) == 25
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_is_written_once_stays(tmp_path):
    assert write_once(tmp_path / "deep" / "a", "first")
    assert not write_once(tmp_path / "deep" / "a", "second")
    assert (tmp_path / "deep" / "a").read_text() == "first"
    assert len(list((tmp_path / "deep").iterdir())) == 1


def test_the_claim_of_a_dead_process_passes_on_at_once(tmp_path):
    process = other_process(tmp_path, 'print(claims.take("a").count)')
    assert process.communicate()[0] == "1\n"
    claims = Claims(tmp_path, lease=1000.0)
    assert not claims.held("a")
    assert claims.take("a").count == 2
    assert claims.attempts("a") == 2


def test_the_claim_of_a_living_process_passes_on_when_it_is_silent_for_a_lease(tmp_path):
    first = Claims(tmp_path).take("a")
    watcher = Claims(tmp_path, lease=0.3)
    assert watcher.take("a") is None
    for _ in range(4):
        time.sleep(0.15)
        assert first.beat()
        assert watcher.take("a") is None
    time.sleep(0.4)
    second = watcher.take("a")
    assert second.count == 2
    assert not first.beat()
    first.release()  # what was lost is not its to give
    assert second.held()


def test_clocks_of_different_machines_are_never_compared(tmp_path):
    claim = Claims(tmp_path).take("a")
    os.utime(claim.path, (0, 0))
    watcher = Claims(tmp_path, lease=0.2)
    assert watcher.take("a") is None  # as old as it is, it has not been seen to stand still
    os.utime(claim.path, (2**33, 2**33))
    time.sleep(0.3)
    assert watcher.take("a") is None
    time.sleep(0.3)
    assert watcher.take("a").count == 2


def test_a_process_that_was_stopped_finds_its_claim_lost(tmp_path):
    claim = Claims(tmp_path).take("a")
    watcher = Claims(tmp_path, lease=0.1)
    watcher.take("a")
    time.sleep(0.2)
    assert watcher.take("a") is not None
    assert not claim.held()
    assert claim.again() is None


@pytest.mark.parametrize("damage", ["", "{"])
def test_a_claim_that_cannot_be_read_is_respected(tmp_path, damage):
    Claims(tmp_path).take("a").path.write_text(damage)
    assert Claims(tmp_path).take("a") is None
