"""Each check of a data set catches one that breaks it, and no other check does."""

import itertools
import unittest
from typing import ClassVar

import attrs
import pytest
import torch

from align.core.dataset import Dataset, DatasetSpec
from align.core.option import option
from align.testing.checks import dataset as checks

COUNT = itertools.count()


@attrs.frozen(kw_only=True)
class Ramp(DatasetSpec):
    """Pictures of rising brightness, spoilt by `fault`."""

    kind: ClassVar[str] = "ramp"
    domain: ClassVar[str] = "image"

    fault: str = option("what is wrong", default="")

    def open(self, colours):
        if self.fault == "global":
            torch.rand(())
        if self.fault == "colours":
            colours = 3
        return Pictures(self.fault, colours, next(COUNT))

    def fingerprint(self):
        if self.fault == "fingerprint":
            return {"count": next(COUNT)}
        return super().fingerprint()


@attrs.frozen(eq=False)
class Pictures(Dataset):
    """Row k has brightness k."""

    fault: str
    colours: int
    opened: int

    @property
    def shape(self):
        return (self.colours, 2, 2)

    @property
    def classes(self):
        return ("cat", "cat" if self.fault == "classes" else "dog")

    @property
    def labels(self):
        labels = torch.arange(6) % 2
        return labels + 1 if self.fault == "labels" else labels

    def __len__(self):
        return 7 if self.fault == "size" else 6

    def rows(self, numbers):
        levels = torch.tensor(numbers, dtype=torch.uint8)
        if self.fault == "another batch":
            levels = levels + len(numbers)
        if self.fault == "opened":
            levels = levels + self.opened
        rows = levels[:, None, None, None].expand(-1, *self.shape)
        return rows.float() if self.fault == "floats" else rows


FAULTS = [
    ("", set()),
    ("size", {"size"}),
    ("floats", {"rows"}),
    ("another batch", {"rows_by_number"}),
    ("opened", {"opened_again"}),
    ("labels", {"labels"}),
    ("classes", {"labels"}),
    ("colours", {"grey"}),
    ("fingerprint", {"fingerprint"}),
    ("global", {"random_state"}),
]


def failed(part):
    """Names of the checks that a data set fails."""
    names = set()
    for check in checks.CHECKS:
        try:
            check(checks.subject(part, None))
        except unittest.SkipTest:
            continue
        except Exception:
            names.add(check.__name__)
    return names


@pytest.mark.parametrize(("fault", "expected"), FAULTS)
def test_a_broken_data_set_fails_the_check_of_its_fault(fault, expected):
    assert failed(Ramp(fault=fault)) == expected


def test_every_check_is_seen_to_fail():
    seen = set().union(*(expected for _, expected in FAULTS)) | {"form"}
    assert {check.__name__ for check in checks.CHECKS} == seen
