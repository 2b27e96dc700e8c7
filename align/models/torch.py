"""Model `torch`: a network of the user's own, in a Python file or an installed module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, final

import attrs
import torch

from align.core.convention import (
    Clock,
    Convention,
    End,
    NoiseSchedule,
    PathConvention,
    Prediction,
    TableConvention,
)
from align.core.errors import ContractError, PartError, PromptError
from align.core.model import Domain, ModelSpec, Scheduled
from align.core.option import ConfigErrors, above, option
from align.core.path import PATHS
from align.core.prompts import expand_prompt, match_class, prompts_option
from align.core.reward import HasOrigins, Repeatable
from align.io.python_code import (
    Code,
    check_one_place,
    code_origins,
    file_option,
    files_of,
    has_function,
    module_option,
)
from align.io.python_modules import Neighbours
from align.models.torch_model import (
    WHO,
    TorchModel,
    check_arguments,
    frozen,
    network_in,
    precision_of,
)


def _sizes(_: Any, attribute: attrs.Attribute[Any], value: tuple[int, ...]) -> None:
    if not value or min(value) < 1:
        raise ValueError(f"'{attribute.name}' must be the shape of one state, such as [2]")


def _rates(spec: Torch, attribute: attrs.Attribute[Any], value: str) -> None:
    if value == "variance_preserving" and spec.predicts == "velocity":
        raise ValueError(
            f"'{attribute.name}' = 'variance_preserving' is a table, in which nothing has a"
            " velocity; say what the network 'predicts': 'noise', 'x0', 'score' or 'v'"
        )


def _of_table(spec: Torch, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (path := getattr(spec, "path", "linear")) != "variance_preserving":
        raise ValueError(
            f"'{attribute.name}' is a table, which path '{path}' does not read; leave it out, or"
            " set path = 'variance_preserving'"
        )


def _distinct(_: Any, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    names = [name.strip().lower() for name in value]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"'{attribute.name}' must be names, no two alike")


def _with_classes(spec: Torch, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value and not spec.classes:
        raise ValueError(f"'{attribute.name}' needs 'classes'")
    if isinstance(value, str) and value and not value.isidentifier():
        raise ValueError(f"'{attribute.name}' must be the name of an argument, got '{value}'")


def _encoder(spec: Torch, attribute: attrs.Attribute[Any], value: str) -> None:
    if value and spec.classes:
        raise ValueError(f"'{attribute.name}' is for prompts, and with 'classes' labels are given")
    has_function(spec, attribute, value)


def _followed(spec: Torch, _: attrs.Attribute[Any], value: str) -> None:
    classes = spec.classes
    silent = not value and (not classes or spec.null_class or spec.prompts)
    if silent or spec.encode:
        return
    if not classes:
        raise ValueError(
            "the model has neither 'classes' nor 'encode', so it follows no prompt; leave it out"
        )
    if not value:
        raise ValueError(
            "'prompt' must name one of the classes, or stand for all of them by '{class}';"
            " 'null_class = true' says that the network has a label for none"
        )
    try:
        for prompt in expand_prompt(value, classes):
            match_class(prompt, classes)
    except PromptError as error:
        raise ValueError(str(error)) from error


def _function(code: Code, name: str) -> Any:
    """What the code calls `name`, which is called with tensors or prompts."""
    value = code.named(name, WHO)
    if isinstance(value, type):
        raise ContractError(
            f"{WHO}: '{name}' of '{code.where}' is a class; name a function, or what the class"
            " makes"
        )
    return value


@attrs.frozen(kw_only=True)
class Torch(ModelSpec, HasOrigins, Repeatable):
    """A network of your own, from a Python file or module.

    A network of your own: what a function of a Python file returns, an nn.Module or a callable.

    It is called with states x (B, *shape) and times t (B,), and with labels (B,) where there are
    classes; it returns a tensor like x. Row i of it must depend on row i of its arguments alone.
    The file is run once, when the run begins; `align check` only reads it. It can import what lies
    beside it, as a script can.
    """

    kind: ClassVar[str] = "torch"
    has_networks: ClassVar[bool | None] = False

    file: str | None = file_option()
    module: str | None = module_option("my_package.networks")
    function: str = option(
        "name of the function, called without arguments, that returns the network",
        default="model",
        check=has_function,
    )
    shape: tuple[int, ...] = option("shape of one state, such as [2] or [3, 32, 32]", check=_sizes)
    domain: Domain = option(
        "what the model makes",
        default=attrs.Factory(lambda spec: "image" if len(spec.shape) == 3 else "vector", True),
        shown="'image' where a state has three dimensions, else 'vector'",
    )
    predicts: Prediction = option(
        "what the network returns: the velocity, towards its own later times; the noise; the clean"
        " state ('x0'); the score; or v = b noise - a data of the state a noise + b data",
        default="velocity",
    )
    path: Literal["linear", "trigonometric", "variance_preserving"] = option(
        "how states mix noise and data: (1 - t) noise + t data, cos(pi t/2) noise + sin(pi t/2)"
        " data, or by a table of betas, `schedule`",
        default="linear",
        check=_rates,
    )
    schedule: NoiseSchedule | None = option(
        "table of the variance-preserving path; that of DDPM if left out",
        default=None,
        check=_of_table,
    )
    zero: End | None = option(
        "end at which the network's own time is 0; if left out 'noise', with a table 'data'",
        default=None,
    )
    time_end: float | None = option(
        "its time at the other end, such as 1 or 999; if left out 1, with a table its last step",
        default=None,
        check=attrs.validators.optional(above(0)),
    )
    decode: str = option(
        "name of a function in the file that makes pictures in [0, 1], or vectors, of clean states;"
        " where empty these are the data",
        default="",
        check=has_function,
    )
    classes: tuple[str, ...] = option(
        "names of the classes, in the order of the labels that the network is given",
        default=(),
        check=_distinct,
    )
    label: str = option(
        "name of the argument that takes labels; the third one where empty",
        default="",
        check=_with_classes,
    )
    null_class: bool = option(
        "whether the label after the last class means 'no class'; an empty prompt asks for it",
        default=False,
        check=_with_classes,
    )
    encode: str = option(
        "name of a function in the file that makes tensors of a list of B prompts: a dictionary,"
        " by the name of the network's argument, of tensors with B rows",
        default="",
        check=_encoder,
    )
    prompt: str = option(
        "names the class of every sample, or is what 'encode' is given",
        default="",
        check=_followed,
    )
    prompts: str = prompts_option()

    def __attrs_post_init__(self) -> None:
        self._check_place()
        if self.decode:
            return
        if self.domain == "vector" and len(self.shape) != 1:
            raise ValueError(
                f"states of shape {list(self.shape)} are no vectors; name the function that makes"
                " them, 'decode'"
            )
        if self.domain == "image" and (len(self.shape) != 3 or self.shape[0] not in (1, 3)):
            raise ValueError(
                f"states of shape {list(self.shape)} are no pictures [1 or 3, height, width]; name"
                " the function that makes them, 'decode'"
            )

    def _check_place(self) -> None:
        check_one_place(self)

    def _code(self) -> Code:
        return Code.run(self, WHO)

    @classmethod
    def wrap(cls, loaded: object, **options: Any) -> ModelSpec | None:
        """A network, an nn.Module or a function of states and times; options are those of the kind.

        `decode` and `encode` are functions here, not names of them.
        """
        if not callable(loaded) or isinstance(loaded, type):
            return None
        code = ModuleType("given")
        code.model = lambda: loaded  # type: ignore[attr-defined]
        names = {name: name for name in ("decode", "encode") if callable(options.get(name))}
        for name in names:
            setattr(code, name, options[name])
        try:
            return _Given(given=code, **options | names)
        except (TypeError, ValueError) as error:
            raise PartError(f"{WHO}: {_told(error)}") from error

    @property
    def provides(self) -> frozenset[type]:
        """Times of its own, where the path is a table."""
        return frozenset({Scheduled} if self.path == "variance_preserving" else ())

    @property
    def state_shape(self) -> tuple[int, ...]:
        """The option `shape`."""
        return self.shape

    def origins(self) -> Mapping[str, str]:
        """The file with the function, and its digest."""
        return code_origins(self)

    def files_read(self) -> Iterable[Path] | None:
        """The user's own code, and what it imports and names, as far as its text tells."""
        return files_of(self.file or self.module or "")

    def convention(self, device: torch.device) -> Convention:
        """How the network's states, times and output are those of align."""
        if self.path == "variance_preserving":
            schedule = self.schedule or NoiseSchedule()
            sigmas = schedule.log_sigmas(device)
            count = schedule.count
            clock = Clock(self.zero or "data", self.time_end or float(count - 1))
            return TableConvention(sigmas, self.predicts, clock=clock, count=count)
        clock = Clock(self.zero or "noise", self.time_end or 1.0)
        return PathConvention(PATHS[self.path], self.predicts, clock)

    def build(self, device: torch.device) -> TorchModel:
        """Run the file; raises PartError if that fails, or its function does."""
        code = self._code()
        network = network_in(code, self.function, device)
        labels = [self.label or "label"] if self.classes else []
        check_arguments(network, code, labels, named=bool(self.label), others=bool(self.encode))
        decoder, encoder = (
            frozen(_function(code, name), device) if name else None
            for name in (self.decode, self.encode)
        )
        return TorchModel(
            network=network,
            convention=self.convention(device),
            shape=self.shape,
            domain=self.domain,
            classes=self.classes,
            label=self.label,
            null_class=self.null_class,
            encoder=encoder,
            decoder=decoder,
            precision=precision_of(network),
            device=device,
            code=code,
        )


@final
@attrs.frozen(kw_only=True)
class _Given(Torch):
    """A network that a script has, with the functions that belong to it."""

    given: ModuleType = attrs.field(eq=id, repr=False)

    def _check_place(self) -> None:
        return

    def _code(self) -> Code:
        return Code("align.wrap", self.given, Neighbours(str(Path.cwd())))

    def files_read(self) -> Iterable[Path] | None:
        """None: nobody knows what a network in memory was made of."""
        return None


def _told(error: Exception) -> str:
    """What options are wrong, in one line."""
    if isinstance(error, ConfigErrors):
        return "; ".join(wrong.text for wrong in error.errors)
    return str(error).replace("_Given.__init__()", "wrap()")
