"""What the package hpsv2 itself says, where it is installed: the judge of our scores.

Reference: hpsv2 1.2.0, https://github.com/tgxs002/HPSv2, Apache-2.0.
"""

from __future__ import annotations

import gzip
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.resources import files
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from align_clip.tokens import LIST
from PIL.Image import Image
from torch import Tensor


def scores(weights: Path, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
    """The package's scores (B,) of RGB pictures by the checkpoint in a file, on its own device.

    Raises:
        ImportError: the package, or one that it needs, is missing or does not import.
    """
    with mended():
        from hpsv2 import img_score

        # Made here, since the package would first download 3.9 GB that it then overwrites.
        network, _, view = img_score.create_model_and_transforms(
            "ViT-H-14", None, device=img_score.device, output_dict=True, light_augmentation=True
        )
        img_score.model_dict.update(model=network, preprocess_val=view)
        groups = [
            # It reads the file once a call.
            img_score.score([pictures[row] for row in rows], prompt, cp=str(weights))
            for prompt, rows in _rows(prompts).items()
        ]
        img_score.model_dict.clear()
    order = [row for rows in _rows(prompts).values() for row in rows]
    scores_by_group = torch.tensor([float(score) for group in groups for score in group])
    return scores_by_group[torch.tensor(order).argsort()]


def _rows(prompts: Sequence[str]) -> dict[str, list[int]]:
    """The rows of each prompt."""
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    return rows


@contextmanager
def mended() -> Iterator[None]:
    """Within, the package imports as it was meant to; afterwards warnings are as they were.

    It imports a name of `turtle`, which needs tkinter, and never uses it; and its wheel lacks the
    list of tokens, of which align-clip has the same.
    """
    stub = ModuleType("turtle")
    stub.forward = None  # type: ignore[attr-defined]
    alone = "turtle" not in sys.modules
    sys.modules.setdefault("turtle", stub)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), _tokens():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            if alone:
                del sys.modules["turtle"]


@contextmanager
def _tokens() -> Iterator[None]:
    """Within, a list of tokens that is not there is that of align-clip."""
    unpacked = gzip.open

    def opened(file: Any, *arguments: Any, **named: Any) -> Any:
        path = Path(file)
        lacks = path.name == LIST and not path.exists()
        return unpacked(str(files("align_clip") / LIST) if lacks else file, *arguments, **named)

    with patch.object(gzip, "open", opened):
        yield
