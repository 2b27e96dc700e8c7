"""The reward `aesthetic`: heads of both layouts on a small CLIP model."""

import pytest
import torch
import torch.nn.functional as F
from align_clip import Aesthetic
from align_clip.testing import picture_features, small_state, small_tokenizer

from align import ContractError, PartError, Streams
from align.io.images import preprocess, standardised

CPU = torch.device("cpu")
WIDE = small_state()["visual.proj"].shape[1]


def drawn(*shape, name="x"):
    return 0.5 * Streams(0, (0,)).fold_in(name).normal(shape)[0].float()


def linear():
    return {"weight": drawn(1, WIDE), "bias": torch.tensor([5.0])}


def layered():
    sizes, state = (WIDE, 12, 6, 4, 3, 1), {}
    for number, place in enumerate((0, 2, 4, 6, 7)):
        wide, high = sizes[number : number + 2]
        state[f"layers.{place}.weight"] = drawn(high, wide, name=str(place))
        state[f"layers.{place}.bias"] = drawn(high, name=f"b{place}")
    return state


def spec(folder, state):
    torch.save(small_state(), folder / "clip.pt")
    torch.save(state, folder / "head.pth")
    return Aesthetic(
        head=str(folder / "head.pth"),
        weights=str(folder / "clip.pt"),
        activation="gelu",
        tokenizer=str(small_tokenizer(folder / "tokenizer.json")),
    )


@pytest.mark.parametrize("head", [linear, layered])
def test_a_head_is_linear_layers_on_unit_features(head, tmp_path):
    part, state = spec(tmp_path, head()), head()
    x = Streams(1, (0, 1)).uniform((3, 40, 48)).float()
    reward = part.build(CPU)
    side = reward.clip.network.size
    seen = standardised(preprocess(x, side, "shortest side, centre crop", False))
    small = small_state()
    heads = reward.clip.network.clip.config.vision_config.num_attention_heads
    wanted = picture_features(small, seen, heads=heads, activation="gelu")
    names = sorted({name.rpartition(".")[0] for name in state})
    for name in names:
        prefix = f"{name}." if name else ""
        wanted = F.linear(wanted, state[prefix + "weight"], state[prefix + "bias"])
    score = reward.score(x, ["", ""])
    torch.testing.assert_close(score, wanted[:, 0].float(), rtol=1e-4, atol=1e-5)
    assert score.std() > 1e-3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("layers.2.bias"), "does not fit: 1 missing"),
        (lambda s: s.pop("layers.2.weight"), "is no head of linear layers"),
        (lambda s: s.update({"layers.7.weight": drawn(2, 3)}), "is no head of linear layers"),
        (lambda s: s.update(other=drawn(2)), "is no head of linear layers"),
    ],
)
def test_wrong_heads(change, said, tmp_path):
    state = layered()
    change(state)
    with pytest.raises(PartError, match=said):
        spec(tmp_path, state).build(CPU)


def test_other_mistakes_are_one_line(tmp_path):
    with pytest.raises(PartError, match=r"head: no file 'none\.pth'"):
        Aesthetic(head="none.pth").build(CPU)
    with pytest.raises(PartError, match="takes 5 features, and the CLIP model has"):
        spec(tmp_path, {"weight": drawn(1, 5), "bias": drawn(1)}).build(CPU)
    with pytest.raises(ValueError, match="'head' must name the file"):
        Aesthetic(head=" ")
    with pytest.raises(ContractError, match=r"^reward 'aesthetic': pictures must be"):
        spec(tmp_path, linear()).build(CPU).score(torch.zeros(1, 4, 32, 32), [""])
