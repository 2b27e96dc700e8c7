"""A reward that is a function in the user's own Python file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.attribution import seen
from align.core.errors import ContractError
from align.core.option import option
from align.core.reward import HasOrigins, Repeatable, Reward, RewardDomain, RewardSpec
from align.io.python_code import (
    Code,
    check_one_place,
    code_origins,
    file_option,
    files_of,
    has_function,
    module_option,
)

Scores: TypeAlias = Callable[[Tensor, list[str]], Tensor]


@final
@attrs.frozen(kw_only=True)
class Python(RewardSpec, HasOrigins, Repeatable):
    """A function of your own, in a Python file.

    A function `score(data, prompts)` of a Python file, which returns the scores (B,).

    `data` are pictures (B, 3, H, W) in [0, 1] or vectors (B, D), on the run's device, or with
    `domain = "latent"` clean states (B, *S); `prompts` is a list of B strings. Row i of the score
    must depend on row i of the data alone. The file is run once, when the run begins; `align check`
    only reads it. It can import what lies beside it, as a script can. A module is named like in an
    import statement, and is searched in the working directory first.
    """

    kind: ClassVar[str] = "python"
    range: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))

    file: str | None = file_option()
    module: str | None = module_option("my_package.rewards")
    function: str = option(
        "name of the function in the file or module", default="score", check=has_function
    )
    differentiable: bool = option(
        "whether the score carries a gradient back to the data; checked before the first score",
        default=True,
    )
    domain: RewardDomain | None = option(
        "kind of data that it scores; 'latent' is clean states, which are not decoded for it;"
        " pictures and vectors if left out",
        default=None,
    )

    def __attrs_post_init__(self) -> None:
        """Refuse two places of the function, and none."""
        check_one_place(self)

    def origins(self) -> Mapping[str, str]:
        """The file with the function, and its digest."""
        return code_origins(self)

    def files_read(self) -> Iterable[Path] | None:
        """The user's own code, and what it imports and names, as far as its text tells."""
        return files_of(self.file or self.module or "")

    def build(self, device: torch.device) -> Reward:
        """Run the file; raises PartError if that fails."""
        code = Code.run(self, "reward 'python'")
        function = code.named(self.function, "reward 'python'")
        who = f"reward 'python': '{self.function}' of '{code.where}'"
        return _Function(function, self.differentiable, who, code)


@final
@attrs.define(eq=False)
class _Function(Reward):
    """Calls the function.

    Attributes:
        code: around the function, with what that may import.
        tried: whether its declared gradient has been checked.
    """

    function: Scores
    differentiable: bool
    who: str
    code: Code
    tried: bool = False

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """What the function returns (B,), in float32 or wider."""
        if not self.tried:
            self._try(data[:1], prompts[:1])
            self.tried = True
        # Weights that the function did not freeze are no reason for a graph.
        with torch.set_grad_enabled(
            self.differentiable and data.requires_grad and torch.is_grad_enabled()
        ):
            return self._of(data, prompts)

    def _of(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        with self.code.importable():
            score = self.function(data, list(prompts))
        plain = isinstance(score, Tensor) and score.layout == torch.strided
        if plain and score.shape == (len(data),) and not score.is_complex():
            if score.device != data.device:
                raise ContractError(f"{self.who} returned scores on {score.device}")
            return score if score.dtype == torch.float64 else score.float()
        kind = " of complex numbers" if plain and score.is_complex() else ""
        got = f"{tuple(score.shape)}{kind}" if plain else seen(score)
        raise ContractError(f"{self.who} returned {got}, expected a tensor ({len(data)},)")

    def _try(self, data: Tensor, prompts: Sequence[str]) -> None:
        """Check with one row that the declared gradient exists."""
        if not self.differentiable or not len(data):
            return
        with torch.enable_grad():
            row = data.detach().clone().requires_grad_()
            score, gradient = self._of(row.clone(), prompts), None
            if score.requires_grad:
                (gradient,) = torch.autograd.grad(score.sum(), row, allow_unused=True)
        if gradient is None:
            text = f"{self.who} carries no gradient back to the data"
            raise ContractError(f"{text}; set differentiable = false")
