"""Public files of ImageNet transformers (SiT, REPA, DMF, MFM) as networks of align.

Reference: SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant
Transformers, Ma et al., 2024, arXiv:2401.08740; REPA, Yu et al., 2024, arXiv:2410.06940; Decoupled
MeanFlow, Lee et al., 2025, arXiv:2510.24474; Meta Flow Maps, Potaptchik et al., 2026,
arXiv:2601.14430.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, final

import attrs
import torch
from loguru import logger
from torch import Tensor

from align import PartError
from align.core.network import Role
from align.io.weights import content, load_strictly, require_fit
from align.networks.dit import DiT, DiTConfig
from align_imagenet.labels import CLASSES

Name: TypeAlias = Literal["mfm", "dmf", "sit", "repa"]


@final
@attrs.frozen
class Layout:
    """What the files of one project have in common.

    Attributes:
        role: what their network is.
        data_at: time of clean data in the network's own count.
        scales: guidance scales that have a row each.
        repo: id on the hub of the files that people have; none is known where it is empty.
        files: their names, the best first.
        vae: id on the hub of the autoencoder that their latents are of.
        beside: prefixes of keys that training leaves in the files and the network has no use for.
    """

    role: Role
    data_at: Literal[0, 1]
    repo: str
    files: tuple[str, ...]
    vae: str
    scales: tuple[float, ...] = ()
    beside: tuple[str, ...] = ()


LAYOUTS: Final[Mapping[Name, Layout]] = MappingProxyType(
    {
        "mfm": Layout(
            role="meta_flow_map",
            data_at=0,
            repo="adh1s/mfm",
            files=("mfm-xl2.pt",),
            vae="stabilityai/sd-vae-ft-mse",
            scales=(1.0, 2.5),
        ),
        "dmf": Layout(
            role="flow_map",
            data_at=0,
            repo="kyungmnlee/DMF",
            files=("dmf_xl_2_256.pt",),
            vae="stabilityai/sd-vae-ft-ema",
            beside=("logvar_linear.", "projectors."),
        ),
        "sit": Layout(
            role="flow",
            data_at=1,
            repo="willisma/SiT",
            files=("SiT-XL-2-256x256.pt", "SiT-XL-2-256.pt"),
            vae="stabilityai/sd-vae-ft-ema",
        ),
        "repa": Layout(
            role="flow",
            data_at=0,
            repo="",
            files=("last.pt",),
            vae="stabilityai/sd-vae-ft-ema",
            beside=("projectors.",),
        ),
    }
)

# By width and depth: attention heads, and blocks of a map that see the start time.
# Maps of the sizes L and S are not known.
_SIZES: Final = {(1152, 28): (16, 20), (1024, 24): (16, 0), (768, 12): (12, 8), (384, 12): (6, 0)}
# Every network of these has it once.
_MARK: Final = "x_embedder.proj.weight"
_AT_ONCE: Final = 24
_AVERAGED: Final = re.compile(r"(^|[._])(ema|shadow|averaged?)($|[._])", re.IGNORECASE)
# Numbers that running averages keep about themselves.
_COUNTERS: Final = frozenset({"n_averaged", "num_updates", "decay", "initted", "step"})


def network(
    path: Path,
    name: Name,
    *,
    heads: int,
    encoder_depth: int,
    averaged: bool,
    dtype: torch.dtype,
    who: str,
) -> DiT:
    """The network in a file, frozen, on the CPU; nothing is initialised first.

    Args:
        path: what `torch.save` or safetensors wrote.
        name: of the layout.
        heads: attention heads; 0 is as its size is known to have.
        encoder_depth: blocks of a map that see the start time; 0 as for `heads`.
        averaged: whether the running average of the weights is taken where the file has one.
        dtype: of the weights of the blocks; all others are in float32.
        who: the part that asks, for messages.

    Raises:
        PartError: of one line; the file is something else, or holds more or less than a network.
    """
    layout = LAYOUTS[name]

    def read() -> dict[str, Tensor]:
        return _without_variance(_tensors(path, layout, averaged, who), layout)

    state = read()
    config, shape = _architecture(state, layout, heads, encoder_depth, f"{who}: '{path}'")
    with torch.device("meta"):
        net = DiT(config, shape, CLASSES, layout.role)
    require_fit(net, state, path, who)
    wanted = {key: dtype if key.startswith("blocks.") else torch.float32 for key in state}
    if any(state[key].dtype != wanted[key] for key in state):
        state.clear()
        # Old files of torch.save cannot be mapped, and are read whole each time.
        mapped = path.suffix == ".safetensors" or zipfile.is_zipfile(path)
        state = _cast(read, wanted, _AT_ONCE if mapped else len(wanted))
    load_strictly(net, state, path, who)
    numbers = sum(tensor.numel() for tensor in state.values())
    _announce(f"{who}: {len(state)} tensors, {numbers:,} numbers from '{path.name}'")
    return net.eval().requires_grad_(False)


def released(name: Name, dtype: torch.dtype) -> DiT:
    """The network of a layout's released file, XL/2, on the device "meta".

    Args:
        name: of the layout.
        dtype: of the weights of the blocks; all others are in float32.
    """
    layout, ((width, depth), (heads, encoder_depth)) = LAYOUTS[name], next(iter(_SIZES.items()))
    config = DiTConfig(
        width=width,
        depth=depth,
        heads=heads,
        patch=2,
        encoder_depth=encoder_depth,
        data_at=layout.data_at,
        guidance_scales=layout.scales,
    )
    with torch.device("meta"):
        net = DiT(config, (4, 32, 32), CLASSES, layout.role)
    net.blocks.to(dtype)
    return net.eval().requires_grad_(False)


@cache
def _announce(line: str) -> None:
    """Show a line, but not again for every arm that loads the same file."""
    logger.bind(notice=True).info("{}", line)


def _cast(
    read: Callable[[], dict[str, Tensor]], wanted: Mapping[str, torch.dtype], at_once: int
) -> dict[str, Tensor]:
    """Tensors in the types that are wanted, read `at_once` at a time.

    Pages of a file that is mapped count as memory until the file is let go.
    """
    keys, cast = list(wanted), dict[str, Tensor]()
    for first in range(0, len(keys), at_once):
        mapped = read()
        for key in keys[first : first + at_once]:
            cast[key] = mapped[key].to(wanted[key], copy=True)
    return cast


@final
@attrs.frozen
class _Copy:
    """One copy of the network in a file.

    Attributes:
        place: where it lies, as keys joined by dots.
        state: its tensors.
        strangers: tensors beside it that belong to no copy.
    """

    place: str
    state: dict[str, Tensor]
    strangers: tuple[str, ...]

    @property
    def averaged(self) -> bool:
        return bool(_AVERAGED.search(self.place))


def _tensors(path: Path, layout: Layout, averaged: bool, who: str) -> dict[str, Tensor]:
    """The copy that is wanted, without what training left beside it."""
    loaded = content(path, who)
    found = list(_copies(loaded, ""))
    if not found:
        keys = list(loaded)[:3] if isinstance(loaded, Mapping) else []
        held = f", but keys {', '.join(map(str, keys))}" if keys else ""
        raise PartError(
            f"{who}: '{path}' holds no transformer by name (no key ends in '{_MARK}'){held};"
            " give a file with a state dict"
        )
    kinds = {copy.averaged for copy in found}
    if not averaged and kinds == {True}:
        raise PartError(
            f"{who}: '{path}' holds averaged weights alone ('{found[0].place}'); leave out"
            " 'ema = false'"
        )
    chosen = [copy for copy in found if copy.averaged == (averaged and True in kinds)]
    if len(chosen) > 1:
        places = " and ".join(f"'{copy.place}'" for copy in chosen)
        raise PartError(
            f"{who}: '{path}' holds several networks, {places}; save the one that is meant alone"
        )
    (copy,) = chosen
    if copy.strangers:
        raise PartError(
            f"{who}: '{path}' does not fit: {len(copy.strangers)} unexpected"
            f" ({', '.join(copy.strangers[:3])}) beside the network"
        )
    return {k: v for k, v in copy.state.items() if not k.startswith(layout.beside)}


def _copies(tree: object, place: str) -> Iterator[_Copy]:
    """The networks in nested tables, wherever they are and whatever is before their keys."""
    if not isinstance(tree, Mapping):
        return
    tensors = {str(key): value for key, value in tree.items() if isinstance(value, Tensor)}
    prefixes = [
        key.removesuffix(_MARK) for key in tensors if key == _MARK or key.endswith("." + _MARK)
    ]
    # The longest prefix that a key has is that of its network.
    owners = sorted(prefixes, key=len, reverse=True)
    states: dict[str | None, dict[str, Tensor]] = {prefix: {} for prefix in (*prefixes, None)}
    for key, tensor in tensors.items():
        owner = next((prefix for prefix in owners if key.startswith(prefix)), None)
        if key.rpartition(".")[2] not in _COUNTERS:
            states[owner][key.removeprefix(owner or "")] = tensor
    for prefix in prefixes:
        where = f"{place}{prefix}".rstrip(".")
        yield _Copy(where, states[prefix], tuple(sorted(states[None])))
    for key, value in tree.items():
        yield from _copies(value, f"{place}{key}.")


def _without_variance(state: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The state without what the last layer says of a variance.

    Rows of that layer are (pixel of a patch, channel), and the second half of the channels is the
    variance's.
    """
    last, first = state.get("final_layer.linear.weight"), state[_MARK]
    if layout.role != "flow" or last is None or first.dim() != 4:
        return state
    channels, pixels = first.shape[1], first.shape[2] * first.shape[3]
    if len(last) != 2 * channels * pixels:
        return state
    kept = torch.arange(len(last)) % (2 * channels) < channels
    rows = {"final_layer.linear.weight", "final_layer.linear.bias"} & state.keys()
    return state | {key: state[key][kept] for key in rows if len(state[key]) == len(kept)}


def _architecture(
    state: Mapping[str, Tensor], layout: Layout, heads: int, encoder_depth: int, where: str
) -> tuple[DiTConfig, tuple[int, ...]]:
    """Options of the network, and the shape of its states, as tensors tell them."""
    patches, positions = state[_MARK], state.get("pos_embed")
    if patches.dim() != 4 or positions is None or positions.dim() != 3:
        raise PartError(
            f"{where} does not fit: '{_MARK}' and 'pos_embed' must be there, of 4 and of 3"
            " dimensions"
        )
    width, channels, patch, _ = patches.shape
    side = round(positions.shape[1] ** 0.5) * patch
    numbers = [key.split(".")[1] for key in state if key.startswith("blocks.")]
    depth = 1 + max((int(number) for number in numbers if number.isdigit()), default=0)
    known_heads, known_depth = _SIZES.get((width, depth), (0, 0))
    # A flow's blocks all see one time; the number counts when a map is grown from it.
    encoder_depth = encoder_depth or known_depth or (2 * depth // 3 if layout.role == "flow" else 0)
    heads = heads or known_heads
    unknown = [
        name for name, value in (("heads", heads), ("encoder_depth", encoder_depth)) if not value
    ]
    if unknown:
        options = " and ".join(f"'{name}'" for name in unknown)
        raise PartError(
            f"{where} has width {width} and depth {depth}, for which no usual {options} is known,"
            f" and the file does not say it; set {options}"
        )
    try:
        config = DiTConfig(
            width=width,
            depth=depth,
            heads=heads,
            patch=patch,
            encoder_depth=encoder_depth,
            data_at=layout.data_at,
            guidance_scales=layout.scales,
        )
    except ValueError as error:
        raise PartError(f"{where}: {error}") from error
    return config, (channels, side, side)
