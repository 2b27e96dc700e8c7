"""The likelihood of a measured picture."""

import pytest
import torch
from torch.distributions import Normal

from align.core.errors import PartError
from align.core.reward import HasReferenceImages
from align.rewards.measurement import Measurement
from align.rewards.operators import Blur, Downsample, Inpaint

CPU = torch.device("cpu")
OPERATORS = (Inpaint(box=(1, 2, 5, 4)), Downsample(factor=2), Blur(std=0.6))
each = pytest.mark.parametrize("operator", OPERATORS, ids=[o.kind for o in OPERATORS])


@pytest.fixture
def made(picture_of, grey_levels, colour_levels):
    """A reward, and its picture (C, H, W)."""

    def measure(operator, *, colour=False, std=0.1, seed=0):
        path = picture_of(colour_levels if colour else grey_levels)
        reward = Measurement(picture=path, operator=operator, std=std, seed=seed).build(CPU)
        return reward, reward.pictures()["known picture"]

    return measure


@each
@pytest.mark.parametrize("colour", [False, True])
def test_the_log_density_of_what_was_observed(operator, colour, made, noise):
    reward, _ = made(operator, colour=colour, std=0.3)
    x = noise(4, 3, 8, 6)
    seen = operator.apply(x if colour else x.mean(1, keepdim=True))
    log_p = Normal(seen, 0.3).log_prob(reward.observed.double()).flatten(1).sum(1)
    top = Normal(0.0, 0.3).log_prob(torch.tensor(0.0)) * seen[0].numel()
    assert torch.allclose(reward.score(x, [""] * 4), log_p - top, atol=1e-5)


@each
def test_the_noise_is_that_of_the_seed(operator, made):
    reward, x0 = made(operator, std=0.2)
    clean = operator.apply(x0[None])[0]
    noise = (reward.observed - clean) / 0.2
    assert torch.equal(reward.observed, made(operator, std=0.2)[0].observed)
    assert not torch.equal(reward.observed, made(operator, std=0.2, seed=1)[0].observed)
    # Mean and deviation of about 50 numbers, or 12.
    assert abs(float(noise.mean())) < 3 / noise.numel() ** 0.5
    assert float(noise.std()) == pytest.approx(1, abs=3 / (2 * noise.numel()) ** 0.5)
    # The same noise, whatever its size.
    assert torch.allclose((made(operator, std=0.4)[0].observed - clean) / 0.4, noise, atol=1e-5)


@each
def test_the_gradient_in_closed_form(operator, made, noise):
    reward, _ = made(operator, std=0.3)
    x = noise(2, 1, 8, 6).requires_grad_(True)
    (found,) = torch.autograd.grad(reward.score(x, ["", ""]).sum(), x)
    matrix = operator.apply(torch.eye(48, dtype=torch.float64).reshape(48, 1, 8, 6)).flatten(1)
    residual = reward.observed.double().flatten() - x.detach().flatten(1) @ matrix
    assert torch.allclose(found.flatten(1), residual @ matrix.T / 0.3**2, atol=1e-5)


@each
def test_a_grey_picture_counts_once_a_pixel(operator, made, noise):
    reward, _ = made(operator)
    grey = noise(3, 1, 8, 6).float()
    thrice = grey.expand(-1, 3, -1, -1)
    assert torch.allclose(reward.score(thrice, [""] * 3), reward.score(grey, [""] * 3))
    x = grey.clone().requires_grad_(True)
    (alone,) = torch.autograd.grad(reward.score(x, [""] * 3).sum(), x)
    (spread,) = torch.autograd.grad(reward.score(x.expand(-1, 3, -1, -1), [""] * 3).sum(), x)
    assert torch.allclose(alone, spread, rtol=1e-4, atol=1e-4)


def test_inpainting_does_not_care_for_what_is_hidden(made, noise):
    reward, x0 = made(OPERATORS[0])
    x = noise(1, 1, 8, 6).float()
    other = x.clone()
    other[..., 1:5, 2:4] = 9.0
    assert torch.equal(reward.score(x, [""]), reward.score(other, [""]))
    # x0 itself misses y by the noise alone: 40 pixels, each worth about a half.
    assert float(reward.score(x0[None], [""])) == pytest.approx(-20, abs=15)


@each
def test_rows_are_independent_and_the_score_is_float32(operator, made, noise):
    reward, _ = made(operator, colour=True)
    x = noise(3, 3, 8, 6).float()
    scores = reward.score(x, [""] * 3)
    alone = torch.cat([reward.score(row[None], [""]) for row in x])
    assert (scores.dtype, scores.shape) == (torch.float32, (3,))
    assert torch.allclose(scores, alone)
    assert reward.score(x.to(torch.bfloat16), [""] * 3).dtype == torch.float32


@each
def test_pictures_to_look_at(operator, made):
    reward, x0 = made(operator, colour=True, std=1e-4)
    assert isinstance(reward, HasReferenceImages)
    shown = reward.pictures()
    assert list(shown) == ["known picture", "measurement"]
    wanted = operator.show(operator.apply(x0[None])[0], 8, 6)
    assert torch.allclose(shown["measurement"], wanted, atol=1e-3)


def test_impossible_measurement_is_refused(picture_of, grey_levels, made):
    path = picture_of(grey_levels)
    with pytest.raises(PartError, match="hides the whole picture"):
        Measurement(picture=path, operator=Inpaint(box=(0, 0, 8, 6)), std=0.1).build(CPU)
    with pytest.raises(PartError, match="no file"):
        Measurement(picture="none.png", operator=Downsample(factor=2), std=0.1).build(CPU)
    with pytest.raises(ValueError, match="'std' must be greater than 0"):
        Measurement(picture=path, operator=Downsample(factor=2), std=0.0)
    reward, _ = made(Downsample(factor=2))
    with pytest.raises(PartError, match="but the model makes 4x4"):
        reward.score(torch.zeros(1, 3, 4, 4), [""])
