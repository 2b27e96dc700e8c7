"""Files of weights: read, and loaded strictly."""

import collections
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from align.core.errors import PartError
from align.io.weights import is_archive, load_strictly, read, seems

WHO = "reward 'x'"
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def same(found):
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"module." + name: tensor for name, tensor in state.items()},
        lambda state: collections.OrderedDict(state),
    ],
)
@pytest.mark.parametrize("old", [True, False])
def test_weights_saved_by_torch_are_read_at_any_depth(tmp_path, wrap, old):
    torch.save(wrap(STATE), tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    same(read(tmp_path / "x.pt", WHO))


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    same(read(tmp_path / "x.safetensors", WHO))


def test_torchscript_archives_are_read(tmp_path):
    network = nn.ModuleDict({"a": nn.Linear(3, 2)})
    network.forward = lambda x: network["a"](x)
    network.load_state_dict(STATE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3)), tmp_path / "x.pt")
    torch.save(STATE, tmp_path / "y.pt")
    assert is_archive(tmp_path / "x.pt")
    assert not is_archive(tmp_path / "y.pt")
    same(read(tmp_path / "x.pt", WHO))


class Harm:
    def __reduce__(self):
        return (eval, ("1/0",))


def test_a_file_that_would_run_code_is_refused_with_a_way_to_convert_it(tmp_path):
    torch.save({"state_dict": STATE, "more": Harm()}, tmp_path / "x.pt")
    with pytest.raises(PartError, match=r"holds more than tensors .*convert it once") as told:
        read(tmp_path / "x.pt", WHO)
    assert "\n" not in str(told.value)


def cut(path):
    torch.save({"w": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:9000])


def cut_safetensors(path):
    save_file({"w": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("x.pt", cut, r"damaged or cut off \(9000 bytes\); download it again"),
        ("x.safetensors", cut_safetensors, r"damaged or cut off \(9000 bytes\)"),
        ("x.pt", lambda path: path.write_bytes(b"not weights"), r"neither .* \(11 bytes\)"),
        ("x.pt", lambda path: path.write_bytes(b""), r"neither .* \(0 bytes\)"),
        ("x.pt", lambda path: path.write_text("<!DOCTYPE html>"), "web page"),
        ("x.pt", lambda path: path.write_text("version https://git-lfs.github.com"), "git lfs"),
        ("x.pt", lambda path: torch.save([1], path), "holds a list, not tensors by name"),
        ("x.pt", lambda path: torch.save({"lr": 1}, path), "no tensors by name, but keys lr"),
        ("x.pt", lambda path: None, "cannot read"),
    ],
)
def test_file_without_weights_is_an_error_of_one_line(tmp_path, name, make, said):
    make(tmp_path / name)
    with pytest.raises(PartError, match=f"^reward 'x': .*{said}") as told:
        read(tmp_path / name, WHO)
    assert "\n" not in str(told.value)


def test_a_network_takes_what_fits_and_nothing_else(tmp_path):
    network = nn.ModuleDict({"a": nn.Linear(3, 2)})
    load_strictly(network, STATE, tmp_path, WHO)
    same(network.state_dict())
    wrong = {"a.weight": torch.zeros(3, 3), "visual.transformer.resblocks.0.w": torch.zeros(1)}
    with pytest.raises(PartError) as told:
        load_strictly(network, wrong, tmp_path, WHO)
    assert str(told.value) == (
        f"reward 'x': '{tmp_path}' does not fit: 1 missing (a.bias);"
        " 1 unexpected (visual.transformer.resblocks.0.w);"
        " 1 of another shape (a.weight (3, 3) instead of (2, 3));"
        " it seems to be a CLIP model as OpenAI and open_clip save it"
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64])
def test_whole_numbers_are_no_weights(tmp_path, dtype):
    network = nn.ModuleDict({"a": nn.Linear(3, 2)})
    state = STATE | {"a.weight": torch.ones(2, 3, dtype=dtype)}
    with pytest.raises(PartError, match=r"1 of another type \(a.weight (int8|bool|int64)\)"):
        load_strictly(network, state, tmp_path, WHO)


def test_names_tell_what_a_file_is():
    assert seems(["blip.visual_encoder.cls_token"]) == "an ImageReward model"
    assert seems(["b", "a", "c", "d"]) == "something else, 4 tensors (a, b, c, ...)"
