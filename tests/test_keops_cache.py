"""KeOps' cache after processes were killed while they wrote it."""

import json
import os
import subprocess
import sys

import pytest

from gp_response import keops_cache

pytest.importorskip("pykeops")


def imported(folder, code="import gp_response"):
    environment = os.environ | {"KEOPS_CACHE_FOLDER": str(folder)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)


def test_half_files_and_empty_ones_are_removed_and_whole_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("KEOPS_CACHE_FOLDER", str(tmp_path))
    inside = tmp_path / "Linux_p3"
    inside.mkdir()
    whole = b"\x80\x04}\x94(\x8c\x01aK\x01\x8c\x01bK\x02u."  # {"a": 1, "b": 2}
    for size in range(len(whole) + 1):
        (inside / f"{size}_cache.pkl").write_bytes(whole[:size])
    (inside / "other.pkl").write_bytes(b"")
    removed = keops_cache.remove_broken()
    assert len(removed) == len(whole)
    assert sorted(path.name for path in inside.iterdir()) == sorted([f"{len(whole)}_cache.pkl", "other.pkl"])


def test_the_package_is_imported_whatever_the_cache_holds(tmp_path):
    assert imported(tmp_path).returncode == 0
    files = list(tmp_path.rglob("*_cache.pkl"))
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:-1])
    plain = imported(tmp_path, "import pykeops")
    assert plain.returncode != 0  # else KeOps has learnt it itself, and keops_cache can go
    again = imported(tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    assert not [path for path in files if keops_cache._broken(path)]


def test_files_are_written_by_renaming(tmp_path):
    """A process that dies while it writes leaves what was there."""
    assert imported(tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*_cache.pkl")}
    died = imported(
        tmp_path,
        "import json, os, gp_response, keopscore.utils.Cache as c\n"
        "def save(self):\n"
        "    open(self.cache_file, 'wb').close()\n"
        "    print(json.dumps(self.cache_file), flush=True)\n"
        "    os._exit(9)\n"
        "c.Cache.save_cache = c.Cache_partial.save_cache = save\n",
    )
    assert died.returncode == 9
    assert json.loads(died.stdout.splitlines()[-1]) not in map(str, before)
    assert {path: path.read_bytes() for path in before} == before
