"""Prompts that stand for several: one for each class of a model, or for each of some words."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Final

from align.core.errors import PromptError
from align.core.option import option

_PIECES: Final = re.compile(r"(\{\{|\}\}|\{[^{}]*\})")
_MOST: Final = 100_000
_MANY: Final = 40
_SHOWN: Final = 60


class ReadsPrompts(ABC):
    """Capability of a model or a reward: it may leave out a part of a prompt."""

    @abstractmethod
    def left_out(self, prompt: str) -> str:
        """What it makes of a prompt of which it leaves out a part; empty for any other.

        The end of a sentence that begins with the prompt: "has 90 tokens, of which 75 count".
        """


def prompts_option() -> Any:
    """The option `prompts` of a model that follows prompts: a file in place of `prompt`."""
    return option(
        "file with a prompt a line (.txt), an object with a 'prompt' a line (.jsonl) or a column"
        " 'prompt' (.csv), in place of `prompt`: sample i has line i",
        default="",
        path="required",
    )


def expand_prompt(prompt: str, classes: Sequence[str] | None = ()) -> tuple[str, ...]:
    """The prompts that one stands for, in order; itself, if it stands for no others.

    "A {class}." is one prompt for each of the model's classes, "A {cat|dog}." one for each word;
    "{{" and "}}" are braces. Classes that are None are not known yet: "{class}" then stays.

    Raises:
        PromptError: the model has no classes, the braces hold neither, or one has no partner, or
            the prompt stands for too many.
    """
    choices = list[Sequence[str]]()
    for number, piece in enumerate(_PIECES.split(prompt)):
        if number % 2:
            choices.append((piece[0],) if piece in ("{{", "}}") else _choices(piece[1:-1], classes))
        elif "{" in piece or "}" in piece:
            raise PromptError(
                f"'{prompt}' has a brace without a partner, or braces in braces; a brace of the"
                " text itself is written '{{' or '}}'"
            )
        else:
            choices.append((piece,))
    if (count := math.prod(map(len, choices))) > _MOST:
        raise PromptError(f"'{prompt}' stands for {count:,} prompts, and {_MOST:,} are the most")
    return tuple("".join(words) for words in product(*choices))


def refuse_empty(prompts: Sequence[str], who: str) -> None:
    """Raise PromptError for an empty prompt; for rewards that compare data with it.

    Such a reward declares `needs_prompt`, so that a recipe without a prompt is refused when read.
    """
    for row, prompt in enumerate(prompts):
        if not prompt.strip():
            text = f"the prompt of row {row} is empty, but pictures are compared with it"
            raise PromptError(f"{who}: {text}; set the model's 'prompt'")


def match_class(prompt: str, names: Sequence[str]) -> int:
    """Which of the names a prompt has in it, in any case, or with an s: the longest one's number.

    Raises:
        PromptError: it has none of them.
    """
    return named_classes(prompt, names)[0]


def named_classes(prompt: str, names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the names that a prompt has in it, the longest first; a name in a name is none.

    Raises:
        PromptError: it has none of them.
    """
    low = prompt.lower()
    ranked = sorted((k for k, name in enumerate(names) if name.lower() in low), key=_length(names))
    covered, found = bytearray(len(low)), list[int]()
    for number in ranked:
        # Whole words of the text, or their plural; a fox is no ox.
        word = rf"(?<!\w){re.escape(names[number].lower())}s?(?!\w)"
        for match in re.finditer(word, low):
            begin, end = match.span()
            if 0 in covered[begin:end]:
                covered[begin:end] = b"\1" * (end - begin)
                found.append(number)
    if not found:
        known = ", ".join(names[:_MANY]) + (", ..." if len(names) > _MANY else "")
        raise PromptError(f"'{prompt}' names none of the classes: {known}")
    return tuple(dict.fromkeys(found))


def others_named(prompt: str, names: Sequence[str]) -> str:
    """What `ReadsPrompts` says of a prompt that names several classes, of which one counts."""
    try:
        first, *others = (names[number] for number in named_classes(prompt, names))
    except PromptError:
        return ""
    if not others:
        return ""
    listed = " and ".join(f"'{name}'" for name in (first, *others))
    return f"names {listed}, of which '{first}' counts"


def prompt_notes(who: str, part: ReadsPrompts, prompts: Sequence[str]) -> tuple[str, ...]:
    """One sentence, if any, about the prompts of which a part leaves something out."""
    notes = [(prompt, part.left_out(prompt)) for prompt in dict.fromkeys(prompts)]
    cut = [(prompt, note) for prompt, note in notes if note]
    if not cut:
        return ()
    prompt, note = cut[0]
    shown = prompt if len(prompt) <= _SHOWN else prompt[: _SHOWN - 3] + "..."
    more = f" So it is with {len(cut)} prompts." if len(cut) > 1 else ""
    return (f"{who}: the prompt '{shown}' {note}.{more}",)


def _length(names: Sequence[str]) -> Callable[[int], tuple[int, int]]:
    """Longer names first; the first of names of one length."""
    return lambda number: (-len(names[number]), number)


def _choices(place: str, classes: Sequence[str] | None) -> Sequence[str]:
    if place == "class":
        if classes is None:
            return ("{class}",)
        if not classes:
            raise PromptError("'{class}' stands for the model's classes, but it has none")
        return classes
    if "|" not in place:
        text = f"'{{{place}}}' is neither '{{class}}' nor a choice like '{{cat|dog}}'"
        raise PromptError(f"{text}; name several words, or write {{{{ and }}}} for braces")
    return place.split("|")
