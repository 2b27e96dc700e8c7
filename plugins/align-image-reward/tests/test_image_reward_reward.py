"""The reward `image_reward`, on small random checkpoints in the layout of the released one."""

import math
import re
import subprocess
import sys

import attrs
import pytest
import torch
from align_image_reward import ImageReward
from align_image_reward.reward import MEAN, STD
from safetensors.torch import save_file

from align import ContractError, PartError

CPU = torch.device("cpu")
SIDE, PATCH, WIDTH, DEPTH = 32, 16, 128, 2
TEXT, LAYERS = 64, 2
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = (
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    + list(LETTERS + ",.")
    + [f"##{c}" for c in LETTERS]
    + ["cat", "tabby", "##by", "the"]
)
CAT = ["a tabby cat"]


def layout():
    """Names and shapes of a checkpoint, as the package image-reward 1.5 has them."""
    see, read = "blip.visual_encoder.", "blip.text_encoder."
    yield see + "cls_token", (1, 1, WIDTH)
    yield see + "pos_embed", (1, (SIDE // PATCH) ** 2 + 1, WIDTH)
    yield see + "patch_embed.proj.weight", (WIDTH, 3, PATCH, PATCH)
    yield see + "patch_embed.proj.bias", (WIDTH,)
    for i in range(DEPTH):
        block = f"{see}blocks.{i}."
        yield from norm(block + "norm1", WIDTH)
        yield from linear(block + "attn.qkv", WIDTH, 3 * WIDTH)
        yield from linear(block + "attn.proj", WIDTH, WIDTH)
        yield from norm(block + "norm2", WIDTH)
        yield from linear(block + "mlp.fc1", WIDTH, 4 * WIDTH)
        yield from linear(block + "mlp.fc2", 4 * WIDTH, WIDTH)
    yield from norm(see + "norm", WIDTH)
    yield read + "embeddings.word_embeddings.weight", (len(VOCABULARY) + 2, TEXT)
    yield read + "embeddings.position_embeddings.weight", (64, TEXT)
    yield from norm(read + "embeddings.LayerNorm", TEXT)
    for i in range(LAYERS):
        layer = f"{read}encoder.layer.{i}."
        for attention, source in (("attention", TEXT), ("crossattention", WIDTH)):
            yield from linear(f"{layer}{attention}.self.query", TEXT, TEXT)
            yield from linear(f"{layer}{attention}.self.key", source, TEXT)
            yield from linear(f"{layer}{attention}.self.value", source, TEXT)
            yield from linear(f"{layer}{attention}.output.dense", TEXT, TEXT)
            yield from norm(f"{layer}{attention}.output.LayerNorm", TEXT)
        yield from linear(layer + "intermediate.dense", TEXT, 2 * TEXT)
        yield from linear(layer + "output.dense", 2 * TEXT, TEXT)
        yield from norm(layer + "output.LayerNorm", TEXT)
    yield from linear("blip.vision_proj", WIDTH, 256)
    yield from linear("blip.text_proj", TEXT, 256)
    widths = (TEXT, 32, 16, 16, 8, 1)
    for place, taken, given in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        yield from linear(f"mlp.layers.{place}", taken, given)


def linear(name, taken, given):
    return (f"{name}.weight", (given, taken)), (f"{name}.bias", (given,))


def norm(name, width):
    return (f"{name}.weight", (width,)), (f"{name}.bias", (width,))


def checkpoint():
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.15 * torch.randn(shape, generator=generator) for name, shape in layout()}
    for name in state:
        if "orm" in name and name.endswith("weight"):
            state[name] += 1
    places = torch.arange(64).expand(1, -1)
    return state | {"blip.text_encoder.embeddings.position_ids": places}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image_reward")
    torch.save(checkpoint(), folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    return folder


@pytest.fixture(scope="module")
def spec(folder):
    return ImageReward(weights=str(folder), tokenizer=str(folder))


@pytest.fixture(scope="module")
def reward(spec):
    return spec.build(CPU)


def pictures(count=3, height=48, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator)


def test_scores_depend_on_picture_and_prompt(reward):
    score = reward.score(pictures(), CAT * 3)
    assert score.shape == (3,)
    assert score.dtype == torch.float32
    assert score.std() > 1e-3
    other = reward.score(pictures(), ["the cat, a tabby"] * 3)
    assert ((score - other).abs() > 1e-3).all()


def test_each_picture_has_its_own_prompt(reward):
    prompts = ["a tabby cat", "the", "cat"]
    whole = reward.score(pictures(), prompts)
    alone = [reward.score(x[None], [p]) for x, p in zip(pictures(), prompts, strict=True)]
    torch.testing.assert_close(whole, torch.cat(alone))


def test_the_score_is_the_head_standardised(reward, folder):
    state = checkpoint()
    state["mlp.layers.7.bias"] += STD
    torch.save(state, folder / "shifted.pt")
    shifted = ImageReward(weights=str(folder / "shifted.pt"), tokenizer=str(folder)).build(CPU)
    gap = shifted.score(pictures(), CAT * 3) - reward.score(pictures(), CAT * 3)
    torch.testing.assert_close(gap, torch.ones(3), rtol=0, atol=1e-5)
    assert (MEAN, STD) == (0.16717362830052426, 1.0333394966054072)


def test_prompts_are_lowered_padded_and_cut_to_35(reward):
    read = reward.tokenizer.encode("A Tabby cat")
    words = [VOCABULARY[i] for i in read.ids]
    assert words == ["[CLS]", "a", "tabby", "cat", "[SEP]"] + ["[PAD]"] * 30
    assert read.attention_mask == [1] * 5 + [0] * 30
    assert reward.tokenizer.encode("tabbyby").tokens[1:3] == ["tabby", "##by"]
    long = reward.tokenizer.encode("cat " * 100)
    assert long.tokens == ["[CLS]"] + ["cat"] * 33 + ["[SEP]"]
    assert reward.left_out("cat " * 33) == ""
    assert reward.left_out("cat " * 100) == "has 100 tokens, of which the first 33 count"
    assert reward.tokenizer.token_to_id("[ENC]") == len(VOCABULARY) + 1


def test_padding_does_not_change_the_score(reward, folder):
    state = checkpoint()
    state["blip.text_encoder.embeddings.word_embeddings.weight"][0] = 9.0
    torch.save(state, folder / "padding.pt")
    other = ImageReward(weights=str(folder / "padding.pt"), tokenizer=str(folder)).build(CPU)
    torch.testing.assert_close(
        other.score(pictures(), CAT * 3), reward.score(pictures(), CAT * 3), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 60), (60, 40), (32, 32), (20, 24)])
def test_the_middle_is_seen_and_its_gradient_is_everywhere(reward, height, width):
    x = pictures(2, height, width).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(x, CAT * 2).sum(), x)
    assert gradient.isfinite().all()
    seen, short = (gradient != 0).any(1).any(0), min(height, width)
    beyond = abs(height - width) // 2 - 4  # bicubic reaches a little beyond the crop
    outer = seen[:beyond] if height > width else seen[:, : max(0, beyond)]
    assert not outer.any()
    assert seen.float().mean() > 0.9 * short / max(height, width)


def test_no_weight_gets_a_gradient_and_training_mode_changes_nothing(reward):
    before = reward.score(pictures(), CAT * 3)
    assert not before.requires_grad
    reward.network.train()
    assert torch.equal(reward.score(pictures(), CAT * 3), before)
    reward.network.eval()


def test_recomputing_changes_no_gradient(spec, reward):
    x = pictures(2).requires_grad_()
    again = attrs.evolve(spec, recompute=True).build(CPU)
    gradients = [torch.autograd.grad(one.score(x, CAT * 2).sum(), x)[0] for one in (reward, again)]
    torch.testing.assert_close(*gradients)
    assert again.recompute


def test_bfloat16_is_near_and_its_head_is_float32(spec, reward):
    half = attrs.evolve(spec, dtype="bfloat16").build(CPU)
    kinds = {p.dtype for p in half.network.blip.parameters()}
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in half.network.mlp.parameters()} == {torch.float32}
    x = pictures(6).requires_grad_()
    score, exact = half.score(x, CAT * 6), reward.score(x, CAT * 6)
    assert score.dtype == torch.float32
    assert (score - exact).abs().max() < 0.05 * exact.abs().max()
    assert torch.autograd.grad(score.sum(), x)[0].isfinite().all()


def test_climbing_raises_the_score_of_what_is_saved(reward):
    x = start = (pictures(1) * 255).round() / 255
    for _ in range(10):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(reward.score(x, CAT).sum(), x)
        x = (x + 0.02 * gradient.sign()).clamp(0, 1)
    saved = (x.detach() * 255).round() / 255
    assert reward.score(saved, CAT) > reward.score(start, CAT) + 0.1


def test_match_pil_rounds_to_levels(spec, reward):
    exact = attrs.evolve(spec, match_pil=True).build(CPU)
    square = (pictures(2, SIDE, SIDE) * 255).round() / 255
    torch.testing.assert_close(exact.score(square, CAT * 2), reward.score(square, CAT * 2))
    assert (exact.score(pictures(), CAT * 3) != reward.score(pictures(), CAT * 3)).all()


def test_safetensors_and_half_precision_files_are_read(folder, reward, tmp_path):
    state = {key: tensor.contiguous() for key, tensor in checkpoint().items()}
    save_file(state, tmp_path / "ImageReward.safetensors")
    same = ImageReward(weights=str(tmp_path), tokenizer=str(folder)).build(CPU)
    score = reward.score(pictures(), CAT * 3)
    assert torch.equal(same.score(pictures(), CAT * 3), score)
    torch.save({k: v.half() for k, v in state.items()}, tmp_path / "half.pt")
    half = ImageReward(weights=str(tmp_path / "half.pt"), tokenizer=str(folder)).build(CPU)
    torch.testing.assert_close(half.score(pictures(), CAT * 3), score, rtol=0.05, atol=0.05)


def changed(change):
    state = checkpoint()
    change(state)
    return state


def renamed(state):
    for key in list(state):
        state["reward." + key] = state.pop(key)


def without(key):
    return lambda state: state.pop(key)


def more(state):
    state["mlp.layers.8.weight"] = torch.zeros(1)


def bent(state):
    state["mlp.layers.4.bias"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (renamed, "has no 'blip.visual_encoder.patch_embed.proj.weight', and seems to be .*give"),
        (without("mlp.layers.2.bias"), r"1 missing \(mlp.layers.2.bias\)"),
        (without("mlp.layers.2.weight"), "has no 'mlp.layers.2.weight'"),
        (more, r"1 unexpected \(mlp.layers.8.weight\)"),
        (bent, r"1 of another shape \(mlp.layers.4.bias \(3,\) instead of \(16,\)\)"),
    ],
)
def test_a_checkpoint_with_wrong_keys_is_refused(change, said, folder, tmp_path):
    torch.save(changed(change), tmp_path / "wrong.pt")
    who = r"^reward 'image_reward': weights: '\S+wrong.pt' does not fit: "
    with pytest.raises(PartError, match=rf"{who}.*{said}") as told:
        ImageReward(weights=str(tmp_path / "wrong.pt"), tokenizer=str(folder)).build(CPU)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_refused(content, folder, tmp_path):
    (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(
        PartError, match=r"^reward 'image_reward': weights: .*broken\.pt' is "
    ) as told:
        ImageReward(weights=str(tmp_path / "broken.pt"), tokenizer=str(folder)).build(CPU)
    assert "\n" not in str(told.value)


def test_another_vocabulary_is_refused(folder, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY[:-3]))
    said = rf"has {len(VOCABULARY) - 3} words, and the weights are for {len(VOCABULARY)}; give"
    with pytest.raises(PartError, match=said):
        ImageReward(weights=str(folder), tokenizer=str(tmp_path)).build(CPU)


def test_missing_files_are_named_with_their_cure(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(PartError, match=r"^reward 'image_reward': weights: no file 'no.pt'"):
        ImageReward(weights="no.pt", tokenizer=str(folder)).build(CPU)
    with pytest.raises(PartError, match=r"'hf download THUDM/ImageReward ImageReward.pt'"):
        ImageReward(offline=True).build(CPU)
    cure = r"tokenizer: 'vocab.txt' .*'hf download bert-base-uncased vocab.txt'"
    with pytest.raises(PartError, match=cure):
        ImageReward(weights=str(folder), offline=True).build(CPU)


def test_the_file_of_the_package_is_found(folder, tmp_path, monkeypatch, reward):
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / ".cache" / "ImageReward"
    place.mkdir(parents=True)
    (place / "ImageReward.pt").write_bytes((folder / "ImageReward.pt").read_bytes())
    found = ImageReward(tokenizer=str(folder), offline=True).build(CPU)
    assert torch.equal(found.score(pictures(), CAT * 3), reward.score(pictures(), CAT * 3))


@pytest.mark.parametrize(
    ("data", "said"),
    [(torch.zeros(1, 4, 32, 32), "alpha"), (torch.full((1, 3, 32, 32), 200.0), "divide by 255")],
)
def test_input_that_is_no_picture_is_refused(reward, data, said):
    with pytest.raises(ContractError, match=f"^reward 'image_reward': .*{re.escape(said)}"):
        reward.score(data, CAT)


def test_the_entry_module_is_light():
    code = (
        "import sys, align_image_reward\n"
        "align_image_reward.ImageReward()\n"
        "heavy = {'transformers', 'tokenizers', 'huggingface_hub', 'align_image_reward.network'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert ImageReward.range == (-math.inf, math.inf)
