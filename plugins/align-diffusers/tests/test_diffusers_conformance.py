"""The plugin's parts, by the checks of their contracts."""

import atexit
import functools
import tempfile
from pathlib import Path

import torch
from align_diffusers import Diffusers
from align_diffusers.testing import FAMILIES

from align.testing import conformance

FOLDER = tempfile.TemporaryDirectory()
atexit.register(FOLDER.cleanup)


@functools.cache
def folder(family):
    """A tiny pipeline, saved once."""
    path = Path(FOLDER.name) / family
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        FAMILIES[family]().save_pretrained(path)
    return str(path)


def part(family, **options):
    return Diffusers(weights=folder(family), height=16, width=16, prompt="a cat", **options)


test_diffusers = conformance("model", lambda: part("sd15", guidance=3.0))
test_diffusers_with_a_transformer = conformance(
    "model", lambda: part("flux", call={"max_sequence_length": 12})
)
