"""Draws the pictures of the documents, on mixtures whose every law is known.

    python docs/figures.py            # all of them, into docs/pictures
    python docs/figures.py posterior  # one; or sampler, estimator, dynamics: a picture a part

Samplers, estimators and dynamics that need something which a mixture lacks have no picture.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import align
from align import NoisyState, Steer, Streams
from align.catalog.registry import load_catalog
from align.core.errors import AlignError
from align.testing.worlds import line, line_part, measured, plane

PICTURES: Final = Path(__file__).resolve().parent / "pictures"
INK, DATA, DRAWS, MEAN = "#333333", "#b8b8b8", "#d9580d", "#1f6fb4"
_COLOURS: Final = 48
_STEPS: Final = 40
_LIKELIHOOD: Final = {"kind": "likelihood", "matrix": [[1.0]], "observed": [1.0], "std": 0.6}


def save(figure: Figure, name: str) -> None:
    """Write a picture with few colours on white, which is read in light and in dark."""
    raw = BytesIO()
    figure.savefig(raw, dpi=110, facecolor="white")
    plt.close(figure)
    path = PICTURES / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(raw).convert("RGB").quantize(_COLOURS).save(path, optimize=True)
    print(path)


def state(model: Any, x: Tensor, t: float) -> NoisyState:
    """Noisy states (B, D) of a mixture, all at one time."""
    times = torch.full((len(x),), t, dtype=x.dtype)
    return NoisyState(x, times, model.encode([""] * len(x)))


def posterior() -> None:
    """What p(x1 | x_t) is at three times, and what a value costs by three ways of drawing."""
    model, _ = plane()
    data = model.draw(Streams(0, tuple(range(500))))
    noise, clean = torch.tensor([-1.5, -0.9]), torch.tensor([0.3, -0.4])
    figure, panels = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
    for panel, t in zip(panels, (0.15, 0.45, 0.8), strict=False):
        noisy = state(model, ((1 - t) * noise + t * clean)[None].double(), t)
        draws = model.draw_posterior(noisy, 120, Streams(0, (0,)))[:, 0]
        panel.scatter(*data.T, s=5, color=DATA, label="data, p(x1)")
        panel.scatter(*draws.T, s=9, color=DRAWS, label="draws of p(x1 | x_t)")
        panel.scatter(*model.denoiser(noisy).T, s=90, marker="P", color=MEAN, label="their mean")
        panel.scatter(*noisy.x.T, s=50, color=INK, label="noisy state x_t")
        panel.set(
            title=f"t = {t}", xticks=[], yticks=[], aspect="equal", xlim=(-5, 5), ylim=(-5, 5)
        )
    panels[0].legend(loc="upper left", fontsize=7)
    _errors(model, panels[3])
    save(figure, "posterior")


def _errors(model: Any, panel: Any) -> None:
    """Root mean square error of V̂ over the network calls of a state."""
    reward = measured(((1.0, 1.0),), (3.0,), 1.5)
    rows = tuple(range(200))
    x1, noise = model.draw(Streams(1, rows)), Streams(2, rows).normal((2,)).double()
    noisy = state(model, 0.7 * noise + 0.3 * x1, 0.3)
    exact = model.value(noisy, reward)

    def error(kind: str, draws: int, **options: int) -> float:
        sampler = align.read_part("sampler", {"kind": kind, **options}, load_catalog())
        x1 = sampler.sample(model, noisy, draws=draws, streams=Streams(3, rows))
        (term,) = reward.terms
        r = term.reward.score(x1.flatten(0, 1), ()).unflatten(0, (draws, -1))
        return float((r.logsumexp(0) - torch.tensor(draws).log() - exact).square().mean().sqrt())

    many = (1, 4, 16, 64, 256)
    panel.plot([1], [error("dps", 1)], "P", ms=9, color=MEAN, label="the mean alone")
    simulated = [error("glass", draws, steps=16) for draws in many]
    panel.plot([16 * n for n in many], simulated, "s--", color=INK, label="draws by simulation")
    jumps = [error("mfm", draws) for draws in many]
    panel.plot(many, jumps, "o-", color=DRAWS, label="draws by a meta flow map")
    panel.set(
        xscale="log", yscale="log", xlabel="network calls a state", title="error of the value"
    )
    panel.legend(fontsize=7)


def sampler(kind: str, part: Any) -> None:
    """Draws of a sampler beside exact ones."""
    model, _ = plane()
    noisy = state(model, torch.tensor([[-0.7, -0.6]], dtype=torch.float64), 0.35)
    exact = model.draw_posterior(noisy, 300, Streams(0, (0,)))[:, 0]
    draws = part().sample(model, noisy, draws=80, streams=Streams(1, (0,)))[:, 0].detach()
    figure, panel = plt.subplots(figsize=(4.2, 3.2), layout="constrained")
    panel.scatter(*exact.T, s=6, color=DATA, label="exact posterior")
    panel.scatter(*draws.T, s=12, color=DRAWS, label=f"80 draws of '{kind}'")
    panel.scatter(*noisy.x.T, s=50, color=INK, label="x_t, t = 0.35")
    panel.set(xticks=[], yticks=[], xlim=(-5.5, 3.5), ylim=(-5, 4))
    panel.legend(fontsize=7, loc="upper left")
    save(figure, f"parts/sampler_{kind}")


def estimator(kind: str, part: Any) -> None:
    """Samples that an estimator steered, beside the law that they should have."""
    options = {"draws": 4} if "draws" in {f.name for f in part.__attrs_attrs__} else {}
    result = align.sample(
        line_part(),
        Steer(steps=_STEPS),
        samples=1500,
        sampler="mfm",
        estimator=part(**options),
        rewards=_LIKELIHOOD,
    )
    model, reward = line()
    rows = tuple(range(20_000))
    figure, panel = plt.subplots(figsize=(4.2, 2.8), layout="constrained")
    bins = torch.linspace(-3.5, 4, 76).tolist()
    law = {"density": True, "bins": bins, "histtype": "step"}
    panel.hist(model.draw(Streams(0, rows))[:, 0], color=DATA, label="base model p", **law)
    tilted = model.draw_tilted(reward, Streams(1, rows))[:, 0]
    panel.hist(tilted, color=INK, label="tilted law p*", **law)
    label = f"steered, '{kind}'" + (", 4 draws" if options else "")
    panel.hist(result.x1[:, 0], bins=bins, density=True, color=DRAWS, alpha=0.6, label=label)
    panel.set(yticks=[], ylim=(0, 1.15))
    panel.legend(fontsize=7, loc="upper left")
    save(figure, f"parts/estimator_{kind}")


def dynamics(kind: str, part: Any) -> None:
    """Paths of 24 samples from noise to data, and where 1500 end."""
    result = align.sample(
        line_part(),
        Steer(steps=_STEPS, dynamics=part()),
        samples=1500,
        estimator="exact",
        rewards={**_LIKELIHOOD, "observed": [0.0], "std": 50.0},
        trajectory=True,
    )
    path = torch.stack([step.x[:24, 0] for step in result.trajectory])
    times = torch.arange(1, len(path) + 1) / len(path)
    figure, (paths, ends) = plt.subplots(
        1, 2, figsize=(5, 2.8), width_ratios=(3, 1), sharey=True, layout="constrained"
    )
    paths.plot(times, path, color=DRAWS, lw=0.7)
    paths.set(xlabel="t", title=f"'{kind}', {_STEPS} steps", ylim=(-3.8, 4))
    model, _ = line()
    law = {
        "density": True,
        "bins": torch.linspace(-3.5, 4, 76).tolist(),
        "orientation": "horizontal",
    }
    ends.hist(result.x1[:, 0], color=DRAWS, alpha=0.6, **law)
    exact = model.draw(Streams(0, tuple(range(20_000))))[:, 0]
    ends.hist(exact, color=INK, histtype="step", **law)
    ends.set(xticks=[], title="ends, and p")
    save(figure, f"parts/dynamics_{kind}")


def parts(contract: str, draw: Callable[[str, Any], None]) -> None:
    """A picture for each part of a contract that a mixture can show."""
    for kind, entry in load_catalog().parts[contract].items():
        try:
            draw(kind, entry.cls)
        except (AlignError, TypeError) as error:
            print(f"{contract} '{kind}' has no picture: {error}")


def floors() -> None:
    """The packages of align by floor, from the layers that import-linter keeps."""
    with (PICTURES.parents[1] / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    figure, panel = plt.subplots(figsize=(9, 3.4), layout="constrained")
    for number, layer in enumerate(layers):
        names = layer.split(" : ")
        height = len(layers) - number
        for place, name in enumerate(names):
            left, width = 10 * place / len(names), 10 / len(names)
            panel.add_patch(
                plt.Rectangle((left + 0.05, height), width - 0.1, 0.72, fc="#f3e2d6", ec=DRAWS)
            )
            size = 11 if len(names) < 6 else 7.5
            panel.text(left + width / 2, height + 0.36, name, ha="center", va="center", size=size)
    panel.annotate("", (10.35, 1), (10.35, len(layers) + 0.8), arrowprops={"arrowstyle": "->"})
    panel.text(10.5, len(layers) / 2 + 0.8, "imports", rotation=90, va="center")
    panel.set(xlim=(0, 10.9), ylim=(0.9, len(layers) + 0.9))
    panel.axis("off")
    save(figure, "floors")


def drawings() -> Iterator[tuple[str, Callable[[], None]]]:
    """What may be drawn, by name."""
    yield "posterior", posterior
    yield "floors", floors
    for contract, draw in (("sampler", sampler), ("estimator", estimator), ("dynamics", dynamics)):
        yield contract, lambda contract=contract, draw=draw: parts(contract, draw)


if __name__ == "__main__":
    mpl.use("Agg")
    known = dict(drawings())
    for name in sys.argv[1:] or known:
        known[name]()
