"""The transport of isolated rewards: requests from a pipe, replies into another."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from typing import BinaryIO

from align.isolation.answers import Answerer, ReadTable, error_reply
from align.isolation.protocol import VERSION, Message, packed, receive


def serve(source: BinaryIO, sink: BinaryIO, read: ReadTable, version: str) -> None:
    """Answer every request, until the process is ended.

    Args:
        source: where requests come from; its end ends the process, whatever it is doing.
        sink: where replies go.
        read: reads a reward's table; raises ConfigErrors for one with mistakes.
        version: of align-core here.
    """
    answerer = Answerer(read)
    sink.write(packed(Message("hello", payload={"protocol": VERSION, "version": version})))
    sink.flush()
    for request in _requests(source):
        try:
            reply = packed(answerer.answer(request))
        except Exception as error:  # such as a reply that is too large
            reply = packed(error_reply(error))
        sink.write(reply)
        sink.flush()


def _requests(source: BinaryIO) -> Iterator[Message]:
    """What comes; a thread reads it, so that the end is seen in the middle of a long call."""
    waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def read() -> None:
        try:
            while (request := receive(source)) is not None:
                waiting.put(request)
        finally:
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()
