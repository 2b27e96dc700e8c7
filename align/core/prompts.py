"""Prompts that stand for several: one for each class of a model, or for each of some words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import Final

from align.core.errors import PromptError

_PLACE: Final = re.compile(r"\{([^{}]*)\}")


def expand_prompt(prompt: str, classes: Sequence[str] = ()) -> tuple[str, ...]:
    """The prompts that one stands for, in order; itself, if it stands for no others.

    "A {class}." is one prompt for each of the model's classes, "A {cat|dog}." one for each word.

    Raises:
        PromptError: the model has no classes, the braces hold neither, or one is not closed.
    """
    # Texts and places in turn, beginning and ending with a text.
    pieces = _PLACE.split(prompt)
    if len(pieces) == 1:
        return (prompt,)
    if any("{" in text for text in pieces[::2]):
        raise PromptError(f"'{prompt}' has a brace that is not closed; close it, or take it out")
    choices = [
        _choices(piece, classes) if number % 2 else (piece,) for number, piece in enumerate(pieces)
    ]
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
    low = prompt.lower()
    matches = [number for number, name in enumerate(names) if _has(low, name.lower())]
    if not matches:
        known = ", ".join(names[:_MANY]) + (", ..." if len(names) > _MANY else "")
        raise PromptError(f"'{prompt}' names none of the classes: {known}")
    return max(matches, key=lambda number: len(names[number]))


_MANY: Final = 40


def _has(text: str, name: str) -> bool:
    """Whether whole words of a text are this name, or its plural; a fox is no ox."""
    return name in text and bool(re.search(rf"(?<!\w){re.escape(name)}s?(?!\w)", text))


def _choices(place: str, classes: Sequence[str]) -> Sequence[str]:
    if place == "class":
        if not classes:
            raise PromptError("'{class}' stands for the model's classes, but it has none")
        return classes
    if "|" not in place:
        text = f"'{{{place}}}' is neither '{{class}}' nor a choice like '{{cat|dog}}'"
        raise PromptError(f"{text}; take the braces out, or name several words")
    return place.split("|")
