"""The reward `isolated`: like any other, gradient included, but computed by another process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from align.core.errors import PartError
from align.core.option import ConfigError, ConfigErrors, above, option
from align.isolation.asked import AskedSpec, table_errors
from align.isolation.client import RewardProcess, python_of


@attrs.frozen(kw_only=True)
class Isolated(AskedSpec):
    """A reward whose packages do not go with those here.

    Another reward, which a process in another virtual environment loads and asks.

    For rewards whose packages cannot be installed beside those of this environment. Data, scores
    and vector-Jacobian products cross a pipe; on the CPU the results are the same bits. Whatever
    the inner reward declares, this one declares too. align-core and the reward's own distribution
    must be installed in the environment.
    """

    kind: ClassVar[str] = "isolated"

    venv: str = option(
        "folder of the virtual environment whose interpreter runs the reward", path="kept"
    )
    timeout: float = option(
        "seconds that the process may take to load the reward, or to answer once",
        default=600.0,
        check=above(0),
        infinite=True,
    )
    reward: Mapping[str, Any] = option("table of the reward: its kind, and that kind's options")

    def __attrs_post_init__(self) -> None:
        """Have the other interpreter read the table; raises ConfigErrors for its mistakes."""
        errors = table_errors(self.reward)
        try:
            python_of(self.venv)
        except PartError as error:
            errors.append(ConfigError(("venv",), str(error)))
        if errors:
            raise ConfigErrors(errors)
        place = f"'{self.venv}'"
        who = f"reward '{self.reward['kind']}' of {place}"
        self._read(RewardProcess(self.venv, who, self.timeout), f"in {place}", "venv")

    def origins(self) -> Mapping[str, str]:
        """The distribution of the inner reward, as it is installed in the environment."""
        return {f"{self.reward['kind']} of '{self.venv}'": self._origin}
