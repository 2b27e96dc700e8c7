"""Text of a user where markup, formulas or lines would be read into it."""

import pytest
from rich.console import Console
from rich.text import Text

from align.io.text import (
    code,
    cut_to_bytes,
    fence,
    listed,
    markdown,
    shortened,
    visible,
    visible_lines,
)

ESC, RTL_OVERRIDE, ZWJ = "\x1b", "\u202e", "\u200d"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, [/b] $x_{$", "plain, [/b] $x_{$"),
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        (f"{ESC}[2J\x00\x7f", "\\x1b[2J\\x00\\x7f"),
        (f"a{RTL_OVERRIDE}b\u2028", "a\\u202eb\\u2028"),
        ("\udcff", "\\udcff"),
        ("一次抽样 שלום مرحبا é 👩" + ZWJ + "🚀", "一次抽样 שלום مرحبا é 👩" + ZWJ + "🚀"),
        ("e\u0301", "e\u0301"),
    ],
)
def test_visible_text_is_one_line_of_letters_that_can_be_seen(text, shown):
    assert visible(text) == shown


def test_names_with_commas_are_told_apart():
    assert listed(["a", "b"]) == "a, b"
    assert listed(iter(["steps 2, draws 1", "b"])) == "'steps 2, draws 1', 'b'"
    assert listed(["steps 2, draws 1"]) == "'steps 2, draws 1'"


def test_lines_of_a_message_stay_lines():
    assert visible_lines(f"a{ESC}\nb\tc") == "a\\x1b\nb\\tc"


def test_long_text_keeps_begin_and_end():
    text = "a" * 3000 + "z"
    short = shortened(text, 40)
    assert len(short) == 40
    assert (short[:5], short[-1]) == ("aaaaa", "z")
    assert shortened("abc", 3) == "abc"


@pytest.mark.parametrize(
    "text", ["a|b", "*x*", "_x_", "`x`", "[a](b)", "<script>", "$x$", "\\", "~~"]
)
def test_markdown_shows_every_mark_as_it_is(text):
    escaped = markdown(text)
    assert "<" not in escaped
    plain = escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    # A backslash stands before each mark that would mean something.
    unescaped = plain.replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")
    assert unescaped == text
    assert "|" not in escaped.replace("\\|", "")
    assert "\n" not in markdown("a\n|---|")


def test_words_with_an_underscore_need_no_escape():
    assert markdown("V_0 of guidance_norm") == "V_0 of guidance_norm"


def test_code_and_fences_are_longer_than_what_they_hold():
    assert code("a") == "`a`"
    assert code("a`b") == "`` a`b ``"
    assert fence("no") == "```"
    assert fence("x = '''````'''") == "`````"


def test_cutting_to_bytes_cuts_no_letter():
    assert cut_to_bytes("一" * 40, 80) == "一" * 26
    assert len(cut_to_bytes("é" * 60, 81).encode()) == 80


def test_rich_shows_the_text_and_nothing_else(capsys):
    Console(markup=False, emoji=False).print(Text(visible(":smile: [red]x[/]")))
    assert capsys.readouterr().out == ":smile: [red]x[/]\n"
