"""Rules of the repository that no linter keeps; CONTRIBUTING.md names the tool for the others."""

import importlib.util
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
from align.catalog.describe import members
from align.catalog.names import did_you_mean
from align.catalog.registry import load_catalog
from align.cli.main import main
from align.core.errors import RecipeError
from align.recipe import Recipe, RewardTerm, load

ROOT = Path(__file__).parents[1]
CORE = ROOT / "align"
CORE_FILES = sorted(CORE.rglob("*.py"))
PLUGIN_FOLDERS = sorted(ROOT.glob("plugins/align-*"))
PLUGIN_FILES = [
    path
    for path in sorted(ROOT.glob("plugins/*/align_*/**/*.py"))
    if not {"tests", "scripts"} & set(path.relative_to(ROOT).parts)
]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *(p for p in sorted(ROOT.glob("docs/**/*.md")) if "generated" not in p.parts),
]
RECIPES = sorted(ROOT.glob("recipes/**/*.toml"))
SCHEMA = ROOT / "recipes" / "recipe.schema.json"
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


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


def test_import_of_align_and_of_its_catalog_loads_nothing_heavy():
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


def test_public_names_are_listed_and_can_be_imported():
    assert sorted(align.__all__) == dir(align)
    for name in align.__all__:
        assert getattr(align, name) is not None
    assert align.__version__.startswith("1.")
    assert align.run.__module__ == "align.runner.session"
    with pytest.raises(AttributeError, match="module 'align' has no attribute 'nothing'"):
        align.nothing  # noqa: B018


def test_algorithms_cite_a_reference(catalog):
    entries = [
        e for c in ("sampler", "estimator", "mode", "objective") for e in catalog.parts[c].values()
    ]
    algorithms = {entry.kind: entry.cls for entry in entries}
    objectives = {"semigroup", "shortcut", "eulerian", "lagrangian", "mean_flow", "data", "draft"}
    assert set(algorithms) >= objectives
    reference = re.compile(r"^Reference: .*\d{4}", re.M | re.S)
    without = {
        kind for kind, cls in algorithms.items() if not reference.search(inspect.getdoc(cls))
    }
    assert without == WITHOUT_REFERENCE


def test_every_option_has_help(catalog):
    seen = set()
    waiting = [entry.cls for entries in catalog.parts.values() for entry in entries.values()]
    while waiting:
        cls = waiting.pop()
        if cls in seen or not attrs.has(cls):
            continue
        seen.add(cls)
        for field in attrs.fields(attrs.resolve_types(cls)):
            if not field.init:
                continue
            text, place = field.metadata.get("help"), f"{cls.__name__}.{field.name}"
            assert text, f"{place} has no help"
            assert not text.endswith(".") or text.endswith("..."), f"{place}: one phrase, no stop"
            types = members(field.type) or [field.type]
            waiting += [member for member in types if isinstance(member, type)]
    assert {"Steer", "Optimisation", "MLPConfig"} <= {cls.__name__ for cls in seen}


def test_every_part_says_what_it_is_for_in_a_line_of_80_columns(catalog):
    longest = 80 - len("  posterior_recovery  ")
    for named in catalog.parts.values():
        for entry in named.values():
            assert entry.summary.endswith("."), entry.cls
            assert len(entry.summary) <= longest, f"{entry.cls}: its first line is too long"


def test_every_command_is_documented():
    page = (ROOT / "docs" / "reference" / "command_line.md").read_text()
    table = re.findall(r"^\| (`.*?) \|", page, re.M)
    named = {name for row in table for name in re.findall(r"`(\w+)", row)}
    assert named == {*main.commands}


def test_random_numbers_come_from_streams_alone():
    drawing = re.compile(
        r"torch\.(rand(?!om\.fork_rng)\w*|normal|bernoulli|multinomial|manual_seed|seed|Generator)\b"
        r"|(?<!init)\.(normal_|uniform_|bernoulli_|exponential_|random_|cauchy_)\("
        r"|\w\.rand\w*_like|\b(np|numpy)\.random|^\s*(import|from) random\b",
        re.M,
    )
    streams = CORE / "core" / "streams.py"
    plugin_files = [path for path in PLUGIN_FILES if path.name != "testing.py"]  # helpers of tests
    for path in [*CORE_FILES, *plugin_files]:
        if path != streams:
            match = drawing.search(path.read_text())
            assert not match, f"{relative(path)}: {match and match[0]}"
    assert drawing.search(streams.read_text())


def skip_without_plugins(text):
    """Skip a test of a recipe that names parts of plugins which are not installed here."""
    kinds = set(re.findall(r'kind = "(\w+)"', text))
    for folder in PLUGIN_FOLDERS:
        package = folder / folder.name.replace("-", "_")
        code = "\n".join(path.read_text() for path in package.glob("*.py"))
        brought = set(re.findall(r'kind: ClassVar\[str\] = "(\w+)"', code))
        if kinds & brought and not importlib.util.find_spec(package.name):
            pytest.skip(f"{folder.name} is not installed")


def check(path, text, catalog):
    """Refuse a recipe, unless all it lacks is weights that another recipe makes."""
    skip_without_plugins(text)
    try:
        load(path, catalog=catalog)
    except RecipeError as error:
        for line in str(error).splitlines():
            missing = re.search(r"weights: no file '(runs/[^']+)'", line)
            assert missing, line
            assert f'"{missing[1]}"' in text


def blocks_of(paths):
    """The TOML blocks of documents, each with the document's path and the block's number."""
    for path in paths:
        blocks = re.findall(r"^```toml\n(.*?)^```", path.read_text(), re.M | re.S)
        for number, text in enumerate(blocks):
            yield pytest.param(path, text, id=f"{path.parent.name}/{path.stem}-{number}")


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_recipe_can_be_loaded_and_says_its_command(path, catalog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # so that weights of earlier runs are not found
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    text = path.read_text()
    schema, title, *_ = text.splitlines()
    assert (path.parent / schema.removeprefix("#:schema ")).resolve() == SCHEMA
    assert title.startswith("# ") and f"align run {relative(path)}" in text
    check(path, text, catalog)


@pytest.mark.parametrize(("path", "text"), [*blocks_of(DOCUMENTS)])
def test_recipe_in_a_document_can_be_loaded(path, text, catalog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    files = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", path.read_text(), re.M | re.S)
    for name, code in files:  # which a recipe of the document may name
        (tmp_path / name).write_text(code)
    for name in re.findall(r'^prompts = "(.+)"$', text, re.M):
        (tmp_path / name).write_text("a cat\n" * 64)
    block = tmp_path / f"{path.stem}.toml"
    block.write_text(text)
    check(block, text, catalog)


@pytest.mark.parametrize(("path", "text"), [*blocks_of(ROOT.glob("plugins/*/README.md"))])
def test_parts_in_a_plugin_readme_can_be_loaded(path, text, catalog, tmp_path):
    rest = {"model": 'kind = "pocket"\nprompt = "cat"', "mode": 'kind = "best_of_n"\nn = 1'}
    tables = tomllib.loads(text)
    for name, table in rest.items():
        text += "" if name in tables else f"\n[{name}]\n{table}\n"
    block = tmp_path / f"{path.parent.name}.toml"
    block.write_text(text)
    check(block, text, catalog)


@pytest.mark.parametrize("folder", PLUGIN_FOLDERS, ids=lambda folder: folder.name)
def test_plugin_is_installed_typed_and_tested(folder):
    package = folder.name.replace("-", "_")
    tox = (ROOT / "tox.ini").read_text()
    assert f"-e plugins/{folder.name}\n" in tox, "tox.ini does not install it"
    assert f"plugins/{folder.name}/{package}" in tox, "tox.ini does not check its types"
    assert (folder / package / "py.typed").is_file(), "its types are not declared"
    assert list(folder.glob("tests/test_*_conformance.py")), "it has no conformance test"


def test_no_file_names_a_path_of_one_machine():
    for path in [*CORE_FILES, *PLUGIN_FILES, *DOCUMENTS, *RECIPES]:
        match = re.search(r"/(work|opt|home|root|tmp)/\w+", path.read_text())
        assert not match, f"{relative(path)}: {match and match[0]}"


def test_misspelt_names_in_documents_are_answered_as_they_say(catalog):
    parts = [entry.cls for named in catalog.parts.values() for entry in named.values()]
    tables = [attrs.fields(cls) for cls in (*parts, RewardTerm, Recipe)]
    known = {kind: [tuple(named)] for kind, named in catalog.parts.items()}
    known["option"] = [tuple(field.alias or field.name for field in table) for table in tables]
    known["section"] = known["option"][-1:]
    known["hook"] = [tuple(name for name in vars(hookspecs) if name.startswith("align_"))]
    examples = re.compile(r"no (\w+) named '(\w+)'; (did you mean '\w+'\?)")
    found = [case for path in DOCUMENTS for case in examples.findall(path.read_text())]
    assert len(found) >= 6
    for sort, name, answer in found:
        assert answer in [did_you_mean(name, names) for names in known[sort]], (name, answer)
