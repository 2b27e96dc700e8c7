"""Models that are loaded already, and prompts from a file."""

import hashlib
from typing import ClassVar

import attrs
import pytest
from align_pocket import Pocket

import align
from align import PartError
from align.catalog.registry import load_catalog
from align.core.errors import RecipeError
from align.models.mixture import Mixture
from align.modes.sampling.best_of_n import BestOfN
from align.recipe import load
from align.rewards.compressibility import Compressibility

TEXT = """\
[run]
samples = 3
[model]
kind = "pocket"
prompts = "{file}"
[mode]
kind = "best_of_n"
[[reward]]
kind = "compressibility"
"""


class Thing:
    """Something that a kind of model knows; it can be called, as what kind "torch" takes."""

    def __call__(self, x, t):
        return x


@attrs.frozen(kw_only=True)
class Knowing(Mixture):
    """A mixture that wraps things."""

    kind: ClassVar[str] = "knowing"

    @classmethod
    def wrap(cls, loaded, **options):
        if not isinstance(loaded, Thing):
            return None
        return cls(weights=(1,), means=((0.0,),), stds=(1.0,), **options)


def test_kind_of_a_plugin_that_knows_a_thing_wraps_it():
    catalog = load_catalog()
    models = catalog.parts["model"]
    entry = attrs.evolve(models["mixture"], cls=Knowing)
    knowing = attrs.evolve(catalog, parts={**catalog.parts, "model": {**models, "knowing": entry}})
    model = align.wrap(Thing(), catalog=knowing, path="trigonometric")
    assert isinstance(model, Knowing)
    assert model.path == "trigonometric"
    with pytest.raises(PartError, match=r"no installed model wraps a builtins\.int; install the"):
        align.wrap(3, catalog=knowing)
    with pytest.raises(
        PartError, match=r"model 'knowing': wrap raised .*unexpected keyword argument"
    ):
        align.wrap(Thing(), catalog=knowing, colour="red")


def test_sample_has_its_line_of_a_file_of_prompts(tmp_path):
    file = tmp_path / "animals.txt"
    file.write_text("a cat\na dog\na bear\na bird\n")
    rewards = [align.RewardTerm(part=Compressibility())]

    def sampled(**options):
        mode = BestOfN(flow_steps=1)
        return align.sample(Pocket(**options), mode, rewards=rewards, samples=3, device="cpu")

    by_file, by_words = sampled(prompts=str(file)), sampled(prompt="a {cat|dog|bear}")
    assert by_file.x1.equal(by_words.x1)
    assert by_file.inputs == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    assert by_words.inputs == {}


@pytest.mark.parametrize(
    ("lines", "more", "wanted"),
    [
        (None, "", "animals.txt'; give its path"),
        ("a cat\na dog\n", "", "has 2 prompts, and run.samples is 3: sample i has line i; add"),
        ("a cat\n\na dog\n", "", "animals.txt:2' holds no prompt; write one, or take it out"),
        ("a cat\na dog\na bear\n", 'model.prompt="a cat"', "'prompts' stands in place of 'prompt'"),
    ],
)
def test_file_of_prompts_that_does_not_do_is_told_at_its_line(lines, more, wanted, tmp_path):
    file, recipe = tmp_path / "animals.txt", tmp_path / "r.toml"
    if lines is not None:
        file.write_text(lines)
    recipe.write_text(TEXT.format(file=file))
    with pytest.raises(RecipeError) as caught:
        load(recipe, sets=[more] if more else [], catalog=load_catalog())
    assert str(caught.value).startswith(f"{recipe}:5: model.prompts: ")
    assert wanted in str(caught.value)
