"""The features `dinov2`: the network of transformers, on pictures as PIL resizes them."""

import json

import numpy as np
import pytest
import torch
import transformers
from align_classifier import DINOv2
from align_classifier.testing import small_classifier, small_dinov2
from PIL import Image
from safetensors.torch import load_file, save_file

from align import PartError, Streams

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return small_dinov2(tmp_path / "dinov2")


def test_features_are_the_class_token_of_pictures_that_pil_resized(folder):
    levels = (Streams(0, (0,)).uniform((3, 90, 130)) * 255).round().byte()
    pil = Image.fromarray(levels[0].permute(1, 2, 0).numpy())
    resized = np.asarray(pil.resize((224, 224), Image.Resampling.BICUBIC))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.from_numpy((resized / 255 - mean) / std).permute(2, 0, 1)[None].float()
    network = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = network(pixels).last_hidden_state[:, 0]
    seen = DINOv2(weights=str(folder)).build(CPU).extract(levels.float() / 255)
    torch.testing.assert_close(seen.pooled, expected, atol=1e-5, rtol=1e-5)


def test_other_networks_and_cut_files_are_refused(folder, tmp_path):
    other = small_classifier("vit", tmp_path / "vit")
    with pytest.raises(PartError, match="is a 'vit', not a DINOv2"):
        DINOv2(weights=str(other)).build(CPU)
    state = load_file(folder / "model.safetensors")
    state.pop("layernorm.weight")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(PartError, match=r"lacks 1 weights, such as 'layernorm\.weight'"):
        DINOv2(weights=str(folder)).build(CPU)
    (folder / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    with pytest.raises(PartError, match="cannot load"):
        DINOv2(weights=str(folder)).build(CPU)
    with pytest.raises(PartError, match=r"features 'dinov2': weights: folder .* has no 'config"):
        DINOv2(weights=str(tmp_path)).build(CPU)
