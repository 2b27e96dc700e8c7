"""What a GPU would have to finish its work for, counted on the pretended device."""

from collections import Counter
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from align.testing.fake_device import DEVICE, FakeDeviceTensor

ATEN = torch.ops.aten
WAITS = {
    ATEN._local_scalar_dense: "item",
    ATEN.equal: "equal",
    ATEN.is_nonzero: "bool",
    ATEN.nonzero: "nonzero",
    ATEN.masked_select: "masked_select",
    ATEN._unique2: "unique",
}


class Waiting(TorchDispatchMode):
    """Counts what a GPU would have to finish its work for."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __enter__(self):
        tolist = FakeDeviceTensor.tolist

        def counted(tensor):
            self.counts["tolist"] += 1
            return tolist(tensor)

        self.patch = mock.patch.object(FakeDeviceTensor, "tolist", counted)
        self.patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, func.overloadpacket
        there = any(isinstance(leaf, FakeDeviceTensor) for leaf in tree_leaves((args, kwargs)))
        if there and packet in WAITS:
            self.counts[WAITS[packet]] += 1
        if packet is ATEN._to_copy and not kwargs.get("non_blocking"):
            moved = "from" if there else "to"
            if (kwargs.get("device") == DEVICE) != there and kwargs.get("device") is not None:
                self.counts[f"copy {moved} the device"] += 1
        masks = [leaf for leaf in tree_leaves(args[1:]) if isinstance(leaf, torch.Tensor)]
        if there and packet is ATEN.index and any(m.dtype == torch.bool for m in masks):
            self.counts["mask"] += 1
        return func(*args, **kwargs)
