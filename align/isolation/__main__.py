"""The process of an isolated reward: `python -m align.isolation`, started by `align` itself.

Like any plugin, it uses of `align` what the package offers by name.
"""

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

    from loguru import logger

    import align
    from align.isolation.answers import LoadedSpec
    from align.isolation.server import serve

    logger.remove()
    logger.add(sys.stderr, format="{message}", level="INFO")
    logger.enable("align")

    def read(table: Mapping[str, Any]) -> LoadedSpec:
        catalog = align.load_catalog()
        spec = align.read_part("reward", table, catalog)
        entry = catalog.entry_of(spec)
        return LoadedSpec(spec, align.part_table(spec), str(entry.origin) if entry else "")

    serve(source, sink, read, version("align-core"))


if __name__ == "__main__":
    main()
