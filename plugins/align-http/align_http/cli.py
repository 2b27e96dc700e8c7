"""The command `align serve`. Nothing but click is imported before it runs."""

from __future__ import annotations

import os
import socket
import tomllib
from typing import Any

import click

from align.core.errors import PartError, RecipeError


@click.command()
@click.argument("rewards", nargs=-1, required=True, metavar="REWARD...")
@click.option("--host", default="127.0.0.1", help="Address to listen at; by default this machine.")
@click.option(
    "--port",
    default=8423,
    type=click.IntRange(0, 65535),
    help="Port to listen at; 0 takes a free one.",
)
@click.option("--token-env", default="", metavar="NAME", help="Variable with a token to ask for.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--max-megabytes", default=256.0, help="Largest request.")
@click.option("--seconds", default=600.0, help="Longest wait for a request, and for its answer.")
def serve(
    rewards: tuple[str, ...],
    host: str,
    port: int,
    token_env: str,
    device: str,
    max_megabytes: float,
    seconds: float,
) -> None:
    """Let other machines ask for rewards of this one, with [[reward]] kind = "remote".

    A REWARD is a kind, or a table like '{ kind = "clip", scale = "cosine" }'. Whoever can reach the
    port can use them, so that an address beyond this machine needs a token.
    """
    token = _token(token_env, host)
    tables = [_table(text) for text in rewards]
    try:
        import uvicorn

        from align_http.serve import Limits, Server, load_rewards
    except ImportError as error:
        text = f"a server needs more packages ({error})"
        raise PartError(f"{text}; pip install 'align-http[serve]'") from error
    from align.core.option import ConfigErrors
    from align.runner.build import device_of

    try:
        loaded = load_rewards(tables, device_of(device))
    except ConfigErrors as wrong:
        raise RecipeError(
            "\n".join(
                ": ".join((rewards[int(error.key[0])], *map(str, error.key[1:]), error.text))
                for error in wrong.errors
            )
        ) from wrong
    server = Server(loaded, Limits(megabytes=max_megabytes, seconds=seconds), token)
    with _listening(host, port) as listener:
        address, number = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        for one in loaded:
            click.echo(f"{one.table['kind']}: {one.origin}")
        click.echo(f"serving at http://{shown}:{number} until Ctrl-C")
        config = uvicorn.Config(
            server.app(),
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=512,
            timeout_graceful_shutdown=2,
            ws="none",
        )
        uvicorn.Server(config).run(sockets=[listener])


def _token(name: str, host: str) -> str:
    """The token in a variable; raises PartError where it is missing and needed."""
    if name:
        if token := os.environ.get(name, "").strip():
            return token
        raise PartError(f"--token-env: the environment variable {name} holds no token; set it")
    if host not in ("127.0.0.1", "::1", "localhost"):
        text = f"--host {host}: whoever reaches this address could use the rewards"
        raise PartError(f"{text}; set a variable to a token, and name it by --token-env")
    return ""


def _table(text: str) -> dict[str, Any]:
    """A reward's table, of a kind or of a table in letters; raises RecipeError for neither."""
    if not text.lstrip().startswith("{"):
        return {"kind": text}
    try:
        table: dict[str, Any] = tomllib.loads(f"reward = {text}")["reward"]
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"'{text}' is no table of TOML: {error}") from error
    return table


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises PartError where it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        # Connections have it from the listener: an answer does not wait for the client's next word.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        text = f"cannot listen at {host}, port {port}: {error}"
        raise PartError(f"{text}; choose others by --host and --port") from error
