"""Builds distributions, and tries them as someone would who installs them.

    python .ci/wheels.py build FOLDER    wheel and source archive of each, in FOLDER/NAME
    python .ci/wheels.py try FOLDER      wheels of core, imagenet and pocket in a fresh environment

"try" runs the main recipe in an empty folder, so that nothing of the checkout is seen.
"""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRIED = ("align-core", "align-imagenet", "align-pocket")
CHECK = """
import sys
from pathlib import Path
import align, align_imagenet, align_pocket

for package in (align, align_imagenet, align_pocket):
    home = Path(package.__file__).resolve()
    assert home.is_relative_to(Path(sys.prefix).resolve()), f"{home} is not of this environment"
    assert (home.parent / "py.typed").is_file(), f"{home.parent} has no py.typed"
print("align", align.__version__, "of", Path(align.__file__).parent)
"""


def distributions() -> dict[str, Path]:
    """Every distribution that is published, by name."""
    folders = [ROOT, *sorted(ROOT.glob("plugins/align-*"))]
    return {
        tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"]: folder
        for folder in folders
    }


def call(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command and show it; stop where it fails."""
    print("+", *command, flush=True)
    subprocess.run(command, check=True, cwd=cwd)


def build(folder: Path, names: tuple[str, ...] = (), kinds: tuple[str, ...] = ()) -> None:
    """Build distributions, with the build backend of this environment."""
    for name, source in distributions().items():
        if not names or name in names:
            command = (sys.executable, "-m", "build", "--no-isolation", *kinds)
            call(*command, "--outdir", folder / name, source)


def attempt(folder: Path) -> None:
    """Install wheels into a new environment, and run the main recipe there."""
    shutil.rmtree(folder, ignore_errors=True)
    build(folder / "wheels", TRIED, ("--wheel",))
    environment, elsewhere = folder / "environment", folder / "elsewhere"
    call(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    wheels = sorted((folder / "wheels").glob("*/*.whl"))
    call(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *wheels)
    elsewhere.mkdir()
    align = environment / "bin" / "align"
    call(python, "-c", CHECK, cwd=elsewhere)
    call(align, "doctor", cwd=elsewhere)
    call(align, "new", "reward", "probe", cwd=elsewhere)
    # The files that these name lie beside them.
    call(align, "check", "@rewards/centred", "@inverse/blur", cwd=elsewhere)
    call(align, "run", "@tabby_cat", "--set", "run.samples=2", cwd=elsewhere)
    for name in ("grid.png", "table.md", "recipe.toml"):
        assert (elsewhere / "runs" / "tabby_cat" / name).stat().st_size, f"no {name}"


if __name__ == "__main__":
    what, folder = sys.argv[1:]
    {"build": build, "try": attempt}[what](Path(folder).resolve())
