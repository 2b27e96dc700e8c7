"""The reward `remote`: one that another machine has, gradient included; see `align serve`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Final, final
from uuid import uuid4

import attrs

from align import ConfigError, ConfigErrors, PartError, above, at_least, option
from align.isolation.asked import AskedSpec, raised, table_errors
from align.isolation.protocol import VERSION, Message, from_body, to_body
from align_http.failure import NotAnswered, wrong_url
from align_http.loop import run

if TYPE_CHECKING:
    from align_http.endpoint import Endpoint

MEDIA_TYPE: Final = "application/x-safetensors"
"""Of messages; no web page can send it to a server that it does not belong to."""

_LARGEST: Final = 1 << 30  # bytes of an answer: a gradient is as large as the data


@attrs.frozen(kw_only=True)
class Remote(AskedSpec):
    """Any reward, on another machine that runs align serve.

    Data, scores and vector-Jacobian products cross as safetensors, in the messages of isolated
    rewards; on the CPU the results are the same bits. Whatever the inner reward declares, this one
    declares too. The server decides which rewards it has, with which options, and on which device.
    """

    kind: ClassVar[str] = "remote"

    url: str = option("where the server is, such as 'http://localhost:8423'")
    reward: Mapping[str, Any] = option(
        "table of the reward: its kind, and options that the server must have too"
    )
    key_env: str = option(
        "name of the environment variable that holds the server's token; none: no token is sent",
        default="",
    )
    ca_file: str = option(
        "file of certificates that vouch for the server; none: those of the system",
        default="",
        path=True,
    )
    timeout: float = option(
        "seconds that one try may take, from connecting to the last byte of the answer",
        default=600.0,
        check=above(0),
        infinite=True,
    )
    tries: int = option("tries of a request before the run ends", default=4, check=at_least(1))
    backoff: float = option(
        "seconds before the second try, and twice as many before each further one",
        default=1.0,
        check=at_least(0),
    )

    def __attrs_post_init__(self) -> None:
        """Have the server read the table; raises ConfigErrors for its mistakes."""
        errors = table_errors(self.reward)
        if wrong := wrong_url(self.url):
            errors.append(ConfigError(("url",), wrong))
        if errors:
            raise ConfigErrors(errors)
        place = f"'{self.url}'"
        who = f"reward '{self.reward['kind']}' of {place}"
        self._read(_HttpTransport(who, self), f"by {place}", "url")

    def origins(self) -> Mapping[str, str]:
        """The distribution of the inner reward and its weights' digest, as the server has them."""
        return {f"{self.reward['kind']} of '{self.url}'": self._origin}


@final
@attrs.define(eq=False)
class _HttpTransport:
    """Carries messages to a server, which knows this side by a number.

    A server that does not know it, having been started again or having had too many others, is told
    again what it must have heard.
    """

    who: str
    spec: Remote
    _session: str = attrs.field(factory=lambda: uuid4().hex, init=False)
    _endpoint: Endpoint | None = attrs.field(default=None, init=False)
    _repeated: list[Message] = attrs.field(factory=list, init=False)
    _lock: threading.RLock = attrs.field(factory=threading.RLock, init=False)

    def ask(self, request: Message, *, repeat: bool = False) -> Message:
        """The reply to a request; see `Transport`."""
        with self._lock:
            if self._endpoint is None:
                self._endpoint = self._connected()
            reply = self._exchange(request)
            if reply.type == "unknown session":
                for earlier in self._repeated:
                    self._raise_from(self._exchange(earlier))
                reply = self._exchange(request)
            self._raise_from(reply)
            if repeat:
                earlier_ones = [m for m in self._repeated if m.type != request.type]
                self._repeated = [*earlier_ones, request]
            return reply

    def close(self) -> None:
        """Close the connections; a later request opens others."""
        with self._lock:
            if self._endpoint is not None:
                self._endpoint.close()
                self._endpoint = None

    def _connected(self) -> Endpoint:
        """The server, once it has said that it speaks as we do."""
        from align_http.endpoint import Endpoint, Secret

        spec = self.spec
        self._endpoint = Endpoint(
            url=spec.url.rstrip("/"),
            who=self.who,
            key=Secret.of(spec.key_env, self.who),
            ca_file=spec.ca_file,
            timeout=spec.timeout,
            tries=spec.tries,
            backoff=spec.backoff,
            in_flight=1,
            most_bytes=_LARGEST,
        )
        try:
            hello = self._exchange(Message("hello")).payload
            if hello.get("protocol") != VERSION:
                theirs, ours = hello.get("version"), version("align-core")
                text = f"{self.who}: the server has align-core {theirs}, and here is {ours}"
                raise PartError(f"{text}; install the same")
        except BaseException:
            self.close()
            raise
        return self._endpoint

    def _exchange(self, request: Message) -> Message:
        assert self._endpoint is not None
        body, path = to_body(request), f"/ask/{self._session}"
        try:
            return run(self._endpoint.ask(body, MEDIA_TYPE, _read, path))
        except NotAnswered as failure:
            tries = f"{failure.tries} {'try' if failure.tries == 1 else 'tries'}"
            text = f"{self.who} did not answer after {tries}: {failure.reason}"
            raise PartError(text) from None

    def _raise_from(self, reply: Message) -> None:
        if reply.type == "error":
            raise raised(self.who, reply)


def _read(body: bytes) -> Message:
    try:
        return from_body(body)
    except ValueError as error:
        raise NotAnswered(f"the answer is none of align serve: {error}") from None
