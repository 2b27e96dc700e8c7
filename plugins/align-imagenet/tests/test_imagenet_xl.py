"""XL/2 at its true size, with random weights: counts, memory, and that nothing is initialised."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from align.networks.dit import DiT, DiTConfig

LOAD = """
    import json, sys, time
    from pathlib import Path
    import torch
    from align_imagenet import layouts

    before = time.perf_counter(), time.process_time()
    net = layouts.network(
        Path(sys.argv[1]), "mfm", heads=0, encoder_depth=0, averaged=True,
        dtype=getattr(torch, sys.argv[2]), who="model 'imagenet'",
    )
    loaded = time.perf_counter(), time.process_time()
    y = torch.randn(1, 4, 32, 32)
    one, label, scale = torch.ones(1), torch.tensor([281]), torch.tensor([2.5])
    with torch.no_grad():
        out = net(y, 0 * one, one, 0.3 * one, y, label, scale)
    done = time.perf_counter(), time.process_time()
    # Of this program alone: getrusage would count what its parent had.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024
    print(json.dumps({
        "tensors": len(net.state_dict()),
        "numbers": sum(tensor.numel() for tensor in net.state_dict().values()),
        "bytes": sum(tensor.nbytes for tensor in net.state_dict().values()),
        "finite": bool(out.isfinite().all()),
        "seconds to load": loaded[0] - before[0], "CPU seconds to load": loaded[1] - before[1],
        "seconds a row": done[0] - loaded[0], "CPU seconds a row": done[1] - loaded[1],
        "peak": peak,
    }))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A random file of the release's size, 2.7 GB."""
    sizes = {"width": 1152, "depth": 28, "heads": 16, "patch": 2, "encoder_depth": 20}
    with torch.device("meta"):
        config = DiTConfig(**sizes, guidance_scales=(1.0, 2.5))
        empty = DiT(config, (4, 32, 32), 1000, "meta_flow_map").state_dict()
    state = {
        key: torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)) / 30
        for key, tensor in empty.items()
    }
    path = tmp_path_factory.mktemp("xl") / "mfm-xl2.pt"
    torch.save(state, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "size", "most"), [("float32", 2.74e9, 3.3e9), ("bfloat16", 1.40e9, 2.0e9)]
)
def test_xl_is_loaded_and_called(file, dtype, size, most, capsys):
    command = [sys.executable, "-c", textwrap.dedent(LOAD), str(file), dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    with capsys.disabled():
        sys.stdout.write(f"\n{dtype}: {found}\n")
    assert (found["tensors"], found["numbers"]) == (313, 684_286_864)
    assert found["bytes"] == pytest.approx(size, rel=0.01)
    assert found["finite"]
    assert found["peak"] < most
