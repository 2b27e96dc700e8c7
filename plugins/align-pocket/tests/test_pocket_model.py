import copy

import attrs
import pytest
import torch
from align_pocket import Pocket, SilhouetteClass
from align_pocket.judges import CLASSES, load, prepared

from align import FlowMap, NoisyState, PosteriorMap, PromptError, RewardTerm, Streams, sample
from align.catalog.registry import load_catalog
from align.core.errors import RecipeError
from align.estimators.gradient import Gradient
from align.models.network_model import NetworkModel
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.recipe import load as load_recipe
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> NetworkModel:
    built = Pocket(prompt="cat").build(CPU)
    assert isinstance(built, NetworkModel)
    return built


def states(model, t, rows=8):
    """Noisy states at time t on the way to samples of the flow, with those samples."""
    streams = Streams(7, tuple(range(rows)))
    cond = model.class_grid(rows)
    x = streams.fold_in("a").normal(model.shape).float()
    for step in range(20):
        now = torch.full((rows,), step / 20)
        x = x + model.velocity(x, now, cond) / 20
    noise = streams.fold_in("b").normal(model.shape).float()
    time = torch.full((rows,), t)
    return NoisyState(model.path.interpolate(noise, x, time), time, cond), x


def test_model_is_what_its_spec_says(model):
    spec = Pocket()
    assert spec.domain == model.domain == "image"
    assert spec.provides == {FlowMap, PosteriorMap}
    assert isinstance(model, FlowMap)
    assert isinstance(model, PosteriorMap)
    assert model.classes == CLASSES


def test_pictures_are_in_range(model):
    _, x1 = states(model, 0.5)
    pictures = model.decode(3 * x1)
    assert pictures.shape == (8, 3, 28, 28)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert pictures.max() > 0.9


def test_diagonal_of_the_map_at_time_zero_is_the_flow(model):
    noisy, _ = states(model, 0.5)
    s, zero = noisy.t, torch.zeros_like(noisy.t)
    flow = model.velocity(noisy.x, s, noisy.cond)
    diagonal = model.posterior_velocity(noisy.x, s, s, NoisyState(noisy.x, zero, noisy.cond))
    assert ((diagonal - flow).norm() / flow.norm()) < 0.25


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_one_step_draws_have_the_mean_and_spread_of_many_step_glass(model, t):
    """Means of 12 draws: nearer to GLASS's than to the mean of other states; spreads alike."""
    noisy, _ = states(model, t, rows=4)
    streams = Streams(3, tuple(range(4)))
    ours = MetaFlowMap().sample(model, noisy, draws=12, streams=streams)
    theirs = Glass(steps=12).sample(model, noisy, draws=12, streams=streams)
    mine, yours = ours.mean(0), theirs.mean(0)
    near = (mine - yours).flatten(1).norm(dim=1)
    far = (mine - yours.roll(1, 0)).flatten(1).norm(dim=1)
    assert near.mean() < 0.5 * far.mean()
    assert 0.5 < ours.std(0).mean() / theirs.std(0).mean() < 1.5


def test_prompts_name_classes(model):
    cond = model.encode(["A silhouette of a zebra.", "", "a Cat"])
    assert cond.tensors["label"].tolist() == [9, 10, 2]
    with pytest.raises(PromptError, match="names none of the classes: bear, bird"):
        model.encode(["a spoon"])


@pytest.mark.parametrize("network", ["conv", "patch"])
def test_judges_know_the_samples_of_the_flow(model, network):
    _, x1 = states(model, 0.5, rows=60)
    judged = load(network, CPU)(prepared(model.decode(x1))).argmax(1)
    right = (judged == model.class_grid(60).tensors["label"]).float().mean()
    assert right > 0.5  # chance is .1


@pytest.mark.parametrize("network", ["conv", "patch"])
def test_judge_gradient_is_that_of_finite_differences(network):
    judge = copy.deepcopy(load(network, CPU)).double()
    x = Streams(0, (0, 1)).uniform((3, 28, 28)).requires_grad_()
    direction = Streams(1, (0, 1)).normal((3, 28, 28))

    def score(pictures):
        return torch.log_softmax(judge(prepared(pictures)), 1)[:, 2].sum()

    (gradient,) = torch.autograd.grad(score(x), x)
    with torch.no_grad():
        h = 1e-5
        difference = (score(x + h * direction) - score(x - h * direction)) / (2 * h)
    assert torch.isclose((gradient * direction).sum(), difference, rtol=1e-6)


def test_reward_scores_each_row_alone():
    reward = SilhouetteClass(label="dog").build(CPU)
    pictures = Streams(0, tuple(range(5))).uniform((3, 28, 28)).float()
    together = reward.score(pictures, [""] * 5)
    alone = torch.cat([reward.score(picture[None], [""]) for picture in pictures])
    assert together.shape == (5,)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_scales_of_the_reward_agree():
    pictures = Streams(0, tuple(range(5))).uniform((3, 28, 28)).float()
    odds = SilhouetteClass(label="dog").build(CPU).score(pictures, [""] * 5)
    log_p = SilhouetteClass(label="dog", scale="log_probability").build(CPU)
    torch.testing.assert_close(
        torch.nn.functional.logsigmoid(odds), log_p.score(pictures, [""] * 5), rtol=1e-4, atol=1e-5
    )


def test_reward_refuses_an_animal_it_does_not_know():
    with pytest.raises(ValueError, match=r"'label' must be one of 'bear'.*got 'cow bell'"):
        SilhouetteClass(label="cow bell")


def test_steering_raises_the_reward_from_the_same_noise():
    rewards = [
        RewardTerm(part=SilhouetteClass(label="cat"), weight=2.0, name="cat"),
        RewardTerm(part=SilhouetteClass(label="cat", network="patch"), held_out=True, name="other"),
    ]
    spec = Pocket(prompt="cat")
    plain = sample(spec, BestOfN(n=1, flow_steps=20), rewards=rewards, samples=12)
    steered = sample(
        spec,
        Steer(steps=20),
        rewards=rewards,
        samples=12,
        sampler=MetaFlowMap(),
        estimator=Gradient(draws=2),
    )
    assert steered.scores["cat"].mean() > plain.scores["cat"].mean()
    assert (steered.scores["cat"] >= plain.scores["cat"]).float().mean() > 0.6


def test_sample_does_not_depend_on_the_batch():
    """Batched float32 kernels sum in another order, as each processor has them.

    What differs grows on the way: guidance at t multiplies a gradient, and its rounding, by
    (1 − t)/t. With AVX512 the samples differ by up to 4e-5, but for number 3, which differs by 4e-3
    and is that sensitive: noise larger by a part in ten million, in the same batch, moves it by
    3e-3 too and most others by less than 1e-4. On mixtures, in float64, the same steps agree to
    1e-10.
    """
    rewards = [RewardTerm(part=SilhouetteClass(label="cat"), weight=2.0, name="cat")]

    def made(samples):
        return sample(
            Pocket(prompt="cat"),
            Steer(steps=10, start=0.05),
            rewards=rewards,
            samples=samples,
            sampler=MetaFlowMap(),
            estimator=Gradient(draws=2),
        ).x1

    whole = made(16)
    for rows in (1, 4):
        apart = (made(rows) - whole[:rows]).abs().flatten(1).amax(1)
        assert float(apart.median()) < 2e-4
        assert float(apart.max()) < 1e-2


def test_guidance_moves_the_velocity_away_from_no_class(model):
    noisy, _ = states(model, 0.5, rows=4)
    nothing = model.encode([""] * 4)
    named = model.velocity(noisy.x, noisy.t, noisy.cond)
    plain = model.velocity(noisy.x, noisy.t, nothing)
    guided = attrs.evolve(model, guidance=2.0).velocity(noisy.x, noisy.t, noisy.cond)
    torch.testing.assert_close(guided, 2 * named - plain, rtol=1e-3, atol=1e-3)


def test_photographs_are_of_their_size_and_their_flow_is_the_diagonal_of_their_map():
    spec = Pocket(variant="photographs", prompt="a photograph of a bison", guidance=2.5)
    model = spec.build(CPU)
    assert isinstance(model, NetworkModel)
    assert model.flow is None
    assert len(model.classes) == 29
    cond = model.encode([spec.prompt] * 2)
    assert cond.tensors["label"].tolist() == [model.classes.index("bison")] * 2
    x = Streams(0, (0, 1)).normal(model.shape).float()
    t, zero = torch.full((2,), 0.3), torch.zeros(2)
    plain = attrs.evolve(model, guidance=1.0).velocity(x, t, cond)
    torch.testing.assert_close(plain, model.posterior_velocity(x, t, t, NoisyState(x, zero, cond)))
    pictures = model.decode(x)
    assert pictures.shape == (2, 3, 64, 64)
    assert not torch.equal(pictures[:, 0], pictures[:, 1])  # in colour


def test_photographs_of_bison_are_brown_and_of_albatrosses_blue():
    def colour(prompt):
        spec = Pocket(variant="photographs", prompt=prompt, guidance=2.5)
        side = sample(spec, BestOfN(n=1, flow_steps=10), samples=8)
        return (side.data[:, 2] - side.data[:, 0]).mean()  # blue less red

    assert colour("albatross") > colour("bison") + 0.05


def test_one_step_draws_of_photographs_are_near_many_step_glass():
    model = Pocket(variant="photographs").build(CPU)
    noisy, _ = states(model, 0.5, rows=6)
    streams = Streams(3, tuple(range(6)))
    ours = MetaFlowMap().sample(model, noisy, draws=8, streams=streams).mean(0)
    theirs = Glass(steps=8).sample(model, noisy, draws=8, streams=streams).mean(0)
    near = (ours - theirs).flatten(1).norm(dim=1).mean()
    far = (ours - theirs.roll(1, 0)).flatten(1).norm(dim=1).mean()
    assert near < 0.5 * far


def test_a_prompt_that_names_two_animals_is_noted_by_model_and_reward():
    reward = RewardTerm(part=SilhouetteClass(), name="animal")
    spec = Pocket(prompt="a dog beside a zebra")
    side = sample(spec, BestOfN(n=1, flow_steps=1), samples=1, rewards=[reward])
    end = "the prompt 'a dog beside a zebra' names 'zebra' and 'dog', of which 'zebra' counts."
    assert side.warnings == (f"model 'pocket': {end}", f"reward 'animal': {end}")
    with pytest.raises(PromptError, match="names none of the classes"):
        SilhouetteClass().check_prompt("a unicorn")


@pytest.mark.parametrize("variant", ["silhouettes", "photographs"])
def test_animals_are_known_before_the_model_is_built(variant):
    spec = Pocket(variant=variant)
    assert spec.known_classes == spec.build(CPU).classes


def test_recipe_whose_prompt_names_no_animal_is_refused(tmp_path):
    path, catalog = tmp_path / "wrong.toml", load_catalog()
    path.write_text(
        '[model]\nkind = "pocket"\nprompt = "A silhouette of an animal."\n'
        '[mode]\nkind = "best_of_n"\n'
    )
    with pytest.raises(RecipeError) as error:
        load_recipe(path, catalog=catalog)
    assert str(error.value).startswith(
        f"{path}:3: model.prompt: 'A silhouette of an animal.' names none of the classes: bear, "
    )
    for good in ("", "a CAT", "A {class}.", "{dogs|horse}"):
        assert load_recipe(path, sets=[f"model.prompt='{good}'"], catalog=catalog)
