"""The autoencoder of diffusers around public transformers, and runs that start from them."""

import shutil
import sys

import pytest
import torch
from align_imagenet import KL, ImageNetModel, vae
from align_imagenet.testing import HEADS, SIDE, save_autoencoder, tensors
from huggingface_hub import constants

from align import PartError
from align.models.network import load
from align.runner.session import run

diffusers = pytest.importorskip("diffusers")
CPU = torch.device("cpu")
WHO = "model 'imagenet'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny files of all layouts, and an autoencoder."""
    folder = tmp_path_factory.mktemp("files")
    save_autoencoder(folder / "vae")
    for layout in ("mfm", "dmf", "sit"):
        torch.save(tensors(layout, depth=2), folder / f"{layout}.pt")
    return folder


@pytest.fixture(scope="module")
def reference(folder):
    return diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval().requires_grad_(False)


def part(folder, layout="mfm", **options):
    sizes = {"heads": HEADS, "encoder_depth": 1, "vae": str(folder / "vae")}
    return ImageNetModel(layout=layout, weights=str(folder / f"{layout}.pt"), **sizes, **options)


def latents(rows=3):
    return torch.randn((rows, 4, SIDE, SIDE), generator=torch.Generator().manual_seed(0))


def test_pictures_and_latents_are_those_of_diffusers_scaled(folder, reference):
    outer = part(folder).build(CPU).require_autoencoder()
    z, pictures = latents(), torch.rand(3, 3, 16, 16)
    expected = (reference.decode(z / 0.18215).sample + 1) / 2
    torch.testing.assert_close(outer.decode(z), expected, rtol=0, atol=1e-6)
    expected = 0.18215 * reference.encode(2 * pictures - 1).latent_dist.mean
    torch.testing.assert_close(outer.encode(pictures), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("option", [{"slice": True}, {"recompute": True}])
def test_memory_is_saved_without_another_picture_or_gradient(folder, option):
    plain, spared = (part(folder, **more).build(CPU) for more in ({}, option))
    pictures, gradients = [], []
    for model in (plain, spared):
        z = latents().requires_grad_()
        pictures.append(model.decode(z))
        gradients += torch.autograd.grad(pictures[-1].square().sum(), z)
    torch.testing.assert_close(pictures[1], pictures[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_blocks_run_again_where_memory_is_short(folder):
    def calls(**options):
        model, seen = part(folder, **options).build(CPU), []
        blocks = model.require_autoencoder().decoder.vae.decoder.up_blocks
        blocks[0].register_forward_pre_hook(lambda *_: seen.append(1))
        z = latents().requires_grad_()
        model.decode(z).sum().backward()
        return len(seen)

    assert (calls(), calls(recompute=True)) == (1, 2)


def test_tiles_are_those_of_diffusers(folder, reference):
    z = latents()
    tiled = part(folder, tile=4).build(CPU).require_autoencoder().decode(z)
    with torch.no_grad():
        whole = reference.decode(z / 0.18215).sample
        reference.enable_tiling()
        reference.tile_latent_min_size, reference.tile_sample_min_size = 4, 8
        expected = reference.decode(z / 0.18215).sample
        reference.disable_tiling()
    torch.testing.assert_close(tiled, (expected + 1) / 2, rtol=0, atol=1e-6)
    assert not torch.allclose(expected, whole, atol=1e-2)


def test_everything_is_found_in_the_cache_of_the_hub(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for repo, source in (
        ("adh1s/mfm", {"mfm-xl2.pt": folder / "mfm.pt"}),
        ("stabilityai/sd-vae-ft-mse", {path.name: path for path in (folder / "vae").iterdir()}),
    ):
        cached = tmp_path / f"models--{repo.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("0" * 40)
        (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
        for name, path in source.items():
            shutil.copy(path, cached / "snapshots" / ("0" * 40) / name)
    found = ImageNetModel(layout="mfm", heads=HEADS, encoder_depth=1).build(CPU)
    expected = part(folder).build(CPU)
    assert torch.equal(found.decode(latents()), expected.decode(latents()))
    weights = zip(found.posterior.parameters(), expected.posterior.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    with pytest.raises(PartError, match=r"'dmf_xl_2_256.pt' of 'kyungmnlee/DMF' is not in"):
        ImageNetModel(layout="dmf").build(CPU)


def test_precisions_are_those_asked_for(folder):
    exact = part(folder).build(CPU)
    model = part(folder, dtype="bfloat16", vae_dtype="bfloat16").build(CPU)
    outer = model.require_autoencoder()
    assert next(outer.decoder.parameters()).dtype == torch.bfloat16
    assert next(outer.encoder.parameters()).dtype == torch.bfloat16
    cond, z, t = model.encode(["tabby", "281", ""]), latents(), torch.full((3,), 0.4)
    for found, expected in (
        (model.decode(z), exact.decode(z)),
        (model.velocity(z, t, cond), exact.velocity(z, t, cond)),
    ):
        assert found.dtype == torch.float32
        assert 1e-4 < float((found - expected).norm() / expected.norm()) < 0.05


def test_an_autoencoder_that_cannot_be_used_is_one_line(folder, tmp_path, monkeypatch):
    def refused(where, expected):
        with pytest.raises(PartError, match=expected) as caught:
            vae.load(str(where), KL(), torch.float32, offline=True, who=WHO)
        assert str(caught.value).startswith(f"{WHO}: vae: '{where}'")
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none", "no such folder")
    refused("stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-mse")
    save_autoencoder(tmp_path / "cut")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "cut" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state.pop("decoder.conv_out.bias")
    save_file(state, file)
    refused(tmp_path / "cut", r"does not fit: 1 missing \(decoder.conv_out.bias\)")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused(
        folder / "vae", r"diffusers cannot be imported .*; pip install 'align-imagenet\[latents\]'"
    )


STEERED = """
[run]
samples = 2
unsteered = 0

[model]
kind = "imagenet"
layout = "mfm"
weights = "{folder}/mfm.pt"
vae = "{folder}/vae"
heads = 3
encoder_depth = 1
prompt = "A photo of a tabby cat."
dtype = "bfloat16"

[sampler]
kind = "mfm"

[estimator]
kind = "gradient"
draws = 2

[[reward]]
kind = "statistic"
of = "contrast"
"""


def ran(tmp_path, folder, mode):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(STEERED.format(folder=folder) + mode)
    return run(recipe, sets=[f'run.out="{tmp_path / "out"}"'], progress=False)


def test_a_map_steers(tmp_path, folder):
    result = ran(tmp_path, folder, '\n[mode]\nkind = "steer"\nsteps = 2\n')
    (arm,) = result.results
    assert arm.data.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("lora", ["", "lora = { rank = 2 }"])
def test_a_map_is_fine_tuned_and_opened_again(tmp_path, folder, lora):
    mode = f"""
[mode]
kind = "finetune"
steps = 2
pool = 4
flow_steps = 2
{lora}
optimisation = {{ batch = 4, warmup = 0 }}
evaluation = {{ every = 2, samples = 2, flow_steps = 2 }}
"""
    result = ran(tmp_path, folder, mode)
    tuned = load(result.folder / "model.safetensors", CPU, guidance=2.5)
    base = part(folder).build(CPU)
    cond, z, t = base.encode(["tabby", "281", ""]), latents(), torch.full((3,), 0.4)
    assert tuned.classes == base.classes
    torch.testing.assert_close(tuned.decode(z), base.decode(z))
    moved, still = tuned.velocity(z, t, cond), base.velocity(z, t, cond)
    assert 0 < float((moved - still).norm() / still.norm()) < 0.5
    # What was trained was in float32, though the map that it started from is not.
    weight = tuned.flow.blocks[0].mlp.fc1.weight
    assert not torch.equal(weight, weight.bfloat16().float())
