"""The server of `align serve`: rewards of this machine, for others that ask over HTTP.

Its messages are those of isolated rewards, one a request.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, Final, final

import attrs
import torch
from loguru import logger
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from align import ConfigError, ConfigErrors, load_catalog, part_table, read_part
from align.catalog.tables import named_files
from align.core.attribution import made
from align.core.reward import Repeatable, Reward, RewardSpec
from align.io.files import digest
from align.isolation.answers import Answerer, Graphs, LoadedSpec
from align.isolation.protocol import VERSION, Message, from_body, to_body
from align_http.remote import MEDIA_TYPE

_SESSIONS: Final = 64  # sides that are known at once; the longest silent is forgotten
_GRAPHS: Final = 8  # of scores that are kept for the way back, of all sides together
_WAITING: Final = 64  # requests that wait for others; further ones are asked to come again
_DIGITS: Final = 16  # of a digest


@final
@attrs.frozen(kw_only=True)
class Limits:
    """What a request may take.

    Attributes:
        megabytes: of its body.
        seconds: for its body to come, and then for its answer.
    """

    megabytes: float = 256.0
    seconds: float = 600.0


@final
@attrs.define(eq=False)
class Server:
    """Rewards, and whoever asks for them.

    One request is computed at a time; the others wait.

    Args:
        rewards: built, with their tables and origins.
        limits: of requests.
        token: that each request must have; "" where none is asked for.
    """

    rewards: Sequence[LoadedSpec]
    limits: Limits = attrs.field(factory=Limits)
    token: str = attrs.field(default="", repr=False)
    _graphs: Graphs = attrs.field(factory=lambda: Graphs(_GRAPHS), init=False)
    _sessions: OrderedDict[str, Answerer] = attrs.field(factory=OrderedDict, init=False)
    _pool: ThreadPoolExecutor = attrs.field(
        factory=lambda: ThreadPoolExecutor(1, "reward"), init=False
    )
    _waiting: int = attrs.field(default=0, init=False)

    def app(self) -> Starlette:
        """The application, for any server that speaks ASGI."""
        return Starlette(
            routes=[
                Route("/health", self._health, methods=["GET"]),
                Route("/ask/{session:str}", self._ask, methods=["POST"]),
            ]
        )

    async def _health(self, request: Request) -> Response:
        """That it works; and what it has, for those who may ask."""
        facts: dict[str, Any] = {"status": "ok"}
        if self._may(request):
            facts |= {"protocol": VERSION, "align-core": version("align-core")}
            facts["rewards"] = [
                {"reward": one.table["kind"], "origin": one.origin} for one in self.rewards
            ]
        return JSONResponse(facts)

    async def _ask(self, request: Request) -> Response:
        """The reply to a message."""
        if not self._may(request):
            return _refused(401, "a token is asked for", {"WWW-Authenticate": "Bearer"})
        if request.headers.get("Content-Type", "") != MEDIA_TYPE:
            return _refused(415, f"expected a body of {MEDIA_TYPE}")
        try:
            async with asyncio.timeout(self.limits.seconds):
                body = await self._body(request)
        except TimeoutError:
            return _refused(408, f"the request did not come within {self.limits.seconds:g} s")
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return _refused(413, f"a request may have {self.limits.megabytes:g} MB")
        try:
            message = from_body(body)
        except ValueError as error:
            return _refused(400, str(error))
        if self._waiting >= _WAITING:
            return _refused(503, "too many requests wait", {"Retry-After": "1"})
        return await self._reply(request.path_params["session"], message)

    async def _body(self, request: Request) -> bytes | None:
        """The body; None where it is too large."""
        received, most = bytearray(), self.limits.megabytes * 1e6
        async for piece in request.stream():
            received += piece
            if len(received) > most:
                return None
        return bytes(received)

    async def _reply(self, session: str, message: Message) -> Response:
        if message.type == "hello":
            facts = {"protocol": VERSION, "version": version("align-core")}
            return _sent(to_body(Message("hello", payload=facts)))
        answerer = self._answerer(session, message.type)
        if answerer is None:
            return _sent(to_body(Message("unknown session")))
        self._waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._pool, _answered, answerer, message)
        work.add_done_callback(self._done)
        try:
            return _sent(await asyncio.wait_for(work, self.limits.seconds))
        except TimeoutError:
            return _refused(504, f"the reward did not answer within {self.limits.seconds:g} s")

    def _done(self, work: asyncio.Future[bytes]) -> None:
        self._waiting -= 1

    def _answerer(self, session: str, kind: str) -> Answerer | None:
        """What a side is answered by; None where it must say again which reward it asks."""
        if session not in self._sessions:
            if kind != "read":
                return None
            self._sessions[session] = Answerer(self._served, self._graphs)
            while len(self._sessions) > _SESSIONS:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(session)
        return self._sessions[session]

    def _served(self, table: Mapping[str, Any]) -> LoadedSpec:
        """The reward that a table asks for; raises ConfigErrors where there is none."""
        kind, errors = table.get("kind"), list[ConfigError]()
        alike = [one for one in self.rewards if one.table["kind"] == kind]
        if not alike:
            names = ", ".join(sorted({str(one.table["kind"]) for one in self.rewards}))
            raise ConfigErrors(
                [ConfigError(("kind",), f"no reward '{kind}' here; there is {names}")]
            )
        for one in alike:
            errors = _differences(table, one.table)
            if not errors:
                return one
        raise ConfigErrors(errors)

    def _may(self, request: Request) -> bool:
        given = request.headers.get("Authorization", "")
        expected = f"Bearer {self.token}"
        return not self.token or hmac.compare_digest(given.encode(), expected.encode())


def _differences(asked: Mapping[str, Any], served: Mapping[str, Any]) -> list[ConfigError]:
    """Where a table asks for something else than a served one; what it leaves open fits."""
    plain = from_body(to_body(Message("", payload={"table": dict(served)}))).payload["table"]
    errors = list[ConfigError]()
    for key, value in asked.items():
        if key not in plain:
            errors.append(ConfigError((key,), "the server's reward has no such option set"))
        elif value != plain[key]:
            text = f"the server has {plain[key]!r}, and clients cannot change it"
            errors.append(ConfigError((key,), f"{text}; leave it out, or serve another"))
    return errors


def _answered(answerer: Answerer, message: Message) -> bytes:
    """The reply; what a defect looks like from inside stays in this machine's log."""
    reply = answerer.answer(message)
    if reply.type == "error" and (where := reply.payload.get("traceback")):
        if not reply.payload["kind"]:
            logger.warning("{}", where)
        payload = {**reply.payload, "traceback": "the server's log has the rest"}
        reply = Message("error", payload=payload)
    return to_body(reply)


def _sent(body: bytes) -> Response:
    return Response(body, media_type=MEDIA_TYPE)


def _refused(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(text, status_code=status, headers=headers, media_type="text/plain")


def load_rewards(
    tables: Sequence[Mapping[str, Any]], device: torch.device
) -> tuple[LoadedSpec, ...]:
    """Rewards by their tables, built on a device.

    Raises:
        ConfigErrors: a table has mistakes; its number is the first key of each.
        PartError: a reward cannot be built.
    """
    catalog, specs, errors = load_catalog(), list[tuple[RewardSpec, str]](), list[ConfigError]()
    for number, table in enumerate(tables):
        try:
            spec: RewardSpec = read_part("reward", table, catalog)
        except ConfigErrors as wrong:
            errors += [error.under(number) for error in wrong.errors]
            continue
        entry = catalog.entry_of(spec)
        specs.append((spec, str(entry.origin) if entry else ""))
    if errors:
        raise ConfigErrors(errors)
    return tuple(_loaded(spec, origin, device) for spec, origin in specs)


def _loaded(spec: RewardSpec, origin: str, device: torch.device) -> LoadedSpec:
    reward = made(f"reward '{spec.kind}': build", lambda: spec.build(device), Reward)
    weights = _digest(spec)
    table = {**part_table(spec), "kind": spec.kind}
    return LoadedSpec(spec, table, f"{origin}, files {weights}" if weights else origin, reward)


def _digest(spec: RewardSpec) -> str:
    """First digits of the SHA-256 of all files that a reward reads; "" where it names none."""
    others = spec.files_read() if isinstance(spec, Repeatable) else ()
    paths = {path.absolute() for path in (*named_files(spec), *(others or ()))}
    inside = {file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))}
    digests = [digest(path) for path in sorted(inside) if path.is_file()]
    return digest("".join(digests).encode())[:_DIGITS] if digests else ""
