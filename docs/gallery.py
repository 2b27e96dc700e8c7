"""Keeps what a gallery shows of a run: its picture, its table, and how it was made.

    align run @tabby_cat
    python docs/gallery.py runs/tabby_cat

writes docs/gallery/tabby_cat. The recipe is the one that comes with align and says what the run's
does.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from PIL import Image

from align.catalog.registry import load_catalog
from align.catalog.shipped import shipped
from align.recipe import load, to_toml

KEPT: Final = Path(__file__).resolve().parent / "gallery"
PICTURES: Final = ("grid.png", "scatter.png", "study.png", "tradeoff.png", "curves.png")
_SIDE: Final = 700  # most pixels of a side
_COLOURS: Final = 48


def as_asked(path: Path) -> Any:
    """A recipe with all its defaults, without what changes no number."""
    read = load(path, sets=('run.out="x"', "run.cache=true"), catalog=load_catalog())
    text = to_toml(read.recipe)
    return {key: value for key, value in tomllib.loads(text).items() if key != "files"}


def keep(run: Path) -> Path:
    """Write what is kept of a run; returns the folder.

    Raises:
        SystemExit: the run is not done, or of no recipe that comes with align as it stands.
    """
    about = json.loads((run / "about.json").read_text(encoding="utf-8"))
    resolved = run / "recipe.toml"
    stem = Path(tomllib.loads(resolved.read_text(encoding="utf-8"))["run"]["out"]).name
    alike = {name: path for name, path in shipped().items() if path.stem == stem}
    names = [name for name, path in alike.items() if as_asked(path) == as_asked(resolved)]
    if about["status"] != "done" or not names:
        raise SystemExit(f"{run}: the gallery shows finished runs of recipes that come with align")
    folder = KEPT / names[0]
    folder.mkdir(parents=True, exist_ok=True)
    picture = next(run / picture for picture in PICTURES if (run / picture).exists())
    with Image.open(picture) as image:
        small = image.convert("RGB")
        small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        small.quantize(_COLOURS, dither=Image.Dither.NONE).save(
            folder / "picture.png", optimize=True
        )
    table = next(path for path in (run / "table.md", run / "study.md") if path.exists())
    text = table.read_text(encoding="utf-8")
    if text.partition("\n")[0].endswith("| seconds |"):  # which say nothing of other machines
        text = re.sub(r"^(\|.*\|)[^|\n]*\|$", r"\1", text, flags=re.MULTILINE)
    (folder / "table.md").write_text(text, encoding="utf-8")
    with (run / "recipe.toml").open("rb") as file:
        samples = tomllib.load(file)["run"]["samples"]
    kept = {
        "date": about["time"].partition("T")[0],
        "picture": picture.name,
        "samples": samples,
        "threads": about["threads"],
        "device": about.get("device", "cpu"),
        "align": about["libraries"]["align-core"],
        "torch": about["libraries"]["torch"],
        "machine": about["machine"],
    }
    (folder / "about.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(keep(Path(argument)))
