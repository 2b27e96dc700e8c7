"""Half precision is warned of where it is slow, whatever part asks for it."""

from pathlib import Path

import pytest
import torch

from align.runner.half_precision import slow_precisions

RECIPE = """
[model]
kind = "any"
precision = "bfloat16"
vae_dtype = "float16"
prompt = "bfloat16"
dtype = "float32"

[mode.optimisation]
precision = "bfloat16"

[[reward]]
kind = "other"
dtype = "bfloat16"
"""
CPU = torch.device("cpu")


def told(monkeypatch, cpuinfo, device=CPU):
    monkeypatch.setattr(Path, "read_text", lambda path: cpuinfo)
    return [text.partition(":")[0] for text in slow_precisions(RECIPE, device)]


@pytest.mark.parametrize(
    ("flags", "slow"),
    [
        ("flags\t\t: fpu avx2 avx512f", "both"),
        ("flags\t\t: avx2 avx512_bf16", "float16"),
        ("flags\t\t: amx_bf16 amx_tile", "float16"),
        ("Features\t: fp asimd asimdhp", "bfloat16"),
        ("Features\t: asimdhp bf16", "none"),
        ("processor\t: 0", "none"),
    ],
)
def test_options_in_a_precision_that_the_processor_lacks_are_named(monkeypatch, flags, slow):
    bfloat16 = [
        'model.precision = "bfloat16"',
        'mode.optimisation.precision = "bfloat16"',
        'reward[0].dtype = "bfloat16"',
    ]
    expected = {"both": [*bfloat16, 'model.vae_dtype = "float16"'], "bfloat16": bfloat16}
    expected |= {"float16": ['model.vae_dtype = "float16"'], "none": []}
    found = told(monkeypatch, f"vendor_id\t: x\n{flags}\nbugs\t: y\n")
    assert sorted(found) == sorted(expected[slow])


def test_nothing_is_said_on_a_gpu_or_where_nothing_is_known(monkeypatch):
    assert told(monkeypatch, "flags\t: avx2\n", torch.device("cuda")) == []

    def fail(path):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", fail)
    assert list(slow_precisions(RECIPE, CPU)) == []
