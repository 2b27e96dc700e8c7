"""A run that is packed, and repeated elsewhere."""

import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from align.catalog.registry import load_catalog
from align.cli.main import main
from align.core.errors import PartError, RecipeError
from align.recipe import load
from align.runner.pack import pack
from align.runner.session import run

pytestmark = pytest.mark.usefixtures("unpainted")

RECIPE = """\
[run]
samples = 3
unsteered = 0

[model]
kind = "torch"
file = "code/net.py"
shape = [2]
classes = ["cat", "dog", "cow"]
null_class = true
prompts = "prompts.txt"

[[reward]]
kind = "python"
file = "code/reward.py"

[[reward]]
kind = "python"
name = "held"
module = "judge"
held_out = true

[mode]
kind = "best_of_n"
n = 2
flow_steps = 2
"""
FILES = {
    "code/net.py": (
        "from pathlib import Path\nimport layers\n"
        "def model():\n"
        "    return layers.scaled(float(Path(__file__).with_name('scale.txt').read_text()))\n"
    ),
    "code/layers.py": "def scaled(c):\n    return lambda x, t, label: c * x\n",
    "code/scale.txt": "0.7",
    "code/reward.py": "from helper import f\ndef score(data, prompts): return f(data)\n",
    "code/helper.py": "def f(x): return -x.square().sum(1)\n",
    "prompts.txt": "a cat\na dog\na cow\n",
    "judge.py": "def score(data, prompts): return data.sum(1)\n",
}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The folder of a run, in the working folder beside its recipe."""
    for name, text in {**FILES, "r.toml": RECIPE}.items():
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path / "home")
    return run("r.toml", progress=False).folder


def states(folder):
    return (folder / "samples" / "best_of_n" / "states.safetensors").read_bytes()


def unpacked(archive, folder):
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder / "r"


def test_packed_run_repeats_elsewhere_to_the_bit(made, tmp_path, monkeypatch):
    done = CliRunner().invoke(main, ["pack", str(made)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("r.zip: ")
    before = states(made)
    there = unpacked("r.zip", tmp_path / "there")
    shutil.rmtree(tmp_path / "home" / "code")
    monkeypatch.chdir(there)
    text = Path("recipe.toml").read_text()
    assert str(tmp_path) not in text
    assert set(tomllib.loads(text)["files"]) == {
        *("files/code/net.py", "files/code/layers.py", "files/code/scale.txt"),
        *("files/code/reward.py", "files/code/helper.py", "files/prompts/prompts.txt", "judge.py"),
    }
    again = run("recipe.toml", progress=False).folder
    assert (again, states(again)) == (Path("runs/r"), before)
    assert "align-core==" in Path("requirements.txt").read_text()
    Path("files/code/helper.py").write_text("def f(x): return x.sum(1)\n")
    with pytest.raises(RecipeError, match=r'files\."files/code/helper\.py": it has changed since'):
        run("recipe.toml", progress=False)


def test_large_files_are_named_by_their_digests(made, tmp_path):
    packed = pack(made, tmp_path / "a.zip", load_catalog(), largest=100)
    (line,) = [line for line in packed.left_out if "net.py" in line]
    assert line.startswith("files/code/net.py: 0.1 kB, sha256 ")
    there = unpacked(packed.path, tmp_path / "there")
    assert not (there / "files" / "code" / "net.py").exists()
    assert line in (there / "README.md").read_text()


def test_archive_of_a_run_is_always_the_same(made, tmp_path):
    first, second = (
        pack(made, tmp_path / name, load_catalog(), largest=1e6).path for name in ("1.zip", "2.zip")
    )
    assert first.read_bytes() == second.read_bytes()


def test_what_cannot_be_packed_is_told(made, tmp_path):
    with pytest.raises(PartError, match=r"holds no run: it has no recipe\.toml; name the folder"):
        pack(tmp_path, tmp_path / "a.zip", load_catalog(), largest=1e6)
    (tmp_path / "a.zip").touch()
    with pytest.raises(PartError, match=r"is there already; remove it, or choose another name"):
        pack(made, tmp_path / "a.zip", load_catalog(), largest=1e6)
    Path("prompts.txt").write_text("a cat\na dog\na fox\n")
    with pytest.raises(RecipeError, match=r"prompts\.txt\": it has changed since"):
        pack(made, tmp_path / "b.zip", load_catalog(), largest=1e6)


TRAINED = """\
[run]
samples = 2

[mode]
kind = "autoencode"
steps = 1
data = { path = "%s", latents = "kept latents" }
net = { kind = "upsample", colours = 1, width = 8 }

[files]
"""


@pytest.mark.parametrize("path", ["pictures", "pictures/train/a/{0..1}.png"])
def test_data_are_packed_as_they_lie(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    inner = tmp_path / "pictures" / "train" / "a"
    inner.mkdir(parents=True)
    for name in ("0.png", "1.png"):
        (inner / name).write_bytes(b"no picture is read")
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "recipe.toml").write_text(TRAINED % path)
    packed = pack(folder, tmp_path / "a.zip", load_catalog(), largest=1e6)
    there = unpacked(packed.path, tmp_path / "there")
    tables = tomllib.loads((there / "recipe.toml").read_text())
    root = "files/pictures" if path == "pictures" else "files/a"
    placed = root + path.removeprefix("pictures").removeprefix("/train/a")
    assert (tables["mode"]["data"]["path"], tables["mode"]["data"]["latents"]) == (
        placed,
        "kept/kept latents",
    )
    assert list(tables["files"]) == [placed]
    names = sorted(str(p.relative_to(there / root)) for p in (there / root).rglob("*.png"))
    within = "train/a/" if path == "pictures" else ""
    assert names == [f"{within}0.png", f"{within}1.png"]
    monkeypatch.chdir(there)
    assert load("recipe.toml", catalog=load_catalog()).recipe.mode.data.path == str(there / placed)
