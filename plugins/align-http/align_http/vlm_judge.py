"""The reward `vlm_judge`: what a vision-language model answers about a picture."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, final

import attrs
import numpy as np
import torch
from torch import Tensor

from align import (
    ComparingReward,
    ConfigError,
    ConfigErrors,
    Domain,
    PartError,
    PromptError,
    Reward,
    at_least,
    option,
    refuse_empty,
)
from align.io.images import checked, to_bytes
from align_http.failure import NotAnswered
from align_http.pictures import base64_png
from align_http.rubric import (
    AnswerMode,
    Question,
    Rubric,
    make_question,
    read_rubric,
    shipped_rubric,
)
from align_http.service import Asker, ServiceSpec, Task, key_of

_PATH: Final = "/chat/completions"
_LIKELIEST: Final = 20  # words whose probabilities are asked for; no server gives more
_OWN: Final = frozenset({"messages", "model", "stream", "n"})
_OF_QUESTIONS: Final = ("answer", "lowest", "highest", "choices", "yes", "no")


@final
@attrs.frozen(kw_only=True)
class VlmJudge(ServiceSpec):
    """Questions to a vision-language model behind a URL.

    R(x), the average of what a vision-language model answers to questions about a picture.

    The server speaks OpenAI's protocol (`/v1/chat/completions`), as vLLM, SGLang and many others
    do. An answer is a number, one of some choices, or the probability of `yes` against `no`. A
    reply that is none of these counts as a failure, and never as 0.

    Reference: Evaluating Text-to-Visual Generation with Image-to-Text Generation, Lin et al., 2024,
    arXiv:2404.01291, Eq. 1 (the probability of "Yes").
    """

    kind: ClassVar[str] = "vlm_judge"
    domain: ClassVar[Domain | None] = "image"

    url: str = option("where the server is, up to '/v1', as in 'http://localhost:8000/v1'")
    model: str = option("name of the model, as the server knows it")
    question: str = option(
        "what is asked about each picture; '{prompt}' stands for its prompt", default=""
    )
    rubric: str = option(
        "TOML or JSON file of several questions, instead of one", default="", path=True
    )
    template: Literal["", "soft_checks"] = option(
        "questions that come with the plugin, instead of own ones", default=""
    )
    answer: AnswerMode = option(
        "what is read of the reply: a 'number' from lowest to highest, a 'choice', the"
        " 'probability' of yes against no, or of a 'pair' of pictures which one it prefers",
        default="number",
    )
    lowest: float = option("lowest number that may be answered", default=0.0)
    highest: float = option("highest number that may be answered", default=10.0)
    choices: Mapping[str, float] = option(
        "words that may be answered, each with its number, as in { good = 1.0, bad = 0.0 }",
        default=attrs.Factory(dict),
    )
    yes: str = option("word whose probability is asked", default="Yes")
    no: str = option("word that it is compared with", default="No")
    max_tokens: int = option(
        "longest reply, in tokens; more for models that think aloud", default=32, check=at_least(1)
    )
    extra: Mapping[str, Any] = option(
        "further keys of each request, such as { chat_template_kwargs = { enable_thinking = false }"
        " }",
        default=attrs.Factory(dict),
    )
    _rubric: Rubric = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Read the questions; raises ConfigErrors for mistakes in them."""
        errors = self.check_service()
        if not self.model.strip():
            errors.append(ConfigError(("model",), "expected the name of a model"))
        if taken := sorted(_OWN & set(self.extra)):
            text = f"'{taken[0]}' is written by the reward itself; take it out"
            errors.append(ConfigError(("extra", taken[0]), text))
        try:
            object.__setattr__(self, "_rubric", self._questions())
        except PartError as error:
            errors.append(ConfigError(("rubric",), str(error)))
        except ValueError as error:
            errors.append(ConfigError(("question",), str(error)))
        if errors:
            raise ConfigErrors(errors)

    def _questions(self) -> Rubric:
        if sum(map(bool, (self.question, self.rubric, self.template))) != 1:
            raise ValueError("write one of 'question', 'rubric' and 'template'")
        defaults = {name: getattr(self, name) for name in _OF_QUESTIONS}
        if self.rubric:
            return read_rubric(Path(self.rubric), defaults)
        if self.template:
            return shipped_rubric(self.template, defaults)
        return Rubric(questions=(make_question({"text": self.question}, defaults),))

    @property
    def range(self) -> tuple[float, float]:
        """That of its questions."""
        return self._rubric.range

    @property
    def compares(self) -> bool:
        """Where questions are about pairs of pictures."""
        return self._rubric.compares

    @property
    def needs_prompt(self) -> bool:
        """Where a question has the prompt in it."""
        return self._rubric.needs_prompt

    @property
    def price_per_score(self) -> float:
        """Money for a picture: a request for each question."""
        return self.price_per_call * self._rubric.most_questions

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError for a prompt that no question is about."""
        if not self._rubric.of(prompt):
            raise PromptError(f"'{self.rubric}' has no question for the prompt '{prompt}'")

    def build(self, device: torch.device) -> Reward:
        """The reward; raises PartError where the key or the certificates are missing."""
        judge = _VlmJudge(self, self._rubric, self.asker(_PATH))
        return _PairJudge(judge) if self._rubric.compares else judge


@final
@attrs.frozen(eq=False)
class _Content:
    question: Question
    text: str
    pictures: tuple[np.ndarray, ...]


@final
@attrs.frozen(eq=False)
class _VlmJudge(Reward):
    spec: VlmJudge
    rubric: Rubric
    asker: Asker

    @torch.no_grad()
    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """R (B,) of pictures (B, 3, H, W) in [0, 1].

        Raises:
            ContractError: the data are no pictures.
            PromptError: a prompt is empty, or no question is about it.
            PartError: a picture cannot be scored.
        """
        pictures = to_bytes(checked(data, f"reward '{self.spec.kind}'"))
        means = self.means([(picture,) for picture in pictures], prompts)
        return torch.tensor(means, dtype=torch.float64).to(data.device, torch.float32)

    def means(self, shown: Sequence[tuple[np.ndarray, ...]], prompts: Sequence[str]) -> list[float]:
        """The average answer about each of these pictures, or pairs of them."""
        if self.spec.needs_prompt:
            refuse_empty(prompts, f"reward '{self.spec.kind}'")
        for prompt in prompts:
            self.spec.check_prompt(prompt)
        asked = [self.rubric.of(prompt) for prompt in prompts]
        tasks = [
            self._task(row, question, shown[row], prompts[row])
            for row, questions in enumerate(asked)
            for question in questions
        ]
        numbers = iter(self.asker.numbers(tasks, len(shown), self._request, _read))
        return [self.rubric.mean(some, [next(numbers) for _ in some]) for some in asked]

    def _task(
        self, row: int, question: Question, pictures: tuple[np.ndarray, ...], prompt: str
    ) -> Task:
        text, spec = question.asked(prompt), self.spec
        facts = {
            "url": spec.url,
            "model": spec.model,
            "question": text,
            "as": [getattr(question, name) for name in _OF_QUESTIONS],
            "tokens": spec.max_tokens,
            "extra": spec.extra,
        }
        content = functools.partial(_Content, question, text, pictures)
        return Task(key_of(facts, np.concatenate(pictures)), row, prompt, content)

    def _request(self, contents: Sequence[_Content]) -> dict[str, Any]:
        (content,) = contents
        parts = list[dict[str, Any]]()
        for name, picture in zip("AB", content.pictures, strict=False):
            if len(content.pictures) > 1:
                parts.append({"type": "text", "text": f"Picture {name}:"})
            url = f"data:image/png;base64,{base64_png(picture)}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        parts.append({"type": "text", "text": content.text})
        request = {
            "model": self.spec.model,
            "messages": [{"role": "user", "content": parts}],
            "temperature": 0,
            "max_tokens": self.spec.max_tokens,
        }
        if content.question.answer in ("probability", "pair"):
            request |= {"max_tokens": 1, "logprobs": True, "top_logprobs": _LIKELIEST}
        return request | dict(self.spec.extra)


@final
@attrs.frozen(eq=False)
class _PairJudge(ComparingReward):
    """Which of two pictures is preferred, both ways round, as neither place is to be favoured."""

    judge: _VlmJudge

    @torch.no_grad()
    def compare(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """How far (N, B) P(preferred to another of the group) lies above ½, for (N, B, 3, H, W).

        Raises:
            ContractError: the data are no pictures.
            PromptError: a prompt is empty, or no question is about it.
            PartError: a pair cannot be judged.
        """
        members, groups = data.shape[:2]
        flat = to_bytes(checked(data.flatten(0, 1), f"reward '{self.judge.spec.kind}'"))
        pictures = flat.reshape(members, groups, *flat.shape[1:])
        pairs = [
            (group, *pair)
            for group in range(groups)
            for pair in itertools.permutations(range(members), 2)
        ]
        shown = [(pictures[first, b], pictures[other, b]) for b, first, other in pairs]
        means = self.judge.means(shown, [prompts[b] for b, _, _ in pairs])
        scores = torch.zeros(members, groups, dtype=torch.float64)
        for (b, first, other), mean in zip(pairs, means, strict=True):
            scores[first, b] += mean - 0.5
            scores[other, b] += 0.5 - mean
        return (scores / max(1, 2 * (members - 1))).to(data.device, torch.float32)


def _read(answer: Any, contents: Sequence[_Content]) -> list[float]:
    """The number that the first reply of an answer stands for."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise NotAnswered("the answer is none of a chat completion")
    return [contents[0].question.read(choices[0])]
