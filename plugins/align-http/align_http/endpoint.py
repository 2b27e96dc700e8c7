"""A URL that is sent requests: a key, certificates, limits, and further tries where one fails."""

from __future__ import annotations

import asyncio
import base64
import math
import os
import ssl
import time
import weakref
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar, final
from urllib.parse import quote, urlsplit

import attrs
import httpx2
from loguru import logger

from align import PartError
from align_http.failure import NotAnswered, shown

Result = TypeVar("Result")

_LONGEST_WAIT: Final = 60.0  # seconds before another try, unless the server asks for more
_PATIENCE: Final = 600.0  # seconds that a server may ask to wait
_AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 507, 520, 521, 522, 524, 529})
_ALL: Final = frozenset({301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 406, 410, 411, 415})
"""Statuses that say nothing of the picture: whatever is sent is answered so."""
_CURES: Final = {
    401: "the key is refused; look at key_env",
    403: "the key may not do this; look at key_env",
    404: "look at the url and the name of the model",
    402: "nobody pays for it",
}
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


@final
class Secret:
    """A key, which nothing prints."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(***)"

    def reveal(self) -> str:
        """The key itself, for the header that has it."""
        return self._value

    def hidden(self, text: str) -> str:
        """A text in which the key, also as URLs, base64 and JSON write it, is not to be read."""
        value = self._value
        encoded = base64.b64encode(value.encode()).decode()
        for form in (value, quote(value, safe=""), encoded.rstrip("="), value.replace("/", "\\/")):
            text = text.replace(form, "***") if form else text
        return text

    @classmethod
    def of(cls, name: str, who: str) -> Secret | None:
        """The key in an environment variable; None where no variable is named.

        Raises:
            PartError: it is not set, or holds what no header can.
        """
        if not name:
            return None
        value = os.environ.get(name, "").strip()
        if not value:
            raise PartError(f"{who}: the environment variable {name} holds no key; set it")
        if not (value.isascii() and value.isprintable()):
            raise PartError(f"{who}: the environment variable {name} holds letters that no key has")
        return cls(value)


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine."""
    return urlsplit(url).hostname in _LOOPBACK


@final
@attrs.define(eq=False)
class Endpoint:
    """A URL, how it is asked, and how often it was.

    Attributes:
        url: that requests are sent to.
        who: the part that asks, for messages.
        key: sent as a bearer's token, if there is one.
        ca_file: certificates that vouch for the server, instead of the system's; "" for these.
        timeout: seconds for one try, from connecting to the last byte.
        tries: of one request.
        backoff: seconds before the second try; twice as many before each further one.
        in_flight: most requests at once.
        most_bytes: of an answer.
        max_calls: most requests; None for any number.
        sent: requests so far, each try counted.
        seconds: that they took, one after the other.
    """

    url: str
    who: str
    key: Secret | None = None
    ca_file: str = ""
    timeout: float = 120.0
    tries: int = 4
    backoff: float = 1.0
    in_flight: int = 8
    most_bytes: int = 1 << 22
    max_calls: int | None = None
    sent: int = 0
    seconds: float = 0.0
    _client: tuple[asyncio.AbstractEventLoop, httpx2.AsyncClient] | None = None
    _tls: ssl.SSLContext = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Read the certificates; raises PartError where there are none."""
        if self.key is not None and self.url.startswith("http:") and not is_loopback(self.url):
            text = "{}: the key crosses the network unencrypted; use https where you do not own it"
            logger.bind(notice=True).warning(text, self.who)
        try:
            self._tls = ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            text = f"{self.who}: ca_file '{self.ca_file}' holds no certificates: {error}"
            raise PartError(text) from error

    async def ask(
        self, body: bytes, kind: str, read: Callable[[bytes], Result], path: str = ""
    ) -> Result:
        """What is read of the answer to a request.

        Args:
            body: of the request.
            kind: its media type.
            read: reads an answer's body; raises NotAnswered for one that cannot be used.
            path: is added to the URL.

        Raises:
            NotAnswered: the last try failed, or one after which no other helps; with the number of
                tries.
        """
        for number in range(1, self.tries + 1):
            try:
                return read(await self._timed(body, kind, path))
            except NotAnswered as failure:
                failure.tries = number
                failure.reason = self.hidden(failure.reason)
                if number == self.tries or not failure.again:
                    raise
                logger.info("{}: try {} failed: {}", self.who, number, failure.reason)
                await asyncio.sleep(self._wait(number, failure, body))
        raise AssertionError("there is at least one try")

    def hidden(self, text: str) -> str:
        """A text of the server without the key."""
        return self.key.hidden(text) if self.key else text

    def close(self) -> None:
        """Close the connections; a later request opens others."""
        if self._client is not None:
            (loop, client), self._client = self._client, None
            _close(loop, client)

    def _wait(self, number: int, failure: NotAnswered, body: bytes) -> float:
        """Seconds before another try; not the same for all, so that they do not come together."""
        wait = min(_LONGEST_WAIT, self.backoff * 2.0 ** (number - 1))
        return max(failure.wait, wait * (1 + zlib.crc32(body[-256:]) % 64 / 256))

    async def _timed(self, body: bytes, kind: str, path: str) -> bytes:
        if self.max_calls is not None and self.sent >= self.max_calls:
            text = f"max_calls = {self.max_calls} is used up; raise it"
            raise NotAnswered(text, again=False, fatal=True)
        self.sent += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout if math.isfinite(self.timeout) else None):
                return await self._once(body, kind, path)
        except TimeoutError:
            raise NotAnswered(f"no whole answer within {self.timeout:g} s") from None
        except httpx2.InvalidURL as error:
            raise NotAnswered(f"no URL: {error}", again=False, fatal=True) from None
        except (httpx2.HTTPError, OSError) as error:
            raise _of_transport(error) from None
        finally:
            self.seconds += time.monotonic() - began

    async def _once(self, body: bytes, kind: str, path: str) -> bytes:
        headers = {"Content-Type": kind, "Accept-Encoding": "identity"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key.reveal()}"
        request = self._connected().stream("POST", self.url + path, content=body, headers=headers)
        async with request as answer:
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise NotAnswered("the answer is compressed, which was not asked for", again=False)
            received = bytearray()
            most = self.most_bytes if answer.status_code == 200 else min(self.most_bytes, 1 << 16)
            async for piece in answer.aiter_raw():
                if len(received) + len(piece) > most and answer.status_code == 200:
                    raise NotAnswered(f"the answer has more than {most} bytes", again=False)
                received += piece
                if len(received) > most:
                    break
            if answer.status_code == 200:
                return bytes(received)
            raise self._of_status(answer, bytes(received))

    def _connected(self) -> httpx2.AsyncClient:
        """The client, in the loop that runs now."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            client = httpx2.AsyncClient(
                verify=self._tls,
                timeout=None,  # the whole of a try has one
                limits=httpx2.Limits(max_connections=self.in_flight, keepalive_expiry=60),
                follow_redirects=False,
                trust_env=not is_loopback(self.url),  # a proxy leads to no server of this machine
            )
            self._client = loop, client
            weakref.finalize(self, _close, loop, client).atexit = False
        return self._client[1]

    def _of_status(self, answer: httpx2.Response, body: bytes) -> NotAnswered:
        status = answer.status_code
        text = shown(body.decode(errors="replace"))
        reason = f"status {status}" + (f": {text}" if text else "")
        if cure := _CURES.get(status):
            reason += f"; {cure}"
        if status in (301, 302, 303, 307, 308):
            reason = f"status {status}: it is elsewhere; write the url that it leads to"
        again = status in _AGAIN
        wait = wait_of(answer.headers.get("Retry-After", "")) if again else 0.0
        if wait > _PATIENCE:
            reason += (
                f"; the server asks to wait for {wait:.0f} s, and {_PATIENCE:.0f} are the most"
            )
            again = False
        return NotAnswered(reason, again=again, fatal=status in _ALL, wait=wait)


def _close(loop: asyncio.AbstractEventLoop, client: httpx2.AsyncClient) -> None:
    """Close a client in its loop."""
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(client.aclose(), loop)


def _of_transport(error: BaseException) -> NotAnswered:
    """A failure of a connection, in a few words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = f"the certificate is not valid: {cause.verify_message}"
            cure = "name the file of its authority by ca_file, if you trust it"
            return NotAnswered(f"{text}; {cure}", again=False, fatal=True)
        cause = cause.__cause__ or cause.__context__
    known: dict[type[BaseException], str] = {
        httpx2.ConnectError: "no connection",
        httpx2.RemoteProtocolError: "the answer broke off, or is none of HTTP",
        httpx2.ReadError: "the answer broke off",
        httpx2.WriteError: "the connection broke off",
    }
    what = known.get(type(error), type(error).__name__)
    text = shown(str(error))
    return NotAnswered(f"{what} ({text})" if text else what)


def wait_of(header: str) -> float:
    """Seconds that the header Retry-After asks to wait, as a number or a date; 0 for nothing."""
    text = header.strip()
    if text.isdecimal() and text.isascii():
        return float(text[:12])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
