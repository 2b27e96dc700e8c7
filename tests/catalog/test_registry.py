"""Plugins: what they bring, what is refused, and what a broken one leaves standing."""

import re
import signal
import sys
from contextlib import nullcontext
from importlib.metadata import EntryPoint
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, ClassVar

import attrs
import pytest
import torch

from align.catalog import registry
from align.catalog.contracts import hook_of
from align.catalog.hookspecs import hookimpl
from align.catalog.names import did_you_mean
from align.catalog.registry import CONTRACTS, load_catalog
from align.core.errors import UserInterrupt
from align.core.interrupt import user_interrupts
from align.core.metric import Metric
from align.core.option import option
from align.core.reward import RewardSpec


def reward(name="toy", **more):
    """A reward class of that kind."""
    body = {
        "__doc__": "Scores.\n\nMore.",
        "kind": name,
        "differentiable": True,
        "domain": None,
        "range": (0.0, 1.0),
        "build": lambda self, device: None,
    }
    return attrs.frozen(kw_only=True)(type("Toy", (RewardSpec,), body | more))


def hook(name, returned):
    """A hook implementation of that name."""

    def implementation():
        return returned

    implementation.__name__ = name
    return hookimpl(implementation)


@pytest.fixture
def point(monkeypatch):
    """An entry point whose module has the attributes given."""

    def make(name, distribution=None, **contents):
        module = ModuleType(f"plugin_{name}")
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        made = EntryPoint(name=name, value=module.__name__, group="align")
        if distribution:
            dist = SimpleNamespace(name=distribution, version="1.2")
            vars(made).update(dist=dist)
        return made

    return make


def rewards(*classes):
    return {"align_rewards": hook("align_rewards", classes)}


def catalog_of(*points):
    return load_catalog(points, builtins=False)


def test_origin(point):
    cls = reward()
    catalog = catalog_of(point("toys", "align-toys", **rewards(cls)))
    entry = catalog.find("reward", "toy")
    assert entry is catalog.entry_of(cls) is catalog.entry_of(cls())
    assert entry.cls is cls
    assert attrs.astuple(entry.origin) == ("toys", "align-toys", "1.2")
    assert entry.summary == "Scores."
    assert catalog.find("reward", "else") is None
    assert catalog.entry_of(int) is None
    assert catalog.broken == ()


def test_broken_import_blocks_only_its_own(point):
    gone = EntryPoint(name="gone", value="a_module_that_is_not_there", group="align")
    catalog = catalog_of(gone, point("toys", "align-toys", **rewards(reward())))
    assert catalog.find("reward", "toy")
    (broken,) = catalog.broken
    assert str(broken) == (
        "plugin 'gone' (a_module_that_is_not_there of unknown version) did not load: "
        "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    )
    assert broken.may_bring("gone")
    assert not broken.may_bring("toy")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, EOFError])
def test_plugin_that_exits(kind):
    class Exits:
        name, value, dist = "exits", "exits", None

        def load(self):
            raise kind(3)

    with user_interrupts():
        (broken,) = catalog_of(Exits()).broken
    assert broken.reason == f"{kind.__name__}: 3"


@pytest.mark.parametrize("raised", [UserInterrupt, KeyboardInterrupt])
def test_ctrl_c_of_the_user_is_no_fault_of_a_plugin(raised):
    class Slow:
        name, value, dist = "slow", "slow", None

        def load(self):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(raised), user_interrupts() if raised is UserInterrupt else nullcontext():
        catalog_of(Slow())


HANGS = {
    "asleep": "import time\ntime.sleep(60)\n",
    "busy": "while True:\n    pass\n",
    "retries": "import time\nwhile True:\n    try:\n        time.sleep(60)\n"
    "    except Exception:\n        pass\n",
    "hook": "from align import hookimpl\n@hookimpl\ndef align_rewards():\n    while True: pass\n",
}


@pytest.mark.parametrize("code", HANGS.values(), ids=HANGS)
def test_plugin_that_hangs_is_stopped_and_set_aside(code, point, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "LONGEST_IMPORT", 0.05)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugin_that_hangs.py").write_text(code)
    monkeypatch.delitem(sys.modules, "plugin_that_hangs", raising=False)
    hanging = EntryPoint(name="hangs", value="plugin_that_hangs", group="align")
    catalog = catalog_of(hanging, point("toys", "align-toys", **rewards(reward())))
    assert catalog.find("reward", "toy")
    (broken,) = catalog.broken
    assert re.match(
        r"it was stopped after 0\.05 s in .*plugin_that_hangs\.py, line ", broken.reason
    )
    assert broken.reason.endswith("import heavy packages in `build`, not in the module")


def test_plugin_that_changes_settings_changes_them_for_nobody_else(point, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = "import os, torch\nos.chdir('/')\ntorch.set_default_dtype(torch.float64)\n"
    (tmp_path / "plugin_that_sets.py").write_text(code + "torch.set_grad_enabled(False)\n")
    folder = Path.cwd()
    assert catalog_of(EntryPoint(name="sets", value="plugin_that_sets", group="align")).broken == ()
    assert (Path.cwd(), torch.get_default_dtype()) == (folder, torch.float32)
    assert torch.is_grad_enabled()


class Unprintable(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unprintable(), "Unprintable"),
        (ValueError("a\nb"), "ValueError: a"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * 500 + " ..."),
        (ValueError("\x1b[31mred"), "ValueError:  [31mred"),
        (GeneratorExit(), "GeneratorExit"),
        (EOFError("end"), "EOFError: end"),
    ],
)
def test_reason_of_any_error_is_one_short_line(error, reason):
    class Raises:
        name, value, dist = "raises", "raises", None

        def load(self):
            raise error

    assert catalog_of(Raises()).broken[0].reason == reason


@pytest.mark.parametrize(
    "value", [None, 3, "text", hookimpl, {"kind": int}, [None], (x for x in [3])]
)
def test_hook_that_returns_rubbish_is_named(point, value):
    assert refused(point, align_rewards=hook("align_rewards", value)).startswith("align_rewards: ")


@pytest.mark.parametrize("kind", ["two words", "", " ", "a/b", "a.b", "[red]", "é", 3, b"x", None])
def test_kind_that_is_no_name_is_refused(point, kind):
    found = refused(point, **rewards(reward(kind)))
    assert found.startswith(f"align_rewards: the kind of Toy is {kind!r}, expected a name")


@pytest.mark.parametrize(
    ("promise", "value"),
    [
        ("range", "all"),
        ("range", None),
        ("range", (0.0,)),
        ("range", (1.0, 0.0)),
        ("range", (0.0, float("nan"))),
        ("domain", "pictures"),
        ("differentiable", "yes"),
        ("needs_prompt", 1),
    ],
)
def test_promise_of_another_type_is_refused(point, promise, value):
    found = refused(point, **rewards(reward(**{promise: value})))
    assert found.startswith(f"align_rewards: Toy: its {promise} is {value!r}, expected ")


def test_hook_that_wraps_others_is_refused(point):
    @hookimpl(wrapper=True)
    def align_rewards():
        return (yield)

    assert "wraps the hooks of others" in refused(point, align_rewards=align_rewards)


def test_damaged_metadata_hides_no_other_plugin(tmp_path, monkeypatch):
    contents = {"align_a": b"[align]\na = \xff\xfe", "align_b": b"[align]\nb = no_b"}
    for name, content in contents.items():
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    catalog = load_catalog()
    assert catalog.find("mode", "steer")
    damaged, missing = sorted(str(broken) for broken in catalog.broken)
    assert "align_a-1.0.dist-info" in damaged and "UnicodeDecodeError" in damaged
    assert "No module named 'no_b'" in missing


def test_collision_names_both_distributions(point):
    first, second = reward(), reward()
    catalog = catalog_of(
        point("b", "align-b", **rewards(second, reward("other"))),
        point("a", "align-a", **rewards(first)),
    )
    assert catalog.find("reward", "toy").cls is first
    assert catalog.find("reward", "other") is None
    (broken,) = catalog.broken
    assert broken.origin.distribution == "align-b"
    assert broken.kinds == {"toy", "other"}
    assert broken.reason == (
        "two rewards are named 'toy': one of align-a 1.2, one of align-b 1.2; "
        "uninstall one of the two"
    )


def refused(point, **contents):
    (broken,) = catalog_of(point("bad", "align-bad", **contents)).broken
    return broken.reason


def test_misspelt_hook(point):
    reason = refused(point, align_reward=hook("align_reward", ()))
    assert reason == "no hook named 'align_reward'; did you mean 'align_rewards'?"


def test_unmarked_hook(point):
    reason = refused(point, align_rewards=lambda: [])
    assert reason == "'align_rewards' is not marked as a hook; write @hookimpl above it"


def test_hook_with_an_argument_too_many(point):
    @hookimpl
    def align_rewards(registry):
        return []

    assert "align_rewards" in refused(point, align_rewards=align_rewards)


def test_hook_that_raises(point):
    @hookimpl
    def align_rewards():
        raise KeyError("x")

    assert refused(point, align_rewards=align_rewards) == "KeyError: 'x'"


class NoBuild(RewardSpec):
    """Leaves `build` out."""

    differentiable = True
    domain = None
    range = (0.0, 1.0)


def bare(**body):
    return type("Bare", (RewardSpec,), {"build": lambda self, device: None, **body})


CLASS_VARS = {"differentiable": True, "domain": None, "range": (0, 1)}


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (3, "expected a list of classes, got 3"),
        (reward(), "expected a list of classes, got the class Toy"),
        (["toy"], "expected classes, got 'toy'"),
        ([int], "int is not a RewardSpec"),
        ([NoBuild], "NoBuild does not define build"),
        ([bare(kind="x")], "Bare does not define differentiable, domain, range"),
        ([bare(**CLASS_VARS)], "Bare does not say its kind"),
        (
            [bare(kind=3, **CLASS_VARS)],
            "the kind of Bare is 3, expected a name of letters, digits, '_' and '-'",
        ),
        ([bare(kind="x", **CLASS_VARS)], "write @attrs.frozen(kw_only=True) above Bare"),
        (
            [reward(__annotations__={"weight": "float"}, weight=option("w", default=1.0))],
            "Toy has an option 'weight'; rename it",
        ),
        (
            [reward(__annotations__={"x": "Unheard"}, x=option("x", default=1.0))],
            "a type in Toy is unknown: name 'Unheard' is not defined",
        ),
    ],
)
def test_refused_classes(point, returned, reason):
    found = refused(point, align_rewards=hook("align_rewards", returned))
    assert found == f"align_rewards: {reason}"


def test_one_plugin_with_one_name_twice(point):
    reason = refused(point, **rewards(reward(), reward()))
    assert reason == "it brings two rewards named 'toy'; rename one"


def test_builtins_come_first_and_load():
    catalog = load_catalog([])
    assert [str(broken) for broken in catalog.broken] == []
    assert catalog.find("mode", "steer").origin.distribution == "align-core"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stpes", "did you mean 'steps'?"),
        ("zzz", "known are 'draws', 'step', 'steps'"),
        ("stepp", "known are 'draws', 'step', 'steps'"),
    ],
)
def test_did_you_mean(name, words):
    known = ["steps", "draws"] if "mean" in words else ["steps", "draws", "step"]
    assert did_you_mean(name, known) == words
    assert did_you_mean(name, []) == "there are none"


def collects(point, contract, cls):
    """Whether the class comes out of the catalog when it goes into its contract's hook."""
    name = hook_of(contract)
    catalog = catalog_of(point("one", "align-one", **{name: hook(name, [cls])}))
    assert [str(broken) for broken in catalog.broken] == []
    return catalog.find(contract, "toy").cls is cls


def part(contract):
    """The least class that keeps the outer form of a contract."""
    abc = CONTRACTS[contract]
    body: dict[str, Any] = dict.fromkeys(abc.__annotations__) | {"kind": "toy"}
    body |= dict.fromkeys(abc.__abstractmethods__, property(lambda self: None))
    return attrs.frozen(kw_only=True)(type("Toy", (abc,), body))


def test_align_models(point):
    assert collects(point, "model", part("model"))


def test_align_samplers(point):
    assert collects(point, "sampler", part("sampler"))


def test_align_estimators(point):
    assert collects(point, "estimator", part("estimator"))


def test_align_rewards(point):
    assert collects(point, "reward", reward())


def test_align_modes(point):
    assert collects(point, "mode", part("mode"))


def test_align_metrics(point):
    @attrs.frozen(kw_only=True)
    class Toy(Metric):
        kind: ClassVar[str] = "toy"
        domain: ClassVar[None] = None
        needs_references: ClassVar[bool] = False

        def compute(self, samples, references):
            return {}

    assert collects(point, "metric", Toy)


def test_align_features(point):
    assert collects(point, "features", part("features"))


def test_align_networks(point):
    assert collects(point, "network", part("network"))


def test_align_autoencoders(point):
    assert collects(point, "autoencoder", part("autoencoder"))


def test_align_datasets(point):
    assert collects(point, "dataset", part("dataset"))


def test_align_trackers(point):
    assert collects(point, "tracker", part("tracker"))


def told(point, name, **arguments):
    """What two plugins, and not a broken third, hear of a hook."""
    heard = []
    listen = {
        "align_run_start": lambda run: heard.append(run),
        "align_step": lambda run, index: heard.append((run, index)),
        "align_run_end": lambda result, error: heard.append((result, error)),
    }[name]

    def listener():
        again = FunctionType(listen.__code__, globals(), name, None, listen.__closure__)
        return hookimpl(again)

    bad = {name: listener(), "align_nothing": hook("align_nothing", ())}
    catalog = catalog_of(
        point("one", "align-one", **{name: listener()}),
        point("two", "align-two", **{name: listener()}),
        point("bad", "align-bad", **bad),
    )
    assert len(catalog.broken) == 1
    assert catalog.notify(name, **arguments) == []
    return heard


def test_align_run_start(point):
    assert told(point, "align_run_start", run="r") == ["r", "r"]


def test_align_step(point):
    heard = told(point, "align_step", run="r", index=3, state=None, info=None)
    assert heard == [("r", 3)] * 2


def test_align_run_end(point):
    error = ValueError()
    assert told(point, "align_run_end", run="r", result=None, error=error) == [(None, error)] * 2
