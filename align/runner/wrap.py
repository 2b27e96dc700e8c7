"""Models that a script has loaded already, as parts of a run."""

from __future__ import annotations

from typing import Any

from align.catalog.registry import Catalog, load_catalog
from align.core.attribution import attributed
from align.core.errors import PartError
from align.core.model import ModelSpec


def wrap(loaded: object, *, catalog: Catalog | None = None, **options: Any) -> ModelSpec:
    """A model that is loaded already, for `align.sample`: the first kind that knows it wraps it.

    Kinds of plugins are asked before those of align, among which "torch" takes whatever can be
    called, such as a pipeline.

    Args:
        loaded: such as a pipeline of diffusers.
        catalog: the installed parts, if they are already loaded.
        options: of the kind that wraps it, such as its prompt.

    Raises:
        PartError: no installed kind of model knows such a thing, or it cannot be followed.
    """
    kinds = (catalog or load_catalog()).parts["model"]
    for kind, entry in [*kinds.items()][::-1]:
        cls: type[ModelSpec] = entry.cls
        with attributed(f"model '{kind}': wrap"):
            model = cls.wrap(loaded, **options)
        if model is not None:
            return model
    name = f"{type(loaded).__module__}.{type(loaded).__qualname__}"
    raise PartError(
        f"no installed model wraps a {name}; install the plugin that"
        f" does, or write one by `align new model`; there are {', '.join(sorted(kinds))}"
    )
