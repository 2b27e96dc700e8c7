"""Adapters: nothing at the start, they alone are trained, and merged they are a plain network."""

import builtins
import importlib.util
import json

import pytest
import torch
from safetensors.torch import load

from align.catalog.convert import read_part
from align.catalog.registry import load_catalog
from align.core.errors import PartError
from align.core.objective import Loss
from align.core.option import ConfigErrors
from align.core.streams import Streams
from align.networks.dit import DiT, DiTConfig
from align.training.loop import Optimisation, Training, advance
from align.training.lora import Lora

STREAMS, LORA = Streams(0, (0,)), Lora(rank=2, alpha=3.0)


@pytest.fixture
def net():
    made = STREAMS.initialise(
        lambda: DiT(DiTConfig(width=16, depth=1, heads=2), (2, 4, 4), 3, "flow")
    )
    for number, weight in enumerate(made.parameters()):
        weight.data = 0.2 * Streams(number, (0,)).normal(tuple(weight.shape))[0].float()
    return made


def seen(net):
    x = Streams(1, (0, 1, 2)).normal((2, 4, 4)).float()
    t = torch.tensor([0.1, 0.5, 0.9])
    return net(x, t, t, 0 * t, 0 * x, torch.tensor([0, 1, 2]))


def trained(net):
    adapted = LORA.adapted(net, STREAMS)
    options = Optimisation(batch=3, learning_rate=0.1, warmup=0, ema_decay=0.5)
    training = Training.of(adapted, options, whole=False)
    for index in range(3):
        advance(
            training,
            lambda rows: Loss(seen(adapted).square().mean((1, 2, 3))),
            options,
            STREAMS,
            index,
            3,
        )
    return training


def test_they_begin_as_nothing_and_the_same_each_time(net):
    one, two = LORA.adapted(net, STREAMS), LORA.adapted(net, STREAMS)
    assert torch.equal(seen(one), seen(net))
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    named = [name for name, weight in one.named_parameters() if weight.requires_grad]
    assert named
    assert all("lora_" in name for name in named)
    assert len(named) == 2 * sum(isinstance(part, torch.nn.Linear) for part in net.modules())


def test_beside_weights_in_half_precision_they_are_in_float32_and_merge_so(net):
    net.blocks.to(torch.bfloat16)
    training = trained(net)
    named = dict(training.module.named_parameters())
    assert all(weight.dtype == torch.float32 for name, weight in named.items() if "lora_" in name)
    frozen = {w.dtype for name, w in named.items() if "blocks" in name and "lora_" not in name}
    assert frozen == {torch.bfloat16}
    merged = LORA.merged(training.ema)
    weight = merged.blocks[0].mlp.fc1.weight
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, weight.bfloat16().float())
    difference = seen(merged) - seen(training.ema)
    assert float(difference.norm() / seen(merged).norm()) < 0.03


def test_weights_in_half_precision_are_trained_in_float32(net):
    net.blocks.to(torch.bfloat16)
    training = Training.of(net, Optimisation(batch=1))
    for module in (training.module, training.ema):
        assert {weight.dtype for weight in module.parameters()} == {torch.float32}


def test_they_alone_are_trained_and_merge(net):
    training = trained(net)
    kept = dict(net.named_parameters())
    for name, weight in training.module.named_parameters():
        if "lora_" not in name:
            assert torch.equal(weight, kept[name.replace(".base_layer", "")])
    assert not torch.allclose(seen(training.module), seen(net), atol=1e-3)
    merged = LORA.merged(training.ema)
    assert merged.state_dict().keys() == net.state_dict().keys()
    torch.testing.assert_close(seen(merged), seen(training.ema), rtol=1e-4, atol=1e-5)


def test_the_optimiser_of_adapters_is_saved_and_restored(net):
    training, other = trained(net), trained(net)
    saved = training.save()
    assert all("lora_" in name for name in saved["optimiser"]["state"])
    for state in other.optimiser.state.values():
        state["exp_avg"].zero_()
    other.restore(saved)
    restored = other.save()["optimiser"]["state"]
    for name, state in training.save()["optimiser"]["state"].items():
        assert torch.equal(state["exp_avg"], restored[name]["exp_avg"])


def test_files_are_what_peft_reads(net, tmp_path):
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    training = trained(net)
    files = LORA.files(training.module)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    config = LoraConfig.from_pretrained(str(tmp_path))
    assert (config.r, config.lora_alpha) == (2, 3.0)
    own = inject_adapter_in_model(config, net)
    said = set_peft_model_state_dict(own, load(files["adapter_model.safetensors"]))
    assert not said.unexpected_keys
    torch.testing.assert_close(seen(own), seen(training.module))
    assert json.loads(files["adapter_config.json"])["peft_type"].endswith("LORA")


def test_recipe_that_needs_peft_is_refused_where_it_is_not_installed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else find(name)
    )
    table = {"kind": "finetune", "lora": {"rank": 2}}
    with pytest.raises(ConfigErrors) as caught:
        read_part("mode", table, load_catalog())
    (error,) = caught.value.errors
    assert error.key == ("lora",)
    assert error.text == "peft is not installed; pip install 'align-core[lora]'"


def test_without_peft(net, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        PartError, match=r"mode.lora: peft cannot .*; pip install 'align-core\[lora"
    ):
        LORA.adapted(net, STREAMS)


@pytest.mark.parametrize("layers", [[torch.nn.Conv2d(1, 1, 3)], [torch.nn.Embedding(2, 2)], []])
def test_network_without_linear_layers_is_one_line(layers):
    with pytest.raises(PartError, match=r"^mode\.lora: adapters lie beside linear layers \(torch"):
        LORA.adapted(torch.nn.Sequential(*layers), STREAMS)
