"""Public files of SiT, REPA, DMF and MFM, beside the formulas of their projects written out."""

import argparse
import math
import re

import attrs
import pytest
import torch
from align_imagenet import ImageNetModel, layouts, vae
from align_imagenet.labels import index_of, spellings
from align_imagenet.testing import HEADS, WIDTH, tensors
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from align import Condition, FlowMap, NoisyState, PartError, PosteriorMap
from align.core.network import grown
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiT, DiTConfig

CPU = torch.device("cpu")
DEPTH, EARLY, SIDE, PATCH, LATENTS = 3, 2, 8, 2, 4


def linear(p, name, x):
    return x @ p[name + ".weight"].flatten(1).T + p[name + ".bias"]


def silu(x):
    return x * torch.sigmoid(x)


def embedded(p, name, t):
    """256 waves of a time, and two layers."""
    k = torch.arange(128, dtype=torch.float64)
    angles = t[:, None] * torch.exp(-math.log(10_000) * k / 128)
    waves = torch.cat((torch.cos(angles), torch.sin(angles)), 1)
    return linear(p, f"{name}.mlp.2", silu(linear(p, f"{name}.mlp.0", waves)))


def patches(p, name, x):
    """Squares of 2 x 2 as tokens, row by row."""
    n = SIDE // PATCH
    cut = x.reshape(len(x), LATENTS, n, PATCH, n, PATCH).permute(0, 2, 4, 1, 3, 5)
    return linear(p, f"{name}.proj", cut.reshape(len(x), n * n, -1))


def normal(x, shift, scale):
    centred = x - x.mean(-1, keepdim=True)
    centred = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    return centred * (1 + scale[:, None]) + shift[:, None]


def block(p, k, x, c, heads):
    b, length, width = x.shape
    shift, scale, gate, shift2, scale2, gate2 = linear(
        p, f"blocks.{k}.adaLN_modulation.1", silu(c)
    ).split(width, 1)
    qkv = linear(p, f"blocks.{k}.attn.qkv", normal(x, shift, scale))
    q, key, value = qkv.reshape(b, length, 3, heads, -1).unbind(2)
    weights = torch.einsum("blhd,bmhd->bhlm", q, key) / math.sqrt(width // heads)
    mixed = torch.einsum("bhlm,bmhd->blhd", weights.softmax(-1), value).reshape(x.shape)
    x = x + gate[:, None] * linear(p, f"blocks.{k}.attn.proj", mixed)
    h = linear(p, f"blocks.{k}.mlp.fc1", normal(x, shift2, scale2))
    h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    return x + gate2[:, None] * linear(p, f"blocks.{k}.mlp.fc2", h)


def transformer(p, x, early, late, *, depth, heads, split, variance=False):
    """Tokens to what the last layer says, (B, C, H, W)."""
    for k in range(depth):
        x = block(p, k, x, early if k < split else late, heads)
    shift, scale = linear(p, "final_layer.adaLN_modulation.1", silu(late)).chunk(2, 1)
    out = linear(p, "final_layer.linear", normal(x, shift, scale))
    n, channels = SIDE // PATCH, LATENTS * (2 if variance else 1)
    out = out.reshape(len(x), n, n, PATCH, PATCH, channels).permute(0, 5, 1, 3, 2, 4)
    return out.reshape(len(x), channels, SIDE, SIDE)[:, :LATENTS]


def mfm(state, y, s, u, t, x, label, row, depth=DEPTH, heads=HEADS, split=EARLY):
    """The release's v_{s,u}(y; t, x): data at 0 inside, guidance in the early blocks."""
    p = {k: v.double() for k, v in state.items()}
    y, s, u, t, x = (v.double() for v in (y, s, u, t, x))
    context = embedded(p, "t_cond_embedder", t)
    named = context + p["y_embedder.embedding_table.weight"][label]
    shift, scale = linear(p, "x_cond_adaLN.1", silu(context)).chunk(2, 1)
    tokens = patches(p, "x_embedder", y) + p["pos_embed"]
    tokens = tokens + patches(p, "x_cond_embedder", x) * (1 + scale[:, None]) + shift[:, None]
    early = embedded(p, "s_embedder", 1 - s) + embedded(p, "t_embedder", 1 - u) + named
    early = early + p["guidance_embedder.embedding_table.weight"][row]
    late = embedded(p, "s_embedder_second", 1 - s) + embedded(p, "t_embedder_second", 1 - u) + named
    return -transformer(p, tokens, early, late, depth=depth, heads=heads, split=split)


def dmf(state, x, s, u, label, depth=DEPTH, heads=HEADS, split=EARLY):
    """DMF's average velocity from s to u in align's time; its own has data at 0."""
    p = {k: v.double() for k, v in state.items()}
    x, s, u = x.double(), s.double(), u.double()
    named = p["y_embedder.embedding_table.weight"][label]
    early, late = (embedded(p, "t_embedder", 1 - time) + named for time in (s, u))
    tokens = patches(p, "x_embedder", x) + p["pos_embed"]
    return -transformer(p, tokens, early, late, depth=depth, heads=heads, split=split)


def sit(state, x, t, label, *, data_at=1, variance=False):
    """SiT's velocity, or REPA's with data at 0."""
    p = {k: v.double() for k, v in state.items()}
    x, t = x.double(), t.double()
    c = embedded(p, "t_embedder", t if data_at else 1 - t)
    c = c + p["y_embedder.embedding_table.weight"][label]
    tokens = patches(p, "x_embedder", x) + p["pos_embed"]
    options = {"depth": DEPTH, "heads": HEADS, "split": EARLY, "variance": variance}
    velocity = transformer(p, tokens, c, c, **options)
    return velocity if data_at else -velocity


@pytest.fixture(autouse=True)
def _no_diffusers(monkeypatch):
    """An autoencoder of align in place of diffusers', which need not be installed here."""
    outer = Autoencoder(AutoencoderConfig(latents=LATENTS, width=8, levels=1))
    monkeypatch.setattr(vae, "load", lambda *_, **__: outer.eval().requires_grad_(False))


def saved(tmp_path, content, name="x.pt"):
    torch.save(content, tmp_path / name)
    return str(tmp_path / name)


def built(tmp_path, layout, content, **options):
    sizes = {"heads": HEADS, "encoder_depth": EARLY} | options
    return ImageNetModel(layout=layout, weights=saved(tmp_path, content), **sizes).build(CPU)


def inputs(rows=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    y, x = torch.randn((2, rows, LATENTS, SIDE, SIDE), generator=g)
    s, u, t = torch.rand((3, rows), generator=g)
    # A context at t = 0, which says nothing, and rows of no class.
    t[0] = 0
    return y, s, u, t, x, torch.tensor([281, 1000, 7, 999, 1000])[:rows]


def close(found, expected):
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


GUIDANCE = {None: [1, 0, 1, 1, 0], 1.0: 0, 2.5: 1, 1.7: 0, 1.75: 0, 1.8: 1, 7.0: 1}


@pytest.mark.parametrize(("guidance", "rows"), GUIDANCE.items())
def test_mfm_says_what_the_release_says(tmp_path, guidance, rows):
    state = tensors("mfm")
    model = built(tmp_path, "mfm", state, guidance=guidance)
    y, s, u, t, x, label = inputs()
    rows = torch.tensor(rows).expand(5)
    cond = Condition(("",) * 5, {"label": label})
    silent = torch.where(t[:, None, None, None] > 0, x, 0)
    expected = mfm(state, y, s, u, t, silent, label, rows)
    close(model.posterior_velocity(y, s, u, NoisyState(x, t, cond)), expected)
    zero = torch.zeros_like(t)
    expected = mfm(state, y, s, u, zero, 0 * x, label, rows)
    close(model.average_velocity(y, s, u, cond), expected)
    expected = mfm(state, y, s, s, zero, 0 * x, label, rows)
    close(model.velocity(y, s, cond), expected)
    assert model.rows_per_velocity == 1


def test_dmf_says_what_its_code_says(tmp_path):
    state = tensors("dmf")
    model = built(tmp_path, "dmf", state)
    y, s, u, _, _, label = inputs()
    cond = Condition(("",) * 5, {"label": label})
    close(model.average_velocity(y, s, u, cond), dmf(state, y, s, u, label))
    # Two jumps of its Euler sampler, from noise at its time 1 to data at 0.
    half, one = torch.full((5,), 0.5), torch.ones(5)
    between = model.jump(y, 0 * one, half, cond)
    mine = y.double() + 0.5 * dmf(state, y, 0 * one, half, label)
    close(between, mine)
    close(model.jump(between, half, one, cond), mine + 0.5 * dmf(state, mine, half, one, label))


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize(("layout", "data_at"), [("sit", 1), ("repa", 0)])
def test_flows_say_what_their_code_says(tmp_path, layout, data_at, variance):
    state = tensors(layout, variance=variance)
    model = built(tmp_path, layout, state)
    y, s, _, _, _, label = inputs()
    cond = Condition(("",) * 5, {"label": label})
    plain = sit(state, y, s, label, data_at=data_at, variance=variance)
    close(model.velocity(y, s, cond), plain)
    # Guidance moves all channels, by two rows.
    guided = attrs.evolve(model, guidance=4.0)
    null = sit(state, y, s, torch.full_like(label, 1000), data_at=data_at, variance=variance)
    found = guided.velocity(y, s, cond).double()
    torch.testing.assert_close(found, null + 4 * (plain - null), rtol=0, atol=1e-4)
    assert guided.rows_per_velocity == 2


def test_what_a_layout_provides_is_known_without_its_file():
    provided = {
        name: ImageNetModel(layout=name, weights="a/b").provides for name in layouts.LAYOUTS
    }
    assert provided == {
        "mfm": {FlowMap, PosteriorMap},
        "dmf": {FlowMap},
        "sit": set(),
        "repa": set(),
    }
    assert ImageNetModel(layout="mfm").domain == "image"
    with pytest.raises(
        ValueError, match="layout 'repa' has no usual place on the hub; set 'weights'"
    ):
        ImageNetModel(layout="repa")


WITH_ARGUMENTS = {
    "opt": {"state": {0: {"exp_avg": torch.ones(2)}}},
    "args": argparse.Namespace(lr=1e-4),
}
FORMS = {
    "bare": lambda s, _: s,
    "model.": lambda s, _: prefixed(s, "model."),
    "dit.": lambda s, _: prefixed(s, "dit."),
    "module.model.dit.": lambda s, _: prefixed(s, "module.model.dit."),
    "compiled": lambda s, _: prefixed(s, "_orig_mod."),
    "state_dict": lambda s, _: {"state_dict": prefixed(s, "model.dit."), "epoch": 3},
    "model and ema": lambda s, o: {"model": o, "ema": s, "steps": 9, **WITH_ARGUMENTS},
    "ema alone": lambda s, _: {"ema": s},
    "ema beside, in one table": lambda s, o: {
        "state_dict": prefixed(o, "model.") | prefixed(s, "ema_model.")
    },
    "ema below the bare keys": lambda s, o: o | prefixed(s, "ema."),
    "an averaged model": lambda s, o: {
        "model": prefixed(o, "module."),
        "ema": prefixed(s, "module.") | {"n_averaged": torch.tensor(5)},
    },
    "a callback": lambda s, o: {
        "state_dict": prefixed(o, "dit."),
        "callbacks": {"EMA": {"ema_state_dict": prefixed(s, "dit.")}},
    },
}


def prefixed(state, prefix):
    return {prefix + key: tensor for key, tensor in state.items()}


def read(path, layout="mfm", **options):
    kept = {
        "heads": HEADS,
        "encoder_depth": 1,
        "averaged": True,
        "dtype": torch.float32,
    } | options
    return layouts.network(path, layout, who="model 'imagenet'", **kept)


def same(net, state):
    held = net.state_dict()
    assert held.keys() == state.keys()
    assert all(torch.equal(held[key], state[key]) for key in state)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_is_read_whole(tmp_path, form):
    state, other = tensors("mfm", depth=1), tensors("mfm", depth=1, seed=1)
    torch.save(FORMS[form](state, other), tmp_path / "x.pt")
    same(read(tmp_path / "x.pt"), state)


@pytest.mark.parametrize("form", ["model and ema", "ema below the bare keys", "an averaged model"])
def test_weights_themselves_are_taken_where_no_average_is_wanted(tmp_path, form):
    state, other = tensors("mfm", depth=1), tensors("mfm", depth=1, seed=1)
    torch.save(FORMS[form](state, other), tmp_path / "x.pt")
    same(read(tmp_path / "x.pt", averaged=False), other)


def test_safetensors_and_half_precision_are_read(tmp_path):
    state = tensors("sit", depth=1)
    save_file(prefixed(state, "dit."), tmp_path / "x.safetensors")
    same(read(tmp_path / "x.safetensors", "sit"), state)
    half = {key: tensor.bfloat16() for key, tensor in state.items()}
    torch.save(half, tmp_path / "x.pt")
    same(read(tmp_path / "x.pt", "sit"), {key: tensor.float() for key, tensor in half.items()})
    net = read(tmp_path / "x.pt", "sit", dtype=torch.bfloat16)
    for key, tensor in net.state_dict().items():
        expected = torch.bfloat16 if key.startswith("blocks.") else torch.float32
        assert tensor.dtype == expected
        assert torch.equal(tensor.float(), half[key].float())


def test_what_training_leaves_in_files_is_left_aside(tmp_path):
    for layout, beside in (("dmf", "logvar_linear."), ("repa", "projectors.0.2.")):
        state = tensors(layout, depth=1)
        more = {beside + "weight": torch.ones(1, WIDTH), beside + "bias": torch.ones(1)}
        torch.save(state | more, tmp_path / "x.pt")
        same(read(tmp_path / "x.pt", layout), state)
        with pytest.raises(PartError, match=rf"2 unexpected .{re.escape(beside)}bias"):
            read(tmp_path / "x.pt", "sit")


class Code:
    def __reduce__(self):
        return (print, ("code ran",))


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


WRONG = {
    "missing": (
        lambda s: without(s, "blocks.0.attn.qkv.bias"),
        r"does not fit: 1 missing \(blocks.0.attn.qkv.bias\)",
    ),
    "extra": (
        lambda s: s | {"blocks.0.attn.q_norm.weight": torch.ones(1)},
        r"1 unexpected \(blocks.0.attn.q_norm",
    ),
    "extra beside a prefix": (
        lambda s: prefixed(s, "dit.") | {"head.weight": torch.ones(1)},
        r"does not fit: 1 unexpected \(head.weight\) beside the network",
    ),
    "mis-shaped": (
        lambda s: s | {"y_embedder.embedding_table.weight": torch.ones(1000, WIDTH)},
        r"1 of another shape \(y_embedder.embedding_table.weight \(1000, 24\) instead of"
        r" \(1001, 24\)",
    ),
    "no positions": (
        lambda s: without(s, "pos_embed"),
        "'x_embedder.proj.weight' and 'pos_embed' must",
    ),
    "another layout": (
        lambda _: tensors("mfm", depth=1),
        "it seems to be a meta flow map as the release of MFM saves it",
    ),
    "code": (
        lambda s: s | {"x": Code()},
        r"holds more than tensors \(it asks for 'print'\); if you trust it, convert",
    ),
    "whole numbers": (
        lambda s: s | {"blocks.0.mlp.fc1.weight": torch.ones(4 * WIDTH, WIDTH, dtype=torch.int8)},
        r"1 of another type \(blocks.0.mlp.fc1.weight int8\)",
    ),
    "an average without names": (
        lambda s: {"ema": {"shadow_params": list(s.values()), "decay": 0.999}},
        r"holds no transformer by name .*, but keys ema; give a file with a state dict",
    ),
    "two networks": (
        lambda s: prefixed(s, "student.") | prefixed(s, "teacher."),
        "holds several networks, 'student' and 'teacher'; save the one that is meant alone",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_is_one_line(tmp_path, wrong, capsys):
    make, expected = WRONG[wrong]
    path = saved(tmp_path, make(tensors("sit", depth=1)))
    with pytest.raises(PartError, match=expected) as caught:
        read(tmp_path / "x.pt", "sit")
    assert str(caught.value).startswith("model 'imagenet': ")
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not capsys.readouterr().out


def test_an_average_alone_is_refused_where_none_is_wanted(tmp_path):
    torch.save({"ema": tensors("sit", depth=1)}, tmp_path / "x.pt")
    with pytest.raises(
        PartError, match=r"holds averaged weights alone .'ema'.; leave out 'ema = false'"
    ):
        read(tmp_path / "x.pt", "sit", averaged=False)


@pytest.mark.parametrize(
    ("size", "expected"),
    {(1152, 28): (16, 20), (1024, 24): (16, 0), (768, 12): (12, 8), (384, 12): (6, 0)}.items(),
)
def test_heads_and_early_blocks_of_the_usual_sizes_are_known(size, expected):
    width, depth = size
    with torch.device("meta"):
        config = DiTConfig(width=width, depth=depth, heads=1, patch=2)
        state = dict(DiT(config, (4, 32, 32), 1000, "flow_map").state_dict())
    architecture = layouts._architecture
    dmf_layout = layouts.LAYOUTS["dmf"]
    if not expected[1]:
        with pytest.raises(PartError, match="no usual 'encoder_depth' is known"):
            architecture(state, dmf_layout, 0, 0, "x")
        config, shape = architecture(state, layouts.LAYOUTS["sit"], 0, 0, "x")
        assert config.heads == expected[0]
    else:
        config, shape = architecture(state, dmf_layout, 0, 0, "x")
        assert (config.heads, config.encoder_depth) == expected
    assert shape == (4, 32, 32)
    config, _ = architecture(state, dmf_layout, 8, 5, "x")
    assert (config.heads, config.encoder_depth) == (8, 5)


def test_heads_of_other_sizes_must_be_given(tmp_path):
    path = saved(tmp_path, tensors("dmf"))
    expected = "has width 24 and depth 3, for which no usual 'heads' and 'encoder_depth' is known"
    with pytest.raises(PartError, match=expected):
        ImageNetModel(layout="dmf", weights=path).build(CPU)
    with pytest.raises(PartError, match=r"no usual 'heads' is known, .* set 'heads'"):
        ImageNetModel(layout="sit", weights=path).build(CPU)
    with pytest.raises(PartError, match="'heads' must divide 'width', 24"):
        ImageNetModel(layout="sit", weights=path, heads=7).build(CPU)


def test_more_early_blocks_than_there_are_are_refused(tmp_path):
    saved(tmp_path, tensors("mfm", depth=1))
    with pytest.raises(PartError, match="'encoder_depth' must be at most the depth, 1, got 9"):
        read(tmp_path / "x.pt", "mfm", encoder_depth=9)


def test_a_map_grown_from_dmf_at_its_full_width_says_the_same(tmp_path):
    wide = {"width": 1152, "depth": 2}
    state = tensors("dmf", **wide)
    torch.save(state, tmp_path / "x.pt")
    small = read(tmp_path / "x.pt", "dmf", heads=16, encoder_depth=1)
    y, s, u, t, x, label = inputs()
    with torch.no_grad():
        found = grown(small, "meta_flow_map")(y, s, u, t, x, label)
    expected = dmf(state, y, s, u, label, depth=2, heads=16, split=1)
    close(found, expected)


@pytest.mark.parametrize("layout", ["sit", "repa"])
def test_a_map_grown_from_a_flow_has_its_velocity(tmp_path, layout):
    state = tensors(layout)
    torch.save(state, tmp_path / "x.pt")
    flow_map = grown(read(tmp_path / "x.pt", layout), "flow_map")
    y, s, _, t, x, label = inputs()
    expected = sit(state, y, s, label, data_at=0 if layout == "repa" else 1)
    with torch.no_grad():
        close(flow_map(y, s, s, t, x, label), expected)
        close(grown(flow_map, "meta_flow_map")(y, s, s, t, x, label), expected)


def test_a_model_asks_its_device_for_no_number(tmp_path):
    # A tensor without data, as a captured graph has, refuses to be read.
    model = built(tmp_path, "mfm", tensors("mfm", depth=1), encoder_depth=1)
    y, s, u, t, x, label = inputs()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y, s, u, t, x, label = (mode.from_tensor(v) for v in (y, s, u, t, x, label))
        cond = Condition(("",) * 5, {"label": label})
        found = [
            model.velocity(y, s, cond),
            model.jump(y, s, u, cond),
            model.posterior_jump(y, s, u, NoisyState(x, t, cond)),
            attrs.evolve(model, posterior=None, flow=model.posterior).velocity(y, s, cond),
        ]
        model.decode(found[0])
        with pytest.raises(RuntimeError, match="_local_scalar_dense"):
            float(found[0].mean())


def test_classes_are_given_by_name_synonym_and_number(tmp_path):
    model = built(tmp_path, "sit", tensors("sit", depth=1), encoder_depth=1)
    prompts = ["A photo of a tabby cat.", "281", "a picture of the tank suit", "crane bird", ""]
    assert model.encode(prompts).tensors["label"].tolist() == [281, 281, 639, 134, 1000]
    for wrong in ("1000", "a thing"):
        with pytest.raises(
            ValueError, match=r"no ImageNet class is named|names none of the classes"
        ):
            ImageNetModel(layout="mfm", prompt=wrong)
    with pytest.raises(ValueError, match=r"'crane' names 2 ImageNet classes; write 134 .* or 517"):
        ImageNetModel(layout="mfm", prompt="A photo of a crane.")
    assert ImageNetModel(layout="mfm", prompt="A {class}, or a {cardigan sweater|tabby}.").prompt


def test_each_class_has_a_spelling_that_is_read_back(tmp_path):
    assert len(set(spellings())) == 1000
    model = built(tmp_path, "sit", tensors("sit", depth=1), encoder_depth=1)
    assert model.classes == spellings()
    prompts = [f"A photograph of a {name}." for name in model.classes]
    assert model.encode(prompts).tensors["label"].tolist() == list(range(1000))
    assert [index_of(name) for name in spellings()] == list(range(1000))


def test_guidance_that_was_not_trained_is_warned_of(tmp_path, caplog):
    from loguru import logger

    lines = []
    number = logger.add(lines.append, format="{message}", level="WARNING")
    state = tensors("mfm", depth=1)
    for guidance, prompt in ((None, "tabby"), (2.5, "tabby"), (None, ""), (1.0, "")):
        built(tmp_path, "mfm", state, guidance=guidance, prompt=prompt, encoder_depth=1)
    assert not lines
    built(tmp_path, "mfm", state, guidance=1.2, prompt="tabby", encoder_depth=1)
    built(tmp_path, "mfm", state, guidance=2.5, encoder_depth=1)
    logger.remove(number)
    assert [line.strip() for line in lines] == [
        "model 'imagenet': guidance 1.2 takes the row of 1, but for classes the map was trained"
        " with 2.5 alone",
        "model 'imagenet': guidance 2.5 takes the row of 2.5, but for no class the map was trained"
        " with 1 alone",
    ]


def test_nothing_is_initialised_before_weights_are_read(tmp_path, monkeypatch):
    def refuse(net):
        raise AssertionError(net)

    torch.save(tensors("mfm", depth=1), tmp_path / "x.pt")
    monkeypatch.setattr("align.networks.dit._initialise", refuse)
    before = torch.random.get_rng_state()
    read(tmp_path / "x.pt")
    assert torch.equal(torch.random.get_rng_state(), before)
    # What is not cast is not copied either, but mapped from the file.


def test_a_file_that_is_not_there_is_a_mistake_of_the_recipe(tmp_path):
    for wrong in ("/no/folder", "a/b/c", "./here"):
        for name in ("weights", "vae"):
            with pytest.raises(ValueError, match=f"'{name}': no .* '{wrong}', as seen"):
                ImageNetModel(layout="sit", **{name: wrong})
    assert ImageNetModel(layout="sit", weights=str(tmp_path), vae="owner/name.v2").vae
    with pytest.raises(ValueError, match=r"'weights': no file 'runs/none.pt', as seen from '/"):
        ImageNetModel(layout="sit", weights="runs/none.pt")


def test_a_misspelt_path_is_not_taken_for_an_id_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("weights", "vae"):
        with pytest.raises(ValueError, match=f"'{name}': no .* 'here/nope', as seen"):
            ImageNetModel(layout="sit", **{name: "here/nope"})


def test_a_compiled_network_says_the_same_in_one_graph(tmp_path, monkeypatch):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    whole = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda net: whole(net, backend=backend, fullgraph=True)
    )
    state = tensors("mfm", depth=1)
    plain = built(tmp_path, "mfm", state, encoder_depth=1)
    compiled = built(tmp_path, "mfm", state, encoder_depth=1, compile=True)
    y, s, u, t, x, label = inputs()
    noisy = NoisyState(x, t, Condition(("",) * 5, {"label": label}))
    expected = plain.posterior_velocity(y, s, u, noisy)
    assert torch.equal(compiled.posterior_velocity(y, s, u, noisy), expected)
    assert len(graphs) == 1
