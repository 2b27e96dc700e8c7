"""Files of weights: read as tensors alone, and loaded only where every name and shape fits."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from align.core.attribution import one
from align.core.errors import PartError
from align.io.text import shortened

# What a file seems to be, by a part of a name that no other kind has.
_MARKS: Final = (
    ("lora_", "an adapter (LoRA), not a whole network"),
    ("blip.visual_encoder.", "an ImageReward model"),
    ("vision_model.", "a CLIP model as transformers saves it"),
    ("visual.transformer.resblocks.", "a CLIP model as OpenAI and open_clip save it"),
    ("visual.trunk.", "an open_clip model on a backbone of timm"),
    ("text_model.", "the text encoder of a CLIP model alone"),
    ("down_blocks.", "a diffusion model's U-Net or a VAE"),
    ("model.diffusion_model.", "a Stable Diffusion checkpoint"),
    ("transformer_blocks.", "a diffusion transformer"),
    ("x_cond_embedder.", "a meta flow map as the release of MFM saves it"),
    (".adaLN_modulation.", "a transformer as SiT, DMF and REPA save it"),
    ("bert.", "a BERT model"),
)


def read(path: Path, who: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU: safetensors, torch.save, or a TorchScript archive.

    See `content`; the tensors may lie below a key 'state_dict', 'model' or 'module'.

    Raises:
        PartError: of one line; the file is not there whole, or holds something else.
    """
    try:
        return _inner(content(path, who), path)
    except _NoTensorsError as error:
        raise PartError(f"{who}: {error}") from error


def content(path: Path, who: str) -> object:
    """All that a file holds, on the CPU: safetensors, torch.save, or a TorchScript archive.

    What `torch.save` wrote is read as tensors and plain values alone, so no code in the file runs.
    Tensors are mapped into memory where the file allows it, and then read when they are used.

    Raises:
        PartError: of one line; the file is not there whole, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    begin = _begin(path, who)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if is_archive(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as such
                return dict(torch.jit.load(path, map_location="cpu").state_dict())
        # Not read but mapped, which old files cannot be.
        mapped = zipfile.is_zipfile(path)
        # Training scripts leave their arguments beside the weights: names with plain values.
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if begin[:2] not in (b"PK", b"\x80\x02"):
            raise _no_weights(path, who) from error
        # What torch says beside it is advice to run whatever the file asks for.
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f" (it asks for '{named[1]}')" if named else ""
        cure = (
            "if you trust it, convert it once: python -c \"import torch; s = torch.load('IN',"
            " weights_only=False); torch.save(s.get('state_dict', s), 'OUT.pt')\""
        )
        raise PartError(f"{who}: '{path}' holds more than tensors{reason}; {cure}") from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        if begin[:2] == b"PK" or path.suffix == ".safetensors":
            size = path.stat().st_size
            text = f"'{path}' is damaged or cut off ({size} bytes); download it again"
            raise PartError(f"{who}: {text}") from error
        raise _no_weights(path, who) from error


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], path: Path, who: str) -> None:
    """Give a network the tensors of a file, as they are: they are not copied.

    Raises:
        PartError: of one line; a name is missing or unexpected, a shape is another, or whole
            numbers stand where the network has others.
    """
    require_fit(network, state, path, who)
    network.load_state_dict(dict(state), assign=True)


def require_fit(network: nn.Module, state: Mapping[str, Tensor], path: Path, who: str) -> None:
    """Raise the errors of `load_strictly`; the types of the tensors must be those of the file."""
    expected = network.state_dict()
    misfits = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
        "of another type": [
            f"{name} {str(state[name].dtype).removeprefix('torch.')}"
            for name, tensor in expected.items()
            if name in state and tensor.is_floating_point() != state[name].is_floating_point()
        ],
    }
    if any(misfits.values()):
        text = "; ".join(f"{len(x)} {what} ({_some(x)})" for what, x in misfits.items() if x)
        raise PartError(f"{who}: '{path}' does not fit: {text}; it seems to be {seems(state)}")


def seems(names: Iterable[str]) -> str:
    """What a file with tensors of these names seems to be."""
    known = sorted(names)
    for mark, what in _MARKS:
        if any(mark in name for name in known):
            return what
    return f"something else, {len(known)} tensors ({_some(known)})"


class _NoTensorsError(Exception):
    """A file has no tensors by name."""


def _inner(loaded: object, path: Path) -> dict[str, Tensor]:
    """The tensors of what `torch.load` gives, without the prefix of data-parallel training."""
    while isinstance(loaded, dict):
        if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
            whole = all(str(name).startswith("module.") for name in loaded)
            return {str(k).removeprefix("module.") if whole else str(k): loaded[k] for k in loaded}
        below = [k for k in ("state_dict", "model", "module") if isinstance(loaded.get(k), dict)]
        if not below:
            raise _NoTensorsError(
                f"'{path}' holds no tensors by name, but keys {_some(map(str, loaded))}"
            )
        loaded = loaded[below[0]]
    raise _NoTensorsError(f"'{path}' holds {one(type(loaded).__name__)}, not tensors by name")


def _begin(path: Path, who: str) -> bytes:
    """The first bytes of a file; raises PartError for what is clearly no weights."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError("it is a pipe or a device")  # whose reading may never end
        with path.open("rb") as file:
            begin = file.read(64)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        name = shortened(str(path), 200)
        raise PartError(f"{who}: cannot read '{name}': {reason}; give another file") from error
    if begin.startswith(b"version https://git-lfs"):
        cure = "run 'git lfs pull' where it is from, or download the file itself"
        raise PartError(f"{who}: '{path}' is a pointer of Git LFS, not the weights; {cure}")
    if begin.lstrip()[:1] == b"<":
        cure = "download the file itself, not the page that shows it"
        raise PartError(f"{who}: '{path}' is a web page, not weights; {cure}")
    return begin


def _no_weights(path: Path, who: str) -> PartError:
    text = "neither safetensors nor what torch.save writes"
    return PartError(f"{who}: '{path}' is {text} ({path.stat().st_size} bytes); give another file")


def _some(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:3]) + (", ..." if len(known) > 3 else "")
