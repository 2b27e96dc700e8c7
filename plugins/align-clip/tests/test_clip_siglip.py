"""The reward `siglip`: as transformers' own processor, tokenizer and model have it."""

import json

import pytest
import torch
import transformers
from align_clip import Siglip
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

from align import PartError, Streams
from align.core.prompts import ReadsPrompts
from align.testing import conformance

CPU = torch.device("cpu")
WORDS = ("<pad>", "<eos>", "<unk>", "a", "tabby", "cat", "asleep", "on", "stove", "dog")


def saved(folder):
    """A small SigLIP of random weights in the layout in which transformers saves it."""
    tower = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower |= {"intermediate_size": 32}
    text = tower | {"vocab_size": 10, "max_position_embeddings": 8, "projection_size": 32}
    config = transformers.SiglipConfig(
        text_config=text | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1},
        vision_config=tower | {"image_size": 32, "patch_size": 8},
    )
    network = Streams(0, (0,)).initialise(lambda: _shaken(transformers.SiglipModel(config)))
    network.save_pretrained(folder)
    about = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3}
    about |= {"size": {"height": 32, "width": 32}, "image_processor_type": "SiglipImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    made = Tokenizer(models.WordLevel({w: k for k, w in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    made.save(str(folder / "tokenizer.json"))
    return folder


def _shaken(network):
    for weight in network.parameters():
        weight.data = weight.data + nn.init.normal_(torch.empty_like(weight), 0, 0.15)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("siglip"))


def picture(height=40, width=56):
    coarse = Streams(2, (0,)).uniform((3, 6, 6)).float()
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


@pytest.mark.parametrize("scale", ["cosine", "logit"])
def test_scores_are_those_of_transformers(folder, scale):
    x, prompt = picture(), "a tabby cat asleep"
    pil = Image.fromarray((x[0] * 255).byte().permute(1, 2, 0).numpy())
    maker = getattr(transformers, "SiglipImageProcessorPil", transformers.SiglipImageProcessor)
    pixels = maker.from_pretrained(folder)(pil, return_tensors="pt")["pixel_values"]
    ids = torch.tensor([[3, 4, 5, 6, 1, 0, 0, 0]])
    network = transformers.SiglipModel.from_pretrained(folder).eval()
    with torch.no_grad():
        said = network(input_ids=ids, pixel_values=pixels)
        cosine = nn.functional.cosine_similarity(said.image_embeds, said.text_embeds)
    expected = cosine if scale == "cosine" else said.logits_per_image[0]
    part = Siglip(weights=str(folder), scale=scale, match_pil=True)
    torch.testing.assert_close(part.build(CPU).score(x, [prompt]), expected, atol=1e-5, rtol=1e-5)


def test_long_prompts_are_cut_and_it_says_so(folder):
    reads = Siglip(weights=str(folder)).build(CPU).capability(ReadsPrompts)
    assert reads.left_out("a cat") == ""
    assert reads.left_out("a cat on a stove on a stove") == (
        "has 9 tokens, of which the first 8 count"
    )


def test_what_is_no_siglip_is_told_in_a_line(folder, tmp_path):
    with pytest.raises(PartError, match=r"reward 'siglip': weights: folder .* has no 'config"):
        Siglip(weights=str(tmp_path)).build(CPU)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(PartError, match=r"is no tokenizer.json"):
        Siglip(weights=str(tmp_path)).build(CPU)


def _part():
    import tempfile
    from pathlib import Path

    return Siglip(weights=str(saved(Path(tempfile.mkdtemp()))))


def pictures():
    return 0.2 + 0.6 * Streams(0, (0, 1)).uniform((3, 40, 40)).float()


test_conformance = conformance("reward", _part, on=pictures)
