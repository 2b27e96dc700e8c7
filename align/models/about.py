"""What a weights file says of a model, and the untrained model that it describes.

The file names each network by its kind, with the options of its architecture, as a recipe does.
The kind is looked up in the catalog of installed parts: a file never says what code to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as File
from typing import Any, Final

import attrs
import torch
from torch import nn

from align.catalog.contracts import DEFAULT_KINDS
from align.catalog.convert import read_part
from align.catalog.registry import RESERVED, Catalog, Entry, load_catalog
from align.catalog.tables import missing_paths, part_table, with_absolute_paths
from align.core.attribution import one
from align.core.autoencoder import AutoencoderSpec
from align.core.errors import PartError
from align.core.mode import Export
from align.core.model import (
    ClassConditional,
    Domain,
    FlowModel,
    ModelSpec,
    TrainableVelocity,
    build_model,
)
from align.core.network import NetworkSpec, Role, VelocityNetwork, make_network
from align.core.option import ConfigErrors
from align.core.path import PATHS, Path, path_name
from align.core.reward import HasOrigins
from align.core.streams import Streams
from align.io.python_code import origin_of
from align.models.network_model import ROLES, NetworkModel, Teacher
from align.networks.autoencoder import Autoencoder


def about_of(model: NetworkModel) -> dict[str, Any]:
    """What a weights file must say, so that `described` rebuilds the model.

    Raises:
        PartError: one of its networks is not a VelocityNetwork, or its path has no name.
    """
    nets = {name: getattr(model, name) for name in ROLES if getattr(model, name) is not None}
    for name, net in nets.items():
        if not isinstance(net, VelocityNetwork):
            kind = one(type(net).__name__)
            raise PartError(
                f"model: its {name} is {kind}, which no weights file can describe;"
                " derive it from align.core.network.VelocityNetwork"
            )
    catalog = load_catalog()
    about: dict[str, Any] = {
        "shape": model.shape,
        "classes": model.classes,
        "nets": {
            name: spec_table(net.config, catalog) | {"role": net.role} for name, net in nets.items()
        },
    }
    if model.token_grid is not None:
        about["token_grid"] = model.token_grid
    if model.teacher is not None:
        return (
            about | {"features": model.features} | _of_part(model.teacher.model, model.teacher.part)
        )
    about["path"] = path_name(model.path)
    if model.autoencoder is not None:
        about["autoencoder"] = spec_table(model.autoencoder.config, catalog)
    return about


def modules_of(model: NetworkModel) -> dict[str, nn.Module]:
    """The networks of a model by their names in a weights file."""
    modules = {name: getattr(model, name) for name in (*ROLES, "autoencoder")}
    return {name: module for name, module in modules.items() if module is not None}


def exported(
    model: FlowModel, part: ModelSpec | None, files: Mapping[str, bytes] | None = None
) -> Export:
    """What a training run leaves of a model: its modules, and what the weights file says of them.

    Args:
        model: made of networks, or with a module that was trained.
        part: what the model was built from, in the latter case.
        files: further files of the run.

    Raises:
        PartError: a weights file cannot name the model's part.
    """
    if isinstance(model, NetworkModel):
        return Export(modules_of(model), about_of(model), files=files or {})
    assert isinstance(model, TrainableVelocity)
    return Export({"model": model.module}, _of_part(model, part), files=files or {})


def _of_part(model: FlowModel, part: ModelSpec | None) -> dict[str, Any]:
    """What a weights file says of a model of another kind: what to build, and its form then."""
    origins: dict[str, str] = dict(part.origins()) if isinstance(part, HasOrigins) else {}
    return {"model": model_table(part), "code": origins, **_form(model)}


def _form(model: FlowModel) -> dict[str, Any]:
    """What weights were trained for, and would be wrong without: states, path and labels."""
    conditional = model.capability(ClassConditional)
    t = torch.tensor(_TIMES, device=model.device)
    return {
        "shape": list(model.shape),
        "domain": model.domain,
        "classes": list(conditional.classes if conditional else ()),
        "path": {
            "name": type(model.path).__name__,
            "noise": model.path.alpha(t).tolist(),
            "data": model.path.beta(t).tolist(),
        },
    }


def check_form(about: Mapping[str, Any], model: FlowModel, part: ModelSpec, file: File) -> None:
    """Refuse weights that were trained for other states, another path or other labels.

    A model that a weights file names is built anew, and its code may have changed since.

    Args:
        about: the header of the file; what it does not say is not compared.
        model: that was built.
        part: what it was built from.
        file: for the message.

    Raises:
        PartError: of one line.
    """
    now = _form(model)
    for name, value in now.items():
        was = about.get(name, value)
        if name == "path" and isinstance(was, dict):
            alike = _same_coefficients(was, value)
            was, value = f"the {was['name']}", f"the {value['name']}"
            value = f"another {type(model.path).__name__}" if was == value else value
        else:
            alike = was == value
        if not alike:
            raise PartError(
                f"weights: '{file}' was trained with model '{part.kind}' when its {name} was {was},"
                f" and now it is {value}; use the version that the file was made with"
            )


def _same_coefficients(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two paths mix noise and data alike."""
    first, second = (torch.tensor([path["noise"], path["data"]]) for path in (one, other))
    return torch.allclose(first, second, rtol=0, atol=1e-4)


_TIMES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)  # at which paths are compared


def model_table(part: ModelSpec | None) -> dict[str, Any]:
    """The part of a model as a weights file names it: kind, options, and distribution.

    Raises:
        PartError: no installed distribution brings the part.
    """
    catalog = load_catalog()
    entry = catalog.entry_of(part) if part is not None else None
    if part is None or entry is None:
        what = "a model that was built by hand" if part is None else type(part).__name__
        raise PartError(
            f"model: no weights file can name {what}, which no installed plugin brings; see"
            " `align new model`"
        )
    table = _named(with_absolute_paths(part), entry)
    table.pop("prompts", None)  # a file of what samples were made for, which is of another run
    return table


def spec_table(spec: NetworkSpec | AutoencoderSpec, catalog: Catalog) -> dict[str, Any]:
    """An architecture as a weights file says it: kind, options, and the plugin it needs, if any."""
    return _named(spec, catalog.entry_of(spec))


def _named(part: object, entry: Entry | None) -> dict[str, Any]:
    """A part as a recipe names it, and the distribution of what align does not ship."""
    table = part_table(part)
    if entry is None or entry.origin.built_in:
        return table
    return table | {"plugin": str(entry.origin)}


def spec_in(
    table: Mapping[str, Any], contract: str, file: File, catalog: Catalog, code: str = ""
) -> Any:
    """The part that `spec_table` or `model_table` wrote.

    A part may be made by code that is in no plugin, but in a file of the user's own. The weights
    file says which it was, and never which is run: the user does, by `code`.

    Args:
        table: in the header of a weights file.
        contract: "network", "autoencoder" or "model".
        file: the weights file, for messages.
        catalog: where the kind is looked up.
        code: the Python file or module of the user's own that may be run.

    Raises:
        PartError: of one line; no installed plugin brings the kind, or it has other options now,
            or a file that it names is missing, or it needs code that nobody named.
    """
    kind = str(table.get("kind", DEFAULT_KINDS.get(contract)))
    entry = catalog.find(contract, kind)
    if entry is None:
        raise PartError(f"weights: '{file}' needs {_missing(table, contract, kind, catalog)}")
    given = {**table, **_own_code(table, entry.cls, file, code)}
    options = {
        name: value
        for name, value in given.items()
        if name not in RESERVED[contract] and value is not None
    }
    try:
        part = read_part(contract, {"kind": kind, **options}, catalog)
    except ConfigErrors as error:
        reason = str(error).partition("\n")[0]
        raise PartError(
            f"weights: '{file}' holds {contract} '{kind}' of another version than"
            f" {entry.origin}: {reason}"
        ) from error
    for name, path in missing_paths(part):
        raise PartError(
            f"weights: '{file}' needs {contract} '{kind}' with {name} = '{path}', and there is no"
            " such file; put it there"
        )
    return part


def _own_code(
    options: Mapping[str, Any], part: type, file: File, code: str
) -> Mapping[str, str | None]:
    """The options that name code of the user's own, with what the user named in their place."""
    if not issubclass(part, HasOrigins):
        return {}
    names = [name for name in ("file", "module", "code") if hasattr(part, name)]
    was = [options[name] for name in names if options.get(name)]
    if not was:
        return {}
    if not code:
        raise PartError(
            f"weights: '{file}' was made with code of your own, '{was[0]}', which no weights file"
            " may run; name the code in the recipe, as the model's option 'code'"
        )
    if "code" in names:
        return {"code": code}
    is_file = code.endswith(".py")
    return {"file": code if is_file else None, "module": None if is_file else code}


def described(
    about: Mapping[str, Any],
    file: File,
    device: torch.device,
    catalog: Catalog | None = None,
    code: str = "",
) -> NetworkModel:
    """The model that a weights file describes, frozen, its weights still to be read.

    Args:
        about: the header of the file.
        file: for messages.
        device: where its networks go.
        catalog: where kinds of networks are looked up; by default all that is installed.
        code: see `spec_in`.

    Raises:
        PartError: a network cannot be made.
    """
    catalog = catalog or load_catalog()
    nets = {
        # A flow may be the diagonal of a map.
        name: (spec_in(table, "network", file, catalog), table.get("role", ROLES[name]))
        for name, table in about["nets"].items()
    }
    outer = about.get("autoencoder")
    outer_spec = spec_in(outer, "autoencoder", file, catalog) if outer else None
    shape, classes = tuple(about["shape"]), tuple(about.get("classes", ()))
    grid = tuple(about["token_grid"]) if about.get("token_grid") else None
    seen = (shape[-1], *grid) if grid else shape
    model = untrained(nets, outer_spec, seen, classes, device, about.get("features", 0))
    if "model" not in about:
        return attrs.evolve(model, path=path_in(about, file))
    part = part_in(about, file, catalog, code)
    teacher = build_model(part, device)
    check_form(about, teacher, part, file)
    return attrs.evolve(
        model,
        shape=shape,
        token_grid=grid,
        teacher=Teacher(teacher, part),
        features=about.get("features", 0),
        path=teacher.path,
        domain=teacher.domain,
    )


def part_in(
    about: Mapping[str, Any], file: File, catalog: Catalog | None = None, code: str = ""
) -> ModelSpec:
    """The model of another kind that a weights file names.

    Args:
        about: the header of the file.
        file: for messages.
        catalog: where its kind is looked up; by default all that is installed.
        code: see `spec_in`; other code than the file was made with is refused.

    Raises:
        PartError: of one line, as `spec_in`.
    """
    part: ModelSpec = spec_in(about["model"], "model", file, catalog or load_catalog(), code)
    for was, digest in about.get("code", {}).items():
        named = origin_of(code) or {code: ""}
        if digest not in named.values() and _stem(was) != _stem(code):
            raise PartError(
                f"weights: '{file}' was made with code '{was}', and 'code' names '{code}', which is"
                " another; name the one that it was made with"
            )
    return part


def code_changed(about: Mapping[str, Any], code: str) -> bool:
    """Whether the user's own code is not, to the byte, what a weights file was made with."""
    was, now = about.get("code", {}), origin_of(code)
    return bool(was) and not set(was.values()) & set(now.values())


def _stem(code: str) -> str:
    """What a Python file or a module is called, wherever it lies."""
    return File(code).stem if code.endswith(".py") else code.rpartition(".")[2]


def path_in(about: Mapping[str, Any], file: File) -> Path:
    """The path that the networks of a weights file were trained on; a file without one is linear.

    Raises:
        PartError: of one line; this version knows no path of that name.
    """
    name = about.get("path", "linear")
    for known, path in PATHS.items():
        if name == known:
            return path
    raise PartError(
        f"weights: '{file}' was trained on the path {name!r}, which is not among"
        f" {', '.join(PATHS)}; use the version of align that wrote it"
    )


def untrained(
    nets: Mapping[str, tuple[NetworkSpec, Role]],
    outer: AutoencoderSpec | None,
    shape: tuple[int, ...],
    classes: tuple[str, ...],
    device: torch.device,
    features: int = 0,
) -> NetworkModel:
    """A frozen model with networks of these architectures and roles, by name; always the same.

    Raises:
        PartError: a network cannot take states of this shape.
    """

    def built() -> NetworkModel:
        modules = {
            name: make_network(spec, shape, len(classes), role, features)
            for name, (spec, role) in nets.items()
        }
        auto = Autoencoder(outer) if outer else None
        for module in (*modules.values(), *([auto] if auto else [])):
            module.to(device).eval().requires_grad_(False)
        domain: Domain = "image" if auto else "vector"
        return NetworkModel(
            shape=shape,
            classes=classes,
            autoencoder=auto,
            domain=domain,
            device=device,
            flow=modules.get("flow"),
            flow_map=modules.get("flow_map"),
            posterior=modules.get("posterior"),
        )

    return Streams(0, ()).fold_in("network").initialise(built)


def _missing(table: Mapping[str, Any], contract: str, kind: str, catalog: Catalog) -> str:
    """The part that is missing, and what to do about it."""
    plugin = table.get("plugin")
    part = f"{contract} '{kind}' of {plugin}" if plugin else f"{contract} '{kind}'"
    for broken in catalog.broken:
        if broken.may_bring(kind) or (plugin and str(broken.origin) == plugin):
            return f"{part}; {broken}"
    if plugin:
        return f"{part}, which is not installed; pip install {plugin.partition(' ')[0]}"
    return f"{part}, which no installed plugin brings; install the one that does"
