"""Environments in which a package is asked: how they are made, and what is asked there."""

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner
from PIL import Image

import align
from align import PartError, Pins
from align.catalog.registry import Entry, Origin, load_catalog
from align.cli import environment, verify
from align.cli.main import main

JUDGED = """\
import attrs

from align import HasReferenceImplementation, Pins, Reward, RewardSpec, hookimpl, option


@attrs.frozen(kw_only=True)
class Judged(RewardSpec, HasReferenceImplementation):
    "Stands in for a package."

    kind = "judged"
    differentiable = True
    domain = "image"
    range = (0.0, 1.0)
    factor: float = option("of the mean", default=1.0)

    def build(self, device):
        return Mean()

    def judged(self, pictures, prompts):
        import the_package

        return the_package.scores(pictures, self.factor)


@attrs.frozen(kw_only=True)
class Calls(Judged):
    "Calls its package itself."

    kind = "calls"
    needs_package = True
    pins = Pins(packages=("torch==2.0",))
    factor: float = option("of the mean")

    def build(self, device):
        import the_package

        return Mean()


class Mean(Reward):
    def score(self, data, prompts):
        return data.mean((1, 2, 3))


@hookimpl
def align_rewards():
    return [Judged, Calls]
"""
PACKAGE = """\
import torch


def scores(pictures, factor):
    return torch.tensor([factor * sum(p.getpixel((0, 0))) / 3 / 255 for p in pictures])
"""


def distribution(site, name, *, needs=(), point="", url=""):
    info = site / f"{name.replace('-', '_')}-2.0.dist-info"
    info.mkdir(parents=True)
    asked = "".join(f"Requires-Dist: {need}\n" for need in needs)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n{asked}")
    if point:
        (info / "entry_points.txt").write_text(f"[align]\n{point} = {point}\n")
    if url:
        (info / "direct_url.json").write_text(json.dumps({"url": url, "dir_info": {}}))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A plugin that asks for another one, and for what has no parts."""
    site = tmp_path / "site"
    needs = ("align-core>=1", "base-plugin>=2,<3", "numpy>=1", "base-two ; extra == 'test'")
    distribution(site, "my-plugin", needs=needs, point="mine", url="file:///a%20folder/mine")
    distribution(site, "base-plugin", needs=("attrs",), point="base")
    monkeypatch.syspath_prepend(str(site))


def test_a_plugin_is_installed_as_it_is_here_with_those_it_rests_on(installed):
    assert environment.own_distributions("my-plugin") == {"align-core", "base-plugin", "my-plugin"}
    assert environment.requirement("base-plugin") == "base-plugin==2.0"
    assert environment.requirement("my-plugin") == "/a folder/mine"


@pytest.fixture
def commands(monkeypatch):
    """What is run; it makes the file that a new environment has."""
    found = []

    def run(*command):
        found.append(command)
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True)
            (Path(command[-1]) / "bin" / "python").touch()

    monkeypatch.setattr(environment, "_run", run)
    return found


def test_packages_come_together_and_those_that_do_not_go_together_alone(
    installed, commands, tmp_path
):
    steps = []
    pins = Pins(packages=("torch==2.0",), alone=("odd==1.0",))
    environment.make_environment(tmp_path / "venv", pins, "my-plugin", steps.append)
    _, together, alone = commands
    assert together[1:7] == ("-m", "pip", "install", "-q", "torch==2.0", together[6])
    assert together[-2:] == ("base-plugin==2.0", "/a folder/mine")
    assert alone[-3:] == ("--no-deps", "--no-build-isolation", "odd==1.0")
    assert together[0] == str(tmp_path / "venv" / "bin" / "python")
    assert steps[-1] == "installs odd==1.0"


def test_nothing_is_left_of_an_environment_that_pip_cannot_make(tmp_path, monkeypatch):
    place, ask = tmp_path / "venv", subprocess.run

    def run(command, **options):
        if "venv" in command:
            command = [*command[:3], "--without-pip", *command[3:]]
        return ask(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    pins = Pins(packages=("torch==2.0",))
    with pytest.raises(PartError, match=r"`-m pip install` failed:\n.*No module named pip"):
        environment.make_environment(place, pins, "align-core", print)
    assert not place.exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    with pytest.raises(PartError, match=r"is there already; name a new folder, or use it by"):
        environment.make_environment(tmp_path, Pins(packages=()), "align-core", print)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """An environment with a package that is not here, and the reward that stands in for it."""
    place = tmp_path_factory.mktemp("there") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    ours = [Path(align.__file__).parents[1], *(p for p in sys.path if "site-packages" in p)]
    (site / "ours.pth").write_text("".join(f"{path}\n" for path in ours))
    distribution(site, "align-judged", point="judged_plugin")
    (site / "judged_plugin.py").write_text(JUDGED)
    (site / "the_package.py").write_text(PACKAGE)
    spec = importlib.util.spec_from_file_location("judged_plugin", site / "judged_plugin.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(place), module


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (4, 4), (51, 51, 51)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_the_package_is_asked_in_the_environment_that_has_it(there, picture):
    venv, judged = there[0], there[1].Judged
    (one,), reason = verify.compared(judged(factor=2.0), [picture], "a cat")
    assert one.package is None and "No module named 'the_package'; install it" in reason
    (one,), reason = verify.compared(judged(factor=2.0), [picture], "a cat", venv)
    assert (one.ours, one.package, reason) == (pytest.approx(0.2), pytest.approx(0.4), "")


def test_a_reward_that_calls_its_package_is_tried_where_that_is(there, picture):
    venv, part = there[0], there[1].Calls(factor=2.0)
    with pytest.raises(ImportError):
        next(verify.lines("reward", part, [picture], "a cat"))
    told = verify.lines("reward", part, [picture], "a cat", venv)
    header, row, _, form = itertools.islice(told, 4)
    told.close()
    assert header[0].split()[1:] == ["align", "package", "difference"]
    assert row[0].split()[1:3] == ["0.2", "0.4"]
    assert form[0].startswith("form: good")


def test_an_environment_is_made_before_options_are_chosen_and_once(
    there, commands, tmp_path, monkeypatch
):
    reward, catalog = there[1].Calls, load_catalog([])
    origin = Origin("judged", "align-core", "1.0")
    mine = {"calls": Entry(reward, origin)}
    parts = {**catalog.parts, "reward": mine, "metric": {"calls": Entry(object, origin)}}
    catalog = attrs.evolve(catalog, parts=parts)
    monkeypatch.setattr("align.catalog.registry.load_catalog", lambda: catalog)
    made = tmp_path / "made"
    done = CliRunner().invoke(main, ["verify", "calls", "--make-venv", str(made)])
    assert done.exit_code == 0, done.output
    assert f"`align verify calls PICTURE --venv {made}` asks there" in done.output
    assert [command[-1] for command in commands if "venv" in command] == [str(made)]
    arguments = ["verify", "calls", "--make-venv", str(tmp_path / "new"), "--set", "factor=x"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1 and "factor" in done.output
    assert not (tmp_path / "new").exists()


def test_an_environment_that_is_none_is_told_in_a_line(there, picture, tmp_path):
    with pytest.raises(PartError, match=r"no virtual environment '.*nowhere'"):
        verify.compared(there[1].Judged(), [picture], "a cat", str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("compressibility", "--make-venv", "new"), "no pins of an environment for 'compress"),
        (("compressibility", "--venv", "a"), "name the pictures that the package is asked about"),
        (("compressibility", "--venv", "a", "--make-venv", "b"), "give either --venv or"),
        (("compressibility", "PICTURE", "--venv", "a"), "stands in for no package to ask there"),
        (("sampler/exact", "PICTURE", "--venv", "a"), "sampler 'exact' stands in for no package"),
    ],
)
def test_mistakes_are_told_and_nothing_is_made(arguments, said, picture):
    done = CliRunner().invoke(
        main, ["verify", *(picture if a == "PICTURE" else a for a in arguments)]
    )
    assert done.exit_code in (1, 2)
    assert said in done.output
    assert "Traceback" not in done.output
