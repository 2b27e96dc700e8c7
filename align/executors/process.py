"""A process that does tasks: `python -m align.executors.process`, started by executor `local`.

What it is sent and what it answers are pickles of a process and its own parent.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from typing import Any, BinaryIO

import torch
from loguru import logger

from align.core.executor import performed


def send(stream: BinaryIO, message: Any) -> None:
    """Write a message: its length, and so many bytes."""
    content = pickle.dumps(message)
    stream.write(len(content).to_bytes(8, "little") + content)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read a message; raises EOFError at the end of the stream, and within a message."""
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    content = stream.read(size) if len(head) == 8 else b""
    if len(head) < 8 or len(content) < size:
        raise EOFError("the other process is gone")
    return pickle.loads(content)


def main() -> None:
    """Do one task after the other, until there are no more, or nobody who asks."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What packages print goes to stderr; what they read is empty.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path[:], threads, job = receive(asked)
    torch.set_num_threads(threads)
    logger.remove()
    logger.add(sys.stderr, format="{message}", level="INFO")
    logger.enable("align")
    waiting = threading.Condition()
    tasks = list[Any]()

    def read() -> None:
        """Read what is asked; the end of it is seen in the middle of a long task."""
        try:
            while True:
                task = receive(asked)
                with waiting:
                    tasks.append(task)
                    waiting.notify()
        except EOFError:
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        with waiting:
            waiting.wait_for(lambda: bool(tasks))
        send(answers, performed(job, tasks.pop(0)))


if __name__ == "__main__":
    main()
