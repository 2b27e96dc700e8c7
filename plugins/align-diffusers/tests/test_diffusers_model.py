"""Pipelines of diffusers as models, beside what their own calls make."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import torch
from align_diffusers import Diffusers
from align_diffusers.licence import licence_of
from align_diffusers.model import PipelineModel
from align_diffusers.offload import Placement
from align_diffusers.testing import FAMILIES, flux, qwen, sana, sd3, sd15, sdxl, sprint, variance
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)

import align
from align import PartError, Problem, Streams
from align.core.errors import ContractError, RecipeError
from align.core.model import Scheduled, ToData
from align.core.reward import Term, WeightedReward
from align.dynamics.ddpm import DDPM
from align.dynamics.renoise import Renoise as Renoised
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.estimators.gradient import Gradient
from align.estimators.search import Search
from align.estimators.stein import Stein
from align.models.network import Network
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.rewards.statistic import PictureStatistic
from align.runner.session import run
from align.samplers.dps import DPS
from align.samplers.gaussian import GaussianPosterior
from align.samplers.glass import Glass
from align.samplers.renoise import Renoise

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CPU = torch.device("cpu")
FOLDER = Path(__file__).parents[3] / "recipes" / "diffusers"
PROMPTS = ("a cat", "a dog on a mat", "bird")
STEPS = 6
SIZE = {"height": 16, "width": 16}
SHORT = {"max_sequence_length": 12}
PLAIN = {"clean_caption": False, "use_resolution_binning": False}
MORE = {
    "sd3": SHORT,
    "flux": SHORT,
    "pixart": SHORT | PLAIN,
    "sana": SHORT | PLAIN | {"complex_human_instruction": []},
    "z_image": {"max_sequence_length": 24},
    "schnell": SHORT,
    "sprint": SHORT | PLAIN | {"complex_human_instruction": []},
}
LATENTS = (4, 8, 8)
PACKED = (16, 16)
NAMES = {"guidance": "guidance_scale", "true_guidance": "true_cfg_scale"}
# Family, shape of latents, options.
CASES = {
    "sd3": ("sd3", LATENTS, {"guidance": 5.0}),
    "sd3-unguided": ("sd3", LATENTS, {"guidance": 1.0}),
    "flux": ("flux", PACKED, {"guidance": 3.5}),
    "flux-true": ("flux", PACKED, {"true_guidance": 2.0, "negative_prompt": "blurry"}),
    "sd15": ("sd15", LATENTS, {"guidance": 7.5}),
    "sd15-v": ("sd15-v", LATENTS, {"guidance": 7.5, "negative_prompt": "blurry"}),
    "sd15-euler": ("sd15-euler", LATENTS, {"guidance": 7.5}),
    "sdxl": ("sdxl", LATENTS, {"guidance": 5.0}),
    "pixart": ("pixart", LATENTS, {"guidance": 4.5}),
    "sana": ("sana", (4, 16, 16), {"guidance": 4.5, "height": 32, "width": 32}),
    "qwen": ("qwen", PACKED, {}),
    "qwen-true": ("qwen", PACKED, {"true_guidance": 4.0, "negative_prompt": "blurry"}),
    "z_image": ("z_image", (16, 8, 8), {"guidance": 5.0}),
    "z_image-unguided": ("z_image", (16, 8, 8), {"guidance": 0.0}),
}
# Networks that were distilled to jump to data in one call.
JUMPS = {
    "schnell": ("schnell", PACKED, {"guidance": 0.0}),
    "turbo": ("turbo", LATENTS, {"guidance": 0.0}),
    "lcm": ("lcm", LATENTS, {"guidance": 8.5}),
    "sprint": ("sprint", (4, 16, 16), {"guidance": 4.5, "height": 32, "width": 32}),
}
ONCE = {"sd3-unguided", "flux", "qwen", "z_image-unguided"}


def noise_of(shape, rows=3):
    """What `steer` begins with, of seed 0."""
    return Streams(0, tuple(range(rows))).fold_in("start").normal(shape).float()


def call_of(family, options, steps=STEPS):
    """What a user would give to the pipeline for these options of the part."""
    call = {NAMES.get(name, name): value for name, value in (SIZE | options).items()}
    if "negative_prompt" in call:
        call["negative_prompt"] = [call["negative_prompt"]] * len(PROMPTS)
    return call | MORE.get(family, {}) | {"prompt": PROMPTS, "num_inference_steps": steps}


def by_themselves(root, cases):
    """Let pipelines make latents and pictures of each case, in a process without align."""
    (root / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("by_pipelines.py")
    subprocess.run([sys.executable, "-W", "ignore", script, root], check=True, capture_output=True)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """A folder with a tiny pipeline of each family, and what they make of each case's noise."""
    root = tmp_path_factory.mktemp("pipelines")
    torch.manual_seed(0)
    for family, make in FAMILIES.items():
        make().save_pretrained(root / family)
    cases = {}
    for name, (family, shape, options) in CASES.items():
        torch.save(noise_of(shape), root / f"{name}.noise.pt")
        cases[name] = {"pipeline": str(root / family), "call": call_of(family, options)}
    for name, (family, shape, options) in JUMPS.items():
        torch.save(noise_of(shape), root / f"{name}.noise.pt")
        call = call_of(family, options, steps=1)
        if family == "sprint":
            call |= {"intermediate_timesteps": None}  # or the pipeline refuses a single step
        cases[name] = {"pipeline": str(root / family), "call": call}
    by_themselves(root, cases)
    return root


def part(pipelines, name="sd15", **others):
    family, _, options = (CASES | JUMPS)[name]
    more = {"weights": str(pipelines / family), "call": MORE.get(family, {})}
    return Diffusers(**(SIZE | options | more | others))


@pytest.fixture(scope="module")
def models(pipelines):
    """The model of each case, loaded when it is first asked for."""

    class Loaded(dict):
        def __missing__(self, name):
            return self.setdefault(name, part(pipelines, name).build(CPU))

    return Loaded()


def bright():
    """Brightness, heavy enough to steer."""
    term = Term(name="bright", reward=PictureStatistic(of="brightness").build(CPU), weight=300.0)
    return WeightedReward((term,))


def made(model, mode, prompts=PROMPTS, samples=None, estimator=None, sampler=None):
    """Clean states and the number of network calls."""
    meter = Meter()
    guarded = GuardedModel(model, "diffusers", meter, 64)
    streams = Streams(0, samples or tuple(range(len(prompts))))
    sampler, estimator = sampler or DPS(), estimator or Gradient()
    problem = Problem(guarded, bright(), sampler, estimator, guarded.encode(prompts))
    with torch.no_grad():
        state = mode.init(problem, streams)
        for index in range(mode.steps):
            state, _ = mode.step(problem, state, index, streams)
        return mode.finish(problem, state), meter


@pytest.mark.parametrize("name", CASES)
def test_unguided_steering_makes_what_the_pipeline_makes(name, pipelines, models):
    _, shape, _ = CASES[name]
    model = models[name]
    wanted = torch.load(pipelines / f"{name}.wanted.pt")
    assert model.shape == shape
    x1, meter = made(model, Steer(steps=STEPS, scale=0.0))
    rows = 1 if name in ONCE else 2
    assert model.rows_per_velocity == rows
    assert meter.calls["network"] == rows * STEPS * len(PROMPTS)
    assert float((x1 - wanted["latents"]).abs().max()) < 1e-5 * float(wanted["latents"].abs().max())
    with torch.no_grad():
        assert torch.allclose(model.decode(x1), wanted["pictures"], rtol=0, atol=1e-5)
    apart = wanted["latents"] - made(model, Steer(steps=STEPS, scale=0.0), ("",) * 3)[0]
    assert apart.flatten(1).abs().amax(1).min() > 1e-4, "prompts change nothing"


def agrees(result, wanted):
    assert float((result - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("name", ["sd15", "qwen-true", "z_image", "flux", "sdxl"])
def test_sample_alone_is_the_sample_among_others(name, pipelines):
    model, mode = part(pipelines, name).build(CPU), Steer(steps=3)
    together, _ = made(model, mode)
    fresh = part(pipelines, name).build(CPU)
    alone, _ = made(fresh, mode, PROMPTS[1:2], (1,))
    agrees(alone[0], together[1])


@pytest.mark.parametrize("name", CASES)
def test_guidance_by_dps_costs_one_velocity_a_step_and_raises_the_reward(name, models):
    model = models[name]
    guided, meter = made(model, Steer(steps=STEPS))
    plain, _ = made(model, Steer(steps=STEPS, scale=0.0))
    rows = model.rows_per_velocity * STEPS * len(PROMPTS)
    assert meter.calls["network"] == meter.backward["network"] == rows
    with torch.no_grad():
        before, after = (model.decode(x1).mean() for x1 in (plain, guided))
    assert after > before + 1e-4


@pytest.mark.parametrize(
    ("sampler", "estimator", "mode"),
    [
        (Glass(steps=2), Gradient(), Steer(steps=2)),
        (Glass(steps=2), Stein(draws=2), Steer(steps=2)),
        (GaussianPosterior(), Gradient(), Steer(steps=2)),
        (DPS(), Search(), Steer(steps=2, dynamics=DDPM())),
        (DPS(), Gradient(), Steer(steps=2, dynamics=DDPM(), particles=4, resample="systematic")),
        (DPS(), Gradient(), BestOfN(n=2, flow_steps=2)),
        (DPS(), Gradient(), Steer(steps=2, grid="uniform")),
    ],
    ids=["glass", "stein", "gaussian", "search", "particles", "best_of_n", "uniform"],
)
@pytest.mark.parametrize("name", [*CASES, "schnell"])
def test_other_methods_run_to_the_end(name, sampler, estimator, mode, models):
    model = models[name]
    x1, _ = made(model, mode, PROMPTS[:2], estimator=estimator, sampler=sampler)
    assert x1.shape == (2, *model.shape)
    assert x1.isfinite().all()


@pytest.mark.parametrize("name", JUMPS)
def test_jump_to_data_is_the_pipeline_in_one_step(name, pipelines):
    model = part(pipelines, name, distilled=True).build(CPU)
    wanted = torch.load(pipelines / f"{name}.wanted.pt")
    s = torch.full((len(PROMPTS),), model.times(1)[0])
    meter = Meter()
    jumps = GuardedModel(model, "diffusers", meter, 64).capability(ToData)
    with torch.no_grad():
        start = model.begin(noise_of(model.shape), 1)
        x1 = jumps.to_data(start, s, model.encode(PROMPTS))
        agrees(x1, wanted["latents"])
        assert torch.allclose(model.decode(x1), wanted["pictures"], rtol=0, atol=1e-5)
        agrees(jumps.to_data(x1, torch.ones_like(s), model.encode(PROMPTS)), x1)
    assert meter.calls["network"] == 2 * len(PROMPTS)


@pytest.mark.parametrize("name", JUMPS)
def test_search_among_jumps_raises_the_reward(name, pipelines):
    model = part(pipelines, name, distilled=True).build(CPU)
    mode = Steer(steps=2, dynamics=Renoised())
    searched, meter = made(model, mode, sampler=Renoise(candidates=1), estimator=Search(draws=4))
    plain, _ = made(model, attrs.evolve(mode, scale=0.0))
    assert meter.calls["network"] == (2 * 4 + 1) * 2 * len(PROMPTS)
    with torch.no_grad():
        assert model.decode(searched).mean() > model.decode(plain).mean()
    (note,) = Renoise().notes(model)
    assert "distilled" in note


def test_network_that_is_not_said_to_be_distilled_makes_no_jumps(pipelines):
    assert part(pipelines).provides == {Scheduled}
    assert part(pipelines, "schnell", distilled=True).provides == {Scheduled, ToData}
    assert part(pipelines, "schnell").build(CPU).capability(ToData) is None


# Some networks and pipelines compute in single precision whatever their weights are in: how far
# apart the finite differences then are, and to what they agree.
SINGLE = {"sana": (1e-4, 0.05), "qwen": (1e-3, 1e-4), "z_image": (1e-3, 1e-3)}


@pytest.mark.parametrize("name", ["lcm", *dict.fromkeys(row[0] for row in CASES.values())])
def test_gradient_agrees_with_finite_differences(name):
    family, _, options = (CASES | JUMPS)[name]
    torch.manual_seed(0)
    pipe = FAMILIES[family]().to(torch.float64)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    if family == "sana":
        pipe.text_encoder.float()  # its masks are NaN in double precision
    with torch.no_grad():
        for key, weight in pipe.vae.decoder.named_parameters():
            if key.startswith("conv_out"):
                weight.mul_(0.1)  # so that nothing is clamped
    call = {NAMES.get(key, key): value for key, value in (SIZE | options).items()}
    negative = call.pop("negative_prompt", None)
    model = PipelineModel(pipe, call | MORE.get(family, {}), negative)
    assert model.dtype == torch.float64
    apart, digits = SINGLE.get(family, (1e-5, 1e-4))
    cond, t = model.encode(PROMPTS[:2]), torch.full((2,), 0.6).double()

    def reward(x):
        velocity = model.velocity(x, t, cond)
        pictures = model.decode(model.path.denoiser_from_velocity(velocity, x, t))
        assert ((pictures > 0) & (pictures < 1)).all()
        return bright().total(pictures, cond.prompts).sum()

    x = noise_of(model.shape, 2).double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(x), x)
    along = noise_of(model.shape, 4)[2:].double()
    with torch.no_grad():
        slope = (reward(x + apart * along) - reward(x - apart * along)) / (2 * apart)
    assert float((gradient * along).sum()) == pytest.approx(float(slope), rel=digits)


class Unknown(StableDiffusionPipeline):
    """Its latents are packed, and its network predicts the noise with the other sign."""

    time = staticmethod(lambda t: t)

    def prepare_latents(self, *args, **kwargs):
        kwargs_of_others = args[:-1]
        given = args[-1] if args else kwargs["latents"]
        if given is not None:
            return given
        return super().prepare_latents(*kwargs_of_others, None, **kwargs).flatten(2)

    @torch.no_grad()
    def __call__(
        self, prompt=None, num_inference_steps=8, latents=None, output_type="pt", return_dict=True
    ):
        embeds, _ = self.encode_prompt(prompt, self._execution_device, 1, False)
        self.scheduler.set_timesteps(num_inference_steps)
        z = self.prepare_latents(
            len(prompt), 4, 16, 16, embeds.dtype, self._execution_device, None, latents
        )
        for t in self.scheduler.timesteps:
            seen = z.unflatten(2, (8, 8))
            noise = -self.unet(-seen, self.time(t), encoder_hidden_states=embeds).sample.flatten(2)
            z = self.scheduler.step(noise, t, z).prev_sample
        if output_type != "latent":
            z = self.vae.decode(2 * z.unflatten(2, (8, 8))).sample
            z = self.image_processor.postprocess(z, output_type=output_type)
        return (z,)


def unknown():
    torch.manual_seed(0)
    known = FAMILIES["sd15"]()
    pipe = Unknown(**known.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_pipeline_class_of_ones_own_needs_no_word_of_the_adapter():
    pipe = unknown()
    model = PipelineModel(pipe)
    assert model.shape == (4, 64)
    x1, _ = made(model, Steer(steps=STEPS, scale=0.0))
    call = {"prompt": list(PROMPTS), "num_inference_steps": STEPS}
    noise = noise_of(model.shape)
    agrees(x1, pipe(**call, latents=noise, output_type="latent")[0])
    with torch.no_grad():
        (pictures,) = pipe(**call, latents=noise)
        assert torch.allclose(model.decode(x1), pictures, rtol=0, atol=1e-5)
    guided, _ = made(model, Steer(steps=STEPS))
    with torch.no_grad():
        assert model.decode(guided).mean() > model.decode(x1).mean()


class Rounding(Unknown):
    """It makes plain numbers of its times, which then are those of all rows."""

    time = staticmethod(float)


def velocities(model, network, monkeypatch):
    """Of rows of different times, together and one by one; and calls of the network for the first.

    The numbers of the times are asked for only where rows cannot have times of their own.
    """
    x, t = noise_of(model.shape), torch.tensor([0.2, 0.5, 0.8])
    cond, calls = model.encode(PROMPTS[:1] * 3), list[object]()
    hook = network.register_forward_hook(lambda *_: calls.append(None))
    asked, plain = list[object](), torch.Tensor.tolist

    def tolist(tensor):
        asked.extend([tensor] * (tensor is t))
        return plain(tensor)

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", tolist)
        together = model.velocity(x, t, cond)
    hook.remove()
    assert len(asked) == (not model._by_rows)
    with torch.no_grad():
        rows = [slice(row, row + 1) for row in range(3)]
        alone = [model.velocity(x[row], t[row], cond.rows(row)) for row in rows]
    return together, torch.cat(alone), len(calls)


@pytest.mark.parametrize("name", [*CASES, *JUMPS])
def test_rows_of_different_times_are_one_call(name, models, monkeypatch):
    model = models[name]
    together, alone, calls = velocities(model, model.module, monkeypatch)
    agrees(together, alone)
    assert calls == (2 if name == "qwen-true" or name == "flux-true" else 1)


def test_pipeline_that_gives_all_rows_one_time_is_asked_time_by_time(monkeypatch):
    known = unknown()
    model = PipelineModel(Rounding(**known.components, requires_safety_checker=False))
    together, alone, calls = velocities(model, known.unet, monkeypatch)
    agrees(together, alone)
    assert calls == 3
    spread = PipelineModel(known)
    by_rows, _, calls = velocities(spread, known.unet, monkeypatch)
    agrees(by_rows, together)
    assert calls == 1


def test_pipeline_itself_can_be_used_as_before():
    pipe = unknown()
    call = {"prompt": ["a cat"], "num_inference_steps": 3, "latents": torch.ones(1, 4, 64)}
    before, components = pipe(**call)[0], dict(pipe.components)
    state = torch.get_rng_state()
    made(PipelineModel(pipe), Steer(steps=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pipe(**call)[0], before)
    assert all(pipe.components[name] is part for name, part in components.items())


def test_prompts_are_encoded_once_and_told_apart(pipelines):
    model = part(pipelines).build(CPU)
    x, t = noise_of(model.shape, 2), torch.full((2,), 0.5)
    x[1] = x[0]
    with torch.no_grad():
        apart = model.velocity(x, t, model.encode(["a cat", "a dog"]))
        same = model.velocity(x, t, model.encode(["a cat", "a cat"]))
    assert float((apart[0] - apart[1]).abs().max()) > 1e-4
    assert torch.allclose(same[0], same[1], atol=1e-5)
    assert torch.allclose(same[0], apart[0], atol=1e-5)


def test_own_times_are_those_of_the_resolution(pipelines):
    small, large = (part(pipelines, "flux", height=s, width=s).build(CPU) for s in (16, 128))
    times = [model.capability(Scheduled).times(4) for model in (small, large)]
    assert all(len(row) == 5 and row[0] == 0 and row[-1] == 1 for row in times)
    assert times[1][1] < times[0][1]  # more pixels are more noise for longer


@pytest.mark.parametrize("name", ["sd15", "flux", "sdxl"])
def test_states_are_float32_whatever_the_networks_precision(name, pipelines):
    wide, narrow = (
        part(pipelines, name, dtype=dtype).build(CPU) for dtype in ("float32", "bfloat16")
    )
    x, t = noise_of(wide.shape, 1), torch.full((1,), 0.5)
    with torch.no_grad():
        exact = wide.velocity(x, t, wide.encode(["a cat"]))
        rough = narrow.velocity(x, t, narrow.encode(["a cat"]))
        pictures = narrow.decode(x)
    assert narrow.dtype == rough.dtype == pictures.dtype == torch.float32
    assert 0 < float((exact - rough).abs().mean()) < 0.1 * float(exact.abs().mean())


def test_decoder_in_tiles_keeps_the_gradient(pipelines):
    x1 = noise_of((4, 32, 32), 1).requires_grad_()
    whole, tiled = (
        part(pipelines, tile=tile, height=64, width=64).build(CPU) for tile in (False, True)
    )
    pictures = tiled.decode(x1)
    assert pictures.shape == (1, 3, 64, 64)
    assert not torch.equal(pictures, whole.decode(x1))
    (gradient,) = torch.autograd.grad(pictures.sum(), x1)
    assert (gradient.abs().sum((0, 1)) > 0).all()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"call": {"foo": 1}}, "takes no 'foo' in its call"),
        ({"true_guidance": 2.0}, "takes no 'true_cfg_scale' in its call"),
        ({"guidance": 1.0, "negative_prompt": "x"}, "'negative_prompt' is not read, as the"),
        ({"weights": "./nowhere"}, "no such folder"),
        ({"weights": "models/of/mine"}, "no such folder"),
        ({"weights": "someone/something", "offline": True}, "'someone/something'"),
    ],
)
def test_pipeline_that_cannot_be_loaded_is_one_line(options, wanted, pipelines):
    with pytest.raises(PartError, match=wanted) as caught:
        part(pipelines, **options).build(CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("skip_guidance_layers", "'skip_guidance_layers' depends on the number of the"),
        ("skip_layer_guidance_scale", "'skip_layer_guidance_scale' depends on the number of the"),
        ("cfg_truncation", "'cfg_truncation' depends on the number of the step"),
        ("cfg_trunc_ratio", "'cfg_trunc_ratio' depends on the number of the step"),
        ("guidance_interval", "'guidance_interval' depends on the number of the step"),
        ("cfg_interval_end", "'cfg_interval_end' depends on the number of the step"),
        ("control_guidance_start", "'control_guidance_start' depends on the number of the step"),
        ("denoising_end", "'denoising_end' depends on the number of the step"),
        ("sld_warmup_steps", "'sld_warmup_steps' depends on the number of the step"),
        ("guidance_scale", "'guidance_scale' in 'call' is option 'guidance'; set that"),
        ("true_cfg_scale", "'true_cfg_scale' in 'call' is option 'true_guidance'; set that"),
        ("width", "'width' in 'call' is option 'width'; set that"),
        ("eta", "'eta' is noise of the scheduler's own steps"),
        ("latents", "'latents' is given by align"),
        ("prompt_embeds", "'prompt_embeds' is given by align"),
    ],
)
def test_argument_that_no_velocity_has_is_refused_before_loading(name, wanted):
    with pytest.raises(ValueError, match=wanted):
        Diffusers(weights="someone/something", call={name: 1})


@pytest.mark.parametrize("name", ["guidance", "true_guidance"])
def test_guidance_below_zero_is_refused(name):
    with pytest.raises(ValueError, match=rf"'{name}' must be at least 0, got -3"):
        Diffusers(weights="someone/something", **{name: -3.0})


@pytest.mark.parametrize("name", ["clip_skip", "max_sequence_length", "attention_kwargs"])
def test_argument_that_is_the_same_at_every_step_is_left_to_the_pipeline(name):
    assert Diffusers(weights="someone/something", call={name: 1}).call == {name: 1}


def test_folder_without_a_pipeline_is_one_line(tmp_path):
    with pytest.raises(PartError, match=r"model 'diffusers': weights: '.*': .*model_index.json"):
        Diffusers(weights=str(tmp_path)).build(CPU)


class Cut(Unknown):
    """Its call is under no_grad, and so is the one that it calls."""

    @torch.no_grad()
    def __call__(self, prompt=None, latents=None, output_type="pt", **others):
        return super().__call__(prompt, latents=latents, output_type=output_type, **others)


def test_pipeline_that_cuts_gradients_says_so():
    torch.manual_seed(0)
    model = PipelineModel(Cut(**unknown().components, requires_safety_checker=False))
    with pytest.raises(ContractError, match="pipeline Cut cuts gradients inside its call"):
        made(model, Steer(steps=1))


class TwoRows(Unknown):
    """Its encoder gives the negative prompt and the prompt in one tensor."""

    def encode_prompt(self, prompt, *others):
        embeds, _ = super().encode_prompt(prompt, *others)
        return torch.cat([embeds.flip(2), embeds]), None


def test_texts_that_are_not_one_row_a_prompt_are_refused():
    model = PipelineModel(TwoRows(**unknown().components, requires_safety_checker=False))
    with pytest.raises(PartError, match="encode_prompt gives 2 rows for one prompt, not one"):
        model.encode(["a cat"])


class Video(Unknown):
    """It makes several frames, and does not say so in its call."""

    class Processor:
        """Nothing of a picture's."""

    @torch.no_grad()
    def __call__(self, prompt=None, latents=None, output_type="pt", **others):
        call = Unknown.__call__.__wrapped__
        (z,) = call(self, prompt, latents=latents, output_type=output_type, **others)
        return (z if output_type == "latent" else z[:, :, None].expand(-1, -1, 3, -1, -1),)


class Frames(Unknown):
    """It makes several frames."""

    @torch.no_grad()
    def __call__(self, prompt=None, latents=None, output_type="pt", num_frames=8):
        raise NotImplementedError


class NoLatents(Unknown):
    """It draws its own noise."""

    @torch.no_grad()
    def __call__(self, prompt=None, output_type="pt"):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("cls", "wanted"),
    [
        (Frames, "pipeline Frames makes video"),
        (NoLatents, "pipeline NoLatents lacks 'latents'"),
    ],
)
def test_pipeline_that_cannot_be_followed_is_refused(cls, wanted):
    with pytest.raises(PartError, match=wanted):
        PipelineModel(cls(**unknown().components, requires_safety_checker=False))


def test_pipeline_that_decodes_to_frames_is_refused():
    model = PipelineModel(Video(**unknown().components, requires_safety_checker=False))
    with pytest.raises(PartError, match="decodes to 5 dimensions, not to pictures"):
        model.decode(torch.ones(1, 4, 64))


@pytest.mark.parametrize(
    ("scheduler", "wanted"),
    [
        (lambda config: EDMEulerScheduler(), "EDMEulerScheduler .* is neither flow matching nor"),
        (
            lambda config: DDIMScheduler.from_config(config, thresholding=True),
            "has 'thresholding', which no velocity has",
        ),
    ],
)
def test_scheduler_of_another_kind_is_refused(scheduler, wanted):
    pipe = unknown()
    pipe.scheduler = scheduler(pipe.scheduler.config)
    with pytest.raises(PartError, match=wanted):
        PipelineModel(pipe)


def test_scheduler_with_other_numbers_of_steps_is_refused_on_its_own_grid_alone():
    pipe = unknown()
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=False)
    model = PipelineModel(pipe)
    with pytest.raises(PartError, match=r"PNDMScheduler makes \d+ of 6 steps"):
        made(model, Steer(steps=STEPS))
    made(model, Steer(steps=2, grid="uniform"))


@pytest.mark.parametrize("name", ["sd15", "sd15-v", "sdxl"])
def test_velocity_is_finite_from_noise_to_data(name, pipelines):
    model = part(pipelines, name).build(CPU)
    t = torch.tensor([0.0, 1e-3, 0.5, 0.999, 1.0])
    with torch.no_grad():
        velocity = model.velocity(noise_of(model.shape, 5), t, model.encode(["a cat"] * 5))
    assert velocity.isfinite().all()


RECIPES = {
    "flux_dev": flux,
    "flux_schnell": lambda: flux(guided=False),
    "qwen_image": qwen,
    "sana": lambda: with_scheduler(
        sana(),
        DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
    ),
    "sana_sprint": sprint,
    "sd15": lambda: with_scheduler(
        sd15(), variance(PNDMScheduler, skip_prk_steps=True, set_alpha_to_one=False)
    ),
    "sd3": sd3,
    "sdxl": sdxl,
}


def with_scheduler(pipe, scheduler):
    pipe.scheduler = scheduler
    return pipe


def test_every_recipe_has_a_tiny_pipeline():
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_runs_with_a_tiny_pipeline_in_place_of_the_weights(name, tmp_path):
    torch.manual_seed(0)
    RECIPES[name]().save_pretrained(tmp_path / name)
    text = (FOLDER / f"{name}.toml").read_text()
    for pattern, value in (
        (r'weights = ".*"', f'weights = "{tmp_path / name}"'),
        (r'device = "cuda"', f'device = "cpu"\nout = "{tmp_path / "runs"}"'),
        (
            r'\[\[reward\]\]\nkind = "hpsv2"[^[]*',
            '[[reward]]\nkind = "statistic"\nof = "brightness"\nweight = 100.0\n\n',
        ),
        (r'kind = "pickscore"\ndtype.*', 'kind = "compressibility"'),
        (r"dtype = .*", 'dtype = "float32"'),
        (r"(height|width) = \d+", r"\1 = 32"),
        (r"(steps|samples) = \d+", r"\1 = 2"),
        (r"\bn = 8", "n = 2"),
    ):
        text, count = re.subn(pattern, value, text)
        assert count
    recipe = tmp_path / f"{name}.toml"
    recipe.write_text(text)
    result = run(recipe, progress=False)
    assert [arm.name for arm in result.results] == ["unsteered", "steered", "best of 8"]
    plain, steered, best = (arm.scores["statistic"] for arm in result.results)
    assert not torch.equal(steered, plain)  # two steps are too few to ask for more
    assert (best >= plain).all()


# Around a run: prompts from a file, what is wrapped, where components wait, and the licence.


def recipe_of(pipelines, folder, name, mode, more=""):
    """A recipe with a tiny pipeline and prompts from a file, and its text."""
    _, _, options = CASES[name]
    model = SIZE | options | {"weights": str(pipelines / CASES[name][0])}
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    lines = [f"{key} = {json.dumps(value)}" for key, value in model.items()]
    call = ", ".join(
        f"{key} = {json.dumps(value)}" for key, value in MORE.get(CASES[name][0], {}).items()
    )
    path = folder / f"{name}.toml"
    path.write_text(
        f'[run]\nsamples = 3\nunsteered = 0\ndevice = "cpu"\nout = "{folder / name}"\n'
        f'[model]\nkind = "diffusers"\nprompts = "{folder / "prompts.txt"}"\n'
        + "\n".join(lines)
        + f"\ncall = {{ {call} }}\n"
        f'[[reward]]\nkind = "statistic"\nof = "brightness"\nweight = 300.0\n'
        f"[mode]\n{mode}\n{more}"
    )
    return path


def test_sample_has_its_line_of_the_file_which_is_recorded(pipelines, tmp_path):
    recipe = recipe_of(pipelines, tmp_path, "sd15", 'kind = "best_of_n"\nflow_steps = 2')
    (result,) = run(recipe, progress=False).results
    wanted, _ = made(part(pipelines).build(CPU), BestOfN(flow_steps=2))
    agrees(result.x1, wanted)
    file = tmp_path / "prompts.txt"
    numbers = json.loads((tmp_path / "sd15" / "results.json").read_text())["arms"][0]
    assert numbers["inputs"] == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    file.write_text("a cat\na dog\n")
    with pytest.raises(RecipeError, match=r"sd15.toml:8: model.prompts: .* has 2 prompts, and"):
        run(recipe, progress=False)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: openrail++\ntags: [a]\n---\nText\n", "openrail++"),
        ("---\nlicense: other\nlicense_name: my-own-1.0\n---\n", "my-own-1.0"),
        ("---\ntags: [a]\n---\n", ""),
        ("---\nlicense: [unclosed\n---\n", ""),
        ("no front matter", ""),
        (None, ""),
    ],
)
def test_licence_is_what_the_card_states(card, licence, tmp_path):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == licence


def test_licence_is_recorded_and_shown(pipelines, tmp_path):
    (pipelines / "sd15" / "README.md").write_text("---\nlicense: openrail++\n---\n")
    recipe = recipe_of(pipelines, tmp_path, "sd15", 'kind = "best_of_n"\nflow_steps = 1')
    (result,) = run(recipe, progress=False).results
    (pipelines / "sd15" / "README.md").unlink()
    assert result.licence == "openrail++"
    folder = tmp_path / "sd15"
    assert json.loads((folder / "results.json").read_text())["arms"][0]["licence"] == "openrail++"
    assert "the licence of the weights is 'openrail++'" in (folder / "table.md").read_text()


def test_wrapped_pipeline_is_sampled_as_the_recipe_would(pipelines):
    pipe = StableDiffusionPipeline.from_pretrained(pipelines / "sd15")
    spec = align.wrap(pipe, prompt="a cat", guidance=7.5, **SIZE)
    rewards = [align.RewardTerm(part=PictureStatistic(of="brightness"))]
    result = align.sample(spec, BestOfN(flow_steps=2), rewards=rewards, samples=2, device="cpu")
    wanted, _ = made(part(pipelines).build(CPU), BestOfN(flow_steps=2), PROMPTS[:1] * 2)
    agrees(result.x1, wanted)
    with pytest.raises(PartError, match="unexpected keyword argument 'colour'"):
        align.wrap(pipe, colour="red")
    with pytest.raises(PartError, match=r"no installed model wraps a builtins\.dict"):
        align.wrap({})


def test_offload_moves_nothing_on_the_cpu(pipelines, monkeypatch):
    model = part(pipelines, offload=True).build(CPU)
    moves = list[object]()
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_: moves.append(module) or module)
    guided, _ = made(model, Steer(steps=2))
    assert not moves
    plain, _ = made(part(pipelines).build(CPU), Steer(steps=2))
    assert torch.equal(guided, plain)


class Counted(torch.nn.Linear):
    """Counts where it is brought."""

    def __init__(self):
        super().__init__(2, 2)
        self.places = []

    def to(self, device):
        self.places.append(torch.device(device).type)
        return self


def test_offload_brings_what_is_used_and_again_on_the_way_back():
    text, network, vae = (Counted() for _ in range(3))
    pipe = SimpleNamespace(
        components={"text_encoder": text, "unet": network, "vae": vae, "tokenizer": object()}
    )
    place = Placement(pipe, "unet", torch.device("cuda"), offload=True)
    place.use("encoders")
    place.use("encoders")
    x = torch.ones(1, 2, requires_grad=True)
    data = place.call("decoder", vae, place.call("network", network, x))
    data.sum().backward()
    assert text.places == ["cuda", "cpu", "cpu", "cpu"]
    assert network.places == ["cpu", "cuda", "cpu", "cuda"]
    assert vae.places == ["cpu", "cpu", "cuda", "cpu"]
    wanted = torch.ones(2) @ vae.weight @ network.weight
    assert torch.allclose(x.grad, wanted[None])


TUNED = (
    'kind = "finetune"\nsteps = 1\npool = 2\nflow_steps = 1\n'
    'objective = { kind = "draft", flow_steps = 1 }\nlora = { rank = 2, alpha = 4.0 }\n'
    "optimisation = { batch = 2, learning_rate = 0.01 }\n"
    "evaluation = { samples = 2, flow_steps = 1 }\n"
)


FAMILY_CASES = tuple({family: name for name, (family, _, _) in reversed(CASES.items())}.values())


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_tuned_adapters_are_those_that_the_pipeline_loads(name, pipelines, models, tmp_path):
    family, shape, options = CASES[name]
    folder = run(recipe_of(pipelines, tmp_path, name, TUNED), progress=False).folder
    model = Network(weights=str(folder / "model.safetensors")).build(CPU)
    mode = Steer(steps=STEPS, scale=0.0)
    after, before = (made(part, mode)[0] for part in (model, models[name]))
    assert float((after - before).abs().max()) > 1e-4 * float(before.abs().max())
    adapters = folder / "model" / "pytorch_lora_weights.safetensors"
    if name == "pixart":  # its class has no format of adapters
        assert not adapters.exists()
        return
    pipe = DiffusionPipeline.from_pretrained(pipelines / family)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(folder / "model")
    call = call_of(family, options) | {"prompt": list(PROMPTS), "latents": noise_of(shape)}
    agrees(after, pipe(**call, output_type="latent", return_dict=False)[0])
    if name != "sd3":
        return
    torch.save(noise_of(shape), tmp_path / "sd3.noise.pt")
    case = {"pipeline": str(pipelines / family), "adapters": str(folder / "model")}
    by_themselves(tmp_path, {"sd3": case | {"call": call_of(family, options)}})
    wanted = torch.load(tmp_path / "sd3.wanted.pt")
    agrees(after, wanted["latents"])
    with torch.no_grad():
        assert torch.allclose(model.decode(after), wanted["pictures"], rtol=0, atol=1e-5)
