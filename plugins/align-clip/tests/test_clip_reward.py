"""The reward `clip`, and the engine that `hpsv2` and `pickscore` share with it."""

import contextlib
import math
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from align_clip import Clip, convert, spec
from align_clip.testing import (
    MERGES,
    climbed,
    picture_features,
    small_state,
    small_tokenizer,
    text_features,
)
from align_clip.tokens import cleaned, from_merges
from torch import nn

from align import ContractError, PartError, PromptError
from align.io.images import preprocess, standardised

CPU = torch.device("cpu")
CROP = "shortest side, centre crop"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a small checkpoint, clip.pt, and its tokenizer.json."""
    folder = tmp_path_factory.mktemp("clip")
    torch.save(small_state(), folder / "clip.pt")
    small_tokenizer(folder / "tokenizer.json")
    return folder


def build(files, name="clip.pt", activation="gelu", **options):
    tokenizer = str(files / "tokenizer.json")
    weights = str(files / name)
    part = Clip(weights=weights, tokenizer=tokenizer, activation=activation, **options)
    return part.build(CPU)


def pictures(count, side=32, seed=0):
    """Coloured noise at several scales: (count, 3, side, side) in [0.1, 0.9]."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, side, side)
    for cells in (2, 4, 8, 16):
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        total += F.interpolate(noise, size=(side, side), mode="bilinear")
    return (0.5 + 0.12 * total).clamp(0.1, 0.9)


def cosine(state, data, prompt, heads=2, activation="gelu", size=32):
    """Cosines (B,) by the second implementation."""
    seen = standardised(preprocess(data, size, CROP))
    context = len(state["positional_embedding"])
    tokens = from_merges(MERGES).encode(cleaned(prompt)).ids
    if len(tokens) > context:
        tokens = tokens[: context - 1] + tokens[-1:]
    image = picture_features(state, seen, heads=heads, activation=activation)
    words = text_features(state, torch.tensor([tokens]), heads=1, activation=activation)
    return (image * words).sum(-1)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("prompt", ["a cat", "  The “Dog” &amp; \n cat", "long " * 30])
def test_scores_are_those_of_a_second_implementation(files, activation, prompt):
    data, state = pictures(3, side=40), small_state()
    score = build(files, activation=activation).score(data, [prompt] * 3)
    expected = cosine(state, data, prompt, activation=activation)
    torch.testing.assert_close(score, expected, atol=1e-5, rtol=1e-5)
    other = cosine(state, data, prompt, activation="gelu" if activation != "gelu" else "quick_gelu")
    assert (score - other).abs().max() > 1e-4  # the activation is told apart
    assert score.std() > 1e-3


def test_the_largest_vision_towers_have_heads_of_80_channels(tmp_path):
    state = small_state(vision=1280, layers=1, inner=64)
    torch.save({"state_dict": state}, tmp_path / "clip.pt")
    small_tokenizer(tmp_path / "tokenizer.json")
    data = pictures(2)
    score = build(tmp_path).score(data, ["a cat"] * 2)
    expected = cosine(state, data, "a cat", heads=16)
    torch.testing.assert_close(score, expected, atol=1e-5, rtol=1e-5)
    assert (score - cosine(state, data, "a cat", heads=20)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("scale", "of"),
    [
        ("cosine", lambda cos: cos),
        ("clipscore", lambda cos: 2.5 * cos.clamp(min=0)),
        ("torchmetrics", lambda cos: 100 * cos.clamp(min=0)),
        ("logit", lambda cos: 40 * cos),
    ],
)
def test_scales_are_those_of_their_names(files, scale, of):
    data, prompts = pictures(6), ["1 2 3"] * 6
    plain = build(files).score(data, prompts)
    assert plain.min() < 0 < plain.max()
    torch.testing.assert_close(build(files, scale=scale).score(data, prompts), of(plain))


def archive(state, path):
    """Save a state as OpenAI does: a TorchScript archive with three numbers besides the weights."""

    root = nn.Identity()
    numbers = {"input_resolution": 32, "context_length": 16, "vocab_size": 520}
    tensors = state | {name: torch.tensor(value) for name, value in numbers.items()}
    for name, tensor in tensors.items():
        *above, last = name.split(".")
        node = root
        for step in above:
            if step not in dict(node.named_children()):
                node.add_module(step, nn.Identity())
            node = getattr(node, step)
        node.register_buffer(last, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(root, torch.zeros(1)), path)


# OpenAI's files are such archives, and newer torch says that it will drop the format.
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_openai_s_archives_say_their_activation(files, tmp_path):
    state = {name: x.half() for name, x in small_state().items()}
    archive(state, tmp_path / "ViT.pt")
    small_tokenizer(tmp_path / "tokenizer.json")
    score = build(tmp_path, "ViT.pt", activation="auto").score(pictures(2), ["a cat"] * 2)
    whole = {name: x.float() for name, x in state.items()}
    expected = cosine(whole, pictures(2), "a cat", activation="quick_gelu")
    torch.testing.assert_close(score, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(
        PartError, match=r"does not say which activation .* 'quick_gelu' for OpenAI"
    ):
        build(files, activation="auto")


@pytest.mark.parametrize("safe", [True, False])
def test_folders_as_transformers_saves_them(files, tmp_path, safe):
    from_pt = build(files)
    network = from_pt.network.clip
    network.save_pretrained(tmp_path)
    if not safe:
        (tmp_path / "model.safetensors").unlink()
        old = network.state_dict() | {
            "text_model.embeddings.position_ids": torch.arange(16)[None],
            "vision_model.embeddings.position_ids": torch.arange(17)[None],
        }
        torch.save(old, tmp_path / "pytorch_model.bin")
    small_tokenizer(tmp_path / "tokenizer.json")
    score = build(tmp_path, "", activation="auto").score(pictures(2), ["a cat"] * 2)
    torch.testing.assert_close(score, from_pt.score(pictures(2), ["a cat"] * 2))
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"model_type": "clip"', '"model_type": "siglip"'))
    with pytest.raises(PartError, match="'siglip', not 'clip'"):
        build(tmp_path, "", activation="auto")
    config.write_text("{")
    with pytest.raises(PartError, match="is no configuration"):
        build(tmp_path, "", activation="auto")


def test_the_gradient_agrees_with_finite_differences(files):
    reward = build(files, scale="logit")
    reward.network.double()
    data = pictures(2, side=40).double().requires_grad_()
    prompts = ["a cat", "a dog"]
    (gradient,) = torch.autograd.grad(reward.score(data, prompts).sum(), data)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.99
    way = torch.randn(data.shape, generator=torch.Generator().manual_seed(1)).double()
    h = 1e-6
    with torch.no_grad():
        ahead, behind = (reward.score(data + sign * h * way, prompts) for sign in (1, -1))
    slopes = (ahead - behind) / (2 * h)
    torch.testing.assert_close((gradient * way).sum((1, 2, 3)), slopes, rtol=1e-6, atol=1e-8)


def test_rows_do_not_know_of_each_other(files):
    reward, data = build(files), pictures(5)
    prompts = ["a cat", "a dog", "a cat", "something else", "cat cat"]
    whole = reward.score(data, prompts)
    single = torch.cat([reward.score(data[i : i + 1], prompts[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(whole, single, atol=1e-6, rtol=1e-5)
    assert not torch.equal(whole, reward.score(data, prompts[::-1]))


@pytest.mark.parametrize("match_pil", [False, True])
def test_climbing_raises_the_score_of_the_saved_picture(files, match_pil):
    reward, x = build(files, match_pil=match_pil), pictures(2, side=48)
    first = reward.score(x, ["a cat"] * 2)
    saved = climbed(reward, x, "a cat")
    assert (reward.score(saved, ["a cat"] * 2) > first + 0.1).all()


def test_recomputing_changes_memory_and_nothing_else(files):
    kept, results = [], []
    for recompute in (False, True):
        reward, sizes = build(files, recompute=recompute), []
        x = pictures(4).requires_grad_()
        count = sizes.append
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, count=count: (count(t.numel() * (not t.is_leaf)), t)[1], lambda t: t
        ):
            score = reward.score(x, ["a cat"] * 4)
        kept.append(sum(sizes))
        results.append((score, *torch.autograd.grad(score.sum(), x)))
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again)
    assert kept[1] < 0.5 * kept[0]


def test_the_network_is_frozen_and_never_trains(files):
    reward = build(files)
    reward.network.train()
    assert not any(module.training for module in reward.network.modules())
    assert not any(p.requires_grad for p in reward.network.parameters())
    assert not reward.score(pictures(1), ["a cat"]).requires_grad
    assert reward.score(pictures(1).requires_grad_(), ["a cat"]).requires_grad


@pytest.mark.parametrize("around", [contextlib.nullcontext(), torch.autocast("cpu")])
def test_bfloat16_towers_have_a_float32_head(files, around):
    data, prompts = pictures(4), ["a cat"] * 4
    exact = build(files, scale="logit").score(data, prompts)
    reward = build(files, scale="logit", dtype="bfloat16")
    assert reward.network.dtype == torch.bfloat16
    x = data.clone().requires_grad_()
    with around:
        score = reward.score(x, prompts)
        assert torch.equal(build(files, scale="logit").score(data, prompts), exact)
    assert score.dtype == torch.float32
    # Fine levels: were the head in bfloat16, scores would be multiples of 2⁻⁷ or so.
    assert not torch.equal(score.bfloat16().float(), score)
    assert 0 < (score - exact).abs().max() < 0.05 * 40 * 0.5
    assert torch.isfinite(torch.autograd.grad(score.sum(), x)[0]).all()
    assert reward.factor == pytest.approx(40)  # and not what is left of it in 8 bits


def test_a_prompt_is_encoded_once_and_without_a_graph(files, monkeypatch):
    reward, calls = build(files), []
    inner = reward.network.clip.get_text_features

    def counted(input_ids):
        calls.append(input_ids.shape)
        return inner(input_ids=input_ids)

    monkeypatch.setattr(reward.network.clip, "get_text_features", counted)
    x = pictures(3).requires_grad_()
    for _ in range(3):
        reward.score(x, ["a cat", "a dog", "a cat"])
    assert len(calls) == 2
    assert not reward.texts("a cat").requires_grad


def test_both_forms_of_transformers_features_are_taken(files, monkeypatch):
    reward, data = build(files), pictures(2)
    before = reward.score(data, ["a cat"] * 2)
    inner = reward.network.clip.get_image_features

    class Wrapped:
        def __init__(self, features):
            self.pooler_output = features

    for form in (Wrapped, lambda features: features):

        def other(pixel_values, form=form):
            found = inner(pixel_values=pixel_values)
            return form(found if torch.is_tensor(found) else found.pooler_output)

        monkeypatch.setattr(reward.network.clip, "get_image_features", other)
        assert torch.equal(reward.score(data, ["a cat"] * 2), before)


def test_a_long_prompt_is_cut_and_says_so(files):
    reward = build(files)
    assert reward.left_out("a dog") == ""
    long = reward.left_out("a dog " * 30)
    assert re.fullmatch(r"has \d+ tokens, of which the first 14 count", long)
    counts = int(long.split()[1])
    assert counts == len(reward.text.tokens("a dog " * 30)) - 2 > 14
    assert reward.score(pictures(1), ["a dog " * 30]).isfinite().all()


def test_input_that_cannot_be_scored_is_an_error_of_one_line(files):
    reward, data = build(files), pictures(2)
    with pytest.raises(PromptError, match=r"row 1 is empty.* set the model's 'prompt'"):
        reward.score(data, ["a cat", " "])
    with pytest.raises(ContractError, match="2 pictures and 1 prompts"):
        reward.score(data, ["a cat"])
    with pytest.raises(ContractError, match=r"^reward 'clip': pictures must be .*\(x \+ 1\) / 2"):
        reward.score(2 * data - 1, ["a cat"] * 2)
    reward.network.clip.visual_projection.weight[0, 0] = torch.nan
    with pytest.raises(ContractError, match="not a finite number; its weights are damaged"):
        reward.score(data, ["a cat"] * 2)


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: without(s, "ln_final.bias"),
            r"1 missing \(text_model\.final_layer_n",
        ),
        (lambda s: s | {"more": torch.zeros(1)}, r"1 unexpected \(more\)"),
        (lambda s: s | {"visual.proj": torch.zeros(9, 48)}, r"1 of another shape \(visual_proj"),
        (lambda s: without(s, "visual.conv1.weight"), "not a CLIP model as OpenAI and open_clip"),
        (lambda s: {"blip.visual_encoder.x": torch.zeros(1)}, "seems to be an ImageReward model"),
        (lambda s: {"layer.w": torch.zeros(1)}, r"something else, 1 tensors \(layer\.w\)"),
    ],
)
def test_weights_of_something_else_are_refused(files, tmp_path, change, said):
    torch.save(change(small_state()), tmp_path / "wrong.pt")
    small_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(PartError, match=f"^reward 'clip': .*{said}") as told:
        build(tmp_path, "wrong.pt")
    assert "\n" not in str(told.value)


def test_a_damaged_file_and_a_foreign_tokenizer_are_told_in_a_line(files, tmp_path):
    (tmp_path / "cut.pt").write_bytes((files / "clip.pt").read_bytes()[:20_000])
    with pytest.raises(PartError, match="damaged or cut off"):
        Clip(weights=str(tmp_path / "cut.pt"), activation="gelu").build(CPU)
    with pytest.raises(PartError, match="has 520 tokens, its tokenizer 49408; give the one"):
        Clip(weights=str(files / "clip.pt"), activation="gelu").build(CPU)


@pytest.mark.parametrize("package", ["transformers", "ftfy", "tokenizers"])
def test_a_missing_package_is_told_before_anything_is_loaded(files, monkeypatch, package):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )
    with pytest.raises(PartError, match=f"{package} is missing; run 'pip install {package}'"):
        build(files, "nothing.pt")


def test_a_transformers_that_cannot_be_imported_is_told_with_its_cure(files, monkeypatch):
    import builtins

    there = builtins.__import__

    def broken(name, *rest):
        if name == "transformers":
            raise RuntimeError("operator torchvision::nms does not exist")
        return there(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(PartError, match=r"nms does not exist.*if torchvision is named here"):
        build(files)


def test_building_takes_no_random_numbers(files):
    before = torch.get_rng_state()
    build(files)
    assert torch.equal(before, torch.get_rng_state())


def test_weights_of_half_precision_are_scored_in_float32(files, tmp_path):
    torch.save({name: x.half() for name, x in small_state().items()}, tmp_path / "half.pt")
    small_tokenizer(tmp_path / "tokenizer.json")
    reward = build(tmp_path, "half.pt")
    assert reward.network.dtype == torch.float32
    whole = build(files).score(pictures(2), ["a cat"] * 2)
    torch.testing.assert_close(reward.score(pictures(2), ["a cat"] * 2), whole, atol=5e-3, rtol=0)


def test_declared():
    assert Clip.range == (-math.inf, math.inf)
    assert Clip.differentiable
    assert Clip.domain == "image"
    assert convert.sizes(small_state(), "gelu")["vision_config"]["image_size"] == 32
    assert issubclass(Clip, spec.ClipSpec)
