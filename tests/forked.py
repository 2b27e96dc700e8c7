"""Processes for tests, forked from one that has imported align: none pays for the import again."""

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path
from unittest import mock

import torch

# What the command and its training modes import sooner or later, where it is installed. Not the
# checks of the kit: pytest in a fork rewrites their assertions, before they are imported.
_PRELOADED = [
    "align.cli.main",
    "align.runner.session",
    "align.isolation.reward",
    "align.training.parallel",
    "align_imagenet",
    "align_pocket",
    "matplotlib.pyplot",
    "pytest",
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_PRELOADED)
PATIENCE = 300  # seconds; far more than any process here takes


class Forked:
    """`python -m MODULE ARGUMENTS`, or `python FILE ARGUMENTS`, in a process of its own.

    It is a fork of a process that imports, and does nothing else: no test before it is seen.

    Args:
        folder: an empty one, for what the process writes to its standard output and error.
        program: a module's name, or the path of a file that ends in ".py".
        arguments: of the command line.
        cwd: the folder to start in, which is this process's own where none is given.
        env: variables of the environment that differ from this process's.
        paths: folders in which modules and distributions are looked for first.
    """

    def __init__(self, folder, program, *arguments, cwd=None, env=None, paths=()):
        self.folder = folder
        environment = {**os.environ, **(env or {})}
        command = [str(program), *map(str, arguments)]
        places = [str(path) for path in (*paths, cwd or Path.cwd())]
        self.process = _CONTEXT.Process(target=_main, args=(folder, command, environment, places))
        # Else the fork runs the script that this process was started by, which may be pytest's.
        with mock.patch.object(sys.modules["__main__"], "__spec__", _Script):
            self.process.start()

    @property
    def stdout(self):
        """What the process has written to its standard output so far."""
        return self._written("stdout")

    @property
    def stderr(self):
        """What the process has written to its standard error so far."""
        return self._written("stderr")

    def _written(self, stream):
        path = self.folder / stream
        return path.read_text() if path.exists() else ""

    def poll(self):
        """The exit code, or minus the number of the signal that ended it; None while it runs."""
        return self.process.exitcode

    def send(self, blow):
        """Send a signal."""
        os.kill(self.process.pid, blow)

    def ended(self):
        """Wait for its end, and return the exit code."""
        self.process.join(PATIENCE)
        assert self.poll() is not None, "it does not end"
        return self.poll()

    def kill(self):
        """End it, if it runs."""
        self.process.kill()
        self.process.join()


class _Script:
    """Says of a script that it is a package's `__main__`, which no child process runs again."""

    name = "script.__main__"


def _main(folder, command, environment, places):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" has it ignored
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(places[-1])
    sys.path[:0] = places
    sys.argv = command
    torch.set_num_threads(1)
    if command[0].endswith(".py"):
        runpy.run_path(command[0], run_name="__main__")
    else:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
