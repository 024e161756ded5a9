"""The UCI sets: contents, published splits, traps, and downloads that must equal the tested contents."""

import gzip
import hashlib
import http.server
import io
import os
import threading
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from gp_response.data import load, uci
from gp_response.errors import DataError, InputError

needs_files = pytest.mark.skipif(
    not os.environ.get("GP_RESPONSE_DATA"), reason="GP_RESPONSE_DATA names no folder with the UCI files"
)
SETS = sorted(uci.REGISTRY)


@needs_files
@pytest.mark.parametrize("name", SETS)
def test_a_stored_file_is_the_tested_one_and_its_splits_cover_it(name):
    entry, path = uci.REGISTRY[name], uci._local(name)
    arrays = uci.read_npz(path)
    assert uci.content_hash(arrays) == entry["content"]
    x, y, masks = arrays
    assert (len(y), x.shape, masks.shape) == (entry["rows"], (entry["rows"], entry["dim"]), (len(y), entry["splits"]))
    assert (masks.sum(0) > 0.09 * len(y)).all()
    assert (masks.sum(0) < 0.11 * len(y)).all()
    if not name.startswith("hl_"):
        assert (masks.sum(1) == 1).all()


@needs_files
@pytest.mark.parametrize("name", ["energy", "hl_yacht"])
def test_a_published_split_is_used_as_published(name):
    _, y, masks = uci.read_npz(uci._local(name))
    for split in (0, 3):
        data = load(name, split=split, seed=split)
        assert data.test.rows.tolist() == masks[:, split].nonzero()[0].tolist()
        assert data.train.rows.tolist() == (~masks[:, split]).nonzero()[0].tolist()
        assert data.train.x.dtype == torch.float64
        assert np.allclose(data.undo_y(data.test.y), y[masks[:, split]])
    few = load(name, split=3, n=100)
    assert len(few.train) + len(few.test) == 100
    assert masks[few.test.rows, 3].all()
    assert not masks[few.train.rows, 3].any()


@needs_files
@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("energy", {"split": 10}, "split=10 does not exist; this set has 10 published splits, 0 to 9"),
        ("hl_protein", {"split": 5}, "0 to 4"),
        ("energy", {"blocked": True}, "this set has published splits"),
        ("energy", {"test_fraction": 0.2}, "this set has published splits"),
        ("energy", {"target": "x0"}, "unknown target of 'energy'"),
        ("energy", {"n": 769}, "there are only 768"),
    ],
)
def test_arguments_a_published_set_cannot_follow(name, options, words):
    with pytest.raises(InputError) as error:
        load(name, **options)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@needs_files
def test_the_columns_that_add_up_to_the_target_of_bike_are_dropped_unless_asked_for():
    honest, leaky = load("bike"), load("bike", keep_leaks=True)
    assert honest.dim == 15
    assert leaky.dim == 17
    assert leaky.names[:15] == honest.names
    assert any("x15 and x16 dropped" in note for note in honest.notes)
    assert any("x15 and x16 kept" in note for note in leaky.notes)
    count = leaky.undo_x(leaky.train.x)[:, 15:].sum(1)
    together = torch.stack([count, leaky.undo_y(leaky.train.y).exp()])
    assert float(torch.corrcoef(together)[0, 1]) > 0.999999999


@needs_files
def test_the_traps_in_the_notes_are_true():
    notes = {name: " ".join(load(name).notes) for name in ("keggundirected", "pol", "elevators", "protein", "metro")}
    assert "45,157 of 63,608 inputs are duplicates" in notes["keggundirected"]
    x, _, _ = uci.read_npz(uci._local("keggundirected"))
    assert len(x) - len(np.unique(x, axis=0)) == 45_157
    for name, levels in (("pol", 11), ("elevators", 61)):
        assert f"{levels} levels" in notes[name]
        assert len(np.unique(uci.read_npz(uci._local(name))[1])) == levels
    root, protein = (uci.read_npz(uci._local(name))[1].astype(float) for name in ("hl_protein", "protein"))
    assert "log1p(RMSD)" in notes["protein"]
    assert np.allclose(np.sort(np.log1p(root)) - np.log1p(root).mean(), np.sort(protein), atol=1e-4)
    metro = load("metro")
    assert metro.names[:3] == ("temp", "rain_1h", "snow_1h")
    assert int((uci.read_npz(uci._local("metro"))[0][:, 0] == 0).sum()) == 10
    assert "ten rows" in notes["metro"]


@needs_files
def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    content = bytearray(uci._local("energy").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "energy.npz").write_bytes(content)
    monkeypatch.setenv("GP_RESPONSE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="is damaged or another version") as error:
        load("energy")
    assert len(str(error.value).splitlines()) == 1


def test_a_folder_that_is_none_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("GP_RESPONSE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"GP_RESPONSE_DATA names '.*nowhere', which is not a folder"):
        load("energy")


def test_content_hash_sees_values_shapes_and_splits_but_not_the_sign_of_zero():
    x, y, masks = np.arange(6.0).reshape(3, 2), np.arange(3.0), np.eye(3, dtype=bool)
    same = uci.content_hash((x, y, masks))
    assert uci.content_hash((np.where(x == 0, -0.0, x).astype(np.float32), y, masks)) == same
    assert uci.content_hash((x * (1 + 1e-12), y, masks)) == same
    others = [(x + 1e-3, y, masks), (x, y[::-1], masks), (x, y, ~masks), (x.reshape(3, 2)[:, ::-1], y, masks)]
    assert len({same, *map(uci.content_hash, others)}) == 5


# Downloads are tested against a server on this machine, which serves files in the origins' formats.


def gzipped(array, fmt) -> bytes:
    text = io.StringIO()
    np.savetxt(text, array, delimiter=",", fmt=fmt)
    return gzip.compress(text.getvalue().encode())


def origin_files(folder: Path) -> dict:
    """One small set in each origin's format, and the registry entries that describe them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)).astype(np.float32), rng.normal(size=30).astype(np.float32)
    masks = np.arange(30)[:, None] % 5 == np.arange(5)
    evans, gal = folder / "evans" / "toy", folder / "gal" / "toy" / "data"
    evans.mkdir(parents=True)
    gal.mkdir(parents=True)
    (evans / "data.csv.gz").write_bytes(gzipped(np.c_[x, y].astype(float), "%.12g"))
    (evans / "test_mask.csv.gz").write_bytes(gzipped(masks, "%d"))
    np.savetxt(gal / "data.txt", np.c_[y, x].astype(float), fmt="%.12g")
    np.savetxt(gal / "index_features.txt", [1, 2, 3])
    np.savetxt(gal / "index_target.txt", [0])
    for k in range(5):
        np.savetxt(gal / f"index_test_{k}.txt", masks[:, k].nonzero()[0])
    common = {
        "rows": 30,
        "dim": 3,
        "splits": 5,
        "leaks": [],
        "notes": [],
        "sha256": "",
        "content": uci.content_hash((x, y, masks)),
    }
    return {
        "arrays": (x, y, masks),
        "toy_evans": dict(origin="evans", folder="toy", **common),
        "toy_gal": dict(origin="gal", folder="toy/data", **common),
    }


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """A served folder with both origins; the cache and the registry are the test's own."""
    served = tmp_path / "served"
    entries = origin_files(served)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            """No lines between pytest's."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.delenv("GP_RESPONSE_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    module = import_module("gp_response.data.uci")
    monkeypatch.setattr(module, "_cache", lambda name: tmp_path / "cache" / name)
    for kind in ("evans", "gal"):
        monkeypatch.setitem(module.ORIGINS, kind, f"http://127.0.0.1:{server.server_port}/{kind}")
        monkeypatch.setitem(module.REGISTRY, f"toy_{kind}", entries[f"toy_{kind}"])
    yield served, entries["arrays"]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["toy_evans", "toy_gal"])
def test_a_download_gives_what_the_stored_file_gives(origin, name, tmp_path, monkeypatch):
    _, (x, y, masks) = origin
    downloaded = load(name, split=2)
    assert downloaded.test.rows.tolist() == masks[:, 2].nonzero()[0].tolist()
    stored = io.BytesIO()
    np.savez(stored, x=x, y=y, test_mask=masks)
    (tmp_path / f"{name}.npz").write_bytes(stored.getvalue())
    monkeypatch.setitem(uci.REGISTRY[name], "sha256", hashlib.sha256(stored.getvalue()).hexdigest())
    monkeypatch.setenv("GP_RESPONSE_DATA", str(tmp_path))
    assert load(name, split=2).fingerprint() == downloaded.fingerprint()


def test_a_second_load_needs_no_network(origin):
    served, _ = origin
    first = load("toy_evans")
    for file in served.rglob("*.gz"):
        file.unlink()
    assert load("toy_evans").fingerprint() == first.fingerprint()


@pytest.mark.parametrize("name", ["toy_evans", "toy_gal"])
def test_a_download_that_differs_in_one_value_or_one_test_row_is_refused(origin, name):
    served, (x, y, masks) = origin
    if name == "toy_evans":
        changed = masks.copy()
        changed[0] = np.roll(changed[0], 1)
        (served / "evans" / "toy" / "test_mask.csv.gz").write_bytes(gzipped(changed, "%d"))
    else:
        other = x.copy()
        other[7, 1] += 1e-3
        np.savetxt(served / "gal" / "toy" / "data" / "data.txt", np.c_[y, other].astype(float), fmt="%.12g")
    with pytest.raises(DataError, match=r"differs from the tested contents; delete .*cache") as error:
        load(name)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content", [b"<html>\nnot found\n</html>", gzip.compress(b"1,2\n3\n"), gzip.compress(b"1,x\n")]
)
def test_a_download_that_is_something_else_is_refused(origin, content):
    served, _ = origin
    (served / "evans" / "toy" / "data.csv.gz").write_bytes(content)
    with pytest.raises(DataError) as error:
        load("toy_evans")
    assert "the download of 'toy_evans' cannot be parsed" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_without_network_the_error_names_the_variable(origin, monkeypatch):
    monkeypatch.setitem(uci.ORIGINS, "evans", "http://127.0.0.1:9")
    with pytest.raises(DataError) as error:
        load("toy_evans")
    text = str(error.value)
    assert text.startswith("'toy_evans' cannot be downloaded")
    assert "GP_RESPONSE_DATA" in text
    assert len(text.splitlines()) == 1
    served, _ = origin
    (served / "gal" / "toy" / "data" / "index_test_3.txt").unlink()
    with pytest.raises(DataError, match=r"index_test_3\.txt"):
        load("toy_gal")


def test_a_set_without_origin_says_so(monkeypatch):
    monkeypatch.delenv("GP_RESPONSE_DATA", raising=False)
    with pytest.raises(DataError, match="'metro' has no origin to download from; set GP_RESPONSE_DATA"):
        load("metro")


def test_every_entry_is_complete():
    for name, entry in uci.REGISTRY.items():
        assert entry["origin"] in (*uci.ORIGINS, None), name
        assert len(entry["sha256"]) == len(entry["content"]) == 64, name
        assert all(note.startswith(f"{name}: ") for note in entry["notes"])
