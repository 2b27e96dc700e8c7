"""Checks of models."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from align.core.errors import PromptError
from align.core.model import Condition, ModelSpec, NoisyState, PosteriorMap, ToData
from align.testing.checks.capabilities import (
    Modelling,
    closed_form,
    describes_conditions,
    jump_semigroup,
    jump_tangent,
    jump_to_data,
    population,
    posterior_semigroup,
    posterior_tangent,
    provides,
    scheduled,
    trainable_velocity,
)
from align.testing.checks.form import files_read, form
from align.testing.probes import close, denoiser_of, finite
from align.testing.probes import untouched as unmoved

NONSENSE: Final = "zq vwx 77 xkcd ¬"


def subject(part: ModelSpec, on: None) -> Modelling:
    """The model; it is tried as it is."""
    if on is not None:
        raise TypeError("models are tried as they are; leave `on` out")
    return Modelling(part, part.build(torch.device("cpu")))


def described(modelling: Modelling) -> None:
    """The model is what its specification says, and its states are of a floating type."""
    part, model = modelling.part, modelling.model
    assert model.domain == part.domain, f"makes '{model.domain}', but said '{part.domain}'"
    assert model.domain in ("image", "vector"), f"no domain is named '{model.domain}'"
    assert model.dtype.is_floating_point, f"states are {model.dtype}"
    sizes = model.shape and all(type(length) is int and length > 0 for length in model.shape)
    assert sizes and isinstance(model.shape, tuple), f"the shape of states is {model.shape!r}"


def path(modelling: Modelling) -> None:
    """The path runs from noise to data, its rates are those of α and β, and it has an inverse."""
    result, h = modelling.model.path, 1e-6
    ends, t = torch.tensor([0.0, 1.0]).double(), torch.linspace(0.01, 0.99, 50).double()
    close(result.alpha(ends), 1 - ends, "α at 0 and 1, and 1 and 0", digits=1e-6)
    close(result.beta(ends), ends, "β at 0 and 1, and 0 and 1", digits=1e-6)
    left = float(result.alpha(ends)[1])
    assert left == 0, f"α is {left:.3g} at t = 1, where no noise is left: it must be exactly 0"
    for name, of, rate in (
        ("α", result.alpha, result.alpha_rate),
        ("β", result.beta, result.beta_rate),
    ):
        slope = (of(t + h) - of(t - h)) / (2 * h)
        close(rate(t), slope, f"rate of {name}, and finite differences", digits=1e-5)
    ratio = result.alpha(t) ** 2 / result.beta(t) ** 2
    assert (ratio.diff() < 0).all(), "the share of noise α/β does not fall all the time"
    close(result.time_at(ratio), t, "time_at(α²/β²), and t", digits=1e-5)


def velocity(modelling: Modelling) -> None:
    """Velocities are like the states in shape, type and device, and finite from end to end."""
    noisy = modelling.noisy((0.0, 1e-3, 0.5, 0.999))
    for some in (noisy, noisy.rows(slice(0, 1))):
        result = modelling.model.velocity(some.x, some.t, some.cond)
        assert result.shape == some.x.shape, f"{tuple(result.shape)}, not {tuple(some.x.shape)}"
        assert result.dtype == some.x.dtype, f"velocities are {result.dtype}, states {some.x.dtype}"
        assert result.device == some.x.device, f"velocities are on {result.device}"
        finite(result, "velocities")
    finite(denoiser_of(modelling.model, noisy), "denoisers")


def rows_are_independent(modelling: Modelling) -> None:
    """A row's velocity, jumps and decoding are the same alone, among others and reordered."""
    model, noisy = modelling.model, modelling.noisy()

    def all_of(noisy: NoisyState) -> dict[str, Tensor]:
        end = torch.ones_like(noisy.t)
        result = {
            "velocity": model.velocity(noisy.x, noisy.t, noisy.cond),
            "decode": model.decode(noisy.x),
        }
        jumps, posterior = modelling.able(ToData), modelling.able(PosteriorMap)
        if jumps:
            result["jump"] = jumps.to_data(noisy.x, noisy.t, noisy.cond)
        if posterior:
            result["posterior_jump"] = posterior.posterior_jump(noisy.x, noisy.t / 2, end, noisy)
        return result

    together = all_of(noisy)
    for rows in ((0,), (3, 1)):
        for name, few in all_of(noisy.rows(torch.tensor(rows))).items():
            close(few, together[name][list(rows)], f"{name} of rows {rows}, and among others")


def differentiable(modelling: Modelling) -> None:
    """The velocity carries a gradient to the state, and none to the weights."""
    model, noisy = modelling.model, modelling.noisy()
    plain = model.velocity(noisy.x, noisy.t, noisy.cond)
    assert not plain.requires_grad, "a velocity has a graph of its own; freeze the weights"
    x = noisy.x.clone().requires_grad_()
    result = model.velocity(x, noisy.t, noisy.cond)
    assert result.requires_grad, "the velocity carries no gradient to the state"
    (gradient,) = torch.autograd.grad(result.square().sum(), x)
    finite(gradient, "gradient of the velocity")
    assert (gradient.flatten(1).abs().sum(1) > 0).all(), "a row of the velocity has no gradient"


def decode(modelling: Modelling) -> None:
    """Decoded states are of the declared domain, pictures about in [0, 1]; the graph is kept."""
    model = modelling.model
    x1 = modelling.noisy((0.99,) * 3).x.requires_grad_()
    data = model.decode(x1)
    dims = {"image": 4, "vector": 2}[model.domain]
    assert data.dim() == dims, f"decode makes {tuple(data.shape)}, which is no '{model.domain}'"
    assert len(data) == len(x1), f"{len(x1)} states became {len(data)} rows"
    assert data.is_floating_point(), f"decode makes {data.dtype}"
    finite(data.detach(), "decoded states")
    if model.domain == "image":
        assert data.shape[1] in (1, 3), f"pictures have {data.shape[1]} channels, expected 3"
        low, high = (float(end) for end in data.detach().aminmax())
        assert low > -0.3 and high < 1.3, (
            f"pictures are from {low:.2g} to {high:.2g}, not in [0, 1]"
        )
    assert data.requires_grad, "decode loses the graph"
    (gradient,) = torch.autograd.grad(data.sum(), x1)
    assert (gradient.flatten(1).abs().sum(1) > 0).all(), "the gradient of a decoded row is zero"


def prompts(modelling: Modelling) -> None:
    """The recipe's prompt is taken, row by row; one that cannot be followed raises PromptError."""
    model, prompt = modelling.model, modelling.part.prompt
    cond = model.encode([prompt] * 3)
    _rows_agree(cond, 3)
    for name, one in model.encode([prompt]).tensors.items():
        close(cond.tensors[name][:1].double(), one.double(), f"'{name}' of three prompts, and one")
    try:
        _rows_agree(model.encode([prompt, NONSENSE]), 2)
    except PromptError as error:
        assert str(error), "a PromptError does not say what is wrong"


def random_state(modelling: Modelling) -> None:
    """Torch's global random state is left as it was."""
    model = modelling.model
    with unmoved(model.device, "the model"):
        noisy = modelling.noisy()
        model.velocity(noisy.x, noisy.t, noisy.cond), model.decode(noisy.x)


def inputs_untouched(modelling: Modelling) -> None:
    """States and times are not changed in place."""
    model, noisy = modelling.model, modelling.noisy()
    x, t = noisy.x.clone(), noisy.t.clone()
    model.velocity(noisy.x, noisy.t, noisy.cond), model.decode(noisy.x)
    assert torch.equal(noisy.x, x), "the model changes its states in place"
    assert torch.equal(noisy.t, t), "the model changes its times in place"


def _rows_agree(cond: Condition, rows: int) -> None:
    assert len(cond) == rows, f"{rows} prompts became {len(cond)}"
    for name, tensor in cond.tensors.items():
        assert len(tensor) == rows, f"'{name}' has {len(tensor)} rows for {rows} prompts"


CHECKS: Final = (
    form,
    files_read,
    described,
    provides,
    path,
    velocity,
    rows_are_independent,
    differentiable,
    decode,
    prompts,
    random_state,
    inputs_untouched,
    jump_to_data,
    jump_semigroup,
    jump_tangent,
    posterior_semigroup,
    posterior_tangent,
    population,
    scheduled,
    trainable_velocity,
    describes_conditions,
    closed_form,
)
