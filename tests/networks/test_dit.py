"""The diffusion transformer against the released layout and a forward pass written out plainly."""

import math

import attrs
import numpy as np
import pytest
import torch

from align.networks.dit import DiT, DiTConfig

SHAPE = (3, 8, 4)
CONFIG = DiTConfig(width=16, depth=3, heads=2, patch=2, encoder_depth=2, time_scale=1.5)


def _randomised(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return net


def _net(role, config=CONFIG, shape=SHAPE, seed=0):
    return _randomised(DiT(config, shape, 5, role), seed)


def _inputs(rows=3, shape=SHAPE, seed=1):
    g = torch.Generator().manual_seed(seed)
    y, x = torch.randn((2, rows, *shape), generator=g)
    s, u, t = torch.rand((3, rows), generator=g)
    return y, s, u, t, x, torch.arange(rows) % 6


def _released(width, depth):
    """Keys and shapes of the released meta flow map."""
    layout = {
        "guidance_embedder.embedding_table.weight": (2, width),
        "pos_embed": (1, 256, width),
        "x_cond_adaLN.1.weight": (2 * width, width),
        "x_cond_adaLN.1.bias": (2 * width,),
        "y_embedder.embedding_table.weight": (1001, width),
    }
    for name in ("x_embedder", "x_cond_embedder"):
        layout |= {f"{name}.proj.weight": (width, 4, 2, 2), f"{name}.proj.bias": (width,)}
    linear = {"final_layer.linear": (16, width), "final_layer.adaLN_modulation.1": (2304, width)}
    times = "s_embedder", "t_embedder", "t_cond_embedder", "s_embedder_second", "t_embedder_second"
    for name in times:
        linear |= {f"{name}.mlp.0": (width, 256), f"{name}.mlp.2": (width, width)}
    for k in range(depth):
        linear |= {
            f"blocks.{k}.attn.qkv": (3456, width),
            f"blocks.{k}.attn.proj": (width, width),
            f"blocks.{k}.mlp.fc1": (4608, width),
            f"blocks.{k}.mlp.fc2": (width, 4608),
            f"blocks.{k}.adaLN_modulation.1": (6912, width),
        }
    for name, shape in linear.items():
        layout |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return layout


def test_layout_is_that_of_the_released_map():
    config = DiTConfig(
        width=1152, depth=28, heads=16, patch=2, encoder_depth=20, guidance_scales=(1.0, 2.5)
    )
    with torch.device("meta"):
        net = DiT(config, (4, 32, 32), 1000, "meta_flow_map")
    state = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    assert state == _released(1152, 28)
    assert len(state) == 313
    assert sum(math.prod(shape) for shape in state.values()) == 684_286_864


def test_layout_of_a_flow_has_one_time_embedder_and_no_context():
    with torch.device("meta"):
        net = DiT(DiTConfig(width=1152, depth=1, heads=16, patch=2), (4, 32, 32), 1000, "flow")
    gone = ("guidance", "x_cond", "s_embedder", "t_cond", "t_embedder_second")
    expected = {k: v for k, v in _released(1152, 1).items() if not k.startswith(gone)}
    assert {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()} == expected


def test_positions_are_the_release_s():
    def one(width, places):
        omega = 1 / 10_000 ** (np.arange(width // 2, dtype=np.float64) / (width / 2))
        out = np.einsum("m,d->md", places.reshape(-1), omega)
        return np.concatenate([np.sin(out), np.cos(out)], 1)

    rows, columns = 4, 2
    grid = np.meshgrid(np.arange(columns, dtype=np.float64), np.arange(rows, dtype=np.float64))
    expected = np.concatenate([one(8, grid[0]), one(8, grid[1])], 1)
    found = DiT(CONFIG, SHAPE, 5, "flow").pos_embed
    assert np.allclose(found[0].numpy(), expected, atol=1e-6)


def test_time_features_are_cosines_then_sines():
    net, seen = _net("meta_flow_map"), []
    net.t_cond_embedder.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    y, s, u, t, x, label = _inputs()
    net(y, s, u, t, x, label)
    frequencies = np.exp(-math.log(10_000) * np.arange(128) / 128)
    angles = 1.5 * t.numpy()[:, None] * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    assert seen[0].shape == (3, 256)
    assert np.allclose(seen[0].numpy(), expected, atol=1e-6)


def _plain_forward(net, y, s, u, t, x, label):
    """The forward pass from named weights alone, in float64."""
    p = {key: tensor.double() for key, tensor in net.state_dict().items()}
    config = net.config
    wide, heads, side = config.width, config.heads, config.patch
    b, c, h, w = y.shape

    def linear(name, value):
        return value @ p[name + ".weight"].T + p[name + ".bias"]

    def silu(value):
        return value / (1 + torch.exp(-value))

    def patches(name, state):
        cut = state.double().reshape(b, c, h // side, side, w // side, side)
        cut = cut.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * side * side)
        return cut @ p[name + ".proj.weight"].reshape(wide, -1).T + p[name + ".proj.bias"]

    def time(name, value):
        k = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float64) / 128)
        angles = config.time_scale * value.double()[:, None] * k
        features = torch.cat([angles.cos(), angles.sin()], 1)
        return linear(name + ".mlp.2", silu(linear(name + ".mlp.0", features)))

    def normal(value):
        centred = value - value.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def six(value, count):
        return [part[:, None] for part in value.chunk(count, 1)]

    tokens = patches("x_embedder", y) + p["pos_embed"]
    named = p["y_embedder.embedding_table.weight"][label]
    if net.role == "meta_flow_map":
        seen = time("t_cond_embedder", t)
        shift, scale = six(linear("x_cond_adaLN.1", silu(seen)), 2)
        tokens = tokens + patches("x_cond_embedder", x) * (1 + scale) + shift
        early = time("s_embedder", s) + time("t_embedder", u) + seen + named
        late = time("s_embedder_second", s) + time("t_embedder_second", u) + seen + named
    else:
        early = time("t_embedder", s) + named
        late = time("t_embedder", u) + named if net.role == "flow_map" else early
    for k in range(config.depth):
        noisy = f"blocks.{k}."
        cond = early if k < config.encoder_depth else late
        shift, scale, gate, shift2, scale2, gate2 = six(
            linear(noisy + "adaLN_modulation.1", silu(cond)), 6
        )
        qkv = linear(noisy + "attn.qkv", normal(tokens) * (1 + scale) + shift)
        q, k_, v = qkv.reshape(b, -1, 3, heads, wide // heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k_.transpose(-1, -2) / math.sqrt(wide / heads), -1)
        mixed = (weights @ v).permute(0, 2, 1, 3).reshape(b, -1, wide)
        tokens = tokens + gate * linear(noisy + "attn.proj", mixed)
        hidden = linear(noisy + "mlp.fc1", normal(tokens) * (1 + scale2) + shift2)
        bent = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
        tokens = tokens + gate2 * linear(noisy + "mlp.fc2", hidden / 2 * (1 + torch.tanh(bent)))
    shift, scale = six(linear("final_layer.adaLN_modulation.1", silu(late)), 2)
    out = linear("final_layer.linear", normal(tokens) * (1 + scale) + shift)
    out = out.reshape(b, h // side, w // side, side, side, c)
    return torch.einsum("nhwpqc->nchpwq", out).reshape(b, c, h, w)


@pytest.mark.parametrize("role", ["flow", "flow_map", "meta_flow_map"])
def test_forward_pass_is_the_one_written_out(role):
    net = _net(role)
    inputs = _inputs()
    with torch.no_grad():
        found, expected = net(*inputs), _plain_forward(net, *inputs)
    assert found.shape == (3, *SHAPE)
    assert float(expected.std()) > 0.3
    assert torch.allclose(found.double(), expected, atol=1e-3 * float(expected.abs().max()))
    doubled = net.double()
    with torch.no_grad():
        again = doubled(*(part.double() if part.is_floating_point() else part for part in inputs))
    # Time features are made in float32.
    assert torch.allclose(again, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("role", ["flow", "flow_map", "meta_flow_map"])
def test_data_at_zero_flips_both_times_and_the_sign(role):
    forward = _net(role)
    backward = _net(role, attrs.evolve(CONFIG, data_at=0))
    y, s, u, t, x, label = _inputs()
    with torch.no_grad():
        expected = -forward(y, 1 - s, 1 - u, t, x, label)
        assert torch.equal(backward(y, s, u, t, x, label), expected)


def test_guidance_is_the_nearest_scale_s_row_in_the_early_blocks():
    config = attrs.evolve(CONFIG, guidance_scales=(1.0, 2.5, 4.0))
    net = _net("meta_flow_map", config)
    rows = net.guidance_embedder.embedding_table.weight
    inputs = _inputs(rows=6)
    scale = torch.tensor([1.0, 1.75, 1.8, 2.5, 3.3, 9.0])
    with torch.no_grad():
        found = net(*inputs, scale)
        assert torch.equal(net(*inputs), net(*inputs, torch.ones(6)))
        seen = []
        net.blocks[1].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
        net.blocks[2].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
        net(*inputs, scale), net(*inputs)
    torch.testing.assert_close(seen[0] - seen[2], rows[[0, 0, 1, 1, 2, 2]] - rows[0])
    assert torch.equal(seen[1], seen[3])
    assert not torch.allclose(found[2:], net(*inputs)[2:], atol=1e-3)
    # Networks of other roles embed no guidance.
    assert _net("flow", config).guidance_scales == ()


def test_blocks_may_be_of_less_precision_than_the_rest():
    net = _net("meta_flow_map", attrs.evolve(CONFIG, guidance_scales=(1.0, 2.5)))
    inputs = _inputs()
    with torch.no_grad():
        exact = net(*inputs)
        net.blocks.to(torch.bfloat16)
        seen = []
        net.blocks[0].adaLN_modulation[1].register_forward_hook(lambda _, i, o: seen.append(o))
        rounded = net(*inputs)
    assert rounded.dtype == seen[0].dtype == torch.float32
    error = float((rounded - exact).norm() / exact.norm())
    assert 1e-4 < error < 0.03


def test_guidance_scales_must_rise():
    with pytest.raises(ValueError, match="'guidance_scales' must rise"):
        DiTConfig(guidance_scales=(2.5, 1.0))


def test_every_pixel_stays_in_its_patch():
    # Gates are zero at the start, so a token that only meets the last layer sees its own patch.
    net = DiT(CONFIG, SHAPE, 5, "flow")
    with torch.no_grad():
        net.final_layer.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
    y, s, u, t, x, label = _inputs(rows=1)
    for row, column in ((0, 0), (3, 1), (7, 2)):
        state = y.clone().requires_grad_()
        out = net(state, s, u, t, x, label)[0, :, row, column].sum()
        (gradient,) = torch.autograd.grad(out, state)
        touched = gradient[0].abs().sum(0) > 0
        expected = torch.zeros(8, 4, dtype=torch.bool)
        top, left = row // 2 * 2, column // 2 * 2
        expected[top : top + 2, left : left + 2] = True
        assert torch.equal(touched, expected)


def test_a_new_net_is_silent_and_its_gates_are_shut():
    net = DiT(CONFIG, SHAPE, 5, "meta_flow_map")
    assert not net(*_inputs()).any()
    for block in net.blocks:
        assert not block.adaLN_modulation[1].weight.any()
    spread = float(net.s_embedder.mlp[2].weight.detach().std())
    assert spread == pytest.approx(0.02, rel=0.2)


def test_a_flow_sees_its_time_and_class_and_nothing_else():
    net = _net("flow")
    y, s, u, t, x, label = _inputs()
    with torch.no_grad():
        base = net(y, s, u, t, x, label)
        assert torch.equal(base, net(y, s, u + 1, t + 1, x + 1, label))
        for changed in ((y, s + 0.1, u, t, x, label), (y, s, u, t, x, (label + 1) % 6)):
            assert not torch.allclose(base, net(*changed), atol=1e-3)


def test_a_flow_map_s_early_blocks_see_the_start_and_the_others_the_end():
    net = _net("flow_map", DiTConfig(width=16, depth=2, heads=2, patch=2, encoder_depth=2))
    y, s, u, t, x, label = _inputs()
    with torch.no_grad():
        base = net(y, s, u, t, x, label)
        assert torch.equal(base, net(y, s, u, t + 1, x + 1, label))
        for changed in ((y, s + 0.1, u, t, x, label), (y, s, u + 0.1, t, x, label)):
            assert not torch.allclose(base, net(*changed), atol=1e-3)
        early = net.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
        seen = []
        net(y, s, u, t, x, label), net(y, s, u + 0.1, t, x, label), net(y, s + 0.1, u, t, x, label)
        early.remove()
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], seen[2], atol=1e-4)


def test_attention_mixes_all_tokens():
    net = _net("flow")
    y, s, u, t, x, label = _inputs(rows=1)
    state = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(state, s, u, t, x, label)[0, 0, 0, 0], state)
    assert (gradient.abs() > 0).all()


def test_more_early_blocks_than_there_are_are_refused():
    assert DiTConfig(depth=3).encoder_depth == 3
    for wrong in (4, -1):
        with pytest.raises(ValueError, match="'encoder_depth' must be"):
            DiTConfig(depth=3, encoder_depth=wrong)
