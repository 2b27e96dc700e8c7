"""The U-Net: written out once more, and what each half of it sees."""

import math

import pytest
import torch
import torch.nn.functional as F

from align.core.errors import PartError
from align.core.network import LADDER, make_network
from align.core.streams import Streams
from align.networks.unet import UNetConfig

CONFIG, SHAPE = UNetConfig(widths=(8, 16, 24), blocks=2, heads=3, time_scale=1.5), (3, 8, 4)


def _net(role, config=CONFIG, shape=SHAPE):
    """A network with random weights: those of a new one are silent."""

    def made():
        net = config.build(shape, 5, role)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, 0, 0.15)
        return net.requires_grad_(False)

    return Streams(0, ()).initialise(made)


def _inputs(rows=3, shape=SHAPE):
    streams = Streams(1, tuple(range(rows)))
    y, x = streams.normal(shape, draws=2).float()
    s, u, t = streams.uniform((3,)).float().T
    return {"y": y, "s": s, "u": u, "t": t, "x": x, "label": torch.tensor([1, 5, 3])[:rows]}


def _silu(value):
    return value / (1 + torch.exp(-value))


class _Plain:
    """The layers of a U-Net, computed from named weights alone, in float64."""

    def __init__(self, net):
        self.config = net.config
        self.weights = {key: tensor.double() for key, tensor in net.state_dict().items()}

    def linear(self, name, value):
        return value @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def conv(self, name, value, **how):
        return F.conv2d(value, self.weights[name + ".weight"], self.weights[name + ".bias"], **how)

    def norm(self, name, value):
        parts = value.unflatten(1, (8, -1)).flatten(2)
        centred = parts - parts.mean(2, keepdim=True)
        flat = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
        weight, bias = (self.weights[f"{name}.{key}"][:, None, None] for key in ("weight", "bias"))
        return flat.reshape(value.shape) * weight + bias

    def time(self, name, value):
        k = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float64) / 128)
        angles = self.config.time_scale * value[:, None] * k
        features = torch.cat([angles.cos(), angles.sin()], 1)
        return self.linear(name + ".mlp.2", _silu(self.linear(name + ".mlp.0", features)))

    def block(self, name, h, cond):
        modulation = self.linear(name + ".modulation", _silu(cond))
        scale, shift = modulation[:, :, None, None].chunk(2, 1)
        first = self.conv(name + ".enter", _silu(self.norm(name + ".enter_norm", h)), padding=1)
        inner = self.norm(name + ".leave_norm", first) * (1 + scale) + shift
        past = self.conv(name + ".past", h) if name + ".past.weight" in self.weights else h
        h = past + self.conv(name + ".leave", _silu(inner), padding=1)
        if name + ".attn.qkv.weight" not in self.weights:
            return h
        return h + self.attention(name, self.norm(name + ".attn_norm", h))

    def attention(self, name, h):
        (b, width, *_), heads = h.shape, self.config.heads
        qkv = self.linear(name + ".attn.qkv", h.flatten(2).transpose(1, 2))
        q, k, v = qkv.reshape(b, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        attention = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width / heads), -1)
        mixed = (attention @ v).permute(0, 2, 1, 3).reshape(b, -1, width)
        return self.linear(name + ".attn.proj", mixed).transpose(1, 2).reshape(h.shape)


def _plain_forward(net, y, s, u, t, x, label):
    """The forward pass of a U-Net, its layers one after the other."""
    plain, count = _Plain(net), net.config.blocks
    halvings = range(len(net.config.widths) - 1)
    cond = plain.weights["y_embedder.embedding_table.weight"][label]
    if net.role == "meta_flow_map":
        cond, y = cond + plain.time("t_cond_embedder", t), torch.cat((y, x), 1)
    start = plain.time("t_embedder", s) + cond
    end = plain.time("t_embedder", s if net.role == "flow" else u) + cond
    h, skips = plain.conv("enter", y, padding=1), []
    for side in halvings:
        for k in range(count):
            h = plain.block(f"down.{side * count + k}", h, start)
            skips.append(h)
        h = plain.conv(f"shrink.{side}", h, stride=2, padding=1)
    for k in range(count):
        h = plain.block(f"bottom_down.{k}", h, start)
    for k in range(count):
        h = plain.block(f"bottom_up.{k}", h, end)
    for side in halvings:
        h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        h = plain.conv(f"enlarge.{side}", h, padding=1)
        for k in range(count):
            h = plain.block(f"up.{side * count + k}", torch.cat((h, skips.pop()), 1), end)
    return plain.conv("leave", _silu(plain.norm("leave_norm", h)), padding=1)


@pytest.mark.parametrize("role", LADDER)
def test_forward_pass_is_the_one_written_out(role):
    net, inputs = _net(role).double(), _inputs().values()
    inputs = [value.double() if value.is_floating_point() else value for value in inputs]
    velocity, expected = net(*inputs), _plain_forward(net, *inputs)
    assert velocity.shape == (3, *SHAPE)
    assert float(expected.std()) > 0.1
    # Time features are made in float32.
    assert torch.allclose(velocity, expected, atol=1e-6 * float(expected.abs().max()))


def test_way_down_sees_the_start_and_way_up_the_end():
    net, inputs, conditions = _net("meta_flow_map"), _inputs(), {}
    times = {"down": "s", "bottom_down": "s", "bottom_up": "u", "up": "u"}

    def recorder(name):
        return lambda _, args: conditions.setdefault(name, []).append(args[1])

    for name in times:
        for block in getattr(net, name):
            block.register_forward_pre_hook(recorder(name))
    net(*inputs.values())
    before = dict(conditions)
    for moved in ("s", "u", "t"):
        conditions.clear()
        net(*{**inputs, moved: inputs[moved] + 0.1}.values())
        for name, time in times.items():
            for old, new in zip(before[name], conditions[name], strict=True):
                assert torch.equal(old, new) == (moved not in (time, "t")), (name, moved)


@pytest.mark.parametrize("widths", [(8,), (8, 16), (16, 8, 8)])
@pytest.mark.parametrize("blocks", [1, 3])
def test_any_number_of_sides_and_blocks(widths, blocks):
    net = _net("flow", UNetConfig(widths=widths, blocks=blocks, heads=2))
    sides = []
    for name in ("down", "bottom_down", "bottom_up", "up"):
        for block in getattr(net, name):
            block.register_forward_hook(lambda _, args, out: sides.append(tuple(out.shape[1:3])))
    assert net(*_inputs().values()).shape == (3, *SHAPE)
    down = [(width, 8 // 2**k) for k, width in enumerate(widths) for _ in range(blocks)]
    assert sides == down + down[::-1]


def test_new_network_is_zero_and_its_blocks_are_the_identity():
    net = CONFIG.build(SHAPE, 5, "meta_flow_map")
    assert not net(*_inputs().values()).any()
    features = torch.randn(2, 24, 2, 2)
    assert torch.equal(net.bottom_up[0](features, torch.randn(2, 32)), features)


@pytest.mark.parametrize("shape", [(3, 8, 6), (3, 2, 8)])
def test_sides_that_cannot_be_halved_are_refused(shape):
    sides = rf"states of {shape[1]} x {shape[2]} cannot be halved 2 times; name fewer widths"
    with pytest.raises(PartError, match=sides):
        make_network(CONFIG, shape, 5, "flow")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"widths": ()}, "'widths' must be multiples of 8, at least one"),
        ({"widths": (8, 12)}, "'widths' must be multiples of 8"),
        ({"widths": (8, 16), "heads": 3}, "'heads' must divide the last of 'widths', 16"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**sizes)
