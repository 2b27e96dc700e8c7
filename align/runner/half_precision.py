"""Half precision on a processor that has no instructions for it, where it is no gain but a loss."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from align.catalog.describe import dotted
from align.core.option import Key

_INSTRUCTIONS: Final = MappingProxyType(
    {
        "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
        "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
    }
)
"""What Linux calls the instructions that multiply such numbers, on x86 and on ARM."""


def slow_precisions(text: str, device: torch.device) -> Iterator[str]:
    """What to say of each option of a recipe that asks this processor for such a precision.

    Args:
        text: the recipe, as `to_toml` writes it.
        device: that the run is on.
    """
    flags = _flags() if device.type == "cpu" else None
    if flags is None:
        return
    for key, value in _precisions(tomllib.loads(text)):
        if not flags & _INSTRUCTIONS[value]:
            yield (
                f'{dotted(key)} = "{value}": this processor has no instructions for such numbers,'
                " so that products of networks take 6 to 20 times as long; use float32 here"
            )


def _flags() -> Set[str] | None:
    """What Linux says that this processor can do; None where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else None


def _precisions(value: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """Every option that has a half precision, with its key."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _precisions(item, (*key, name))
    elif key and str(key[-1]).endswith(("precision", "dtype")) and value in _INSTRUCTIONS:
        yield key, value
