"""Servers on this machine for tests: any ASGI application, and judges that fail when asked to."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, final

import attrs
import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

GIANT: Final = 64 << 20  # bytes of an answer that nobody should read to its end


@contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    """Run an application on a free port of this machine; yields its URL without the scheme.

    Args:
        app: of ASGI.
        options: of uvicorn, such as `ssl_certfile`.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    settings = {"log_level": "critical", "ws": "none", "lifespan": "off", **options}
    config = uvicorn.Config(app, timeout_graceful_shutdown=5, **settings)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def brightness(png: str) -> float:
    """Mean of a picture in base64, from 0 to 1."""
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    return float(np.asarray(picture, dtype=float).mean() / 255)


@final
@attrs.define(eq=False)
class FaultyScorer:
    """A scorer of brightness, for the reward `http`; a prompt says what goes wrong, and how often.

    "status 500", for instance, goes wrong always, and "status 500 once" the first time. What stands
    behind a comma says nothing.

    Attributes:
        asked: how often each prompt was.
        tokens: values of the header Authorization that came.
        at_once: most requests that were answered at the same time.
        key: that is asked for, if any.
    """

    asked: Counter[str] = attrs.field(factory=Counter)
    tokens: set[str] = attrs.field(factory=set)
    at_once: int = 0
    key: str = ""
    _now: int = 0

    def app(self) -> Starlette:
        """The application."""
        return Starlette(routes=[Route("/score", self._score, methods=["POST"])])

    async def _score(self, request: Request) -> Response:
        table = json.loads(await request.body())
        self.tokens.add(request.headers.get("Authorization", ""))
        self._now += 1
        self.at_once = max(self.at_once, self._now)
        try:
            await asyncio.sleep(0)
            return await self._answered(table, request)
        finally:
            self._now -= 1

    async def _answered(self, table: Mapping[str, Any], request: Request) -> Response:
        prompts, pictures = table["prompts"], table["pictures"]
        self.asked.update(prompts)
        for prompt in prompts:
            fault = prompt.partition(",")[0]
            if not fault.endswith(" once") or self.asked[prompt] == 1:
                answer = await self._fault(fault.removesuffix(" once"), request)
                if answer is not None:
                    return answer
        return JSONResponse({"scores": [brightness(picture) for picture in pictures]})

    async def _fault(self, name: str, request: Request) -> Response | None:
        """The answer that a prompt asks for; None for one that asks for nothing."""
        what, _, detail = name.partition(" ")
        while what == "hang" and not await request.is_disconnected():
            await asyncio.sleep(0.01)
        if what == "status":
            status, _, wait = detail.partition(" ")
            headers = {"Retry-After": wait} if wait else {}
            text = f"no\nanswer for {' '.join(self.tokens)}"
            return Response(text, int(status), headers)
        plain: dict[str, Response] = {
            "nan": Response('{"scores": [NaN]}'),
            "huge": Response('{"scores": [1e300]}'),
            "count": JSONResponse({"scores": [0.5, 0.5, 0.5]}),
            "words": JSONResponse({"scores": ["good"]}),
            "keys": JSONResponse({"values": [1.0]}),
            "html": Response("<html>not here</html>"),
            "deep": Response("[" * 100_000),
            "half": Response('{"scores"', headers={"Content-Length": "100"}),
            "drip": StreamingResponse(_drip()),
            "giant": StreamingResponse(_giant()),
            "zip": Response(b"\x1f\x8b" + bytes(100), headers={"Content-Encoding": "gzip"}),
            "redirect": Response(status_code=307, headers={"Location": "http://127.0.0.1:9/x"}),
        }
        return plain.get(what)


async def _drip() -> Any:
    """An answer that never ends, a letter at a time."""
    while True:
        yield b" "
        await asyncio.sleep(0.01)


async def _giant() -> Any:
    """An answer that is too long to be one."""
    piece = b" " * (1 << 16)
    for _ in range(GIANT // len(piece)):
        yield piece


@final
@attrs.define(eq=False)
class FakeVlm:
    """A server that speaks as OpenAI's, whose opinion of a picture is its brightness.

    Attributes:
        requests: that came, without their pictures.
        reply: what is answered instead, where it is set; "{}" in it is the brightness.
        logprobs: whether it gives any.
    """

    requests: list[dict[str, Any]] = attrs.field(factory=list)
    reply: str = ""
    logprobs: bool = True

    def app(self) -> Starlette:
        """The application."""
        return Starlette(routes=[Route("/v1/chat/completions", self._answer, methods=["POST"])])

    async def _answer(self, request: Request) -> Response:
        table = json.loads(await request.body())
        *shown, text = table["messages"][0]["content"]
        urls = [part["image_url"] for part in shown if part["type"] == "image_url"]
        lights = [brightness(url["url"].partition(",")[2]) for url in urls]
        for url in urls:
            url["url"] = ""
        light = lights[0] if len(lights) == 1 else lights[0] / max(1e-9, sum(lights))
        words = ("A", "B") if len(lights) > 1 else ("Yes", "No")
        self.requests.append(table)
        choice: dict[str, Any] = {"finish_reason": "stop", "message": {"role": "assistant"}}
        choice["message"]["content"] = self._text(text["text"], light)
        if table.get("logprobs") and self.logprobs:
            top = [
                {"token": token, "logprob": math.log(max(share, 1e-9))}
                for token, share in (
                    (f" {words[0]}", 0.6 * light),
                    (words[0].lower(), 0.2 * light),
                    (words[1], 0.8 * (1 - light)),
                    ("Maybe", 0.2),
                )
            ]
            choice["logprobs"] = {"content": [{"token": f" {words[0]}", "top_logprobs": top}]}
        return JSONResponse({"choices": [choice]})

    def _text(self, question: str, light: float) -> str:
        if self.reply:
            return self.reply.replace("{}", f"{10 * light:.3f}")
        if "Reply with one number" in question:
            return f"{10 * light:.3f}"
        words = question.rpartition("nothing else: ")[2].rstrip(".").split(", ")
        return words[0] if light > 0.5 else words[-1]
