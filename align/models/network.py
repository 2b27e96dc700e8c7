"""Models in weights files, as training leaves them; and untrained ones, for it to train."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path as File
from typing import Any, ClassVar, final

import attrs
import torch

from align.catalog.registry import Catalog, load_catalog
from align.catalog.tables import named_files
from align.core.autoencoder import AutoencoderSpec
from align.core.errors import PartError
from align.core.model import (
    Domain,
    FlowMap,
    FlowModel,
    ModelSpec,
    PosteriorMap,
    TrainableVelocity,
    build_model,
)
from align.core.network import NetworkSpec, Role, shape_problems
from align.core.option import ConfigError, option
from align.core.path import PATHS, PathName
from align.core.prompts import prompts_option
from align.core.reward import HasOrigins, Repeatable
from align.io.python_code import files_of, origin_of, readable_code
from align.models.about import (
    check_form,
    code_changed,
    described,
    modules_of,
    part_in,
    spec_in,
    untrained,
)
from align.models.network_model import KEPT, NetworkModel, Precision
from align.training import weights


@final
@attrs.frozen(kw_only=True)
class Network(ModelSpec, HasOrigins, Repeatable):
    """Weights that `pretrain`, `distill` or `finetune` made.

    A model trained by `pretrain` or `distill`, or an untrained one for them to train.
    """

    kind: ClassVar[str] = "network"

    weights: str = option("weights file of a run (model.safetensors)", default="", path=True)
    code: str = option(
        "Python file, or module, of your own with which the model in the weights file was made, if"
        " any; it is run",
        default="",
        check=readable_code,
        path="code",
    )
    net: NetworkSpec | None = option(
        "network of an untrained flow, instead of weights", default=None
    )
    autoencoder: str = option(
        "weights file of an autoencoder, where the untrained flow is of pictures",
        default="",
        path=True,
    )
    shape: tuple[int, ...] = option(
        "shape of one state, such as [2], where the untrained flow is of vectors", default=()
    )
    classes: tuple[str, ...] = option("class names of the untrained flow", default=())
    path: PathName | None = option(
        "interpolant that the untrained flow is to be trained on, 'linear' if left out; a weights"
        " file has its own",
        default=None,
    )
    prompt: str = option("names the class of every sample; empty for no class", default="")
    prompts: str = prompts_option()
    guidance: float = option("classifier-free guidance scale of the flow; 1 is none", default=1.0)
    precision: Precision = option(
        "precision of the networks' products; 'bfloat16' is faster on a GPU", default="float32"
    )

    def __attrs_post_init__(self) -> None:
        if bool(self.weights) == (self.net is not None):
            raise ValueError("expected either 'weights' or 'net' with 'autoencoder' or 'shape'")
        if self.code and not self.weights:
            raise ValueError("'code' is what 'weights' need; leave it out")
        if self.weights and self.path:
            raise ValueError("'path' must be left out with 'weights': the file says which it is")
        if self.net is not None and bool(self.autoencoder) == bool(self.shape):
            raise ValueError(
                "'net' needs either 'autoencoder', the file of an autoencoder's weights for a flow"
                " of pictures, or 'shape', that of one state for a flow of vectors"
            )
        if self.net is not None and self.net.domain not in (None, self.domain):
            raise ValueError(
                f"'net' is a '{self.net.kind}', which is for {self.net.domain}s, and with"
                f" '{'autoencoder' if self.autoencoder else 'shape'}' the flow is of {self.domain}s"
            )
        if self.shape and (len(self.shape) > 1 or self.shape[0] < 1):
            raise ValueError("'shape' must be one number, the entries of a vector")

    @property
    def domain(self) -> Domain:
        """Pictures where there is an autoencoder, else vectors."""
        if self.weights:
            about = self._about
            named = about.get("domain") == "image"
            return "image" if named or about.get("autoencoder") else "vector"
        return "image" if self.autoencoder else "vector"

    @property
    def state_shape(self) -> tuple[int, ...] | None:
        """As the weights file says, or the option of an untrained flow of vectors."""
        shape = self._about.get("shape", ()) if self.weights else self.shape
        return tuple(shape) or None

    @property
    def known_classes(self) -> Sequence[str] | None:
        """As the weights file says, or the option of an untrained flow."""
        if not self.weights:
            return self.classes
        return None if "model" in self._about else tuple(self._about.get("classes", ()))

    @property
    def provides(self) -> frozenset[type]:
        """Maps that the weights file holds, and what the model that it names can do beside them."""
        if not self.weights:
            return frozenset()
        nets = set(self._about.get("nets", {}))
        own = set[type]()
        own |= {FlowMap} if nets & {"flow_map", "posterior"} else set()
        own |= {PosteriorMap} if "posterior" in nets else set()
        if "model" in self._about:
            of_part = self._part.provides
            own |= of_part if self._has_velocity_of_part else of_part & KEPT
        return frozenset(own)

    def origins(self) -> Mapping[str, str]:
        """The user's own code, if it needs any, and its digest."""
        return origin_of(self.code)

    def files_read(self) -> Iterable[File] | None:
        """The user's own code, and what a model that the weights file names reads."""
        own = files_of(self.code) if self.code else ()
        if own is None or not self.weights or "model" not in self._about:
            return own
        part = self._part
        others = part.files_read() if isinstance(part, Repeatable) else None
        return None if others is None else (*own, *named_files(part), *others)

    @property
    def has_networks(self) -> bool:
        """Whether the weights file, or the option `net`, has any."""
        return not self.weights or bool(self._about.get("nets"))

    @property
    def _has_velocity_of_part(self) -> bool:
        """Whether the weights file names a model of another kind and holds no flow."""
        return "model" in self._about and "flow" not in self._about.get("nets", {})

    @property
    def _part(self) -> ModelSpec:
        """The model that the weights file names."""
        return part_in(self._about, File(self.weights), code=self.code)

    @property
    def _about(self) -> dict[str, Any]:
        return weights.about(File(self.weights))

    def file_problems(self) -> Iterator[ConfigError]:
        """Options that the weights file leaves no use for; raises PartError as `part_in`."""
        if self.net is not None and self.autoencoder:
            shape = autoencoder_in(File(self.autoencoder))[1]
            yield from (error.under("net") for error in shape_problems(self.net, shape))
        if not self.weights or "model" not in self._about:
            return
        part, file = self._part, self.weights
        if self._has_velocity_of_part and self.guidance != 1.0:
            yield ConfigError(
                ("guidance",),
                f"the velocity of '{file}' is that of model '{part.kind}', which has options of its"
                " own; leave guidance out",
            )
        if "nets" not in self._about and self.precision != "float32":
            yield ConfigError(("precision",), f"'{file}' holds no networks; leave it out")

    def file_notes(self) -> tuple[str, ...]:
        """That the user's own code is not quite what the weights were made with."""
        if self.weights and code_changed(self._about, self.code):
            return (
                f"the code in '{self.code}' has changed since '{self.weights}' was made with it.",
            )
        return ()

    def build(self, device: torch.device) -> FlowModel:
        """Load the weights, or make the untrained flow."""
        if self.weights:
            file = File(self.weights)
            for problem in self.file_problems():
                raise PartError(f"model.{problem.key[0]}: {problem.text}")
            if "model" in self._about and "nets" not in self._about:
                return load_trained(file, device, code=self.code)
            model = load(file, device, self.guidance, code=self.code)
            return attrs.evolve(model, precision=self.precision)
        assert self.net is not None
        nets: dict[str, tuple[NetworkSpec, Role]] = {"flow": (self.net, "flow")}
        if self.autoencoder:
            file = File(self.autoencoder)
            outer, shape = autoencoder_in(file)
            model = untrained(nets, outer, shape, self.classes, device)
            weights.read(file, {"autoencoder": model.require_autoencoder()})
        else:
            model = untrained(nets, None, self.shape, self.classes, device)
        path = PATHS[self.path or "linear"]
        return attrs.evolve(model, path=path, guidance=self.guidance, precision=self.precision)


def autoencoder_in(file: File) -> tuple[AutoencoderSpec, tuple[int, ...]]:
    """The autoencoder that a weights file holds, and the shape of its latents; reads no weights.

    Raises:
        PartError: the file is missing, or holds no autoencoder, or needs a plugin that is not
            installed.
    """
    about = weights.about(file)
    if "autoencoder" not in about:
        raise PartError(f"weights: '{file}' holds no autoencoder")
    return spec_in(about["autoencoder"], "autoencoder", file, load_catalog()), tuple(about["shape"])


def load(
    file: File,
    device: torch.device,
    guidance: float = 1.0,
    *,
    catalog: Catalog | None = None,
    code: str = "",
) -> NetworkModel:
    """The model of networks in a weights file, frozen.

    Args:
        file: as a training run leaves it.
        device: where the networks go.
        guidance: classifier-free guidance scale of the flow; 1 is none.
        catalog: where kinds of networks are looked up; by default all that is installed.
        code: the user's own code that may be run; see `spec_in`.

    Raises:
        PartError: the file is missing, or is not what it says it is, or needs a plugin that is
            not installed.
    """
    about = weights.about(file)
    if "nets" not in about:
        what = "the module of another kind of model" if "model" in about else "an autoencoder alone"
        raise PartError(f"weights: '{file}' holds {what}, not a model of networks")
    model = attrs.evolve(described(about, file, device, catalog, code), guidance=guidance)
    weights.read(file, modules_of(model))
    return model


def load_trained(
    file: File, device: torch.device, *, catalog: Catalog | None = None, code: str = ""
) -> TrainableVelocity:
    """The part that a weights file names, with the module that was trained, frozen.

    Raises:
        PartError: as `load`.
    """
    about = weights.about(file)
    part = part_in(about, file, catalog, code)
    model = build_model(part, device)
    check_form(about, model, part, file)
    trained = model.capability(TrainableVelocity)
    if trained is None:
        raise PartError(
            f"weights: '{file}' holds a trained module of model '{part.kind}', which has none now;"
            " install the version that the file names"
        )
    weights.read(file, {"model": trained.module})
    trained.module.eval().requires_grad_(False)
    return trained
