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
from cattrs import Converter
from cattrs.errors import ForbiddenExtraKeysError
from torch import nn

from align.catalog.contracts import DEFAULT_KINDS
from align.catalog.registry import Catalog, load_catalog
from align.core.autoencoder import AutoencoderSpec
from align.core.errors import PartError
from align.core.model import Domain
from align.core.network import NetworkSpec, Role, VelocityNetwork, make_network
from align.core.path import PATHS, Path, path_name
from align.core.streams import Streams
from align.models.network_model import ROLES, NetworkModel
from align.networks.autoencoder import Autoencoder

_BESIDE_OPTIONS: Final = ("kind", "role", "plugin")
_OPTIONS: Final = Converter(detailed_validation=False, forbid_extra_keys=True)


def about_of(model: NetworkModel) -> dict[str, Any]:
    """What a weights file must say, so that `described` rebuilds the model.

    Raises:
        PartError: one of its networks is not a VelocityNetwork, or its path has no name.
    """
    nets = {name: getattr(model, name) for name in ROLES if getattr(model, name) is not None}
    for name, net in nets.items():
        if not isinstance(net, VelocityNetwork):
            raise PartError(
                f"model: its {name} is a {type(net).__name__}, which no weights file can describe;"
                " derive it from align.core.network.VelocityNetwork"
            )
    catalog = load_catalog()
    about: dict[str, Any] = {
        "shape": model.shape,
        "classes": model.classes,
        "path": path_name(model.path),
        "nets": {
            name: spec_table(net.config, catalog) | {"role": net.role} for name, net in nets.items()
        },
    }
    if model.autoencoder is not None:
        about["autoencoder"] = spec_table(model.autoencoder.config, catalog)
    return about


def modules_of(model: NetworkModel) -> dict[str, nn.Module]:
    """The networks of a model by their names in a weights file."""
    modules = {name: getattr(model, name) for name in (*ROLES, "autoencoder")}
    return {name: module for name, module in modules.items() if module is not None}


def spec_table(spec: NetworkSpec | AutoencoderSpec, catalog: Catalog) -> dict[str, Any]:
    """An architecture as a weights file says it: options, kind, and the plugin it needs, if any."""
    table = attrs.asdict(spec) | {"kind": spec.kind}
    entry = catalog.entry_of(spec)
    if entry is None or entry.origin.built_in:
        return table
    return table | {"plugin": str(entry.origin)}


def spec_in(table: Mapping[str, Any], contract: str, file: File, catalog: Catalog) -> Any:
    """The architecture that `spec_table` wrote.

    Args:
        table: in the header of a weights file.
        contract: "network" or "autoencoder".
        file: the weights file, for messages.
        catalog: where the kind is looked up.

    Raises:
        PartError: of one line; no installed plugin brings the kind, or it has other options now.
    """
    kind = str(table.get("kind", DEFAULT_KINDS.get(contract)))
    entry = catalog.find(contract, kind)
    if entry is None:
        raise PartError(f"weights: '{file}' needs {_missing(table, contract, kind, catalog)}")
    options = {name: value for name, value in table.items() if name not in _BESIDE_OPTIONS}
    try:
        return _OPTIONS.structure(options, entry.cls)
    except (ForbiddenExtraKeysError, KeyError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise PartError(
            f"weights: '{file}' holds {contract} '{kind}' of another version than"
            f" {entry.origin}: {reason}"
        ) from error


def described(
    about: Mapping[str, Any], file: File, device: torch.device, catalog: Catalog | None = None
) -> NetworkModel:
    """The model that a weights file describes, frozen, its weights still to be read.

    Args:
        about: the header of the file.
        file: for messages.
        device: where its networks go.
        catalog: where kinds of networks are looked up; by default all that is installed.

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
    model = untrained(nets, outer_spec, shape, classes, device)
    return attrs.evolve(model, path=path_in(about, file))


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
) -> NetworkModel:
    """A frozen model with networks of these architectures and roles, by name; always the same.

    Raises:
        PartError: a network cannot take states of this shape.
    """

    def built() -> NetworkModel:
        modules = {
            name: make_network(spec, shape, len(classes), role)
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
