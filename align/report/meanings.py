"""What the numbers of a run are called where they are shown, and what they say, in a sentence."""

from __future__ import annotations

from typing import Final, final

import attrs


@final
@attrs.frozen
class Meaning:
    """A number in words.

    Attributes:
        label: at an axis or above a column.
        sentence: what it says and what to look for; empty where nobody wrote one.
    """

    label: str
    sentence: str = ""


def meaning(name: str) -> Meaning:
    """Of a number of metrics.jsonl, by its name there."""
    return _STEPS.get(name) or Meaning(name.replace("_", " "))


_STEPS: Final = {
    "reward": Meaning(
        "r, which is optimised",
        "The mean of r over the samples, as it is believed at this step; it should rise.",
    ),
    "candidates": Meaning(
        "r of each candidate", "The mean of r over the samples of this candidate alone."
    ),
    "value": Meaning(
        "value V, estimated",
        "log E[e^r], given the state at this step; a law that is followed exactly keeps its mean"
        " from falling.",
    ),
    "ess": Meaning(
        "effective number of draws",
        "How many of the posterior draws carry the weight. Near 1, one draw decides alone: more"
        " draws, or a smaller weight, would make the guidance less noisy.",
    ),
    "draws": Meaning("draws at a state", "How many clean samples were drawn at each state."),
    "error": Meaning(
        "standard error of V",
        "How far the estimate of V may be off at one state; well below 1 is good.",
    ),
    "guidance": Meaning(
        "length of the guidance",
        "How hard the reward pulls, in units of a state. A peak at the end means that the reward"
        " is followed where only details are left.",
    ),
    "particles": Meaning(
        "effective number of particles",
        "How many of a sample's particles carry the weight; it jumps up where they are resampled.",
    ),
    "loss": Meaning("loss", "What training makes smaller; its last part tells whether it goes on."),
    "learning_rate": Meaning("learning rate", "The length of a training step."),
    "norm": Meaning(
        "norm of the gradient", "Peaks that reach far above the rest are a sign of unstable steps."
    ),
    "spread": Meaning("spread", "How much the samples differ; a fall is a loss of variety."),
    "moved": Meaning("moved", "How far samples are from those of the base model, from one noise."),
    "growth": Meaning(
        "growth of the velocity",
        "How much longer it is than the base model's; above .05 is a bad sign in pictures.",
    ),
}
