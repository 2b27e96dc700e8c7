"""One process writes a run folder: a lock that says whose it is.

The lock is a file that its owner holds open, locked by the operating system, which forgets it with
the process. The file says who the owner is. That decides where the system cannot: on a mount
without locks, and for a machine whose locks are not seen here. Such an owner counts as alive while
its process lives on this machine; on another one, while it goes on touching the file.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self, final

import attrs
from loguru import logger

from align.core.errors import TakenError
from align.io import files

NAME: Final = "run.lock"
HEARTBEAT: Final = 10.0
"""Seconds between two signs of life."""

SILENCE: Final = 120.0
"""A process on another machine that was silent for so many seconds counts as dead."""

_WATCHED: Final = 2.5  # heartbeats in which one that lives is sure to be seen, whatever clocks say

_PATIENCE: Final = 2.0  # seconds in which an owner that has the lock says who it is
_OPEN: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # a link may lead elsewhere
_NO_LOCKS: Final = frozenset(
    {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
)


@final
@attrs.frozen(kw_only=True)
class Owner:
    """The process that writes a run folder.

    Attributes:
        host: name of its machine.
        machine: tells it from machines, and containers, of the same name.
        process: its number.
        began: when it began, in the machine's own count, as numbers are given anew; 0 if unknown.
        since: when it took the folder, as text.
        digest: of the recipe that it runs.
    """

    host: str
    machine: str
    process: int
    began: int
    since: str
    digest: str

    @classmethod
    def me(cls, digest: str) -> Self:
        """This process."""
        return cls(
            host=socket.gethostname(),
            machine=_machine(),
            process=os.getpid(),
            began=_began(os.getpid()),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            digest=digest,
        )

    @classmethod
    def read(cls, content: bytes) -> Owner | None:
        """Who is named in a lock file, if it is whole."""
        try:
            table: dict[str, Any] = json.loads(content)
            fields = {field.name: table[field.name] for field in attrs.fields(cls)}
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        numbers = ("process", "began")
        if any(not isinstance(v, int if k in numbers else str) for k, v in fields.items()):
            return None
        return cls(**fields)

    def is_here(self) -> bool:
        """Whether this machine can say whether the process lives."""
        return (self.host, self.machine) == (socket.gethostname(), _machine())

    def lives_here(self) -> bool:
        """Whether the process lives, on this machine."""
        return self.process > 0 and _runs(self.process) and _began(self.process) == self.began

    def __str__(self) -> str:
        """Who it is, for messages."""
        return f"process {self.process} on '{self.host}', since {self.since}"


@final
@attrs.frozen(eq=False)
class Lock:
    """A run folder that is this process's own until it lets go of it."""

    path: Path
    _file: int

    @classmethod
    def take(cls, folder: Path, digest: str, option: str = "run.out") -> Lock:
        """Lock a folder.

        Args:
            folder: is made where there is none.
            digest: of the recipe that is about to run.
            option: what names the folder, for messages.

        Raises:
            TakenError: another process has it; its `digest` is that of the other's recipe.
            PartError: nothing can be written there.
        """
        path = folder / NAME
        while True:
            with files.writing(path):
                folder.mkdir(parents=True, exist_ok=True)
                number = os.open(path, _OPEN, 0o666)
            try:
                has_locks = _locked(number)
                if has_locks is None:
                    raise _taken(folder, _named(path), option)
                if not _is(path, number):  # the owner let go of it meanwhile
                    os.close(number)
                    continue
                owner = Owner.read(os.pread(number, 1 << 16, 0))
                # The system's lock is the better word on processes of this machine.
                if owner and not (has_locks and owner.is_here()) and _lives(owner, path):
                    raise _taken(folder, owner, option)
                me = json.dumps(attrs.asdict(Owner.me(digest))).encode()
                with files.writing(path):
                    os.ftruncate(number, 0)
                    os.pwrite(number, me, 0)
            except BaseException:
                os.close(number)
                raise
            _HELD.add(number)
            return cls(path, number)

    def beat(self) -> None:
        """Give a sign of life."""
        with suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Let go of the folder; nothing of the lock stays there."""
        if _is(self.path, self._file):
            files.remove(self.path)
        _HELD.discard(self._file)
        os.close(self._file)


def owner_of(folder: Path) -> Owner | None:
    """The process that is writing a folder now, if there is one."""
    path = folder / NAME
    owner = _named(path, patience=0)
    if owner is None:
        return None
    lives = owner.lives_here() if owner.is_here() else _age(path) < SILENCE
    return owner if lives else None


def _lives(owner: Owner, path: Path) -> bool:
    """Whether an owner lives; one on another machine is watched for a sign of life."""
    if owner.is_here():
        return owner.lives_here()
    before = _touched(path)
    if _age(path) > SILENCE:
        return False
    logger.bind(notice=True).info("'{}': seeing whether {} lives", path.parent, owner)
    deadline = time.monotonic() + _WATCHED * HEARTBEAT
    while time.monotonic() < deadline:
        if _touched(path) != before:
            return True
        time.sleep(HEARTBEAT / 20)
    return False


def _taken(folder: Path, owner: Owner | None, option: str) -> TakenError:
    who = str(owner) if owner else "another process"
    cure = f"wait for it, or choose another folder by {option}"
    if owner and not owner.is_here():
        cure += f"; if that process is gone, remove '{folder / NAME}'"
    return TakenError(f"{option}: '{folder}' is in use by {who}; {cure}", owner and owner.digest)


def _named(path: Path, patience: float = _PATIENCE) -> Owner | None:
    """Who is named in a lock file; its owner may be about to write it."""
    deadline = time.monotonic() + patience
    while True:
        try:
            owner = Owner.read(path.read_bytes())
        except OSError:
            owner = None
        if owner or time.monotonic() >= deadline:
            return owner
        time.sleep(0.01)


def _locked(number: int) -> bool | None:
    """Whether the system locked an open file; None if another process has it, False if none can."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return None
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _is(path: Path, number: int) -> bool:
    """Whether an open file is the one at that path."""
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except OSError:
        return False


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _age(path: Path) -> float:
    """Seconds since the last sign of life, by the clock of this machine."""
    return time.time() - _touched(path)


def _machine() -> str:
    """What tells this machine, since it was switched on, and this container from others."""
    marks = []
    for mark in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(mark)
        try:
            marks.append(str(path.readlink()) if path.is_symlink() else path.read_text().strip())
        except OSError:
            continue
    return " ".join(marks)


def _runs(process: int) -> bool:
    """Whether there is a process of that number."""
    if os.name != "posix":
        return True  # to ask would end it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _began(process: int) -> int:
    """When a process began, in ticks since the machine was switched on; 0 if that is not known."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


_HELD: Final = set[int]()


def _let_go() -> None:
    """A process that was forked, such as one that reads data, does not hold the locks on."""
    for number in _HELD:
        os.close(number)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
