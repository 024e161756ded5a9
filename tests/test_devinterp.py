"""Trees of loss traces in devinterp's layout: read, written, and the covariance that devinterp takes of them."""

import numpy as np
import pytest
import torch
import xarray as xr
from refusals import assert_refused

import gp_response as gr

GENERATOR = torch.Generator().manual_seed(0)
TRAIN = torch.randn(3, 60, 6, 4, generator=GENERATOR)
CODE = TRAIN[:, :, :5] + torch.randn(3, 60, 5, 4, generator=GENERATOR)
IDS = {"train": torch.arange(30).reshape(6, 5), "code": 100 + torch.arange(25).reshape(5, 5)}


def foreign_tree(path, *, completed=1, change=lambda arrays, sampler: None, metadata=True):
    """As `devinterp.slt.sampling.sample` of 2.0.1 lays it out, with what else it keeps."""
    arrays = {"init_loss": (("chain", "token_pos"), np.zeros((3, 4), dtype=np.float32))}
    arrays["sampling_loss"] = (("chain", "draw", "batch", "token_pos"), np.zeros((3, 60, 2, 4), dtype=np.float32))
    for name, trace in (("train", TRAIN), ("code", CODE)):
        arrays[f"loss_{name}"] = (("chain", "draw", f"batch_{name}", "token_pos"), trace.numpy())
        arrays[f"input_ids_{name}"] = ((f"batch_{name}", "token"), IDS[name].numpy())
    sampler = {"n_beta": 30.0, "localization": 100.0, "lr": 1e-4, "num_chains": 3, "num_draws": 60}
    change(arrays, sampler)
    attributes = {"metadata": {"config": {"sampler": sampler}} if metadata else None, "completed": completed}
    xr.DataTree(xr.Dataset(arrays, attrs=attributes)).to_zarr(path, zarr_format=3, consolidated=False)
    return path


def test_a_tree_read_gives_the_covariance_that_devinterp_takes(tmp_path):
    post = gr.read_devinterp(foreign_tree(tmp_path / "samples.zarr"), rows="train")
    assert post.beta == 30.0 / 6
    assert "localization=100.0" in post.solver
    everything = torch.cat([post.data.train.x, post.data.test.x])
    chi = gr.susceptibility(post, gr.loss(everything, torch.zeros(11)), gr.reweight())
    stacked = torch.cat([TRAIN.mean(dim=3), CODE.mean(dim=3)], dim=2).flatten(0, 1).double()
    assert torch.allclose(chi.to("devinterp").matrix, torch.cov(stacked.T)[:, :6], atol=1e-7)
    assert torch.allclose(chi.to("bif").matrix, -chi.to("devinterp").matrix)
    whole = gr.read_devinterp(tmp_path / "samples.zarr", rows="train", tokens="sum")
    summed = gr.susceptibility(whole, gr.loss(everything, torch.zeros(11)), gr.reweight())
    assert torch.allclose(summed.matrix, 16.0 * chi.matrix, rtol=1e-6)


def test_what_is_written_is_read_back_and_has_their_layout(tmp_path):
    data = gr.dataset(torch.randn(8, 2, generator=GENERATOR), torch.randn(8, generator=GENERATOR), standardise=False)
    chains = gr.sample(torch.nn.Linear(2, 1), data, likelihood=gr.Gaussian(noise=0.5), method=1e-3, draws=20, n_beta=4.0,
                       localise=3.0)  # fmt: skip
    losses = gr.draws(chains, data).losses(data.train.x, data.train.y)
    path = gr.write_devinterp(tmp_path / "mine.zarr", {"rows": losses}, {"rows": torch.arange(8)[:, None]}, chains)
    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    assert tree["loss_rows"].dims == ("chain", "draw", "batch_rows", "token_pos")
    assert tree["input_ids_rows"].dims == ("batch_rows", "token")
    assert tree.attrs["completed"] == 1
    sampler = tree.attrs["metadata"]["config"]["sampler"]
    assert (sampler["n_beta"], sampler["localization"], sampler["num_draws"]) == (4.0, 3.0, 20)
    back = gr.read_devinterp(path, rows="rows")
    assert back.beta == chains.beta == 0.5
    one = gr.susceptibility(back, gr.loss(back.data.train.x, torch.zeros(8)), gr.reweight()).matrix
    two = gr.susceptibility(gr.draws(chains, data), gr.loss(data.train.x, data.train.y), gr.reweight()).matrix
    assert torch.allclose(one, two.double(), rtol=1e-4, atol=1e-9)


def test_other_trees_are_refused(tmp_path):
    path = foreign_tree(tmp_path / "whole.zarr")
    assert_refused(lambda: gr.read_devinterp(path, rows="trian"), "did you mean 'train'")
    assert_refused(lambda: gr.read_devinterp(path, rows="train", tokens="max"), "'mean' or 'sum'")
    assert_refused(lambda: gr.read_devinterp(tmp_path / "none.zarr", rows="train"), "does not exist")
    half = foreign_tree(tmp_path / "half.zarr", completed=0)
    assert_refused(lambda: gr.read_devinterp(half, rows="train"), "did not complete")
    changes = {
        "no input_ids_code": lambda arrays, _: arrays.pop("input_ids_code"),
        "input_ids_train has dimensions": lambda arrays, _: arrays.update(
            input_ids_train=(("batch_train",), np.zeros(6))
        ),
        "n_beta='auto'": lambda _, sampler: sampler.update(n_beta="auto"),
    }
    for k, (said, change) in enumerate(changes.items()):
        made = foreign_tree(tmp_path / f"{k}.zarr", change=change)
        assert_refused(lambda made=made: gr.read_devinterp(made, rows="train"), said)
    broken = foreign_tree(tmp_path / "broken.zarr")
    for chunk in (broken / "loss_train" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"no chunk")
    assert_refused(lambda: gr.read_devinterp(broken, rows="train"), "loss_train cannot be read")
    bare = foreign_tree(tmp_path / "bare.zarr", metadata=False)
    assert_refused(lambda: gr.read_devinterp(bare, rows="train"), "does not say at which n_beta")
    assert gr.read_devinterp(bare, rows="train", n_beta=3.0).beta == 3.0 / 6
    assert_refused(lambda: gr.read_devinterp(path, rows="train", n_beta=3.0), "says n_beta=30.0; leave it out")
    two = {"a": torch.randn(2, 5, 3), "b": torch.randn(3, 5, 2)}
    numbers = {name: torch.arange(trace.shape[2])[:, None] for name, trace in two.items()}
    assert_refused(lambda: gr.write_devinterp(tmp_path / "two.zarr", two, numbers), "those of one run")
    half_precision = gr.write_devinterp(tmp_path / "bf16.zarr", {"a": two["a"].bfloat16()}, {"a": numbers["a"]})
    back = gr.read_devinterp(half_precision, rows="a", n_beta=3.0).losses
    assert torch.equal(back(back.__self__.data.train.x, torch.zeros(3)).float(), two["a"].bfloat16().float())
    assert_refused(lambda: gr.write_devinterp(path, {"a": TRAIN}, {"a": IDS["train"]}), "exists")
    assert_refused(lambda: gr.write_devinterp(tmp_path / "b.zarr", {"a": TRAIN}, {"b": IDS["train"]}), "same names")
    with pytest.raises(gr.InputError, match="integers"):
        gr.write_devinterp(tmp_path / "c.zarr", {"a": TRAIN}, {"a": IDS["code"]})
