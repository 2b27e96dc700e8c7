"""What rewards that ask a service have in common: options, many requests at once, failures."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias, final

import attrs
import numpy as np
from loguru import logger

from align import ConfigError, ConfigErrors, PartError, RewardSpec, above, at_least, option
from align.io.text import shortened
from align_http.failure import NotAnswered, wrong_url
from align_http.kept import Answers
from align_http.loop import run

if TYPE_CHECKING:
    from align_http.endpoint import Endpoint

OnFailure: TypeAlias = Literal["stop", "skip"]

_PROMPT: Final = 60  # letters of a prompt that a message has
_PICTURES: Final = 5  # that a message numbers
_LARGEST: Final = 3.4e38  # number that a score can be


@attrs.frozen(kw_only=True)
class ServiceSpec(RewardSpec):
    """Options of a reward that a service computes; it has no gradient."""

    differentiable: ClassVar[bool] = False
    external: ClassVar[bool] = True

    url: str = option("where the service is, such as 'http://localhost:8000/score'")
    key_env: str = option(
        "name of the environment variable that holds the key, which is sent as a bearer's token;"
        " none: no key is sent",
        default="",
    )
    ca_file: str = option(
        "file of certificates that vouch for the server; none: those of the system",
        default="",
        path=True,
    )
    timeout: float = option(
        "seconds that one try may take, from connecting to the last byte of the answer",
        default=120.0,
        check=above(0),
        infinite=True,
    )
    tries: int = option(
        "tries of a request before it counts as failed", default=4, check=at_least(1)
    )
    backoff: float = option(
        "seconds before the second try, and twice as many before each further one; a server that"
        " asks for more (Retry-After) gets it",
        default=1.0,
        check=at_least(0),
    )
    in_flight: int = option("requests at once", default=8, check=at_least(1))
    max_calls: int | None = option(
        "most requests of one process, tries and measurements included; then the run stops. None:"
        " any number",
        default=None,
        check=attrs.validators.optional(at_least(1)),
    )
    price_per_call: float = option(
        "money that a request costs, in any currency; shown by align plan and in tables",
        default=0.0,
        check=at_least(0),
    )
    on_failure: OnFailure = option(
        "what to do where a picture cannot be scored: 'stop' the run, or 'skip' it, which leaves"
        " its score out of the tables and says so; rewards that are held out alone can skip",
        default="stop",
    )
    cache: bool = option("whether answers are kept on the disk for later runs", default=True)

    @property
    def may_miss(self) -> bool:
        """Where pictures are skipped."""
        return self.on_failure == "skip"

    def check_service(self) -> list[ConfigError]:
        """Mistakes in the options that all services have."""
        wrong = wrong_url(self.url)
        found = [ConfigError(("url",), wrong)] if wrong else []
        if self.key_env and not self.key_env.isidentifier():
            text = "expected the name of an environment variable; the key itself belongs into it"
            found.append(ConfigError(("key_env",), text))
        return found

    def __attrs_post_init__(self) -> None:
        """Raise ConfigErrors for mistakes."""
        if errors := self.check_service():
            raise ConfigErrors(errors)

    def asker(self, path: str = "") -> Asker:
        """What sends its requests; raises PartError where the key or the certificates are missing.

        Args:
            path: is added to the URL.
        """
        from align_http.endpoint import Endpoint, Secret

        who = f"reward '{self.kind}'"
        endpoint = Endpoint(
            url=self.url.rstrip("/") + path if path else self.url,
            who=who,
            key=Secret.of(self.key_env, who),
            ca_file=self.ca_file,
            timeout=self.timeout,
            tries=self.tries,
            backoff=self.backoff,
            in_flight=self.in_flight,
            max_calls=self.max_calls,
        )
        return Asker(endpoint, Answers.of_user(self.cache), stops=self.on_failure == "stop")


@final
@attrs.frozen(eq=False)
class Task:
    """A number that is wanted of the service.

    Attributes:
        key: digest of all that it depends on.
        row: of the picture that it is about.
        label: what the picture was made for, for messages.
        content: what the request says of it; made when it is sent, and not kept.
    """

    key: bytes
    row: int
    label: str
    content: Callable[[], Any]


@final
@attrs.frozen(eq=False)
class Lost:
    """A task without an answer, after so many tries."""

    task: Task
    failure: NotAnswered


@final
@attrs.define(eq=False)
class Asker:
    """Asks a service for numbers, many at once, and each of them once.

    Attributes:
        endpoint: the service.
        answers: known ones.
        stops: whether a task without an answer is an error, or a missing number.
    """

    endpoint: Endpoint
    answers: Answers
    stops: bool

    def numbers(
        self,
        tasks: Sequence[Task],
        count: int,
        request: Callable[[Sequence[Any]], Any],
        read: Callable[[Any, Sequence[Any]], Sequence[float]],
        batch: int = 1,
    ) -> list[float]:
        """A number for each task; NaN for one without an answer, where that is no error.

        Args:
            tasks: what is asked for.
            count: of the pictures that they are about.
            request: makes a request, as JSON has it, of the contents of some tasks.
            read: reads a number for each of these contents of an answer; raises NotAnswered where
                it has others.
            batch: most tasks in a request.

        Raises:
            PartError: a picture cannot be scored, or none can.
        """
        known = self.answers.find(task.key for task in tasks)
        missing = list({task.key: task for task in tasks if task.key not in known}.values())
        if missing:
            work = _Work(self, request, read, missing, batch)
            run(work.done())
            known |= work.found
            if work.lost:
                self._tell(work.lost, len(missing), count)
        return [known.get(task.key, math.nan) for task in tasks]

    def _tell(self, lost: Sequence[Lost], asked: int, count: int) -> None:
        """Say which pictures have no score, or stop because of it."""
        fatal = next((one for one in lost if one.failure.fatal), None)
        first = fatal or lost[0]
        rows = sorted({one.task.row for one in lost})
        numbers = ", ".join(str(row + 1) for row in rows[:_PICTURES])
        numbers += " and others" if len(rows) > _PICTURES else ""
        tries = f"{first.failure.tries} {'try' if first.failure.tries == 1 else 'tries'}"
        reason = f"{self.endpoint.url}: {first.failure.reason}"
        who, label = self.endpoint.who, shortened(first.task.label, _PROMPT)
        pictures = f"picture{'s' if len(rows) > 1 else ''} {numbers} of {count}"
        text = f"{who}: {pictures} ('{label}') not scored after {tries}: {reason}"
        if fatal or self.stops:
            kept = "; answers so far are kept, so run it again when it is mended"
            raise PartError(text + kept)
        logger.bind(notice=True).warning("{}; left out", text)


@final
@attrs.define(eq=False)
class _Work:
    """Tasks that are being asked for."""

    asker: Asker
    request: Callable[[Sequence[Any]], Any]
    read: Callable[[Any, Sequence[Any]], Sequence[float]]
    tasks: Sequence[Task]
    batch: int
    found: dict[bytes, float] = attrs.field(factory=dict)
    lost: list[Lost] = attrs.field(factory=list)
    _waiting: list[list[Task]] = attrs.field(factory=list)
    _ended: bool = False

    async def done(self) -> None:
        """Ask for all of them, as many at once as may be in flight."""
        cuts = range(0, len(self.tasks), self.batch)
        self._waiting = [list(self.tasks[at : at + self.batch]) for at in reversed(cuts)]
        workers = min(self.asker.endpoint.in_flight, len(self._waiting))
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting and not self._ended:
            some = self._waiting.pop()
            try:
                await self._ask(some)
            except NotAnswered as failure:
                if len(some) > 1 and not failure.fatal:
                    # One of them may be to blame: the others are not to be lost with it.
                    self._waiting += [[task] for task in reversed(some)]
                    continue
                self.lost += [Lost(task, failure) for task in some]
                self._ended |= failure.fatal or self.asker.stops

    async def _ask(self, some: Sequence[Task]) -> None:
        contents = [task.content() for task in some]
        body = json.dumps(self.request(contents)).encode()

        def read(answer: bytes) -> Sequence[float]:
            numbers = self.read(_parsed(answer), contents)
            if wrong := [n for n in numbers if not abs(n) <= _LARGEST]:
                raise NotAnswered(f"the answer has a score that is not finite: {wrong[0]:g}")
            return numbers

        numbers = await self.asker.endpoint.ask(body, "application/json", read)
        answers = {task.key: number for task, number in zip(some, numbers, strict=True)}
        self.found |= answers
        self.asker.answers.keep(answers)


def _parsed(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise NotAnswered("the answer is no JSON") from None


def key_of(facts: Any, picture: np.ndarray) -> bytes:
    """Digest of a picture, and of all else that its number depends on."""
    whole = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    whole.update(f"{picture.shape} {picture.dtype}".encode())
    whole.update(np.ascontiguousarray(picture).data)
    return whole.digest()
