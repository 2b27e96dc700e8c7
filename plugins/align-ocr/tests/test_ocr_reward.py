"""The reward `ocr`: words that Pillow draws are read."""

import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from align_ocr import Ocr
from align_ocr.reward import quoted
from PIL import Image, ImageDraw, ImageFont

from align import ContractError, PartError, PromptError

CPU = torch.device("cpu")


def drawn(*lines, size=26):
    """A picture (3, 96, 192) with lines of text."""
    image = Image.new("RGB", (192, 96), "white")
    for number, line in enumerate(lines):
        place, font = (12, 8 + 44 * number), ImageFont.load_default(size)
        ImageDraw.Draw(image).text(place, line, font=font, fill=(0, 0, 160))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


@pytest.fixture(scope="module")
def pictures():
    return torch.stack((drawn("HELLO cat"), drawn("HELLO cap"), drawn("HELLO", "CAT"), drawn()))


def scored(data, text, **options):
    pytest.importorskip("rapidocr_onnxruntime", reason="rapidocr-onnxruntime is not installed")
    reward = Ocr(text=text, side=96, **options).build(CPU)
    return reward.score(data, [""] * len(data))


def test_drawn_text_is_read(pictures):
    score = scored(pictures, "Hello cat")
    assert score.dtype == torch.float32
    assert score.tolist() == pytest.approx([1, 7 / 8, 1, 0])


def test_case_counts_if_asked(pictures):
    assert scored(pictures[:1], "HELLO CAT").item() == 1
    assert scored(pictures[:1], "HELLO CAT", case=True).item() == pytest.approx(5 / 8)
    assert scored(pictures[:1], "HELLO cat", case=True).item() == 1


def test_a_longer_text_is_not_better(pictures):
    assert scored(pictures[2:3], "cat").item() == 0  # HELLO is five letters too many
    assert scored(pictures[2:3], "hello").item() == pytest.approx(2 / 5)


def test_the_package_is_given_what_it_expects(monkeypatch):
    seen, package = [], ModuleType("rapidocr_onnxruntime")

    class RapidOCR:
        def __init__(self, **options):
            seen.append(options)

        def __call__(self, picture):
            seen.append(picture)
            return [[[[0, 0]], "a T", 0.9], [[[0, 9]], "c", 0.8]], [0.1]

    package.RapidOCR = RapidOCR
    monkeypatch.setitem(sys.modules, package.__name__, package)
    colour = torch.tensor([1.2, 0.5, 0.0])[None, :, None, None].expand(1, 3, 32, 40)
    score = Ocr(text="at c", side=64).build(CPU).score(colour, [""])
    assert score.item() == 1
    options, picture = seen
    assert options["det_limit_side_len"] == 64
    assert (picture.shape, picture.dtype) == ((32, 40, 3), np.uint8)
    assert picture[0, 0].tolist() == [0, 128, 255]  # blue, green, red


def test_grey_pictures_and_other_data(pictures):
    assert scored(pictures[:1].mean(1, keepdim=True), "hello cat").item() == 1
    with pytest.raises(ContractError, match=r"^reward 'ocr': pictures must be"):
        scored(torch.zeros(2, 4, 32, 32), "cat")


def test_score_falls_with_the_edit_distance(monkeypatch):
    known = {
        ("", "abc"): 3,
        ("abc", "abc"): 0,
        ("abc", "abd"): 1,
        ("kitten", "sitting"): 3,
        ("flaw", "lawn"): 2,
        ("ab", "ba"): 2,
    }
    for (read, text), distance in known.items():
        monkeypatch.setattr("align_ocr.reward._reader", lambda side, read=read: lambda _: (read,))
        score = Ocr(text=text).build(CPU).score(torch.zeros(1, 3, 32, 32), [""])
        assert float(score) == pytest.approx(max(1 - distance / len(text), 0.0))


def read_as(monkeypatch, read, text):
    monkeypatch.setattr("align_ocr.reward._reader", lambda side: lambda _: (read,))
    return float(Ocr(text=text).build(CPU).score(torch.zeros(1, 3, 32, 32), [""]))


@pytest.mark.parametrize(
    ("read", "wanted"),
    [
        ("Caf\u00e9", "Cafe\u0301"),
        ("\uff28\uff29", "Hi"),  # full width
        ("\ufb01n", "fin"),  # a ligature
        ("x\u00b2", "X2"),
        ("\u212b", "\u00e5"),  # the sign of the unit
        ("Stra\u00dfe", "STRASSE"),
        ("a\u2003b", "a b"),
    ],
)
def test_how_a_letter_is_encoded_does_not_count(read, wanted, monkeypatch):
    assert read_as(monkeypatch, read, text=wanted) == 1
    assert read_as(monkeypatch, wanted, text=read) == 1


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('A sign that says "OPEN".', "OPEN"),
        ("a shop called 'Bob's cats'", "Bob'scats"),
        ("the dog's sign: 'walk it', and \u201cnow\u201d", "walkitnow"),
        ("\u300c\u4f60\u597d\u300d and \u201eja\u201c and \u00aboui\u00bb", "\u4f60\u597djaoui"),
        ("the dog's and the cat's bowl", ""),
        ('5" by 7"', ""),
        ('""', ""),
    ],
)
def test_what_stands_in_quotes(prompt, text):
    assert quoted(prompt) == text


def test_text_is_that_in_the_quotes_of_each_prompt(monkeypatch):
    monkeypatch.setattr("align_ocr.reward._reader", lambda side: lambda _: ("open",))
    reward = Ocr().build(CPU)
    score = reward.score(torch.zeros(2, 3, 32, 32), ['a sign "OPEN"', 'a sign "SHUT"'])
    assert score.tolist() == [1, 0]
    with pytest.raises(PromptError, match=r"^'a sign' has nothing in quotes; put the text"):
        reward.score(torch.zeros(1, 3, 32, 32), ["a sign"])


def test_a_prompt_without_quotes_is_refused_before_anything_is_built():
    assert Ocr().needs_prompt
    assert not Ocr(text="a").needs_prompt
    Ocr(text="a").check_prompt("no quotes")
    Ocr().check_prompt("a 'quote'")
    with pytest.raises(PromptError, match="has nothing in quotes"):
        Ocr().check_prompt("no quotes")


def test_without_the_package_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(PartError) as caught:
        Ocr(text="cat").build(CPU)
    assert str(caught.value).startswith("reward 'ocr': rapidocr-onnxruntime cannot be imported (")
    assert str(caught.value).endswith("pip install rapidocr-onnxruntime==1.4.4")
    assert "\n" not in str(caught.value)


def test_options():
    with pytest.raises(ValueError, match="'text' must hold at least one letter"):
        Ocr(text=" ")
    with pytest.raises(ValueError, match="'side' must be at least 32"):
        Ocr(text="a", side=16)


def test_the_entry_module_is_light():
    code = (
        "import sys, align_ocr\n"
        "align_ocr.Ocr(text='cat')\n"
        "print(sorted({'rapidocr_onnxruntime', 'cv2', 'onnxruntime'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
