"""The process of an isolated reward: `python -m align.cli.worker`, started by `align` itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any


def main() -> None:
    """Serve requests from stdin on stdout."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What packages print goes to stderr, and so into the log; what they read is empty.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    from align.catalog.registry import load_catalog
    from align.isolation.protocol import ConfigRejected
    from align.isolation.server import Read, serve
    from align.recipe.convert import read_reward
    from align.recipe.source_map import ConfigErrors
    from align.recipe.write import part_table

    def read(table: Mapping[str, Any]) -> Read:
        catalog = load_catalog()
        try:
            spec = read_reward(table, catalog)
        except ConfigErrors as error:
            raise ConfigRejected((fault.key, fault.text) for fault in error.faults) from error
        entry = catalog.entry_of(spec)
        return Read(spec, part_table(spec), str(entry.origin) if entry else "")

    serve(source, sink, read, version("align-core"))


if __name__ == "__main__":
    main()
