from __future__ import annotations

import torch
from align_imagenet.model import ImageNetModel

from align.engine.sketch import Sketch


def test_released_map_is_planned_without_weights() -> None:
    spec = ImageNetModel(layout="mfm", prompt="tabby cat", dtype="bfloat16")
    known = spec.sketch(torch.device("cpu"))
    assert known is not None
    model, networks = known
    numbers = sum(tensor.numel() for tensor in networks[0].state_dict().values())
    assert numbers == 684_286_864
    sketch = Sketch(model, networks)
    cost = sketch.cost("posterior_jump", sketch.encode(["tabby cat"]), True)
    assert cost.how == "derived"
    assert 228e9 < cost.forward.flops.slope < 230e9
    assert cost.way_back is not None
    assert cost.way_back.peak.of(4) > 20 * cost.forward.peak.of(4)


def test_file_of_ones_own_has_no_sketch(tmp_path: object) -> None:
    assert ImageNetModel(layout="repa", weights=__file__).sketch(torch.device("cpu")) is None
