"""Every part in the catalog, by the checks of its contract."""

import atexit
import functools
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

import attrs
import numpy as np
import torch
from PIL import Image

from align.catalog.contracts import CONTRACT_CLASSES
from align.catalog.registry import load_catalog
from align.core.metric import Metric
from align.core.model import NoModel
from align.core.problem import Problem
from align.core.streams import Streams
from align.datasets.pictures import Pictures
from align.dynamics.ddim import DDIM
from align.dynamics.ddpm import DDPM
from align.dynamics.glass import GlassTransition
from align.dynamics.heun import Heun
from align.dynamics.ode import ODE
from align.dynamics.renoise import Renoise as Renoising
from align.dynamics.sde import SDE
from align.estimators.bank import Bank
from align.estimators.blend import Blend
from align.estimators.damped import Damped
from align.estimators.exact import Exact
from align.estimators.gaussian import GaussianValue
from align.estimators.gradient import Gradient
from align.estimators.search import Search
from align.estimators.stein import Stein
from align.executors.local import Local
from align.isolation.reward import Isolated
from align.metrics.classes import ClassHistogram, InceptionScore
from align.metrics.fid import FID, SpatialFID
from align.metrics.frechet import FrechetThumbnails
from align.metrics.inception import Inception
from align.metrics.mmd import KID, MMD
from align.metrics.neighbours import DensityCoverage, PrecisionRecall
from align.metrics.sliced_wasserstein import SlicedWasserstein
from align.metrics.statistics import ImageStatistics
from align.metrics.variety import Vendi
from align.models.about import about_of, modules_of
from align.models.mixture import Mixture
from align.models.network import Network
from align.models.network_model import NetworkModel
from align.models.torch import Torch
from align.modes.autoencode import Autoencode
from align.modes.distill.diagonal import DataTarget, TeacherTarget
from align.modes.distill.eulerian import Eulerian
from align.modes.distill.lagrangian import Lagrangian
from align.modes.distill.mean_flow import MeanFlow
from align.modes.distill.mode import Distill
from align.modes.distill.semigroup import Semigroup
from align.modes.distill.shortcut import Shortcut
from align.modes.finetune.adjoint_matching import AdjointMatching
from align.modes.finetune.awm import AdvantageWeighted
from align.modes.finetune.draft import Draft
from align.modes.finetune.evaluation import Evaluation
from align.modes.finetune.gradient import GradientObjective
from align.modes.finetune.mode import FineTune
from align.modes.finetune.nft import NegativeAware
from align.modes.finetune.refl import RewardFeedback
from align.modes.finetune.stein import SteinObjective
from align.modes.pretrain import Pretrain
from align.modes.sampling.best_noise import BestNoise
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.fmrg import FlowMapGuidance
from align.modes.sampling.noise_ascent import NoiseAscent
from align.modes.sampling.path_search import PathSearch
from align.modes.sampling.posterior_draws import PosteriorDraws
from align.modes.sampling.steer import Steer
from align.modes.sampling.trajectory_tilting import TrajectoryTilting
from align.modes.studies.best_of_groups import BestOfGroups
from align.modes.studies.fidelity import Fidelity
from align.modes.studies.posterior_recovery import PosteriorRecovery
from align.modes.studies.tilt_check import TiltCheck
from align.modes.studies.value_correlation import ValueCorrelation
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiT, DiTConfig
from align.networks.mlp import MLPConfig
from align.networks.pixel_shuffle import PixelShuffleConfig
from align.networks.unet import UNetConfig
from align.rewards.compressibility import Compressibility, Incompressibility
from align.rewards.linear import Likelihood
from align.rewards.measurement import Measurement
from align.rewards.operators import Downsample
from align.rewards.psnr import PSNR
from align.rewards.python import Python
from align.rewards.statistic import PictureStatistic
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.gaussian import GaussianPosterior
from align.samplers.glass import Glass
from align.samplers.look_ahead import LookAhead
from align.samplers.mfm import MetaFlowMap
from align.samplers.renoise import Renoise
from align.testing import conformance
from align.testing.worlds import line
from align.training import weights
from align.training.loop import Optimisation
from tests.metrics.networks import Small, inception_file

ROOT = Path(__file__).parents[1]
FILES = tempfile.TemporaryDirectory()
atexit.register(FILES.cleanup)
CLASSES, OUTER = ("black", "white"), AutoencoderConfig(width=8, levels=1, latents=4)
OPTIONS = Optimisation(batch=8, warmup=2)


def pictures():
    """Four pictures of each of two classes, 8 x 8, on the disk."""
    place = Path(FILES.name)
    for number, name in enumerate(CLASSES):
        folder = place / "train" / name
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(4):
            levels = np.full((8, 8, 3), 200 * number + 10 * k, dtype=np.uint8)
            Image.fromarray(levels).save(folder / f"{k}.png")
    return Pictures(path=str(place))


def known():
    """A picture of 16 x 16 pixels on the disk."""
    path = Path(FILES.name) / "known.png"
    levels = 255 * Streams(0, (0,)).uniform((16, 16, 3))[0]
    Image.fromarray(levels.byte().numpy()).save(path)
    return str(path)


def function():
    """A reward in five lines, on the disk."""
    path = Path(FILES.name) / "function.py"
    path.write_text(
        "def score(data, prompts):\n    return -(data.flatten(1).mean(1) - 0.8).square()\n"
    )
    return str(path)


def gaussian():
    """A mixture of one component, and the line's reward."""
    model = Mixture(weights=(1.0,), means=((0.5,),), stds=(0.7,)).build(torch.device("cpu"))
    return model, line()[1]


def noise(*shape, rows=5):
    return Streams(1, tuple(range(rows))).uniform(shape).float()


def inside():
    """Pictures away from 0 and 1, where clamping bends a statistic."""
    return 0.1 + 0.8 * noise(3, 16, 16)


def networks():
    """Random networks of pictures of 8 x 8 pixels, through an autoencoder."""

    def made():
        config, shape = DiTConfig(width=16, depth=2, heads=2, patch=2, encoder_depth=1), (4, 4, 4)
        nets = [DiT(config, shape, 2, role) for role in ("flow", "meta_flow_map")]
        nets.append(Autoencoder(OUTER))
        for net in nets:  # the last layers of a new network are zero
            for tensor in net.parameters():
                torch.nn.init.normal_(tensor, 0, 0.2)
            net.eval().requires_grad_(False)
        flow, posterior, outer = nets
        return NetworkModel(
            shape=shape, classes=CLASSES, flow=flow, posterior=posterior, autoencoder=outer
        )

    return Streams(0, ()).initialise(made)


def network():
    """The same networks from the disk, as a recipe names them."""
    path, model = Path(FILES.name) / "model.safetensors", networks()
    weights.write(path, modules_of(model), about_of(model), torch.float32)
    return Network(weights=str(path), prompt="white")


@attrs.frozen(kw_only=True)
class Brightness(Metric):
    """Mean brightness above that of the references."""

    kind = "brightness"
    domain = "image"
    needs_references = True

    def compute(self, samples, references):
        return {"brightness": float(samples.mean() - references.mean())}


LEARNED = "a network's jumps are as good as its training, and this one has none"

test_mixture = conformance(
    "model",
    lambda: Mixture(weights=(1, 2), means=((-1.0,), (1.5,)), stds=(0.5, 0.4)),
)
test_mixture_of_the_plane = conformance(
    "model",
    lambda: Mixture(weights=(1, 2), means=((-1.0, 0.0), (1.5, 1.0)), stds=(0.5, 0.4)),
    expect_fail={
        "jump_tangent": "beyond one dimension the map is that of another flow",
        "posterior_tangent": "beyond one dimension the map is that of another flow",
    },
)
test_network = conformance(
    "model",
    network,
    expect_fail={
        "jump_semigroup": LEARNED,
        "jump_tangent": LEARNED,
        "posterior_semigroup": LEARNED,
        "posterior_tangent": LEARNED,
    },
)


def own(text, **options):
    """A model in a file of the user's own."""
    path = Path(FILES.name) / f"{options['predicts']}.py"
    path.write_text(f"import torch\n{text}")
    return Torch(file=str(path), **options)


test_torch = conformance(
    "model",
    lambda: own(
        "def model():\n    net = torch.nn.Conv2d(1, 1, 3, padding=1).double()\n"
        "    torch.nn.init.constant_(net.weight, 0.05)\n"
        "    return lambda x, t, k: net(x.double()).float() + 0.1 * k[:, None, None, None]\n"
        "def decode(x):\n    return x / 8 + 0.5\n",
        shape=(1, 4, 4),
        predicts="x0",
        path="trigonometric",
        decode="decode",
        classes=("dark", "light"),
        prompt="light",
    ),
)
test_torch_on_a_table = conformance(
    "model",
    lambda: own(
        "def model():\n    return lambda x, k: x * (k / 1000).sqrt()[:, None]\n",
        shape=(2,),
        predicts="noise",
        path="variance_preserving",
    ),
)

test_point_mass = conformance("sampler", DPS, expect_fail={"exact": "a point has no spread"})
test_look_ahead = conformance("sampler", LookAhead, expect_fail={"exact": "a point has no spread"})
test_exact_posterior = conformance("sampler", ExactPosterior)
test_gaussian = conformance(
    "sampler", GaussianPosterior, expect_fail={"exact": "the posterior has several modes"}
)
test_gaussian_with_covariance = conformance(
    "sampler",
    lambda: GaussianPosterior(covariance="exact"),
    expect_fail={
        "exact": "the posterior has several modes",
        "differentiable": "the gradient holds the covariance fixed",
    },
)
test_glass = conformance("sampler", Glass, expect_fail={"exact": "ten Euler steps are few"})
test_glass_with_many_steps = conformance("sampler", lambda: Glass(steps=24, method="heun"))
test_mfm = conformance("sampler", MetaFlowMap)
test_renoise = conformance(
    "sampler", Renoise, expect_fail={"exact": "four candidates are few, and the data not Gaussian"}
)

test_exact = conformance("estimator", Exact)
test_gaussian_value = conformance(
    "estimator",
    lambda: GaussianValue(data_std=0.7),
    on=lambda: Problem(*gaussian()),
    expect_fail={"additive": "a tuned model's data have another spread, which the option says"},
)
test_gradient = conformance("estimator", Gradient)
COUPLED = "draws that are coupled are not independent: another bias, and a smaller error"
test_gradient_of_pairs = conformance(
    "estimator",
    lambda: Gradient(noise="antithetic"),
    expect_fail={"error": COUPLED},
)
test_gradient_of_even_draws = conformance(
    "estimator", lambda: Gradient(noise="sobol"), expect_fail={"bias": COUPLED, "error": COUPLED}
)
test_stein = conformance("estimator", Stein)
test_stein_about_the_denoiser = conformance("estimator", lambda: Stein(centring="velocity"))

ONE_BANK = "all states share one bank, whose error no repeat shows"
test_bank = conformance(
    "estimator",
    Bank,
    expect_fail={
        "value": ONE_BANK,
        "shift": ONE_BANK,
        "additive": ONE_BANK,
        "error": ONE_BANK,
        "ess": "the bank is weighed by likelihoods where there is no reward too",
    },
)
test_blend = conformance("estimator", Blend)
test_damped = conformance(
    "estimator", Damped, on=lambda: Problem(*gaussian(), sampler=MetaFlowMap())
)
GREEDY = "the best draw, whatever the reward's weight"
test_search = conformance(
    "estimator",
    Search,
    expect_fail={
        "value": GREEDY,
        "shift": GREEDY,
        "additive": GREEDY,
        "bias": GREEDY,
        "error": "the jackknife's error of a maximum is right to a factor of two",
    },
)

test_ode = conformance("dynamics", ODE)
test_sde = conformance("dynamics", SDE)
test_ddpm = conformance("dynamics", DDPM)
test_ddim = conformance("dynamics", DDIM)
test_heun = conformance("dynamics", Heun)
test_glass_transition = conformance("dynamics", GlassTransition)
test_renoising = conformance(
    "dynamics",
    Renoising,
    expect_fail=dict.fromkeys(
        ("base_law", "tilted_law"), "samples shrink towards means unless the shift is a draw's"
    ),
)


@functools.cache
def isolated() -> Isolated:
    """One process for all checks, in this environment."""
    return Isolated(venv=sys.prefix, timeout=100.0, reward={"kind": "compressibility"})


test_compressibility = conformance("reward", Compressibility)
test_isolated = conformance("reward", isolated)
test_incompressibility = conformance("reward", Incompressibility)
test_brightness = conformance("reward", lambda: PictureStatistic(of="brightness"))
test_dim_light = conformance("reward", lambda: PictureStatistic(of="brightness", towards=0.2))
test_contrast = conformance("reward", lambda: PictureStatistic(of="contrast"), on=inside)
test_saturation = conformance("reward", lambda: PictureStatistic(of="saturation", towards=0.1))
test_sharpness = conformance("reward", lambda: PictureStatistic(of="sharpness"), on=inside)
test_edges = conformance("reward", lambda: PictureStatistic(of="edges"))
test_entropy = conformance("reward", lambda: PictureStatistic(of="entropy", towards=4.0))
test_likelihood = conformance(
    "reward", lambda: Likelihood(matrix=((1.0, 2.0),), observed=(1.0,), std=0.5)
)
test_measurement = conformance(
    "reward",
    lambda: Measurement(picture=known(), operator=Downsample(factor=4), std=0.1),
    on=lambda: noise(3, 16, 16),
)
test_python = conformance("reward", lambda: Python(file=function()))
test_python_without_a_gradient = conformance(
    "reward", lambda: Python(file=function(), differentiable=False)
)
test_psnr = conformance("reward", lambda: PSNR(picture=known()), on=lambda: noise(3, 16, 16))

test_autoencode = conformance(
    "mode",
    lambda: Autoencode(data=pictures(), net=OUTER, optimisation=OPTIONS, steps=4),
    on=lambda: Problem(NoModel()),
)
test_pretrain = conformance(
    "mode",
    lambda: Pretrain(data=pictures(), optimisation=OPTIONS, steps=4),
    on=lambda: Problem(networks()),
)
test_distill = conformance(
    "mode",
    lambda: Distill(net=MLPConfig(width=16), optimisation=OPTIONS, steps=4),
    on=lambda: Problem(line()[0]),
)
TOO_FEW = dict.fromkeys(("base_law", "tilted_law"), "four steps are few")
test_finetune = conformance(
    "mode",
    lambda: FineTune(
        net=MLPConfig(width=16),
        steps=4,
        optimisation=OPTIONS,
        evaluation=Evaluation(every=2, samples=8, flow_steps=4),
    ),
    on=lambda: Problem(*line(), sampler=MetaFlowMap()),
    expect_fail=TOO_FEW,
)
test_finetune_without_gradients = conformance(
    "mode",
    lambda: FineTune(
        net=MLPConfig(width=16), objective=SteinObjective(), steps=4, optimisation=OPTIONS
    ),
    on=lambda: Problem(*line(), sampler=ExactPosterior()),
    expect_fail=TOO_FEW,
)
test_finetune_by_adjoints = conformance(
    "mode",
    lambda: FineTune(
        net=MLPConfig(width=16),
        objective=AdjointMatching(flow_steps=4),
        steps=4,
        flow_steps=10,
        optimisation=OPTIONS,
        evaluation=Evaluation(every=2, samples=8, flow_steps=4),
    ),
    on=lambda: Problem(*line()),
    expect_fail=TOO_FEW,
)
test_finetune_by_good_and_bad = conformance(
    "mode",
    lambda: FineTune(
        net=MLPConfig(width=16),
        objective=NegativeAware(),
        steps=4,
        flow_steps=10,
        optimisation=OPTIONS,
        evaluation=Evaluation(every=2, samples=8, flow_steps=4),
    ),
    on=lambda: Problem(*line()),
    expect_fail=TOO_FEW,
)
test_best_noise = conformance(
    "mode",
    lambda: BestNoise(n=4, flow_steps=25),
    expect_fail={"tilted_law": "the best of four does not depend on the reward's scale"},
)
test_noise_search = conformance(
    "mode",
    lambda: BestNoise(n=2, rounds=3, flow_steps=25),
    expect_fail={"tilted_law": "a search does not depend on the reward's scale"},
)
test_fmrg = conformance(
    "mode",
    lambda: FlowMapGuidance(steps=4),
    expect_fail={"tilted_law": "it trades reward for effort and does not tilt"},
)
test_noise_ascent = conformance(
    "mode",
    lambda: NoiseAscent(rounds=5, flow_steps=25),
    expect_fail={"tilted_law": "a mode of reward and length is no sample"},
)
test_trajectory_tilting = conformance(
    "mode",
    lambda: TrajectoryTilting(particles=4, steps=16),
)
test_path_search = conformance(
    "mode",
    lambda: PathSearch(survivors=2, ways=2, onward=10, flow_steps=25),
    expect_fail={"tilted_law": "a search does not depend on the reward's scale"},
)
test_best_of_n = conformance(
    "mode", BestOfN, expect_fail={"tilted_law": "one candidate is plain sampling"}
)
test_best_of_four = conformance(
    "mode",
    lambda: BestOfN(n=4, flow_steps=25),
    expect_fail={"tilted_law": "the best of four does not depend on the reward's scale"},
)
test_best_of_a_pool = conformance(
    "mode",
    lambda: BestOfN(n=2, flow_steps=25, pool="shared"),
    expect_fail={
        "rows_are_independent": "samples are chosen from all candidates of a run",
        "tilted_law": "the best of a pool does not depend on the reward's scale",
    },
)
test_steer = conformance("mode", lambda: Steer(steps=40))
test_steer_with_noise = conformance("mode", lambda: Steer(steps=40, dynamics=SDE()))
test_steer_by_ddim = conformance("mode", lambda: Steer(steps=40, dynamics=DDIM()))
test_steer_with_particles = conformance(
    "mode",
    lambda: Steer(steps=40, dynamics=SDE(), particles=2, resample="systematic"),
)
test_steer_by_renormalised_guidance = conformance(
    "mode",
    lambda: Steer(steps=20, guidance_norm="renorm"),
    expect_fail={"tilted_law": "renormalised guidance forgets the reward's scale"},
)

test_posterior_recovery = conformance(
    "mode", lambda: PosteriorRecovery(metric=SlicedWasserstein(), inner_steps=(1, 2))
)
test_value_correlation = conformance(
    "mode", lambda: ValueCorrelation(particles=4, rollout_steps=3, inner_steps=(1,), draws=4)
)
test_best_of_groups = conformance(
    "mode", lambda: BestOfGroups(sizes=(1, 2), flow_steps=4), on=lambda: Problem(*line())
)
test_posterior_draws = conformance(
    "mode",
    lambda: PosteriorDraws(flow_steps=4),
    expect_fail=dict.fromkeys(("base_law", "tilted_law"), "draws are of one state's posterior"),
)
test_fidelity = conformance("mode", lambda: Fidelity(metric=SlicedWasserstein()))
test_fidelity_of_the_flow = conformance(
    "mode", lambda: Fidelity(metric=SlicedWasserstein(), method="flow")
)
test_tilt_check = conformance("mode", lambda: TiltCheck(law_samples=64))
test_tilt_check_of_a_method = conformance(
    "mode", lambda: TiltCheck(method=Steer(steps=3), law_samples=64)
)
test_fidelity_to_pictures = conformance(
    "mode",
    lambda: Fidelity(metric=Brightness(), data=pictures(), by_class=True, outer_steps=(1, 2)),
    on=lambda: Problem(networks(), sampler=MetaFlowMap()),
)

test_frechet_thumbnails = conformance("metric", FrechetThumbnails)
test_image_statistics = conformance("metric", ImageStatistics)
test_sliced_wasserstein = conformance("metric", SlicedWasserstein)
test_fid = conformance("metric", lambda: FID(features=Small()))
test_sfid = conformance("metric", lambda: SpatialFID(features=Small()))
test_kid = conformance("metric", lambda: KID(features=Small()))
test_mmd = conformance("metric", MMD)
test_mmd_of_pictures = conformance("metric", lambda: MMD(kernel="polynomial", features=Small()))
test_precision_recall = conformance("metric", lambda: PrecisionRecall(features=Small()))
test_density_coverage = conformance(
    "metric", lambda: DensityCoverage(neighbours=3, features=Small())
)
test_inception_score = conformance("metric", lambda: InceptionScore(features=Small()))
test_class_histogram = conformance("metric", lambda: ClassHistogram(features=Small()))
test_class_histogram_with_a_target = conformance(
    "metric", lambda: ClassHistogram(features=Small(), target={"cat": 1.0, "2": 3.0})
)
test_vendi = conformance("metric", lambda: Vendi(features=Small()))


def inception():
    """Inception with random weights, whose file goes when Python ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return Inception(weights=str(inception_file(folder)))


test_inception = conformance("features", inception)

test_dit = conformance(
    "network", lambda: DiTConfig(width=16, depth=3, heads=2, patch=2, encoder_depth=2)
)
test_mlp = conformance("network", lambda: MLPConfig(width=16, depth=2))
test_unet = conformance("network", lambda: UNetConfig(widths=(8, 16), blocks=1, heads=2))

test_upsample = conformance("autoencoder", lambda: OUTER)
test_pixel_shuffle = conformance(
    "autoencoder",
    lambda: PixelShuffleConfig(latents=3, encoder=(8, 16), decoder=(24, 16, 8), blocks=1),
)

test_pictures = conformance("dataset", pictures)


NO_BASE_LAW = "its minimum is the maximum of the reward, whatever the base law"
BIASED = "the minimum of one draw's plug-in is that of the mean reward"
test_gradient_objective = conformance("objective", lambda: GradientObjective(start=0.1))
test_gradient_objective_with_plug_in = conformance(
    "objective",
    lambda: GradientObjective(start=0.1, plug_in=True),
    expect_fail={"fixed_point": BIASED},
)
test_gradient_objective_as_released = conformance(
    "objective",
    lambda: GradientObjective(start=0.1, as_released=True),
    expect_fail={"fixed_point": "its minimum has 100 in the place of half the variance"},
)
test_stein_objective = conformance("objective", SteinObjective)
test_stein_objective_from_data = conformance(
    "objective", lambda: SteinObjective(draws_from="data", centred=False)
)
test_adjoint_matching = conformance(
    "objective",
    lambda: AdjointMatching(flow_steps=8, matched=1),
    expect_fail={"fixed_point": "the minimum is met as steps get short"},
)
test_nft = conformance(
    "objective",
    NegativeAware,
    expect_fail={"fixed_point": "the minimum is the tilted law to first order in the reward"},
)
test_awm = conformance(
    "objective",
    lambda: AdvantageWeighted(base_weight=8.0),
    expect_fail={"fixed_point": "the minimum is the law p (1 + A/w)"},
)
test_refl = conformance(
    "objective", lambda: RewardFeedback(flow_steps=5), expect_fail={"fixed_point": NO_BASE_LAW}
)
test_draft = conformance(
    "objective", lambda: Draft(flow_steps=5), expect_fail={"fixed_point": NO_BASE_LAW}
)
test_semigroup = conformance("objective", Semigroup)
test_shortcut = conformance(
    "objective", Shortcut, expect_fail={"exact_map": "its shortest jumps are Euler steps"}
)
test_eulerian = conformance("objective", Eulerian)
test_eulerian_by_itself = conformance("objective", lambda: Eulerian(velocity="self"))
test_lagrangian = conformance("objective", Lagrangian)
test_lagrangian_by_the_teacher = conformance("objective", lambda: Lagrangian(velocity="teacher"))
test_lagrangian_with_the_velocity_trained = conformance(
    "objective", lambda: Lagrangian(trained="velocity")
)
test_mean_flow = conformance("objective", MeanFlow)
test_teacher_target = conformance("objective", TeacherTarget)
test_data_target = conformance("objective", DataTarget)
test_local = conformance("executor", lambda: Local(workers=1))


def covered(path):
    """Classes of the parts that a test module tries, by contract."""
    spec = importlib.util.spec_from_file_location(f"conformance_of_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [test for name, test in vars(module).items() if name.startswith("test_")]
    return {(t.contract, type(t.part())) for t in tests if hasattr(t, "contract")}


def test_every_part_is_covered():
    modules = [Path(__file__)]
    for path in ROOT.glob("plugins/*/tests/test_*_conformance.py"):
        if importlib.util.find_spec(path.parents[1].name.replace("-", "_")):
            modules.append(path)
    tried = set().union(*map(covered, modules))
    entries = [(c, e) for c, named in load_catalog().parts.items() for e in named.values()]
    of_plugins = {"tracker"}  # align itself ships none
    assert {contract for contract, _ in entries} >= set(CONTRACT_CLASSES) - of_plugins
    missing = [
        f"{contract} '{e.kind}'" for contract, e in entries if (contract, e.cls) not in tried
    ]
    assert not missing, f"not tried by conformance(): {', '.join(missing)}"
