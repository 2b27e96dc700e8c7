"""`align verify`: the conformance checks on an installed part, and scores of pictures."""

import attrs
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from align.catalog.registry import Entry, Origin, load_catalog
from align.cli import verify
from align.cli.main import main
from align.core.errors import ContractError, PartError, UserInterrupt
from align.core.interrupt import user_interrupts
from align.core.option import option
from align.core.reward import HasReferenceImplementation, Reward, RewardSpec
from align.rewards.compressibility import Compressibility


@pytest.fixture
def picture(tmp_path):
    levels = torch.arange(3 * 40 * 56).reshape(40, 56, 3) * 7 % 256
    Image.fromarray(levels.byte().numpy()).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def called(*arguments):
    return CliRunner().invoke(main, ["verify", *arguments])


def test_an_installed_part_is_tried(picture):
    done = called("compressibility", picture)
    assert done.exit_code == 0, done.output
    assert "no package to ask" in done.output
    for check in ("shape", "rows_are_independent", "within_range", "differentiable"):
        assert f"{check}: good" in done.output
    assert "gradient: nothing to check: not differentiable" in done.output


def test_without_pictures_and_of_other_contracts():
    done = called("exact", "--set", "draws=3")
    assert "no option named 'draws'" in done.output
    assert called("sampler/exact").exit_code == 0
    # What is no exact posterior sampler says so.
    done = called("dps")
    assert done.exit_code == 1
    assert "exact: failed: W₁ to the posterior is" in done.output
    last = done.output.splitlines()[-1]
    assert last.startswith(
        "'exact': a sampler that approximates by design fails this; 'dps' is exact"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("compresibility",), "no part named 'compresibility'; known are"),
        (("compressibility", "none.png"), "no file 'none.png'"),
        (("python",), "python: expected either file, a Python file, or module, the name of one;"),
        (("likelihood", "--set", "std=-1.0"), "likelihood: matrix: required key is missing"),
        (("compressibility", "--set", "a.b=1"), "give one option of the part"),
        (("compressibility", "--set", "quality"), "expected KEY=VALUE"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    done = called(*arguments)
    assert done.exit_code in (1, 2)
    assert said in done.output
    assert "Traceback" not in done.output


@attrs.frozen(kw_only=True)
class Mean(RewardSpec, HasReferenceImplementation):
    """The mean, and a package that says twice as much."""

    kind = "mean"
    differentiable = True
    domain = "image"
    range = (0.0, 1.0)

    match_pil: bool = option("nothing", default=False)
    there: bool = option("whether the package is", default=True)

    def build(self, device):
        return _Mean()

    def judged(self, pictures, prompts):
        if not self.there:
            raise ImportError("no package\nnamed so")
        return 2 * torch.stack([torch.tensor(float(sum(p.getpixel((0, 0))))) for p in pictures])


class _Mean(Reward):
    def score(self, data, prompts):
        return data.mean((1, 2, 3))


class Wrong(_Mean):
    def score(self, data, prompts):
        return (data - data.mean()).mean((1, 2, 3))


def test_the_package_beside(picture):
    (one,), why = verify.compared(Mean(), [picture], "a cat")
    assert why == ""
    assert one.by_pil == one.ours > 0
    (row,) = verify.table_rows([one])
    assert list(row) == ["picture", "align", "align, match_pil", "package", "difference"]
    assert float(row["difference"]) == pytest.approx(one.ours - one.package, rel=0.1)
    (one,), why = verify.compared(Mean(there=False), [picture], "a cat")
    assert one.package is None
    assert why.startswith("the package cannot be asked: no package; install it, or name an env")


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, UserInterrupt])
def test_a_part_whose_post_init_would_end_the_command_is_named(kind):
    @attrs.frozen(kw_only=True)
    class Ends(Mean):
        kind = "ends"

        def __attrs_post_init__(self):
            raise kind(0)

    entry = Entry(Ends, Origin("ends", "align-ends", "1.0"))
    with (
        user_interrupts(),
        pytest.raises(PartError, match=rf"^ends: .*Ends raised {kind.__name__}"),
    ):
        verify.read_part(load_catalog([]), entry, [])


def test_a_check_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(Mean, "build", lambda self, device: Wrong())
    found = {one.check: one for one in verify.checked("reward", Mean(), ())}
    assert found["shape"].outcome == "good"
    assert found["rows_are_independent"].outcome == "failed"
    assert found["rows_are_independent"].reason


def test_pictures_become_squares_of_one_size(picture):
    from align.io.images import opened

    data = verify.squares([opened(picture)])
    assert data.shape == (2, 3, 40, 40)
    assert torch.equal(data[1], data[0].flip(-1))


def test_contracts_without_checks():
    with pytest.raises(PartError, match="there are no checks of a operator"):
        list(verify.checked("operator", Compressibility(), ()))
    assert load_catalog([]).find("reward", "compressibility")


def test_picture_that_a_reward_refuses_is_no_failure(monkeypatch):
    class Strict(_Mean):
        def score(self, data, prompts):
            if data.min() < -0.12:
                raise ContractError("no")
            return super().score(data, prompts)

    monkeypatch.setattr(Mean, "build", lambda self, device: Strict())
    found = {one.check: one for one in verify.checked("reward", Mean(), ())}
    assert found["outside"].outcome == "nothing to check"
    assert found["outside"].reason == "refused: no"
