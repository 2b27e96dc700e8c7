"""Fine-tuning: the flow's own samples follow the tilted law; what is told on the way."""

import attrs
import pytest
import torch

from align.core.errors import PartError
from align.core.path import PATHS
from align.core.problem import Problem
from align.core.reward import Reward, Term, WeightedReward
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.mixture import Mixture
from align.models.network import load
from align.models.network_model import NetworkModel
from align.models.torch import Torch
from align.modes.finetune.data import CleanData
from align.modes.finetune.draft import Draft
from align.modes.finetune.evaluation import (
    Evaluation,
    along_paths,
    detect_hacking,
    samples,
    spread,
    warn_of_growth,
)
from align.modes.finetune.gradient import GradientObjective
from align.modes.finetune.mode import FineTune
from align.modes.finetune.stein import SteinObjective
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiT, DiTConfig
from align.networks.mlp import MLPConfig
from align.rewards.linear import Likelihood
from align.samplers.exact import ExactPosterior
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap
from align.testing.distances import w1
from align.testing.probes import Plain
from align.testing.worlds import line, line_part
from align.training import weights
from align.training.loop import Optimisation
from align.training.lora import Lora

STREAMS, CPU = Streams(0, tuple(range(2000))), torch.device("cpu")
FAST = Optimisation(batch=256, learning_rate=5e-3, warmup=20, ema_decay=0.98)
FASTER = Optimisation(batch=256, learning_rate=1e-2, warmup=10, ema_decay=0.95)
QUICK = Evaluation(every=100, samples=256, flow_steps=25)


def _run(mode, problem, streams=STREAMS):
    state, numbers = mode.init(problem, streams), []
    for index in range(mode.steps):
        state, info = mode.step(problem, state, index, streams)
        numbers.append(dict(info.numbers))
    return state, numbers


def _line(sampler=None, *others, path="linear"):
    model, reward = line(path)
    cond = model.encode([""] * len(STREAMS.samples))
    terms = WeightedReward((*reward.terms, *others))
    guarded = GuardedModel(model, "line", Meter(), 1 << 20)
    return Problem(guarded, terms, sampler, cond=cond, part=line_part(path))


@pytest.fixture(scope="module")
def truth():
    model, reward = line()
    streams = Streams(1, tuple(range(2000)))
    return model.draw_tilted(reward, streams)[:, 0], model.draw(streams)[:, 0]


@pytest.mark.parametrize(
    ("objective", "sampler", "path"),
    [
        # tests/testing/test_worlds.py has each of them on the other path.
        (GradientObjective(), MetaFlowMap(), "linear"),
        (SteinObjective(draws=4), ExactPosterior(), "linear"),
        (SteinObjective(draws_from="data"), None, "trigonometric"),
    ],
    ids=str,
)
def test_own_samples_follow_the_tilted_law(objective, sampler, path, truth, tmp_path):
    mode = FineTune(
        net=MLPConfig(width=64, depth=2),
        objective=objective,
        optimisation=FASTER,
        steps=150,
        evaluation=QUICK,
    )
    problem = _line(sampler, path=path)
    state, numbers = _run(mode, problem)
    tilted, plain = truth
    x1 = mode.finish(problem, state)
    assert w1(plain, tilted) > 1
    assert w1(x1[:, 0], tilted) < 0.12
    assert numbers[-1]["likelihood"] > numbers[0]["likelihood"] + 4
    # The running log-mean-exp ends at V_0 = log E e^r.
    model, reward = line()
    draws = model.draw(Streams(2, tuple(range(100_000))))
    value = float(torch.logsumexp(reward.total(draws, [""]), 0) - torch.tensor(1e5).log())
    assert numbers[-1]["c"] == pytest.approx(value, abs=0.15)
    export = mode.export(problem, state)
    weights.write(tmp_path / "m.safetensors", export.modules, export.about, torch.float32)
    again = load(tmp_path / "m.safetensors", CPU)
    assert again.posterior is None
    assert again.path == PATHS[path]
    cond, t = again.encode(["", ""]), torch.tensor([0.3, 0.6])
    torch.testing.assert_close(
        again.velocity(torch.ones(2, 1), t, cond),
        attrs.evolve(state.model, flow=state.training.ema)
        .velocity(torch.ones(2, 1), t, cond)
        .detach(),
    )


@pytest.mark.parametrize(
    ("objective", "sampler"),
    [(SteinObjective(draws_from="data"), None), (GradientObjective(), Glass(steps=4))],
    ids=str,
)
def test_a_path_of_tilts(objective, sampler, truth):
    mode = FineTune(
        net=MLPConfig(width=64, depth=2),
        objective=objective,
        path="tilt",
        stages=3,
        pool=2000,
        flow_steps=20,
        optimisation=attrs.evolve(FASTER, decay="none"),
        steps=180,
        evaluation=attrs.evolve(QUICK, every=60),
    )
    problem = _line(sampler)
    state, numbers = _run(mode, problem)
    tilted, _ = truth
    first = numbers[59]["likelihood"]
    assert numbers[0]["likelihood"] < first - 1 < numbers[-1]["likelihood"] - 1.3
    assert w1(mode.finish(problem, state)[:, 0], tilted) < 0.2
    # What is saved makes the last stage again.
    again = mode.init(problem, STREAMS)
    mode.restore(again, mode.save(state))
    assert int(again.stage) == 2
    assert torch.equal(again.clean.examples.states, state.clean.examples.states)


def test_a_path_of_tilts_needs_draws_of_each_stage():
    with pytest.raises(PartError, match="sampler 'mfm' draws from the posterior of the base"):
        FineTune(net=MLPConfig(width=8), path="tilt").init(_line(MetaFlowMap()), STREAMS)
    with pytest.raises(ValueError, match="'stages' must divide 'steps', 10"):
        FineTune(path="tilt", steps=10, stages=3)


def test_draft_climbs_and_forgets_the_law(truth):
    mode = FineTune(
        net=MLPConfig(width=64, depth=2),
        objective=Draft(last=5, flow_steps=10),
        optimisation=FAST,
        steps=100,
        evaluation=QUICK,
    )
    problem = _line()
    state, numbers = _run(mode, problem)
    x1 = mode.finish(problem, state)[:, 0]
    assert float((x1 - 1).abs().mean()) < 0.1
    assert float(x1.std()) < 0.5 * float(truth[0].std())
    assert numbers[-1]["spread"] < 0.5 * numbers[0]["spread"]


@attrs.frozen(eq=False)
class Far(Reward):
    """|x − 1|: what a held-out judge likes, and the trained reward leads away from."""

    def score(self, data, prompts):
        return (data[:, 0] - 1).abs()


def test_a_hacked_reward_is_said_and_may_end_training():
    held = Term(name="far", reward=Far(), held_out=True)
    problem = _line(MetaFlowMap(), held)
    base = Evaluation(every=50, samples=128, flow_steps=10, errors=0.5)
    mode = FineTune(
        net=MLPConfig(width=32),
        objective=Draft(last=5, flow_steps=5),
        optimisation=FAST,
        steps=150,
        evaluation=base,
    )
    state, numbers = _run(mode, problem)
    assert numbers[-1]["far"] < numbers[0]["far"]
    (said,) = mode.warnings(state)
    assert said.startswith("the reward was hacked: 'likelihood', which is trained, went from")
    again = mode.init(problem, STREAMS)
    assert not mode.warnings(again)
    mode.restore(again, mode.save(state))
    assert mode.warnings(again) == (said,)


def test_stopping_keeps_the_weights():
    held = Term(name="far", reward=Far(), held_out=True)
    problem = _line(MetaFlowMap(), held)
    mode = FineTune(
        net=MLPConfig(width=16),
        objective=Draft(last=1, flow_steps=2),
        optimisation=FAST,
        steps=6,
        evaluation=Evaluation(every=2, samples=8, flow_steps=4, stop=True),
    )
    state = mode.init(problem, STREAMS)
    for name, value in state.best["far"].items():
        state.at_hacking[name].copy_(value - (10 if name == "far" else 0))
    assert mode.warnings(state)
    before = {k: v.clone() for k, v in state.training.module.state_dict().items()}
    state, info = mode.step(problem, state, 1, STREAMS)
    assert not info.numbers
    assert all(torch.equal(before[k], v) for k, v in state.training.module.state_dict().items())


def test_the_divergence_of_a_known_shift():
    """Between two Gaussians' flows, the path divergence bounds KL from above, near it."""
    base, moved = (
        Mixture(weights=(1,), means=((mean,),), stds=(1.0,)).build(CPU) for mean in (0.0, 0.7)
    )
    streams = Streams(0, tuple(range(4000)))
    cond = base.encode([""] * 4000)
    found, _ = along_paths(base, moved, cond, streams, 200)
    assert along_paths(base, base, cond, streams, 20) == pytest.approx((0, 0), abs=1e-12)
    assert found == pytest.approx(0.7**2 / 2, rel=0.1)


@pytest.mark.parametrize("factor", [1.0, 1.12, 0.9])
def test_growth_of_a_velocity_that_is_longer_is_its_factor(factor):
    base = Mixture(weights=(1,), means=((0.3,),), stds=(0.8,)).build(CPU)

    class Longer(Plain):
        def velocity(self, x, t, cond):
            return factor * base.velocity(x, t, cond)

    streams, cond = Streams(0, (0, 1, 2)), base.encode([""] * 3)
    _, growth = along_paths(base, Longer(base), cond, streams, 5)
    assert growth == pytest.approx(factor - 1)
    warning = warn_of_growth(growth, "image")
    assert ("12% longer" in warning) == bool(warning) == (factor == 1.12)
    assert not warn_of_growth(growth, "vector")


def test_spread_is_within_a_prompt():
    data = torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0], [9.0, 9.0]])
    assert spread(data, ("a", "a", "b", "b")) == pytest.approx((0.5 * (4 + 0) / 2) ** 0.5)


def _pictures(prompts):
    """Small pictures of two classes, a prompt for each in turn."""

    def made():
        net, shape = DiTConfig(width=16, depth=1, heads=2, encoder_depth=1), (2, 4, 4)
        auto = Autoencoder(AutoencoderConfig(colours=1, width=8, levels=1, latents=2))
        flow, posterior = (DiT(net, shape, 2, role) for role in ("flow", "meta_flow_map"))
        return NetworkModel(
            shape=shape,
            classes=("cat", "dog"),
            flow=flow,
            posterior=posterior,
            autoencoder=auto,
        )

    model = Streams(0, ()).initialise(made)
    reward = WeightedReward((Term(name="bright", reward=Bright()),))
    problem = Problem(model, reward, MetaFlowMap(), prompts=prompts)
    return attrs.evolve(problem, cond=problem.condition(range(4)))


@attrs.frozen(eq=False)
class Bright(Reward):
    def score(self, data, prompts):
        assert all(prompt.startswith("a ") for prompt in prompts)
        return data.mean((1, 2, 3))


def test_rows_of_training_have_their_own_prompts():
    problem = _pictures(("a cat", "a dog"))
    clean = CleanData.of(None, problem, 6, 2, 0)
    x1, cond = clean.rows(Streams(0, tuple(range(40))))
    assert x1.shape == (40, *problem.model.shape)
    assert set(cond.prompts) == {"a cat", "a dog"}
    assert all(
        (p == "a dog") == bool(k) for p, k in zip(cond.prompts, cond.tensors["label"], strict=True)
    )
    assert clean.in_turn(range(3)).prompts == ("a cat", "a dog", "a cat")


def test_one_prompt_keeps_its_class():
    problem = _pictures(("a dog",))
    _, cond = CleanData.of(None, problem, 3, 2, 0).rows(Streams(0, (0, 1, 2)))
    assert cond.prompts == ("a dog",) * 3
    assert cond.tensors["label"].tolist() == [1, 1, 1]


def test_pictures_are_fine_tuned_and_told():
    problem = _pictures(("a cat", "a dog"))
    streams = Streams(0, tuple(range(4)))
    mode = FineTune(
        pool=8,
        flow_steps=2,
        steps=3,
        optimisation=attrs.evolve(FAST, batch=4),
        evaluation=Evaluation(every=3, samples=4, flow_steps=2),
    )
    state, numbers = _run(mode, problem, streams)
    assert {"bright", "edges", "spread", "moved", "divergence", "growth"} <= {*numbers[-1]}
    assert float(state.growth) == numbers[-1]["growth"]
    assert numbers[0]["divergence"] == 0
    assert state.base_info.errors["bright"] > 0
    assert mode.finish(problem, state).shape == (4, *problem.model.shape)


def test_a_map_alone_is_fine_tuned_as_the_flow_it_has_on_its_diagonal(tmp_path):
    problem = _pictures(("a cat", "a dog"))
    problem = attrs.evolve(problem, model=attrs.evolve(problem.model, flow=None))
    torch.nn.init.normal_(problem.model.posterior.final_layer.linear.weight, std=0.1)
    torch.nn.init.normal_(problem.model.posterior.x_cond_embedder.proj.weight)
    before = {k: v.clone() for k, v in problem.model.posterior.state_dict().items()}
    streams = Streams(0, tuple(range(4)))
    mode = FineTune(
        pool=8,
        flow_steps=2,
        steps=3,
        optimisation=attrs.evolve(FAST, batch=4),
        evaluation=Evaluation(every=3, samples=4, flow_steps=2),
    )
    state, numbers = _run(mode, problem, streams)
    assert numbers[0]["divergence"] == 0 < numbers[-1]["divergence"]
    assert all(torch.equal(before[k], v) for k, v in problem.model.posterior.state_dict().items())
    export = mode.export(problem, state)
    weights.write(tmp_path / "m.safetensors", export.modules, export.about, torch.float32)
    again = load(tmp_path / "m.safetensors", CPU)
    assert again.posterior is None and again.flow.role == "meta_flow_map"
    moved = samples(again, problem.cond, streams.fold_in("start"), 2)
    torch.testing.assert_close(mode.finish(problem, state), moved, rtol=1e-4, atol=1e-5)


def test_the_published_code_trains_the_velocity_without_guidance():
    problem = _pictures(("a cat", "a dog"))
    model, plain = attrs.evolve(problem.model, guidance=3.0), problem.model
    for layer in (problem.model.flow.final_layer.linear, problem.model.flow.y_embedder):
        torch.nn.init.normal_(next(layer.parameters()))
    guarded = GuardedModel(model, "network", Meter(), 8)
    problem = attrs.evolve(problem, model=guarded)
    rows = Streams(0, tuple(range(6)))
    for release, wanted in ((False, model), (True, plain)):
        mode = FineTune(
            objective=GradientObjective(as_released=release),
            pool=8,
            flow_steps=2,
            optimisation=attrs.evolve(FAST, batch=4),
            evaluation=Evaluation(samples=2, flow_steps=2),
        )
        target = mode.init(problem, rows).target
        noisy, _ = target.noisy(rows, 0.1)
        wanted = wanted.velocity(noisy.x, noisy.t, noisy.cond)
        torch.testing.assert_close(target.base_velocity(noisy), wanted)
        torch.testing.assert_close(target.velocity(noisy), wanted)
        assert target.student.guidance == 3.0


def test_strength_is_a_factor_on_the_reward():
    problem = _line(MetaFlowMap())
    levels = []
    for strength in (1.0, 2.0):
        mode = FineTune(net=MLPConfig(width=8), strength=strength, steps=1, optimisation=FAST)
        target = mode.init(problem, STREAMS).target
        levels.append(target.problem.reward.terms[0].weight)
    assert levels == [1.0, 2.0]


def test_a_model_without_networks_needs_one():
    with pytest.raises(PartError, match=r"mode\.net: the model has no module"):
        FineTune().init(_line(MetaFlowMap()), STREAMS)


def test_statistics_of_batch_normalisation_stay_so_that_rows_are_alone(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)\n"
        "    def forward(self, x, t):\n"
        "        return self.norm(self.linear(x)) + 1\n"
        "def model():\n"
        "    return Net()\n"
    )
    part = Torch(file=str(tmp_path / "net.py"), shape=(2,))
    model, streams = part.build(CPU), Streams(0, tuple(range(4)))
    reward = Likelihood(matrix=((1.0, 0.0),), observed=(1.0,), std=0.5).build(CPU)
    terms = WeightedReward((Term(name="likelihood", reward=reward),))
    cond = model.encode([""] * 4)
    problem = Problem(
        GuardedModel(model, "torch", Meter(), 64), terms, Glass(steps=2), cond=cond, part=part
    )
    mode = FineTune(
        pool=16,
        flow_steps=2,
        steps=2,
        optimisation=attrs.evolve(FAST, batch=8),
        evaluation=Evaluation(every=2, samples=4, flow_steps=2),
    )
    state, _ = _run(mode, problem, streams)
    tuned = state.training.module
    assert not torch.equal(tuned.norm.weight, model.module.norm.weight)
    for name, buffer in model.module.named_buffers():
        assert torch.equal(tuned.get_buffer(name), buffer), name
    assert tuned.training and not tuned.norm.training


def test_adapters_end_as_a_plain_model_and_as_files(tmp_path):
    problem = _pictures(("a cat", "a dog"))
    streams = Streams(0, tuple(range(4)))
    mode = FineTune(
        pool=8,
        flow_steps=2,
        steps=3,
        lora=Lora(rank=2),
        optimisation=attrs.evolve(FAST, batch=4),
        evaluation=Evaluation(every=3, samples=4, flow_steps=2),
    )
    state, _ = _run(mode, problem, streams)
    export = mode.export(problem, state)
    assert set(export.files) == {"adapter_model.safetensors", "adapter_config.json"}
    weights.write(tmp_path / "m.safetensors", export.modules, export.about, torch.float32)
    again, x1 = load(tmp_path / "m.safetensors", CPU), mode.finish(problem, state)
    moved = samples(again, problem.cond, streams.fold_in("start"), 2)
    torch.testing.assert_close(x1, moved, rtol=1e-4, atol=1e-5)


def test_losses_are_judged_pair_by_pair():
    held = Term(name="far", reward=Far(), held_out=True)
    problem = _line(None, held)
    noise = 10 * Streams(0, (0,)).normal((64,))[0]
    then = {"likelihood": torch.zeros(64).double(), "far": noise}
    best = {"far": then}
    lower = then | {"far": noise - 3 + 0.1 * noise.flip(0)}
    # In every sample it is so, however much samples differ.
    assert "fell from" in detect_hacking(problem, best, lower, 2.0)
    assert not detect_hacking(problem, best, lower | {"likelihood": then["likelihood"] - 1}, 2.0)
    assert not detect_hacking(problem, best, then | {"far": noise.flip(0) - 3}, 2.0)
    # It is so, and it is nothing.
    assert not detect_hacking(problem, best, then | {"far": noise - 1 + 0.01 * noise.flip(0)}, 2.0)


def test_a_hacked_reward_need_not_be_at_its_highest():
    terms = (Term(name=name, reward=Far(), held_out=True) for name in ("first", "far"))
    problem = _line(MetaFlowMap(), *terms)
    mode = FineTune(
        net=MLPConfig(width=8), optimisation=FAST, evaluation=Evaluation(samples=8, flow_steps=2)
    )
    state = mode.init(problem, STREAMS)
    apart = Streams(0, (0,)).normal((8,))[0]
    apart -= apart.mean()
    said = list[tuple[str, ...]]()
    for step, (trained, far) in enumerate(((100, 40.0), (120, 39.9), (110, 20.0), (130, 90.0))):
        noise = apart.roll(step)
        now = {"likelihood": noise + trained, "far": noise + far, "first": noise + 500 - step / 9}
        state.track_held_out(now, mode.evaluation.errors, step)
        said.append(mode.warnings(state))
    # Less than at its best, but more than where the held-out reward was at its own.
    assert said[:2] == [(), ()]
    assert (
        said[2]
        == said[3]
        == (
            "the reward was hacked: 'likelihood', which is trained, went from 100 to 110 while"
            " 'far', which is held out, fell from 40 to 20, after 2 steps",
        )
    )
