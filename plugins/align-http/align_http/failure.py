"""Requests that are not answered, and URLs that cannot be asked."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

_SHOWN: Final = 200  # letters of an answer that a message has


class NotAnswered(Exception):
    """A request that was not answered as it should be.

    Args:
        reason: in a few words.
        again: whether another try may be answered.
        fatal: whether other requests would fare the same.
        wait: seconds that the server asks to wait.
    """

    def __init__(
        self, reason: str, *, again: bool = True, fatal: bool = False, wait: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.reason, self.again, self.fatal, self.wait = reason, again, fatal, wait
        self.tries = 0


def wrong_url(url: str) -> str:
    """What is wrong with a URL that requests should be sent to; "" where nothing is."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"'{url}' is no URL: {error}"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return f"'{url}' is no URL of a server; write it like 'http://localhost:8000/score'"
    if parts.username is not None or parts.password is not None:
        return "a URL must hold no password; put the key into a variable and name it by key_env"
    if parts.fragment or any(letter.isspace() for letter in url):
        return f"'{url}' must have no '#' and no spaces"
    return ""


def shown(text: str) -> str:
    """What a server says, in one line and cut where it is long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."
