"""Metrics on the features of a network, whichever it is."""

from __future__ import annotations

import hashlib
import zlib
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias, final
from zipfile import BadZipFile

import attrs
import numpy as np
import torch
from torch import Tensor

from align.core.attribution import made, seen
from align.core.errors import ContractError, PartError
from align.core.features import FeatureExtractor, FeatureNetwork, PictureFeatures
from align.core.metric import MergedStates, State, StreamedMetric, update_metric
from align.core.model import Domain
from align.core.option import ConfigError, ConfigErrors, option
from align.io import paths
from align.io.cache import Cache, room
from align.io.cache_dir import cache_dir
from align.io.images import batches_of, checked, pictures_in
from align.io.tensors import packed, unpacked
from align.metrics.inception import Inception

CHUNK: Final = 32
"""Pictures that go through a network at once."""

Arrays: TypeAlias = Mapping[str, Any]
"""The arrays of an .npz file, by name."""

_FORM: Final = 1  # of what is kept of references
_FILE: Final = "reference.safetensors"
_DAMAGE: Final = (OSError, ValueError, EOFError, BadZipFile, zlib.error)


@final
@attrs.frozen(eq=False)
class _Built:
    network: FeatureNetwork
    device: torch.device
    extractor: FeatureExtractor


@final
@attrs.frozen(eq=False)
class _Last:
    network: FeatureNetwork
    digest: bytes
    features: PictureFeatures


# Several metrics of a recipe are of one network, and are given the same pictures in turn.
_BUILT: Final[deque[_Built]] = deque(maxlen=4)
_REFERENCES: Final[deque[tuple[str, State]]] = deque(maxlen=4)  # which a training asks for often
_LAST: Final[deque[_Last]] = deque(maxlen=4)


def extractor_of(network: FeatureNetwork, device: torch.device) -> FeatureExtractor:
    """A network that is loaded, once for all metrics.

    Raises:
        PartError: its weights cannot be used.
    """
    for built in _BUILT:
        if built.network == network and built.device == device:
            return built.extractor
    who = f"features '{network.kind}': build"
    extractor = made(who, lambda: network.build(device), FeatureExtractor)
    _BUILT.append(_Built(network, device, extractor))
    return extractor


def extracted(network: FeatureNetwork, data: Tensor) -> PictureFeatures:
    """The features of pictures (B, C, H, W) in [0, 1], on the CPU in float32.

    The pictures are rounded to 8 bits first, as files hold them.

    Raises:
        ContractError: the data are not pictures, or the network makes no features of them.
        PartError: the weights cannot be used.
    """
    who = f"features '{network.kind}'"
    pictures = checked(data.detach(), who)
    levels = (pictures.clamp(0, 1) * 255).round().byte()
    digest = hashlib.sha256(str(levels.shape).encode() + levels.cpu().numpy().tobytes()).digest()
    for last in _LAST:
        if last.digest == digest and last.network == network:
            return last.features
    extractor = extractor_of(network, data.device)
    with torch.no_grad():
        chunks = [extractor.extract(chunk.float() / 255) for chunk in levels.split(CHUNK)]
    features = PictureFeatures(
        pooled=_rows(who, [chunk.pooled for chunk in chunks], len(data)),
        spatial=_rows(who, [c.spatial for c in chunks], len(data)) if network.has_spatial else None,
        logits=_rows(who, [c.logits for c in chunks], len(data)) if network.has_logits else None,
    )
    _LAST.append(_Last(network, digest, features))
    return features


def _rows(who: str, chunks: Iterable[Tensor | None], count: int) -> Tensor:
    """Rows of features (B, D), of chunks."""
    parts = list[Tensor]()
    for chunk in chunks:
        if not isinstance(chunk, Tensor) or chunk.dim() != 2 or not chunk.isfinite().all():
            raise ContractError(f"{who} made {seen(chunk)}, expected finite rows of features")
        parts.append(chunk.detach().float().cpu())
    rows = torch.cat(parts)
    if len(rows) != count:
        raise ContractError(f"{who} made {len(rows)} rows of {count} pictures")
    return rows


def network_option() -> Any:
    """The option `features` of a metric."""
    return option("the network of the features", default=Inception())


def require_features(network: FeatureNetwork, kind: str, there: bool, what: str) -> None:
    """Raise ConfigErrors for a metric of this kind whose network lacks the features it is about."""
    if not there:
        text = f"'{kind}' needs {what}, and '{network.kind}' has none; name another network"
        raise ConfigErrors([ConfigError(("features",), text)])


@attrs.frozen(kw_only=True)
class FeatureMetric(StreamedMetric):
    """A metric on the features of pictures; its numbers are named after the network."""

    domain: ClassVar[Domain | None] = "image"
    needs_references: ClassVar[bool] = False

    features: FeatureNetwork = network_option()

    def prepare(self, device: torch.device) -> None:
        """Load the network."""
        extractor_of(self.features, device)

    def named(self, number: str) -> str:
        """A number's name in tables."""
        return f"{number}_{self.features.kind}"


@attrs.frozen(kw_only=True)
class ComparingMetric(StreamedMetric):
    """A metric that compares samples with those of the first arm, or with a reference of its own.

    What it keeps of a reference is kept from run to run, by the reference's content.
    """

    kept_as: ClassVar[str] = "pooled"
    """What `update` keeps; metrics that keep the same share it."""

    reference: str = option(
        "what samples are compared with: a folder of pictures, or an .npz file as ADM has them;"
        " none: the samples of the first arm",
        default="",
        path="required",
    )

    @property
    def needs_references(self) -> bool:
        """Where it has no reference of its own."""
        return not self.reference

    def merge(self, states: Sequence[State]) -> State:
        """All rows."""
        return {"rows": torch.cat([state["rows"] for state in states])}

    @abstractmethod
    def compare(self, state: State, references: State) -> dict[str, float]:
        """Named numbers for samples beside references."""

    @property
    def network(self) -> FeatureNetwork | None:
        """Whose features are compared; None where the samples themselves are."""
        return None

    def prepare(self, device: torch.device) -> None:
        """Load the network, and read the reference."""
        if self.network is not None:
            extractor_of(self.network, device)
        if self.reference:
            reference_state(self)

    def statistics(self, arrays: Arrays) -> State | None:
        """What an .npz file of statistics says in place of `update`; None where it does not."""
        return None

    def finish(self, state: State, references: State | None) -> dict[str, float]:
        """Named numbers for samples beside references.

        Raises:
            PartError: there are no references, or too few of either.
        """
        given = reference_state(self) if self.reference else references
        if given is None:
            raise PartError(
                f"metric '{self.kind}' compares with references and was given none; name a folder"
                ' or an .npz file, reference = "..."'
            )
        return self.compare(state, given)


@attrs.frozen(kw_only=True)
class ComparingFeatureMetric(ComparingMetric):
    """A metric that compares features; its numbers are named after the network."""

    domain: ClassVar[Domain | None] = "image"

    features: FeatureNetwork = network_option()

    def update(self, samples: Tensor) -> State:
        """The pooled features of pictures (B, C, H, W) in [0, 1].

        Raises:
            ContractError: the data are not pictures.
        """
        return {"rows": extracted(self.features, samples).pooled}

    def named(self, number: str) -> str:
        """A number's name in tables."""
        return f"{number}_{self.features.kind}"

    @property
    def network(self) -> FeatureNetwork | None:
        """Whose features are compared."""
        return self.features


def fingerprint(network: FeatureNetwork, device: torch.device) -> str:
    """Tells networks apart by what they make of two pictures.

    Their side, 72 pixels, is none that networks have, so that ways to resize are told apart too.
    """
    axis = torch.linspace(0, 1, 72, device=device)
    waves = [(k * (axis[:, None] + axis * k)).sin() * 0.5 + 0.5 for k in (3, 7, 19)]
    rows = extracted(network, torch.stack([torch.stack(waves), torch.stack(waves[::-1])]))
    parts = [rows.pooled, rows.spatial, rows.logits]
    kept = [network.kind, *(t.numpy().tobytes().hex() for t in parts if t is not None)]
    return hashlib.sha256(" ".join(kept).encode()).hexdigest()


def reference_state(metric: ComparingMetric) -> State:
    """What a metric keeps of its reference, from the cache or made now.

    Raises:
        PartError: the reference has no pictures, or one that cannot be read.
    """
    path = Path(metric.reference)
    if path.suffix != ".npz":
        return _kept_state(metric, path, None)
    with _arrays(path) as arrays:
        known = metric.statistics(arrays)
        return known if known is not None else _kept_state(metric, path, arrays)


def _kept_state(metric: ComparingMetric, path: Path, arrays: Arrays | None) -> State:
    """What a metric keeps of pictures or vectors, from the cache or made now."""
    device, cache = _device(metric.network), _cache()
    content = paths.content(str(path), cache.digest) if cache else paths.content(str(path))
    identity = "" if metric.network is None else fingerprint(metric.network, device)
    said = f"{_FORM} {metric.kept_as} {identity} {content}"
    key = hashlib.sha256(said.encode()).hexdigest()
    for known, state in _REFERENCES:
        if known == key:
            return state
    state = _of_cache(cache, key) or {}
    if not state:
        state = _made_now(metric, path, arrays, device)
        if cache is not None:
            about = {"reference": str(path), "kept": metric.kept_as}
            with suppress(PartError):  # it is made again
                cache.write(key, _FILE, packed(state, about))
                cache.make_room(key)
    _REFERENCES.append((key, state))
    return state


def _of_cache(cache: Cache | None, key: str) -> State | None:
    content = None if cache is None else cache.read(key, _FILE)
    found = None if content is None else unpacked(content)
    if cache is not None and content is not None and found is None:
        cache.discard(key, _FILE)  # it is damaged
    return None if found is None else found[1]


def _made_now(
    metric: ComparingMetric, path: Path, arrays: Arrays | None, device: torch.device
) -> State:
    states = MergedStates(metric)
    for batch in _batches(path, arrays):
        states.add(update_metric(metric, batch.to(device)))
    return states.state()


def _device(network: FeatureNetwork | None) -> torch.device:
    """Where a network was loaded last; the CPU for what needs none."""
    if network is None:
        return torch.device("cpu")
    for built in reversed(_BUILT):
        if built.network == network:
            return built.device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _cache() -> Cache | None:
    size = room()
    try:
        return Cache(cache_dir("references"), size) if size else None
    except OSError:
        return None  # a user without a home


@contextmanager
def _arrays(path: Path) -> Iterator[Arrays]:
    """The arrays of a file, which are read when they are asked for."""
    with ExitStack() as stack:
        try:
            # Opened here, as numpy leaves the files open that it cannot read.
            arrays = np.load(stack.enter_context(path.open("rb")), allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("one array, and not several by name")
        except _DAMAGE as error:
            raise PartError(f"'{path}' is no .npz file that can be read ({error})") from error
        yield stack.enter_context(arrays)


def array_in(arrays: Arrays, name: str) -> np.ndarray:
    """One of the arrays of a file.

    Raises:
        PartError: it is damaged, or holds more than numbers.
    """
    try:
        array: np.ndarray = arrays[name]
    except _DAMAGE as error:
        raise PartError(f"reference: '{name}' cannot be read ({error})") from error
    return array


def _batches(path: Path, arrays: Arrays | None) -> Iterator[Tensor]:
    """The references, so many at a time."""
    if arrays is not None:
        yield from _batches_of_arrays(path, arrays)
        return
    if not path.is_dir():
        raise PartError(f"'{path}' is neither a folder of pictures nor an .npz file")
    files = pictures_in(path)
    if not files:
        raise PartError(f"'{path}' has no pictures; name a folder that has")
    yield from batches_of(files, CHUNK)


def _batches_of_arrays(path: Path, arrays: Arrays) -> Iterator[Tensor]:
    """Rows of "arr_0": pictures (N, H, W, C) of 8 bits, or vectors (N, D)."""
    names = ", ".join(f"'{name}'" for name in arrays)
    if "arr_0" not in arrays:
        raise PartError(f"'{path}' has no samples, 'arr_0', only {names or 'nothing'}")
    rows = array_in(arrays, "arr_0")
    pictures = rows.ndim == 4 and rows.shape[3] in (1, 3) and rows.dtype == np.uint8
    if not len(rows) or not (pictures or (rows.ndim == 2 and rows.dtype.kind == "f")):
        raise PartError(
            f"'{path}': 'arr_0' is {rows.dtype} {rows.shape}; expected pictures (N, H, W, 3) of"
            " uint8, or vectors (N, D)"
        )
    for first in range(0, len(rows), CHUNK):
        chunk = torch.from_numpy(rows[first : first + CHUNK])
        yield chunk.permute(0, 3, 1, 2).float() / 255 if pictures else chunk.float()
