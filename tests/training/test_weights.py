"""Weights files: what goes in comes out, and nothing else is accepted."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from align.core.errors import DivergedError, PartError
from align.training import weights


def _modules(seed=0, width=3):
    torch.manual_seed(seed)
    return {"flow": nn.Linear(2, width), "flow2": nn.BatchNorm1d(4, affine=False)}


def _written(path, dtype=torch.float32, **more):
    modules = _modules()
    weights.write(path, modules, {"shape": (2,), "name": "Ω", **more}, dtype)
    return modules


def test_round_trip(tmp_path):
    path = tmp_path / "runs/one/model.safetensors"
    before = _written(path)
    assert weights.about(path) == {"shape": [2], "name": "Ω"}
    after = _modules(seed=1)
    assert not torch.equal(before["flow"].weight, after["flow"].weight)
    weights.read(path, after)
    for name, module in before.items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, after[name].state_dict()[key])
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_dtype_of_the_file_and_of_what_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    before = _written(path, torch.float16)
    stored = load_file(path).values()
    assert {tensor.dtype for tensor in stored if tensor.is_floating_point()} == {torch.float16}
    assert torch.int64 in {tensor.dtype for tensor in stored}  # a count is no weight
    after = _modules(seed=1)
    weights.read(path, after)
    assert after["flow"].weight.dtype == torch.float32
    assert torch.equal(after["flow"].weight, before["flow"].weight.half().float())


class Tied(nn.Module):
    """Two layers with one weight, and a mask whose entries are infinite."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("mask", torch.full((2,), -torch.inf))


def test_shared_weights_and_infinite_constants_are_written(tmp_path):
    before, after = Tied(), Tied()
    weights.write(tmp_path / "m.safetensors", {"net": before}, {})
    weights.read(tmp_path / "m.safetensors", {"net": after})
    assert all(torch.equal(one, after.state_dict()[k]) for k, one in before.state_dict().items())
    before.first.bias.data[0] = torch.inf
    with pytest.raises(DivergedError, match=r"'net\.first\.bias' has numbers"):
        weights.write(tmp_path / "m.safetensors", {"net": before}, {})


def test_modules_may_be_read_alone(tmp_path):
    path = tmp_path / "model.safetensors"
    before, after = _written(path), _modules(seed=1)
    weights.read(path, {"flow": after["flow"]})
    assert torch.equal(after["flow"].weight, before["flow"].weight)


def _refused(call, *match):
    with pytest.raises(PartError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in match:
        assert part in text


@pytest.mark.parametrize("call", [weights.about, lambda path: weights.read(path, _modules())])
def test_files_that_are_no_weights(tmp_path, call):
    path = tmp_path / "model.safetensors"
    _refused(lambda: call(path), "weights: no file", str(path))
    _refused(lambda: call(tmp_path), "weights: no file", str(tmp_path))
    _written(path)
    whole = path.read_bytes()
    for content in (b"", b"hello, world", whole[:20], whole[:-5], whole + b"x"):
        path.write_bytes(content)
        _refused(lambda: call(path), "is not a safetensors file", str(path))


def test_files_of_another_format(tmp_path):
    path = tmp_path / "other.safetensors"
    for header in (None, {"format": "pt"}):
        save_file({"flow.weight": torch.ones(3, 2)}, path, header)
        _refused(lambda: weights.about(path), "was not written by align", "align-1", str(path))


def test_modules_that_do_not_fit(tmp_path):
    path = tmp_path / "model.safetensors"
    _written(path)
    read = weights.read
    _refused(lambda: read(path, _modules(width=4)), "does not fit its own 'flow'", "size mismatch")
    wide = {"flow": nn.Linear(2, 3, bias=False)}
    _refused(lambda: read(path, wide), "'flow'", "Unexpected key", "bias")
    deep = {"flow": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))}
    _refused(lambda: read(path, deep), "'flow'", "Missing key", "1.weight")
    _refused(lambda: read(path, {"posterior": nn.Linear(2, 3)}), "'posterior'", "Missing key")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    _written(path, name="old")
    old = path.read_bytes()

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PartError, match="no space"):
        _written(path, name="new")
    monkeypatch.undo()
    assert path.read_bytes() == old
    _written(path, name="new")
    assert weights.about(path)["name"] == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
