"""Questions about a picture, and how an answer becomes a number."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, final, get_args

import attrs

from align import PartError, did_you_mean
from align.io.files import read_text
from align_http.failure import NotAnswered, shown

AnswerMode: TypeAlias = Literal["number", "choice", "probability", "pair"]
_PAIR: Final = ("A", "B")
Average: TypeAlias = Literal["arithmetic", "geometric"]

_THOUGHT_ENDS: Final = "</think>"
_NUMBER: Final = re.compile(
    r"(?<![\w.,])[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![\w,]*[0-9])"
)
_LABEL: Final = re.compile(r"^\W*(?:(?:final|the|my)\s+)*(?:answer|score|rating)\b[^\w.+-]*", re.I)
_EDGE: Final = " \t\n\r\"'`*_.,;:!()[]{}“”‘’«»"


@final
@attrs.frozen(kw_only=True)
class Question:
    """A question, and what counts as an answer.

    Attributes:
        text: with "{prompt}" where the prompt belongs.
        weight: of its number in the average.
        answer: what is read of the reply: a number in it, one of some choices, the probability of
            `yes` against `no` as its first word, or, of a pair of pictures, that of A against B.
        lowest, highest: that a number may be.
        choices: the number of each word.
        yes, no: words whose probabilities are compared.
        prompt: the one that it is asked for; "" for all.
    """

    text: str
    weight: float = 1.0
    answer: AnswerMode = "number"
    lowest: float = 0.0
    highest: float = 10.0
    choices: Mapping[str, float] = attrs.field(factory=dict)
    yes: str = "Yes"
    no: str = "No"
    prompt: str = ""

    def __attrs_post_init__(self) -> None:
        """Raise ValueError for a question that nothing can answer."""
        if not self.text.strip():
            raise ValueError("a question has no words")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"'weight' must be above 0, got {self.weight:g}")
        if not -math.inf < self.lowest < self.highest < math.inf:
            raise ValueError(f"'lowest' ({self.lowest:g}) must be below 'highest'")
        if self.answer == "choice":
            words = {_plain(word) for word in self.choices}
            if len(words) < 2 or "" in words or len(words) < len(self.choices):
                raise ValueError("'choices' must have two or more different words, with numbers")
            if not all(map(math.isfinite, self.choices.values())):
                raise ValueError("'choices' must have finite numbers")
        if self.answer == "probability" and (not _plain(self.yes) or not _plain(self.no)):
            raise ValueError("'yes' and 'no' must be words")
        if self.answer == "probability" and _plain(self.yes) == _plain(self.no):
            raise ValueError("'yes' and 'no' must be different words")

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest number."""
        if self.answer == "choice":
            return min(self.choices.values()), max(self.choices.values())
        if self.answer == "pair":
            return -0.5, 0.5
        return (0.0, 1.0) if self.answer == "probability" else (self.lowest, self.highest)

    @property
    def words(self) -> tuple[str, str]:
        """Two words whose probabilities are compared."""
        return _PAIR if self.answer == "pair" else (self.yes, self.no)

    def asked(self, prompt: str) -> str:
        """The whole question about a picture for a prompt."""
        return f"{self.text.replace('{prompt}', prompt)}\n{self._form}"

    @property
    def _form(self) -> str:
        """What the reply should look like."""
        if self.answer == "number":
            text = f"Reply with one number from {self.lowest:g} to {self.highest:g}"
            return f"{text}, and nothing else."
        words = ", ".join(self.choices if self.answer == "choice" else self.words)
        return f"Reply with one of these, and nothing else: {words}."

    def read(self, choice: Mapping[str, Any]) -> float:
        """The number that a reply stands for; raises NotAnswered where it says none."""
        if self.answer in ("probability", "pair"):
            return self._probability(choice)
        text = _text_of(choice)
        return self._number(text) if self.answer == "number" else self._choice(text)

    def _number(self, text: str) -> float:
        """The number that is the whole last line, or the only one in the text.

        Several are not guessed between.
        """
        last = _LABEL.sub("", text.splitlines()[-1]) if text else ""
        plain = self._without_top(last).strip(_EDGE)
        if not _NUMBER.fullmatch(plain):
            plain = self._without_top(text)
        found = {float(number) for number in _NUMBER.findall(plain)}
        is_percent = "%" in plain and self.highest != 100
        if len(found) != 1 or is_percent:
            raise NotAnswered(f"the reply should be one number, and is '{shown(text)}'")
        (number,) = found
        if not self.lowest <= number <= self.highest:
            bounds = f"from {self.lowest:g} to {self.highest:g}"
            raise NotAnswered(f"the reply should be a number {bounds}, and is '{shown(text)}'")
        return number

    def _without_top(self, text: str) -> str:
        """A text without the highest number where it says of how many, as in "8/10"."""
        top = re.escape(f"{self.highest:g}")
        return re.sub(rf"\s*(?:/|\bout of\b)\s*{top}(?:\.0+)?(?!\.?[0-9])", " ", text)

    def _choice(self, text: str) -> float:
        """The number of the choice that is the whole reply, or the whole last line of it."""
        last = _plain(_LABEL.sub("", text.splitlines()[-1])) if text else ""
        for word, number in self.choices.items():
            if _plain(word) == last:
                return number
        raise NotAnswered(f"the reply is none of the choices: '{shown(text)}'")

    def _probability(self, choice: Mapping[str, Any]) -> float:
        """P(yes) / (P(yes) + P(no)) for the first word of the reply, or that of A and B."""
        first_word, other_word = self.words
        logprobs = choice.get("logprobs")
        content = logprobs.get("content") if isinstance(logprobs, dict) else None
        first = content[0] if isinstance(content, list) and content else None
        top = first.get("top_logprobs") if isinstance(first, dict) else None
        if not isinstance(top, list) or not top:
            raise NotAnswered("the reply has no logprobs, which this server may not give")
        odds = {_plain(first_word): 0.0, _plain(other_word): 0.0}
        for candidate in top:
            token, logprob = _candidate(candidate)
            if _plain(token) in odds:
                odds[_plain(token)] += math.exp(min(logprob, 0.0))
        yes, no = odds.values()
        if yes + no == 0:
            text = f"neither '{first_word}' nor '{other_word}' is among the {len(top)} likeliest"
            raise NotAnswered(f"{text} words of the reply")
        return yes / (yes + no)


def _candidate(candidate: Any) -> tuple[str, float]:
    """A token and the logarithm of its probability."""
    table = candidate if isinstance(candidate, dict) else {}
    token, logprob = table.get("token"), table.get("logprob")
    is_number = isinstance(logprob, int | float) and not isinstance(logprob, bool)
    if not isinstance(token, str) or not is_number or math.isnan(logprob or 0.0):
        raise NotAnswered("the reply has logprobs of another form")
    return token, float(logprob or 0.0)


def _text_of(choice: Mapping[str, Any]) -> str:
    """What a reply says, without what it thought aloud before."""
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise NotAnswered("the reply has no text")
    if choice.get("finish_reason") == "length":
        raise NotAnswered(f"the reply was cut; raise max_tokens: '{shown(text)}'")
    return text.rpartition(_THOUGHT_ENDS)[2].strip().replace("−", "-")


def _plain(word: str) -> str:
    """A word as it is compared: in lower case, without marks around it."""
    return " ".join(word.casefold().split()).strip(_EDGE)


@final
@attrs.frozen(kw_only=True)
class Rubric:
    """Questions whose numbers are averaged."""

    questions: tuple[Question, ...]
    average: Average = "arithmetic"

    def __attrs_post_init__(self) -> None:
        """Raise ValueError for what has no average."""
        if not self.questions:
            raise ValueError("there is no question")
        if len({question.answer == "pair" for question in self.questions}) > 1:
            raise ValueError("answer = 'pair' is for all questions, or for none")
        if self.average == "geometric" and min(q.range[0] for q in self.questions) < 0:
            raise ValueError("a geometric average needs numbers of 0 or more")

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest average, whichever of the questions are asked."""
        ranges = [question.range for question in self.questions]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @property
    def compares(self) -> bool:
        """Whether the questions are about pairs of pictures."""
        return self.questions[0].answer == "pair"

    @property
    def most_questions(self) -> int:
        """The most that are asked of one picture."""
        prompts = {question.prompt for question in self.questions}
        return max(len(self.of(prompt)) for prompt in prompts)

    @property
    def needs_prompt(self) -> bool:
        """Whether a question depends on the prompt."""
        return any(q.prompt or "{prompt}" in q.text for q in self.questions)

    def of(self, prompt: str) -> tuple[Question, ...]:
        """The questions of a prompt."""
        return tuple(q for q in self.questions if q.prompt in ("", prompt))

    def mean(self, questions: Sequence[Question], numbers: Sequence[float]) -> float:
        """The average of the questions' numbers; NaN where one is missing."""
        weights = [question.weight for question in questions]
        total = math.fsum(weights)
        if self.average == "geometric":
            if any(math.isnan(n) for n in numbers):
                return math.nan
            if min(numbers) == 0:
                return 0.0
            logs = (w * math.log(n) for w, n in zip(weights, numbers, strict=True))
            return math.exp(math.fsum(logs) / total)
        return math.fsum(w * n for w, n in zip(weights, numbers, strict=True)) / total


def read_rubric(path: Path, defaults: Mapping[str, Any]) -> Rubric:
    """The rubric in a file.

    Args:
        path: of a TOML or JSON file: a list "question" of tables and perhaps "average", or in JSON
            the list alone.
        defaults: of the questions' keys.

    Raises:
        PartError: there is no such file, or it has mistakes, all of which are told.
    """
    if not path.is_file():
        raise PartError(f"no file '{path}'")
    return _rubric(read_text(path, "save it as UTF-8"), str(path), defaults)


def shipped_rubric(name: str, defaults: Mapping[str, Any]) -> Rubric:
    """A rubric that comes with the plugin."""
    file = f"{name}.toml"
    return _rubric((files("align_http") / file).read_text("utf-8"), file, defaults)


def _rubric(text: str, place: str, defaults: Mapping[str, Any]) -> Rubric:
    table = _table(text, place)
    if unknown := [key for key in table if key not in ("question", "average")]:
        raise PartError(f"'{place}': no key '{unknown[0]}'; a rubric has 'question' and 'average'")
    average, rows = table.get("average", "arithmetic"), table.get("question")
    if average not in get_args(Average):
        raise PartError(f"'{place}': 'average' must be one of {', '.join(get_args(Average))}")
    if not isinstance(rows, list) or not rows:
        raise PartError(f"'{place}': there is no question; write [[question]] and its text")
    questions, errors = list[Question](), list[str]()
    for number, row in enumerate(rows, 1):
        try:
            questions.append(make_question(row, defaults))
        except ValueError as error:
            errors.append(f"'{place}': question {number}: {error}")
    if errors:
        raise PartError("; ".join(errors))
    try:
        return Rubric(questions=tuple(questions), average=average)
    except ValueError as error:
        raise PartError(f"'{place}': {error}") from error


def make_question(row: Any, defaults: Mapping[str, Any]) -> Question:
    """A question of a table; raises ValueError for one with a mistake."""
    if not isinstance(row, Mapping):
        raise ValueError("expected a table with the key 'text'")
    fields = attrs.fields_dict(Question)
    for key in row:
        if key not in fields:
            raise ValueError(f"no key named '{key}'; {did_you_mean(str(key), tuple(fields))}")
    values = {**defaults, **row}
    if not isinstance(values.get("text"), str):
        raise ValueError("'text' is missing")
    for key, is_right, what in _TYPES:
        if key in values and not is_right(values[key]):
            raise ValueError(f"'{key}' must be {what}")
    return Question(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_table_of_numbers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_number, value.values()))


_TYPES: Final[tuple[tuple[str, Callable[[Any], bool], str], ...]] = (
    *((key, _is_text, "text") for key in ("text", "prompt", "yes", "no")),
    *((key, _is_number, "a number") for key in ("weight", "lowest", "highest")),
    ("answer", get_args(AnswerMode).__contains__, f"one of {', '.join(get_args(AnswerMode))}"),
    ("choices", _is_table_of_numbers, "a table of words and their numbers"),
)
"""What the values of a question's keys must be."""


def _table(text: str, place: str) -> dict[str, Any]:
    """A file's table; a list of JSON alone is that of its questions."""
    try:
        table = json.loads(text) if place.endswith(".json") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PartError(f"'{place}' is damaged: {error}") from error
    if isinstance(table, list):
        return {"question": table}
    if not isinstance(table, dict):
        raise PartError(f"'{place}': expected a list of questions")
    return table
