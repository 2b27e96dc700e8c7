"""Base samples that are kept from run to run: what they are known by, and how they are kept.

States are kept once for all rewards, and the scores of each reward beside them. Both are known by a
digest of all that their bits depend on: the parts with the files that they read, the prompts, the
run's seed and numbers, the code of align and of all plugins, and what is installed.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final, final

import attrs
import cattrs
import torch
from loguru import logger
from torch import Tensor

from align.catalog.tables import named_files, part_table, with_absolute_paths
from align.core.departure import Traits
from align.core.errors import AlignError, PartError
from align.core.reward import Repeatable
from align.engine.meter import Cost
from align.io.cache import Cache
from align.io.files import digest
from align.io.paths import content
from align.io.tensors import packed, unpacked
from align.recipe import Recipe
from align.runner.build import Built

_STATES: Final = "states.safetensors"
_UNKNOWN: Final = "it does not say what its numbers depend on (`Repeatable`)"


@final
@attrs.frozen(eq=False)
class Drawn:
    """States of base samples, and how they came to be.

    Attributes:
        x1: clean states (M, *S).
        traits: of each.
        cost: of making and decoding them.
        when: day and hour at which they were drawn; "" where they have not been kept.
        recipe: path of the recipe that they were drawn for.
    """

    x1: Tensor
    traits: Traits
    cost: Cost
    when: str = ""
    recipe: str = ""


@final
@attrs.frozen(eq=False)
class Scored:
    """A reward's scores (M,) of base samples, and what they cost."""

    scores: Tensor
    cost: Cost


@final
@attrs.frozen(eq=False)
class Shelf:
    """The place of one model's base samples in the cache.

    Attributes:
        cache: the user's.
        key: of the states.
        rewards: key of each reward's scores by the reward's name in this run; rewards whose scores
            are not kept are left out.
        recipe: path of the recipe that is run.
        what: is said of the states where the cache is listed.
    """

    cache: Cache
    key: str
    rewards: Mapping[str, str]
    recipe: str
    what: Mapping[str, Any]

    def drawn(self, device: torch.device) -> Drawn | None:
        """The states; None where there are none, or damaged ones."""
        found = self._read(_STATES, ("x1", "norm", "residual"))
        if found is None:
            return None
        about, tensors = found
        traits = Traits(tensors["norm"].to(device), tensors["residual"].to(device))
        cost = cattrs.structure(about["cost"], Cost)
        return Drawn(tensors["x1"].to(device), traits, cost, about["drawn"], about["recipe"])

    def scored(self, name: str, device: torch.device) -> Scored | None:
        """A reward's scores; None where there are none, or damaged ones."""
        if name not in self.rewards:
            return None
        found = self._read(f"{self.rewards[name]}.safetensors", ("scores",))
        if found is None:
            return None
        about, tensors = found
        cost = cattrs.structure(about["cost"], Cost)
        # The run that kept them may have called the reward by another name.
        calls = {name: sum(cost.reward_calls.values())}
        return Scored(tensors["scores"].to(device), attrs.evolve(cost, reward_calls=calls))

    def keep(self, drawn: Drawn | None, scored: Mapping[str, Scored]) -> None:
        """Keep what has been drawn or scored anew; where that fails, one line says why."""
        try:
            if drawn is not None:
                traits = {"norm": drawn.traits.norm, "residual": drawn.traits.residual}
                self._write(_STATES, {"x1": drawn.x1, **traits}, {**self.what}, drawn.cost)
            for name, one in scored.items():
                if name in self.rewards:
                    about, tensors = {"reward": name}, {"scores": one.scores}
                    self._write(f"{self.rewards[name]}.safetensors", tensors, about, one.cost)
            self.cache.make_room(self.key)
        except (OSError, PartError) as error:
            text = (
                "unsteered samples are not kept for later runs: {}; run.cache = false does not try"
            )
            logger.bind(notice=True).warning(text, error)

    def forget(self) -> None:
        """Remove all that is kept of these samples, scores by rewards of other runs too."""
        self.cache.discard(self.key)

    def _read(
        self, name: str, tensors: Iterable[str]
    ) -> tuple[Mapping[str, Any], Mapping[str, Tensor]] | None:
        """What a file says of itself, and its tensors."""
        content = self.cache.read(self.key, name)
        if content is None:
            return None
        found = unpacked(content)
        if found is not None:
            about, stored = found
            if about.get("place") == f"{self.key}/{name}" and stored.keys() == {*tensors}:
                return about, stored
        logger.info("the cache's '{}/{}' is damaged, and made anew", self.key, name)
        self.cache.discard(self.key, name)
        return None

    def _write(
        self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any], cost: Cost
    ) -> None:
        facts = {
            **about,
            "place": f"{self.key}/{name}",
            "cost": cattrs.unstructure(cost),
            "drawn": datetime.now(UTC).isoformat(" ", "minutes").removesuffix("+00:00") + " UTC",
            "recipe": self.recipe,
        }
        self.cache.write(self.key, name, packed(tensors, facts))


@final
@attrs.frozen
class Shelves:
    """Places of base samples in the cache.

    Attributes:
        cache: the user's.
        recipe: path of the recipe that is run, which is said where samples are listed.
    """

    cache: Cache
    recipe: str

    def of(self, built: Built, recipe: Recipe, how: Mapping[str, Any]) -> Shelf | None:
        """The place of samples of an arm's model; None where they cannot be kept.

        Call it when the parts are loaded, so that what they read is there.

        Args:
            built: the arm.
            recipe: says the rewards, the seed and how many samples there are.
            how: what else their bits depend on.
        """
        cache = self.cache
        assert built.arm.model is not None
        who, known = f"model '{built.arm.model.kind}'", _identity(built.arm.model, cache)
        code = _code(cache)
        if known is None or code is None:
            logger.info("unsteered samples of {} are not kept: {}", who, _UNKNOWN)
            return None
        problem, run = built.problem, recipe.run
        numbers = {"seed": run.seed, "count": run.unsteered, "chunk": run.chunk, **how}
        states = {
            "model": known,
            "prompts": [problem.prompts[i % len(problem.prompts)] for i in range(run.unsteered)],
            "dtype": str(problem.model.dtype),
            "run": numbers,
            "setting": _setting(problem.model.device),
            "code": code,
        }
        key, rewards = _key(states), dict[str, str]()
        for term in recipe.reward:
            if (reward := _identity(term.part, cache)) is not None:
                rewards[term.name] = _key({"states": key, "reward": reward})
            else:
                logger.info("scores by reward '{}' are not kept: {}", term.name, _UNKNOWN)
        what = {"model": built.arm.model.kind, "prompt": problem.prompts[0], **numbers}
        return Shelf(cache, key, rewards, self.recipe, what)


def _identity(part: object, cache: Cache) -> dict[str, Any] | None:
    """What a part's results depend on beside code; None where that is not known."""
    if not isinstance(part, Repeatable):
        return None
    try:
        others = part.files_read()
        if others is None:
            return None
        paths = sorted({path.absolute() for path in (*named_files(part), *others)})
        contents = {str(path): content(str(path), cache.digest) for path in paths}
        table = part_table(with_absolute_paths(part))
    except (OSError, ValueError, AlignError):  # such as files that have just gone
        return None
    cls = type(part)
    return {"class": f"{cls.__module__}.{cls.__qualname__}", "table": table, "files": contents}


def _code(cache: Cache) -> dict[str, str] | None:
    """Digest of each package that brings parts, by its name: align and its plugins.

    All that is in a package counts, weights included, since its version need not have changed where
    somebody works on it. None where a package cannot be read.
    """
    try:
        points = metadata.entry_points(group="align")
        tops = {point.value.partition(":")[0].partition(".")[0] for point in points}
        return {
            name: _key([content(str(place), cache.digest) for place in _places(name)])
            for name in sorted({"align", *tops})
        }
    except Exception as error:  # of a damaged distribution
        logger.info("the installed packages cannot be read: {}", error)
        return None


def _places(package: str) -> Iterator[Path]:
    """The folders of a package, or the file of a module."""
    spec = importlib.util.find_spec(package)
    if spec is not None:
        yield from map(Path, spec.submodule_search_locations or filter(None, [spec.origin]))


def _setting(device: torch.device) -> dict[str, Any]:
    """What is installed, and where and how it computes."""
    if device.type == "cuda" and torch.cuda.is_available():
        processor = torch.cuda.get_device_name(device)
    else:
        processor = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "installed": _installed(),
        "device": device.type,
        "processor": processor,
        "precision": [str(torch.get_default_dtype()), torch.get_float32_matmul_precision()],
    }


def _installed() -> list[str]:
    """Distributions with their versions, by the names of the folders that pip makes for them."""
    kinds = (".dist-info", ".egg-info")
    folders = [Path(place) for place in sys.path if place and Path(place).is_dir()]
    return sorted({p.name for folder in folders for p in folder.iterdir() if p.suffix in kinds})


def _key(facts: Any) -> str:
    return digest(json.dumps(facts, sort_keys=True, default=str).encode())
