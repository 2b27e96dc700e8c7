"""Networks by their options; steps up the ladder of roles are exact copies."""

import pytest
import torch

from align.core.errors import PartError
from align.core.network import LADDER, grown, make_network
from align.core.streams import Streams
from align.networks.dit import DiT, DiTConfig
from align.networks.mlp import MLP, MLPConfig
from align.networks.unet import UNetConfig


def _inputs(shape, rows=3):
    streams = Streams(1, tuple(range(rows)))
    y, x = streams.normal(shape, draws=2).float()
    s, u, t = streams.uniform((3,)).float().T
    return y, s, u, t, x, torch.tensor([1, 5, 3])[:rows]


def _net(kind, role, depth=2):
    """A network with random weights, and the shape of its states."""

    def made():
        if kind == "mlp":
            net = MLP(MLPConfig(width=16, depth=2), (2,), 5, role)
        elif kind == "unet":
            net = UNetConfig(widths=(8, 16), blocks=1).build((3, 4, 6), 5, role)
        else:
            sizes = DiTConfig(width=16, depth=3, heads=2, patch=2, encoder_depth=min(depth, 3))
            net = DiT(sizes, (3, 4, 6), 5, role)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, 0, 0.3)
        return net.requires_grad_(False)

    return Streams(0, ()).initialise(made)


KINDS = pytest.mark.parametrize("kind", ["dit", "mlp", "unet"])


@KINDS
@pytest.mark.parametrize("role", LADDER[1:])
@pytest.mark.parametrize("depth", [0, 2, 9])
def test_a_map_equals_its_flow_on_the_diagonal(kind, role, depth):
    flow = _net(kind, "flow", depth)
    made = grown(flow, role)
    assert (made.role, made.config) == (role, flow.config)
    y, s, u, t, x, label = _inputs(flow.shape)
    expected = flow(y, s, u, t, x, label)
    for context in (x, torch.zeros_like(x), 100 * x):
        for time in (t, torch.zeros_like(t)):
            found = made(y, s, s, time, context, label)
            # A wider first layer, of MLP and U-Net, adds zeros in another order.
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
            assert kind != "dit" or torch.equal(found, expected)


@KINDS
def test_a_meta_flow_map_equals_its_flow_map_everywhere(kind):
    flow_map = _net(kind, "flow_map")
    made = grown(flow_map, "meta_flow_map")
    y, s, u, t, x, label = _inputs(flow_map.shape)
    expected = flow_map(y, s, u, t, x, label)
    assert not torch.allclose(flow_map(y, s, s, t, x, label), expected, atol=1e-3)
    for context in (x, 100 * x):
        found = made(y, s, u, t, context, label)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert kind != "dit" or torch.equal(found, expected)


@KINDS
def test_a_flow_grown_twice_is_the_flow_on_the_diagonal(kind):
    flow = _net(kind, "flow")
    top = grown(grown(flow, "flow_map"), "meta_flow_map")
    y, s, u, t, x, label = _inputs(flow.shape)
    assert torch.allclose(top(y, s, s, t, x, label), flow(y, s, u, t, x, label), atol=1e-5)


@KINDS
def test_growing_to_the_same_role_copies(kind):
    net = _net(kind, "meta_flow_map")
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    made, inputs = grown(net, "meta_flow_map"), _inputs(net.shape)
    assert torch.equal(made(*inputs), net(*inputs))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())


def test_growing_to_a_lower_role_is_refused():
    with pytest.raises(ValueError, match="a meta_flow_map cannot be made a flow"):
        grown(_net("mlp", "meta_flow_map"), "flow")


@KINDS
def test_a_meta_flow_map_can_learn_its_context(kind):
    made = grown(_net(kind, "flow"), "meta_flow_map").requires_grad_(True)
    y, s, _, t, x, label = _inputs(made.shape)
    made(y, s, s, t, x, label).square().sum().backward()
    if kind == "mlp":
        assert (made.enter.weight.grad.abs().amax(0) > 0).all()
        return
    if kind == "unet":
        assert (made.enter.weight.grad.abs().amax((0, 2, 3)) > 0).all()
        assert made.t_cond_embedder.mlp[2].weight.grad.abs().max() > 0
        return
    for name in (
        "x_cond_adaLN.1.bias",
        "t_cond_embedder.mlp.2.weight",
        "t_embedder.mlp.2.weight",
        "s_embedder_second.mlp.2.weight",
    ):
        assert made.get_parameter(name).grad.abs().max() > 0
    assert torch.equal(made.x_cond_embedder.proj.weight, made.x_embedder.proj.weight)


def test_growing_depends_on_the_streams_alone():
    flow = _net("dit", "flow")
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, second = (
        Streams(0, ())
        .fold_in("weights")
        .initialise(lambda: grown(flow, "meta_flow_map"))
        .state_dict()
        for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = Streams(1, ()).initialise(lambda: grown(flow, "meta_flow_map")).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_networks_for_states_of_another_kind_are_refused():
    assert isinstance(make_network(MLPConfig(), (2,), 0, "meta_flow_map"), MLP)
    assert isinstance(make_network(DiTConfig(), (4, 4, 4), 0, "flow"), DiT)
    with pytest.raises(PartError) as caught:
        make_network(DiTConfig(), (2,), 0, "flow")
    assert str(caught.value) == (
        "net: 'dit' is a network of images, but the model's states have the shape (2,);"
        " use another kind of network"
    )
    with pytest.raises(PartError, match="'mlp' is a network of vectors"):
        make_network(MLPConfig(), (4, 4, 4), 0, "flow")
    with pytest.raises(PartError, match="states of 4 x 6 cannot be cut into squares of 4"):
        make_network(DiTConfig(patch=4), (4, 4, 6), 0, "flow")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 30, "heads": 3}, "'width' must be a multiple of 4, got 30"),
        ({"width": 32, "heads": 3}, "'heads' must divide 'width', 32"),
    ],
)
def test_sizes_of_a_transformer_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DiTConfig(**options)
