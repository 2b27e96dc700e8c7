"""Models of another distribution: Gaussians in closed form whose prompts are words, not labels.

With a prompt of words w_1, ..., w_n the law is N(mean of vectors of the words, std²). The condition
is the vectors themselves, (B, 3, D); there are no labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
import torch
from torch import nn

from align import (
    ClassConditional,
    Condition,
    Domain,
    EncodesPictures,
    FlowModel,
    ModelSpec,
    Path,
    PromptError,
    TrainableVelocity,
    expand,
    hookimpl,
    option,
)
from align.core.path import PATHS

WORDS = ("left", "right", "far", "near")


class Words(FlowModel):
    """Gaussians about the mean of a prompt's words."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, spec: WordsSpec) -> None:
        self.spec, self.domain = spec, spec.domain
        self.path: Path = PATHS[spec.path]
        self.shape = (1, 4, 4) if spec.picture else (2,)

    def encode(self, prompts):
        """Vectors of three words, (B, 3, *S); the prompt's own in turn."""
        return Condition(tuple(prompts), {"words": torch.stack([*map(self._words, prompts)])})

    def velocity(self, x, t, cond):
        """The closed form."""
        alpha, beta = self.path.alpha(t), self.path.beta(t)
        var = alpha**2 + (beta * self.spec.std) ** 2
        mean = cond.tensors["words"].mean(1)
        gain = expand(beta * self.spec.std**2 / var, x)
        denoiser = mean + gain * (x - expand(beta, x) * mean)
        alpha_rate, beta_rate = self.path.alpha_rate(t), self.path.beta_rate(t)
        noise = expand(alpha / var, x) * (x - expand(beta, x) * mean)
        return expand(alpha_rate, x) * noise + expand(beta_rate, x) * denoiser

    def decode(self, x1):
        """Vectors as they are, and pixels from [−1, 1] to [0, 1], in three colours."""
        return (x1 + 1).expand(-1, 3, -1, -1) / 2 if self.spec.picture else x1

    def _words(self, prompt):
        names = prompt.split() or list(WORDS)
        if unknown := [name for name in names if name not in WORDS]:
            raise PromptError(f"no word '{unknown[0]}'")
        vectors = [self._vector(names[k % len(names)]) for k in range(3)]
        return torch.stack(vectors)

    def _vector(self, name):
        angle = 2 * math.pi * WORDS.index(name) / len(WORDS)
        pair = torch.tensor([math.cos(angle), math.sin(angle)])
        if not self.spec.picture:
            return pair
        return (0.4 * pair[:, None, None].expand(2, 2, 4).reshape(1, 4, 4)).contiguous()


@attrs.frozen(kw_only=True)
class WordsSpec(ModelSpec):
    """Gaussians about the mean of a prompt's words."""

    kind: ClassVar[str] = "words"
    provides: ClassVar[frozenset[type]] = frozenset()

    prompt: str = option("words", default="")
    std: float = option("deviation of each number", default=0.3)
    path: Literal["linear", "trigonometric"] = option("interpolant", default="trigonometric")
    picture: bool = option("whether states are pictures of 4 x 4 pixels", default=False)

    @property
    def domain(self) -> Domain:
        """Pictures, or vectors."""
        return "image" if self.picture else "vector"

    def build(self, device):
        """The closed form."""
        return Words(self)


class Correction(nn.Module):
    """A perceptron of the state and the time, which begins as zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x, t):
        """What is added to the velocity."""
        return self.layers(torch.cat((x, t[:, None].to(x)), 1))


class Corrected(Words, TrainableVelocity):
    """The same laws, with a module that can be trained."""

    def __init__(self, spec: CorrectedSpec, module: nn.Module) -> None:
        super().__init__(spec)
        self._module = module

    @property
    def module(self):
        """The correction."""
        return self._module

    def with_module(self, module):
        """Another correction."""
        return Corrected(self.spec, module)

    def velocity(self, x, t, cond):
        """The closed form, corrected."""
        return super().velocity(x, t, cond) + self._module(x, t)

    def files(self, module: nn.Module) -> Mapping[str, bytes]:
        """How many weights there are."""
        return {"count.txt": str(sum(w.numel() for w in module.parameters())).encode()}


@attrs.frozen(kw_only=True)
class CorrectedSpec(WordsSpec):
    """Gaussians about the mean of a prompt's words, whose velocity can be trained."""

    kind: ClassVar[str] = "corrected"

    width: int = option("units of a layer", default=32)
    notes: str = option("a file that must be there", default="", path=True)

    def build(self, device):
        """An untrained correction."""
        return Corrected(self, Correction(self.width).requires_grad_(False))


class Named(Words, ClassConditional, EncodesPictures):
    """Gaussians about the vector of a class; without one, about the mean of all."""

    classes = WORDS

    def encode(self, prompts):
        """Numbers of classes."""
        labels = [WORDS.index(prompt) if prompt else len(WORDS) for prompt in prompts]
        return Condition(tuple(prompts), {"label": torch.tensor(labels)})

    def velocity(self, x, t, cond):
        """The closed form."""
        means = torch.stack([*map(self._vector, WORDS), torch.zeros(self.shape)])
        chosen = means[cond.tensors["label"]][:, None]
        return super().velocity(x, t, Condition(cond.prompts, {"words": chosen}))

    def encode_pictures(self, pictures):
        """The first colour, from [0, 1] to [−1, 1]."""
        return 2 * pictures[:, :1] - 1


@attrs.frozen(kw_only=True)
class NamedSpec(WordsSpec):
    """Gaussians about the vector of a class."""

    kind: ClassVar[str] = "named"

    def build(self, device):
        """The closed form."""
        return Named(self)


@hookimpl
def align_models():
    """All of them."""
    return [WordsSpec, CorrectedSpec, NamedSpec]
