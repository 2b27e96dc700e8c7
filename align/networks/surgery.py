"""The ladder: a flow becomes a flow map, and that a meta flow map, as exact copies."""

from __future__ import annotations

import torch
from torch import Tensor

from align.networks.dit import DiT
from align.networks.mlp import MLP
from align.networks.role import Role

LADDER: tuple[Role, ...] = ("flow", "flow_map", "meta_flow_map")


def grown(net: DiT | MLP, role: Role) -> DiT | MLP:
    """A new network of a higher `role` that says what `net` says.

    A map made from a flow is the flow on its diagonal s = u. A meta flow map made from a flow map
    is that flow map, at all s and u, whatever its context (t, x). A network that already has the
    role is copied.

    Reference: Decoupled MeanFlow, Lee et al., 2025, arXiv:2510.24474, section 3; Meta Flow Maps,
    Potaptchik et al., 2026, arXiv:2601.14430, appendix on architecture.

    Raises:
        ValueError: `role` is lower than that of the network.
    """
    if LADDER.index(role) < LADDER.index(net.role):
        raise ValueError(f"a {net.role} cannot be made a {role}")
    if isinstance(net, MLP):
        labels = net.label.num_embeddings - 1
        wider = MLP(net.config, net.shape, labels, role)
        wider.load_state_dict(_widened(net, wider))
        return wider
    labels = net.y_embedder.embedding_table.num_embeddings - 1
    new = DiT(net.config, net.shape, labels, role)
    # A flow and a flow map have the same weights; the map's later blocks see another time.
    contextual = role == "meta_flow_map" and net.role != role
    new.load_state_dict(_contextual(net, new) if contextual else net.state_dict())
    return new


def _widened(old: MLP, new: MLP) -> dict[str, Tensor]:
    """Weights whose first layer is silent about what `old` does not see: later features."""
    state = dict(old.state_dict())
    enter = torch.zeros_like(new.enter.weight)
    enter[:, : old.enter.in_features] = old.enter.weight.detach()
    return state | {"enter.weight": enter}


def _contextual(old: DiT, new: DiT) -> dict[str, Tensor]:
    state = new.state_dict()
    for key, tensor in old.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "t_embedder":
            state[f"s_embedder.{rest}"] = state[f"t_embedder_second.{rest}"] = tensor
        else:
            state[key] = tensor
        if part == "x_embedder":
            state[f"x_cond_embedder.{rest}"] = tensor
    for silent in ("t_embedder", "s_embedder_second", "t_cond_embedder"):
        state[f"{silent}.mlp.2.weight"].zero_()
        state[f"{silent}.mlp.2.bias"].zero_()
    # Shift 0 and scale −1: the context patches are multiplied by zero.
    state["x_cond_adaLN.1.weight"].zero_()
    shift, scale = state["x_cond_adaLN.1.bias"].chunk(2)
    shift.zero_(), scale.fill_(-1)
    return state
