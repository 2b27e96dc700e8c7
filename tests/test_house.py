"""The rules of the house, each a short test."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import attrs
import pytest

import align
from align.catalog import hookspecs
from align.catalog.registry import load_catalog
from align.errors import RecipeError
from align.modes.distill.consistency import Consistency
from align.modes.distill.diagonal import Diagonal
from align.recipe import load
from align.recipe.describe import members

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "align"
FILES = sorted(HOUSE.rglob("*.py"))
PLUGINS = [
    path
    for path in sorted(ROOT.glob("plugins/*/align_*/**/*.py"))
    if not {"tests", "scripts"} & set(path.relative_to(ROOT).parts)
]
DOCS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]

# From the top to the ground: a file imports from its own floor's package or from lower floors.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("verify",),
    ("testing", "worker"),
    ("runner",),
    ("unsteered",),
    ("watch",),
    ("builtins", "building", "report", "progress", "new"),
    ("studies",),
    ("modes", "record"),
    ("estimators", "samplers", "objectives", "models", "recipe"),
    ("registry", "training", "nets", "isolation"),
    ("hookspecs",),
    ("rewards",),
    ("metrics",),
    ("core",),
    ("hub", "pictures", "weights"),
    ("errors", "files"),
)
PUBLIC = ["At", "Condition", "Problem", "Streams", "__version__", "load_catalog", "run", "sample"]
HEAVY = {
    "torchvision",
    "transformers",
    "diffusers",
    "hpsv2",
    "ImageReward",
    "clip",
    "open_clip",
    "timm",
    "scipy",
    "sklearn",
    "pandas",
    "matplotlib",
    "tokenizers",
    "ftfy",
    "huggingface_hub",
}
# Of our own, or too old and common to cite.
WITHOUT_REFERENCE = {"autoencode"}


def name_of(path):
    return str(path.relative_to(ROOT))


def tree_of(path):
    return ast.parse(path.read_text())


def parts_of(path):
    return path.relative_to(HOUSE).parts


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


def test_sizes():
    algorithms = ("samplers", "estimators", "objectives", "studies")
    most = dict.fromkeys(algorithms, 120) | {"modes": 220}
    for path in FILES:
        lines = path.read_text().count("\n")
        assert lines <= most.get(parts_of(path)[0], 300), f"{name_of(path)}: {lines} lines"


def test_functions_are_short():
    for path in FILES:
        for function in ast.walk(tree_of(path)):
            if isinstance(function, ast.FunctionDef):
                said = ast.get_docstring(function, clean=False)
                lines = function.end_lineno - function.lineno + 1
                lines -= said.count("\n") + 1 if said else 0
                assert lines <= 40, f"{name_of(path)}: {function.name} has {lines} lines"


def imported(path):
    """First names below `align` that a file imports, wherever in the file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module == "align":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("align."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("align."))


def test_floors():
    level = {name: height for height, names in enumerate(FLOORS) for name in names}
    for path in FILES:
        own = parts_of(path)[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in level, f"{own} has no floor; add it to FLOORS"
        for other in imported(path):
            below = other == own or level[other] > level[own]
            assert below, f"{name_of(path)} imports from {other}, which is not below {own}"


def test_no_import_is_relative():
    for path in [*FILES, *PLUGINS]:
        for node in ast.walk(tree_of(path)):
            assert not (isinstance(node, ast.ImportFrom) and node.level), name_of(path)


def test_heavy_imports_stay_out():
    code = (
        "import sys, align\n"
        "light = set(sys.modules)\n"
        "from align.catalog.registry import load_catalog\n"
        "catalog = load_catalog()\n"
        "assert align.Streams is not None and 'torch' in sys.modules\n"
        "print(*sorted({name.partition('.')[0] for name in light}))\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    light, loaded = (set(line.split()) for line in done.stdout.splitlines())
    assert not {"torch", "numpy", "attrs", "cattrs", "pluggy", "loguru", "rich"} & light
    assert not HEAVY & loaded


def test_public_names():
    assert align.__all__ == PUBLIC == dir(align)
    for name in PUBLIC:
        assert getattr(align, name) is not None
    assert align.__version__.startswith("1.")
    assert align.run.__module__ == align.sample.__module__ == "align.runner.session"
    with pytest.raises(AttributeError, match="module 'align' has no attribute 'nothing'"):
        align.nothing  # noqa: B018


def public(tree, within=""):
    """Public classes and functions of a module, and their public methods."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield within + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{node.name}.")


def test_docstrings():
    for path in [*FILES, *PLUGINS]:
        tree = tree_of(path)
        assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
        for name, node in public(tree):
            assert ast.get_docstring(node), f"{name_of(path)}: {name} has no docstring"


def test_algorithms_have_a_reference(catalog):
    entries = [e for c in ("sampler", "estimator", "mode") for e in catalog.parts[c].values()]
    algorithms = {entry.kind: entry.cls for entry in entries}
    subclasses = [*Consistency.__subclasses__(), *Diagonal.__subclasses__()]
    losses = {cls.kind: cls for cls in subclasses}
    assert set(losses) >= {"semigroup", "shortcut", "eulerian", "lagrangian", "mean_flow", "data"}
    found = re.compile(r"^Reference: .*\d{4}", re.M | re.S)
    without = {
        k for k, cls in (algorithms | losses).items() if not found.search(inspect.getdoc(cls))
    }
    assert without == WITHOUT_REFERENCE


def test_options_have_help(catalog):
    seen, todo = set(), [e.cls for named in catalog.parts.values() for e in named.values()]
    while todo:
        cls = todo.pop()
        if cls in seen or not attrs.has(cls):
            continue
        seen.add(cls)
        for field in attrs.fields(attrs.resolve_types(cls)):
            assert field.metadata.get("help"), f"{cls.__name__}.{field.name} has no help"
            todo += [one for one in members(field.type) or [field.type] if isinstance(one, type)]
    assert {"Steer", "Optimisation", "MLPConfig"} <= {cls.__name__ for cls in seen}


def test_hooks_are_documented():
    text = (ROOT / "docs" / "plugins" / "hooks.md").read_text()
    heads = re.findall(r"^### `(.*)`$", text, re.M)
    hooks = {n: hook for n, hook in vars(hookspecs).items() if n.startswith("align_")}
    signed = [n + str(inspect.signature(hook)).replace("'", "") for n, hook in hooks.items()]
    assert heads == signed


def test_randomness_has_one_door():
    drawn = re.compile(
        r"torch\.(rand\w*|normal|bernoulli|multinomial|manual_seed|seed|Generator)\b"
        r"|(?<!init)\.(normal_|uniform_|bernoulli_|exponential_|random_|cauchy_)\("
        r"|\w\.rand\w*_like|\b(np|numpy)\.random|^\s*(import|from) random\b",
        re.M,
    )
    for path in [*FILES, *PLUGINS]:
        if path != HOUSE / "core" / "streams.py":
            found = drawn.search(path.read_text())
            assert not found, f"{name_of(path)}: {found and found[0]}"
    assert drawn.search((HOUSE / "core" / "streams.py").read_text())


def test_nothing_is_printed_outside_the_command():
    for path in [*FILES, *PLUGINS]:
        for node in ast.walk(tree_of(path)):
            printed = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            assert not printed or path == HOUSE / "cli.py", f"{name_of(path)}:{node.lineno}"


def check(path, text, catalog):
    """Refuse a recipe, unless all it lacks is weights that another recipe makes."""
    try:
        load(path, catalog=catalog)
    except RecipeError as error:
        for line in str(error).splitlines():
            lacks = re.search(r"weights: no file '(runs/[^']+)'", line)
            assert lacks, line
            assert f'"{lacks[1]}"' in text


REST = {
    "model": 'kind = "pocket"\nprompt = "cat"',
    "mode": 'kind = "best_of_n"\nn = 1',
}
"""What a recipe needs beside the rewards that a plugin's README shows."""


def test_recipes_are_good(catalog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # so that weights of earlier runs are not found
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    recipes = sorted(ROOT.glob("recipes/**/*.toml"))
    assert len(recipes) > 3
    for path in recipes:
        text = path.read_text()
        check(path, text, catalog)
        shown = f"align run {path.relative_to(ROOT)}"
        assert text.startswith("# ") and shown in text, f"{name_of(path)} does not say '{shown}'"


def blocks_of(paths):
    """The TOML that documents show, with their paths."""
    blocks = [
        (path, text)
        for path in paths
        for text in re.findall(r"^```toml\n(.*?)^```", path.read_text(), re.M | re.S)
    ]
    assert blocks
    return blocks


def test_recipes_in_the_documentation_are_good(catalog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(DOCS)
    for number, (path, text) in enumerate(blocks):
        block = tmp_path / f"{path.stem}_{number}.toml"
        block.write_text(text)
        check(block, text, catalog)


def test_parts_in_the_plugins_documentation_are_good(catalog, tmp_path):
    for number, (path, text) in enumerate(blocks_of(ROOT.glob("plugins/*/README.md"))):
        said = tomllib.loads(text)
        for name, part in REST.items():
            text += "" if name in said else f"\n[{name}]\n{part}\n"
        block = tmp_path / f"{path.parent.name}_{number}.toml"
        block.write_text(text)
        check(block, text, catalog)


def test_every_plugin_is_installed_typed_and_tried():
    told = (ROOT / "tox.ini").read_text()
    for folder in sorted(ROOT.glob("plugins/align-*")):
        package = folder.name.replace("-", "_")
        assert f"-e plugins/{folder.name}\n" in told, f"tox.ini does not install {folder.name}"
        assert f"plugins/{folder.name}/{package}" in told, f"tox.ini does not type {folder.name}"
        assert list(folder.glob("tests/test_*_conformance.py")), f"{folder.name} is not tried"


def test_no_local_paths():
    for path in [*FILES, *PLUGINS, *DOCS, *ROOT.glob("recipes/**/*.toml")]:
        found = re.search(r"/(work|opt|home|root|tmp)/\w+", path.read_text())
        assert not found, f"{name_of(path)}: {found and found[0]}"
