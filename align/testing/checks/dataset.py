"""Checks of data sets."""

from __future__ import annotations

import json
import pickle
from typing import Final, final
from unittest import SkipTest

import attrs
import torch

from align.core.dataset import Dataset, DatasetSpec
from align.testing.checks.form import form
from align.testing.probes import finite
from align.testing.probes import untouched as unmoved


@final
@attrs.frozen(eq=False)
class Trial:
    """A data set, opened for pictures of three colours."""

    part: DatasetSpec
    dataset: Dataset

    @property
    def few(self) -> list[int]:
        """Numbers of some rows: the last, the first, and one between."""
        last = len(self.dataset) - 1
        return [last, 0, last // 2]


def subject(part: DatasetSpec, on: None) -> Trial:
    """The data set; it is tried as it is."""
    if on is not None:
        raise TypeError("data sets are tried as they are; leave `on` out")
    return Trial(part, part.open(3))


def size(trial: Trial) -> None:
    """It has rows, as many as labels."""
    count, labels = len(trial.dataset), trial.dataset.labels
    assert count > 0, "it has no rows"
    assert labels.shape == (count,), f"{count} rows have labels {tuple(labels.shape)}"


def rows(trial: Trial) -> None:
    """Rows have the declared shape: pictures are uint8, vectors are finite floats."""
    result, shape = trial.dataset.rows(trial.few), trial.dataset.shape
    assert result.shape == (3, *shape), f"three rows of {shape} are {tuple(result.shape)}"
    domain = trial.part.domain
    assert domain in ("image", "vector"), f"no domain is named '{domain}'"
    if domain == "image":
        assert len(shape) == 3 and shape[0] == 3, f"pictures of three colours are {shape}"
        assert result.dtype == torch.uint8, f"pictures are {result.dtype}, expected uint8"
    else:
        assert len(shape) == 1, f"vectors are {shape}"
        assert result.is_floating_point(), f"vectors are {result.dtype}, expected floats"
        finite(result, "rows")


def rows_by_number(trial: Trial) -> None:
    """A row is the same alone, among others, and when it is asked for again."""
    numbers = trial.few
    together = trial.dataset.rows(numbers)
    assert torch.equal(trial.dataset.rows(numbers), together), "other rows the second time"
    for place, number in enumerate(numbers):
        alone = trial.dataset.rows([number])[0]
        assert torch.equal(alone, together[place]), f"row {number} is another among others"


def opened_again(trial: Trial) -> None:
    """Opened again, and in another process, it has the same rows, labels and classes."""
    for other in (trial.part.open(3), pickle.loads(pickle.dumps(trial.dataset))):
        assert len(other) == len(trial.dataset), "it has another number of rows"
        assert torch.equal(other.labels, trial.dataset.labels), "it has other labels"
        assert other.classes == trial.dataset.classes, "it has other classes"
        same = torch.equal(other.rows(trial.few), trial.dataset.rows(trial.few))
        assert same, "it has other rows"


def labels(trial: Trial) -> None:
    """Labels are whole numbers from 0, below the number of classes; class names differ."""
    labels, classes = trial.dataset.labels, trial.dataset.classes
    assert labels.dtype == torch.int64, f"labels are {labels.dtype}, expected int64"
    assert isinstance(classes, tuple), f"classes are a {type(classes).__name__}, expected a tuple"
    assert len(set(classes)) == len(classes), "two classes have one name"
    assert int(labels.min()) >= 0, f"a label is {int(labels.min())}"
    if classes:
        highest = int(labels.max())
        assert highest < len(classes), f"a label is {highest} of {len(classes)} classes"


def grey(trial: Trial) -> None:
    """Pictures of one colour are the same in number, labels and size."""
    if trial.part.domain != "image":
        raise SkipTest("it has no pictures")
    other = trial.part.open(1)
    assert other.shape == (1, *trial.dataset.shape[1:]), f"grey pictures are {other.shape}"
    assert torch.equal(other.labels, trial.dataset.labels), "grey pictures have other labels"
    assert other.rows([0]).shape == (1, *other.shape), "a grey picture has another shape"


def fingerprint(trial: Trial) -> None:
    """What tells it from others is made of JSON values, and the same each time."""
    result = dict(trial.part.fingerprint())
    assert result, "it has no fingerprint"
    assert json.loads(json.dumps(result)) == result, "its fingerprint does not survive JSON"
    assert dict(trial.part.fingerprint()) == result, "another fingerprint the second time"


def random_state(trial: Trial) -> None:
    """Torch's global random state is left as it was."""
    with unmoved(torch.device("cpu"), "the data set"):
        trial.part.open(3).rows(trial.few)


CHECKS: Final = (
    form,
    size,
    rows,
    rows_by_number,
    opened_again,
    labels,
    grey,
    fingerprint,
    random_state,
)
