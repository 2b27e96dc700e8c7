"""The reward `imscore` on the package itself: a small scorer in the layout that it saves."""

import json

import pytest
import torch
from align_imscore import Imscore
from imscore.preference.model import CLIPPreferenceScorer

from align import Streams
from align.testing import conformance


@pytest.fixture(scope="module")
def scorer(tmp_path_factory, tiny):
    """A scorer on a small CLIP, and the folder that has it."""
    clip, folder = (tmp_path_factory.mktemp(name) for name in ("clip", "scorer"))
    tiny.clip_folder(clip)
    about = {"image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_rescale": True}
    about |= {"do_center_crop": True, "do_normalize": True, "size": {"shortest_edge": 96}}
    about |= {"crop_size": {"height": 96, "width": 96}, "resample": 3}
    about |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.3, 0.3, 0.3]}
    (clip / "preprocessor_config.json").write_text(json.dumps(about))
    words = json.loads((clip / "tokenizer_config.json").read_text()) | {"model_max_length": 77}
    (clip / "tokenizer_config.json").write_text(json.dumps(words))
    made = CLIPPreferenceScorer(tag=str(clip)).eval()
    made.save_pretrained(folder)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps({"tag": str(clip)}))
    PLACE["folder"] = str(folder)
    return made


PLACE = {}


def pictures():
    return 0.2 + 0.6 * Streams(0, (0, 1)).uniform((3, 100, 120)).float()


@pytest.fixture(autouse=True)
def _made(scorer):
    """The folder is there before the first test."""


def test_scores_are_the_packages(scorer):
    data, prompts = pictures(), ["a tabby cat", "a dog"]
    part = Imscore(scorer="clip_preference", weights=PLACE["folder"])
    ours = part.build(torch.device("cpu")).score(data, prompts)
    with torch.no_grad():
        expected = scorer.score(data, prompts).flatten()
    torch.testing.assert_close(ours, expected)
    assert ours[0] != ours[1]


test_conformance = conformance(
    "reward",
    lambda: Imscore(scorer="clip_preference", weights=PLACE["folder"]),
    on=pictures,
)
