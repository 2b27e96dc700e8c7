"""The reward `http`: whatever a server of somebody's own says of pictures and prompts."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, final

import attrs
import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from align import Domain, Reward, at_least, option
from align.io.images import checked, to_bytes
from align_http.failure import NotAnswered
from align_http.pictures import base64_png
from align_http.service import Asker, ServiceSpec, Task, key_of


@final
@attrs.frozen(kw_only=True)
class Http(ServiceSpec):
    """A scorer of your own behind a URL.

    R(x) as a server says it, which is sent pictures and prompts as JSON.

    A request is {"prompts": [...], "pictures": [...]}, the pictures as PNG in base64, or
    {"prompts": [...], "data": "..."}, one file of safetensors in base64 that has the tensor "data"
    (B, ...) in float32. The answer is {"scores": [...]}, one finite number for each prompt.
    """

    kind: ClassVar[str] = "http"
    range: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))

    format: Literal["png", "safetensors"] = option(
        "how data are sent: pictures as PNG, rounded to 8 bits, or any data as safetensors",
        default="png",
    )
    batch: int = option("most pictures in a request", default=1, check=at_least(1))

    @property
    def domain(self) -> Domain | None:
        """Pictures as PNG; vectors too as safetensors."""
        return "image" if self.format == "png" else None

    @property
    def price_per_score(self) -> float:
        """Money for a picture, where requests are full."""
        return self.price_per_call / self.batch

    def build(self, device: torch.device) -> Reward:
        """The reward; raises PartError where the key or the certificates are missing."""
        return _Http(self, self.asker())


@final
@attrs.frozen(eq=False)
class _Http(Reward):
    spec: Http
    asker: Asker

    @torch.no_grad()
    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """R (B,) of pictures (B, 3, H, W) in [0, 1], or of other data (B, ...) as safetensors.

        Raises:
            ContractError: pictures are asked for, and the data are none.
            PartError: one of them cannot be scored.
        """
        rows, facts = self._rows(data), {"url": self.spec.url, "format": self.spec.format}
        tasks = [
            Task(
                key_of({**facts, "prompt": prompt}, row),
                number,
                prompt,
                functools.partial(self._content, row, prompt),
            )
            for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True))
        ]
        scores = self.asker.numbers(tasks, len(rows), self._request, _scores, self.spec.batch)
        return torch.tensor(scores, dtype=torch.float64).to(data.device, torch.float32)

    def _rows(self, data: Tensor) -> np.ndarray:
        if self.spec.format == "png":
            return to_bytes(checked(data, f"reward '{self.spec.kind}'"))
        return data.detach().float().cpu().numpy()

    def _content(self, row: np.ndarray, prompt: str) -> tuple[str, Any]:
        return prompt, base64_png(row) if self.spec.format == "png" else row

    def _request(self, contents: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        prompts, rows = [prompt for prompt, _ in contents], [row for _, row in contents]
        if self.spec.format == "png":
            return {"prompts": prompts, "pictures": rows}
        file = save({"data": np.ascontiguousarray(np.stack(rows))})
        return {"prompts": prompts, "data": base64.b64encode(file).decode()}


def _scores(answer: Any, contents: Sequence[Any]) -> list[float]:
    """The scores in an answer, one for each of the contents."""
    scores = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(scores, list):
        raise NotAnswered('the answer has no list "scores"')
    if len(scores) != len(contents):
        wanted = f"{len(contents)} {'was' if len(contents) == 1 else 'were'} asked for"
        raise NotAnswered(f"the answer has {len(scores)} scores, and {wanted}")
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise NotAnswered(f"the answer has a score that is no number: {str(score)[:40]!r}")
    return [_float(score) for score in scores]


def _float(number: float) -> float:
    """A number of JSON; infinite where no float holds it."""
    try:
        return float(number)
    except OverflowError:
        return float("inf")
