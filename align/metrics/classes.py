"""Metrics of the classes that a network sees: inception score, histogram of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import attrs
import torch
from torch import Tensor

from align.catalog.names import did_you_mean
from align.core.errors import PartError
from align.core.features import FeatureNetwork
from align.core.metric import State
from align.core.option import ConfigError, ConfigErrors, at_least, option
from align.metrics.features import FeatureMetric, extracted, require_features


def _logits(network: FeatureNetwork, samples: Tensor) -> Tensor:
    """Logits (B, K) of pictures, in float64."""
    logits = extracted(network, samples).logits
    assert logits is not None
    return logits.double()


def _added(states: Sequence[State]) -> State:
    return {name: torch.stack([state[name] for state in states]).sum(0) for name in states[0]}


@final
@attrs.frozen(kw_only=True)
class InceptionScore(FeatureMetric):
    """How sure a classifier is, and of how many classes.

    exp of the mean KL(p(y | x) ‖ p(y)), over all pictures at once.

    Papers quote mean ± standard deviation over ten parts of 50,000 pictures, `splits = 10`; the
    mean is lower than the value of all, so compare values of parts of one size. Picture i is in the
    part i mod `splits`. Those of "inception" are of its 1008 logits without biases, as in ADM's
    evaluator and torch-fidelity.

    Reference: Improved Techniques for Training GANs, Salimans et al., 2016, arXiv:1606.03498,
    section 4.
    """

    kind: ClassVar[str] = "inception_score"

    splits: int = option(
        "parts of the pictures, of whose scores the mean is taken", default=1, check=at_least(1)
    )

    def __attrs_post_init__(self) -> None:
        """Refuse a network without logits."""
        require_features(self.features, self.kind, self.features.has_logits, "logits of classes")

    def update(self, samples: Tensor) -> State:
        """Sums of probabilities and of entropies, of each part.

        Raises:
            ContractError: the data are not pictures.
        """
        logits = _logits(self.features, samples)
        shares = logits.softmax(1)
        entropy = -(shares * logits.log_softmax(1)).sum(1)
        rows = {"count": torch.ones_like(entropy), "shares": shares, "entropy": entropy}
        return {
            name: torch.stack([of_all[k :: self.splits].sum(0) for k in range(self.splits)])
            for name, of_all in rows.items()
        }

    def merge(self, states: Sequence[State]) -> State:
        """Sums over all pictures of each part."""
        before, placed = 0, list[State]()
        for state in states:
            placed.append({name: sums.roll(before, 0) for name, sums in state.items()})
            before += int(state["count"].sum())
        return _added(placed)

    def finish(self, state: State, references: State | None) -> dict[str, float]:
        """`inception_score`, from 1 to the number of classes, and its deviation over parts.

        Raises:
            PartError: there are fewer pictures than parts.
        """
        count = state["count"]
        if not count.all():
            text = f"metric '{self.kind}': {int(count.sum())} pictures cannot be cut into"
            raise PartError(f"{text} {self.splits} parts; take fewer splits")
        mean = state["shares"] / count[:, None]
        gaps = torch.special.entr(mean).sum(1) - state["entropy"] / count
        scores, name = gaps.exp(), self.named(self.kind)
        deviation = {f"{name}_std": float(scores.std(correction=0))} if self.splits > 1 else {}
        return {name: float(scores.mean()), **deviation}


def _shares(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, float]) -> None:
    errors = [
        ConfigError((name,), f"a share must be greater than 0, got {share:g}")
        for name, share in value.items()
        if share <= 0
    ]
    if errors:
        raise ConfigErrors(errors)


@final
@attrs.frozen(kw_only=True)
class ClassHistogram(FeatureMetric):
    """Which classes pictures are of, by a classifier.

    The share of each class that `target` names, and the L2 distance of all shares from it.

    Without a target: how many classes there are, counted, and as e to the entropy of the shares.

    Reference: Meta Flow Maps enable scalable reward alignment, Potaptchik et al., 2026,
    arXiv:2601.14430, section 7.1.2.
    """

    kind: ClassVar[str] = "class_histogram"

    target: Mapping[str, float] = option(
        "shares that classes should have, by name or number, up to a common factor",
        default=attrs.Factory(dict),
        shown="none",
        check=_shares,
    )

    def __attrs_post_init__(self) -> None:
        """Refuse a network without logits, and classes that it does not have."""
        require_features(self.features, self.kind, self.features.has_logits, "logits of classes")
        known = self.features.classes
        errors = [
            ConfigError(
                ("target", name),
                f"'{self.features.kind}' has no class of that name; {_cure(name, known)}",
            )
            for name in self.target
            if not name.isdecimal() and name not in known
        ]
        if errors:
            raise ConfigErrors(errors)

    def update(self, samples: Tensor) -> State:
        """Counts of classes.

        Raises:
            ContractError: the data are not pictures.
        """
        logits = _logits(self.features, samples)
        return {"counts": torch.bincount(logits.argmax(1), minlength=logits.shape[1]).double()}

    def merge(self, states: Sequence[State]) -> State:
        """Counts over all pictures."""
        return _added(states)

    def finish(self, state: State, references: State | None) -> dict[str, float]:
        """Shares and their distance, or numbers of classes.

        Raises:
            PartError: `target` has a number that is no class.
        """
        shares = state["counts"] / state["counts"].sum()
        if not self.target:
            return {
                self.named("classes"): float((shares > 0).sum()),
                self.named("effective_classes"): float(torch.special.entr(shares).sum().exp()),
            }
        wanted, numbers = torch.zeros_like(shares), dict[str, float]()
        for name, share in self.target.items():
            number = self._number(name, len(shares))
            wanted[number] += share
            numbers[f"share of {name}"] = float(shares[number])
        distance = (shares - wanted / wanted.sum()).norm()
        return {self.named("class_l2"): float(distance), **numbers}

    def _number(self, name: str, classes: int) -> int:
        if name in self.features.classes:
            return self.features.classes.index(name)
        if int(name) >= classes:
            raise PartError(
                f"metric '{self.kind}': target: there are classes 0 to {classes - 1}, not {name}"
            )
        return int(name)


def _cure(name: str, known: Sequence[str]) -> str:
    return did_you_mean(name, known) if known else "give its number"
