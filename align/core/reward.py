"""Rewards: what the samples should score high on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.errors import ContractError
from align.core.model import Able, Domain

if TYPE_CHECKING:
    from PIL.Image import Image


RewardDomain: TypeAlias = Domain | Literal["latent"]
"""What a reward scores: decoded samples of a kind, or the clean states before they are decoded."""

LATENT: Final = "latent"


class Reward(ABC):
    """Scores samples; row i of the score depends on row i of the data alone."""

    @abstractmethod
    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,), float32 or wider, for images (B, 3, H, W) in [0, 1] or vectors (B, D).

        A reward whose domain is "latent" is given clean states (B, *S) instead, which nobody
        decodes for it. NaN is a score that is missing, of a reward that declares `may_miss`.
        """

    def capability(self, kind: type[Able]) -> Able | None:
        """The reward as a `kind`, for instance `Quadratic`; None where it cannot do that.

        Ask this instead of `isinstance`: a run hands out rewards under a guard.
        """
        return self if isinstance(self, kind) else None


class Compares(ABC):
    """Capability of a reward: it scores the members of a group by one another."""

    @abstractmethod
    def compare(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N, B), float32 or wider, of B groups of N samples (N, B, ...), N >= 1.

        Members that are preferred have higher scores; scores of different groups, and of a member
        in different groups, say nothing of each other. Column b depends on column b of the data and
        on prompt b alone, and moves as its members do: no place in a group is favoured. A member
        alone has the score 0.
        """

    def calls(self, members: int) -> int:
        """Calls that a group of so many members costs: each pair both ways round."""
        return members * (members - 1)


class ComparingReward(Reward, Compares):
    """A judge that compares samples: this one or that one, or the ranks of several.

    What has its choice of several samples for each one can use it: Best-of-N among candidates,
    estimators among draws, resampling among particles. Its specification says `compares`.
    """

    @final
    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Raises ContractError: a sample alone has no score."""
        raise ContractError("a reward that compares samples has no score of one alone")


class Quadratic(ABC):
    """Capability of a reward: it is R(x) = −½ xᵀ P x + hᵀ x + c."""

    @abstractmethod
    def quadratic(self) -> tuple[Tensor, Tensor, Tensor]:
        """P (D, D), symmetric, h (D,) and c ()."""


class HasReferenceImages(ABC):
    """Capability of a reward: it has pictures that samples are to be seen beside."""

    @abstractmethod
    def pictures(self) -> dict[str, Tensor]:
        """Pictures (C, H, W) in [0, 1], each by what it shows."""


@final
@attrs.frozen(kw_only=True)
class Pins:
    """What an environment in which a package can be asked has beside align and the plugin.

    Attributes:
        packages: requirements with exact versions, such as "torch==2.14.1".
        alone: those that come last and without what they ask for, as they ask for versions that do
            not go together; they find the others while they are built.
    """

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()


class HasReferenceImplementation(ABC):
    """Capability of a RewardSpec: the package it stands in for can be asked for its own score.

    Attributes:
        pins: of an environment in which it can be asked; None where nobody has tried one.
        needs_package: whether the reward itself calls the package, and is built only where that is.
    """

    pins: ClassVar[Pins | None] = None
    needs_package: ClassVar[bool] = False

    @abstractmethod
    def judged(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """The package's scores (B,) of RGB pictures, by the same weights.

        Raises:
            ImportError: the package is not installed, or does not import.
            PartError: the weights are not there.
        """


class HasOrigins(ABC):
    """Capability of a part: it brings code that no plugin of this environment brings."""

    @abstractmethod
    def origins(self) -> Mapping[str, str]:
        """Where each piece of it is from, such as distribution and version, by its name."""


class Repeatable:
    """Capability of a part: what it computes in one run, it computes in another.

    That depends on nothing but the part's options, the files that it reads, and what is installed.
    Samples and scores of such parts are kept from run to run. A part that asks a service, draws
    numbers of its own or has been trained in this process is none.
    """

    def files_read(self) -> Iterable[Path] | None:
        """Files that decide what it computes, once it is built; a folder stands for all in it.

        Those that options name as paths (`option(path=True)`), and those in the part's own package,
        need not be among them. None where some of the options leave it open what is read.
        """
        return ()


@attrs.frozen(kw_only=True)
class RewardSpec(ABC):
    """A reward as a recipe names it: options only, until `build` loads weights.

    A subclass states a property either as a class attribute, as an option, or as a property that
    depends on other options.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def differentiable(self) -> bool:
        """Whether the score carries a gradient back to the data."""

    @property
    @abstractmethod
    def domain(self) -> RewardDomain | None:
        """The kind of data that it scores: None for pictures and vectors, "latent" for states."""

    @property
    @abstractmethod
    def range(self) -> tuple[float, float]:
        """Lowest and highest score; infinite where there is no bound."""

    @property
    def needs_prompt(self) -> bool:
        """Whether the score compares data with the prompt, so that an empty prompt is an error."""
        return False

    @property
    def dimension(self) -> int | None:
        """Entries of the vectors that it scores; None for any number, and for pictures."""
        return None

    @property
    def external(self) -> bool:
        """Whether a service computes it: a call may cost money, or wait for others."""
        return False

    @property
    def price_per_score(self) -> float:
        """Money that a score costs, in any currency."""
        return 0.0

    @property
    def may_miss(self) -> bool:
        """Whether a score may be missing, which NaN says; such a reward can only be held out."""
        return False

    @property
    def compares(self) -> bool:
        """Whether it builds a `ComparingReward`, which scores samples by one another alone."""
        return False

    @property
    def is_quadratic(self) -> bool:
        """Whether it builds a `Quadratic` reward, whose value some estimators know exactly."""
        return False

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError for a prompt that the reward cannot follow; it is not built yet.

        The default takes every prompt.
        """
        return

    @abstractmethod
    def build(self, device: torch.device) -> Reward:
        """Load the reward; raises PartError when its weights cannot be used."""


class Transform(ABC):
    """f of λ f(R): a function of a reward's score that never falls."""

    @abstractmethod
    def of(self, score: Tensor) -> Tensor:
        """f(R) (B,) of scores R (B,); the graph is kept."""

    @property
    def affine(self) -> tuple[float, float] | None:
        """Slope a and intercept b where f(R) = a R + b for every R; None for any other f."""
        return None


@final
@attrs.frozen(kw_only=True, eq=False)
class Term:
    """One reward of a run: λ f(R) if it is optimised, a bystander if it is held out.

    Attributes:
        transform: f, or None for f(R) = R.
        latent: whether it scores clean states instead of decoded data.
        compares: whether it scores samples by one another, and none alone.
    """

    name: str
    reward: Reward
    weight: float = 1.0
    held_out: bool = False
    transform: Transform | None = None
    latent: bool = False
    compares: bool = False

    def score(self, x1: Tensor, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """R (B,) of samples: clean states x1 (B, *S), decoded to data (B, ...)."""
        return self.reward.score(x1 if self.latent else data, prompts)

    def share(self, score: Tensor) -> Tensor:
        """What a score (B,) adds to r if the term is optimised: λ f(R), (B,)."""
        return self.weight * (self.transform.of(score) if self.transform else score)


@final
@attrs.frozen(eq=False)
class WeightedReward:
    """r = Σ λ_k f_k(R_k) over the optimised terms, the exponent of p*(x) ∝ p(x) e^{r(x)}."""

    terms: tuple[Term, ...]

    @property
    def optimised(self) -> tuple[Term, ...]:
        """The terms that steer."""
        return tuple(term for term in self.terms if not term.held_out)

    def weighed(self, weights: Mapping[str, float]) -> WeightedReward:
        """The same terms with other weights, by the terms' names."""
        terms = (attrs.evolve(t, weight=weights.get(t.name, t.weight)) for t in self.terms)
        return WeightedReward(tuple(terms))

    def times(self, factor: float) -> WeightedReward:
        """The reward `factor` · r: the same terms with weights times a factor."""
        terms = (attrs.evolve(term, weight=factor * term.weight) for term in self.terms)
        return WeightedReward(tuple(terms))

    @property
    def scoring(self) -> tuple[Term, ...]:
        """The terms that score a sample alone."""
        return tuple(term for term in self.terms if not term.compares)

    @property
    def compares(self) -> bool:
        """Whether an optimised term compares samples, so that r is known within a group alone."""
        return any(term.compares for term in self.optimised)

    @property
    def needs_data(self) -> bool:
        """Whether an optimised term scores decoded samples."""
        return not all(term.latent for term in self.optimised)

    def total(self, data: Tensor, prompts: Sequence[str], x1: Tensor | None = None) -> Tensor:
        """r (B,) of samples; held-out terms are not evaluated, nor those that compare samples.

        Args:
            data: decoded, (B, ...); anything of B rows where nobody `needs_data`.
            prompts: of the samples.
            x1: clean states (B, *S); the data where they are left out.
        """
        x1, total = data if x1 is None else x1, data.new_zeros(len(data))
        for term in self.optimised:
            if not term.compares:
                total = total + term.share(term.score(x1, data, prompts))
        return total

    def compared(self, data: Tensor, prompts: Sequence[str], x1: Tensor) -> Tensor:
        """What the terms that compare add to r, (N, B), of groups of N samples.

        Args:
            data: decoded, (N, B, ...).
            prompts: of the groups.
            x1: clean states (N, B, *S).
        """
        total = data.new_zeros(data.shape[:2])
        for term in self.optimised:
            if term.compares:
                judge = term.reward.capability(Compares)
                if judge is None:
                    raise ContractError(f"reward '{term.name}' declares that it compares samples")
                total = total + term.share(judge.compare(x1 if term.latent else data, prompts))
        return total

    def of(self, scores: Mapping[str, Tensor]) -> Tensor:
        """r (B,) of samples with these scores (B,) by name, as `each` has them."""
        total = torch.zeros_like(next(iter(scores.values())))
        for term in self.optimised:
            total = total + term.share(scores[term.name])
        return total

    def each(self, x1: Tensor, data: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """R (B,) of samples by the terms' names; held-out ones too, but none that compares."""
        return {term.name: term.score(x1, data, prompts) for term in self.scoring}
