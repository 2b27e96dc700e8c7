"""The executor by the checks of its contract, with jobs in this process and as processes here."""

import pytest
from align_slurm.executor import Slurm

from align.testing import conformance

# Submitit's debug executor leaves its files of output open.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

test_slurm = conformance("executor", lambda: Slurm(cluster="debug", workers=2))
