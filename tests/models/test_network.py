"""Models made of networks: labels, guidance, context, decoding, and weights files."""

import attrs
import pytest
import torch

from align.core.errors import PartError, PromptError
from align.core.model import Condition, FlowMap, NoisyState, PosteriorMap
from align.core.network import make_network
from align.core.problem import Problem
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.about import about_of, modules_of
from align.models.mixture import Mixture
from align.models.network import Network, load
from align.models.network_model import ROLES, ClassReader, NetworkModel, network_of
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiT, DiTConfig
from align.networks.mlp import MLP, MLPConfig
from align.training import weights

CPU = torch.device("cpu")
CLASSES = ("cat", "Tabby cat", "dog")
SMALL = DiTConfig(width=16, depth=2, heads=2, patch=2, encoder_depth=1)
OUTER = AutoencoderConfig(width=8, levels=1, latents=4)


def _randomised(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        tensor.normal_(0, 0.3, generator=generator)
    if isinstance(module, Autoencoder):
        module.std.abs_().add_(1)
    return module.eval().requires_grad_(False)


def _vectors(**parts):
    """Flow and map of vectors."""
    nets = {
        name: _randomised(make_network(MLPConfig(width=16), (2,), 3, ROLES[name]), seed)
        for seed, name in enumerate(("flow", "posterior"))
    }
    return NetworkModel(**{"shape": (2,), "classes": CLASSES, "domain": "vector", **nets, **parts})


def _latents():
    """Flow and map of latents, with an autoencoder."""
    shape = (4, 4, 4)
    return NetworkModel(
        shape=shape,
        classes=CLASSES,
        flow=_randomised(DiT(SMALL, shape, 3, "flow"), 0),
        posterior=_randomised(DiT(SMALL, shape, 3, "meta_flow_map"), 1),
        autoencoder=_randomised(Autoencoder(OUTER), 2),
    )


def _state(model, rows=3):
    g = torch.Generator().manual_seed(5)
    y, x = torch.randn((2, rows, *model.shape), generator=g)
    s, u, t = torch.rand((3, rows), generator=g)
    cond = model.encode([CLASSES[row % 3] for row in range(rows)])
    return y, s, u, NoisyState(x, t, cond)


def _labels(model, *prompts):
    return model.encode(prompts).tensors["label"].tolist()


def test_prompts_name_the_longest_class_that_fits():
    model = _vectors()
    assert _labels(model, "a photo of a DOG", "one tabby cat, asleep", "cats", "") == [2, 1, 0, 3]
    with pytest.raises(PromptError) as caught:
        model.encode(["dog", "a bird"])
    expected = "'a bird' names none of the classes: cat, Tabby cat, dog"
    assert str(caught.value) == expected
    assert _labels(_vectors(classes=()), "anything", "") == [0, 0]
    assert model.class_grid(5).tensors["label"].tolist() == [0, 1, 2, 0, 1]


def test_velocity_is_the_flow_s():
    model = _vectors()
    y, s, _, noisy = _state(model)
    zero, label = torch.zeros_like(y), noisy.cond.tensors["label"]
    found = model.velocity(y, s, noisy.cond)
    assert torch.equal(found, model.flow(y, s, s, torch.zeros_like(s), zero, label))
    assert not torch.allclose(found, model.flow(y, s, s, s, zero, label + 1))


def test_without_a_flow_velocity_is_the_map_s_diagonal():
    model = _vectors(flow=None)
    y, s, _, noisy = _state(model)
    zero, label = torch.zeros_like(y), noisy.cond.tensors["label"]
    expected = model.posterior(y, s, s, torch.zeros_like(s), zero, label)
    assert torch.equal(model.velocity(y, s, noisy.cond), expected)
    with pytest.raises(PartError, match="hold no flow"):
        model.require_flow()
    with pytest.raises(PartError, match="hold no flow"):
        _vectors(flow=None, posterior=None).velocity(y, s, noisy.cond)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_scales_the_difference_of_velocities(scale):
    model = _vectors()
    y, s, _, noisy = _state(model)
    plain = model.velocity(y, s, model.encode([""] * 3))
    named = model.velocity(y, s, noisy.cond)
    found = attrs.evolve(model, guidance=scale).velocity(y, s, noisy.cond)
    assert torch.allclose(found, plain + scale * (named - plain), atol=1e-6)
    assert float((named - plain).abs().min()) > 1e-3


def test_jump_moves_by_its_average_velocity():
    model = _vectors()
    y, s, u, noisy = _state(model)
    average = model.posterior_velocity(y, s, u, noisy)
    assert torch.equal(
        average, model.posterior(y, s, u, noisy.t, noisy.x, noisy.cond.tensors["label"])
    )
    assert torch.allclose(model.posterior_jump(y, s, u, noisy), y + (u - s)[:, None] * average)
    assert torch.equal(model.posterior_jump(y, s, s, noisy), y)
    with pytest.raises(PartError, match="hold no meta flow map"):
        attrs.evolve(model, posterior=None).posterior_jump(y, s, u, noisy)


def test_flow_map_is_the_posterior_map_without_a_context():
    model = _vectors()
    x, s, u, noisy = _state(model)
    nothing = NoisyState(torch.zeros_like(x), torch.zeros_like(s), noisy.cond)
    found = model.jump(x, s, u, noisy.cond)
    assert torch.equal(found, model.posterior_jump(x, s, u, nothing))
    assert not torch.allclose(found, model.posterior_jump(x, s, u, noisy), atol=1e-2)
    assert torch.equal(model.jump(x, s, s, noisy.cond), x)
    with pytest.raises(PartError, match="hold no flow map"):
        attrs.evolve(model, posterior=None).jump(x, s, u, noisy.cond)
    flow_map = _randomised(make_network(MLPConfig(width=16), (2,), 3, "flow_map"), 4)
    both = attrs.evolve(model, flow_map=flow_map)
    average = flow_map(x, s, u, s, x, noisy.cond.tensors["label"])
    assert torch.allclose(both.jump(x, s, u, noisy.cond), x + (u - s)[:, None] * average)
    alone = attrs.evolve(both, flow=None, posterior=None)
    assert torch.equal(
        alone.velocity(x, s, noisy.cond), flow_map(x, s, s, s, x, noisy.cond.tensors["label"])
    )


def test_at_time_0_the_context_is_ignored_row_by_row():
    model = _vectors()
    y, s, u, noisy = _state(model)
    first = NoisyState(noisy.x, noisy.t * torch.tensor([0.0, 1.0, 0.0]), noisy.cond)
    second = NoisyState(noisy.x + 5, first.t, noisy.cond)
    one, two = (model.posterior_jump(y, s, u, each) for each in (first, second))
    assert torch.equal(one[[0, 2]], two[[0, 2]])
    assert not torch.allclose(one[1], two[1], atol=1e-2)


def test_decoding_clamps_but_keeps_the_gradient():
    model = _latents()
    latents = torch.randn((6, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    latents = (3 * latents).requires_grad_()
    pictures, plain = model.decode(latents), model.autoencoder.decode(latents)
    assert float(plain.detach().max()) > 1.2
    assert float(plain.detach().min()) < -0.2
    assert torch.equal(pictures, plain.clamp(0, 1))
    weight = torch.rand(pictures.shape, generator=torch.Generator().manual_seed(1))
    found, expected = (
        torch.autograd.grad((weight * each).sum(), latents)[0] for each in (pictures, plain)
    )
    assert torch.equal(found, expected)


def test_grey_pictures_become_rgb_and_vectors_stay():
    auto = Autoencoder(AutoencoderConfig(width=8, levels=1, latents=4, colours=1))
    grey = attrs.evolve(_latents(), autoencoder=_randomised(auto, 0))
    pictures = grey.decode(torch.zeros(2, 4, 4, 4))
    assert pictures.shape == (2, 3, 8, 8)
    assert torch.equal(pictures[:, 0], pictures[:, 2])
    vectors = torch.randn(3, 2)
    assert torch.equal(_vectors().decode(vectors), vectors)


def test_half_precision_is_that_of_products_alone():
    model = _latents()
    half = attrs.evolve(model, precision="bfloat16")
    y, s, u, noisy = _state(model)
    x, t, cond = noisy.x.requires_grad_(), noisy.t, noisy.cond
    for call in (
        lambda m: m.velocity(x, t, cond),
        lambda m: attrs.evolve(m, guidance=2.0).velocity(x, t, cond),
        lambda m: m.posterior_jump(y, s, u, NoisyState(x, t, cond)),
        lambda m: m.decode(x),
    ):
        exact, found = call(model), call(half)
        assert found.dtype == torch.float32 and not torch.equal(exact, found)
        torch.testing.assert_close(found, exact, rtol=0.1, atol=0.1 * exact.abs().max().item())
        (slope,) = torch.autograd.grad(found.sum(), x)
        assert slope.dtype == torch.float32 and slope.abs().sum() > 0
    assert network_of(Problem(half)).precision == "float32"


def test_a_flow_may_be_the_diagonal_of_a_map(tmp_path):
    model = _latents()
    model = attrs.evolve(model, flow=model.posterior, posterior=None)
    y, s, _, noisy = _state(model)
    weights.write(tmp_path / "m.safetensors", modules_of(model), about_of(model), torch.float32)
    again = load(tmp_path / "m.safetensors", CPU)
    assert again.flow.role == "meta_flow_map" and again.posterior is None
    assert torch.equal(again.velocity(y, s, noisy.cond), model.velocity(y, s, noisy.cond))


@pytest.mark.parametrize("make", [_vectors, _latents])
def test_exported_weights_make_the_same_model(tmp_path, make):
    model, path = make(), tmp_path / "model.safetensors"
    weights.write(path, modules_of(model), about_of(model), torch.float32)
    before = torch.random.get_rng_state()
    again = load(path, CPU, guidance=1.5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.guidance == 1.5
    for name in ("shape", "classes", "domain"):
        assert getattr(again, name) == getattr(model, name)
    for name, module in modules_of(again).items():
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
        assert module.config == getattr(model, name).config
    y, s, u, noisy = _state(model)
    guided = attrs.evolve(model, guidance=1.5)
    assert torch.equal(again.posterior_jump(y, s, u, noisy), model.posterior_jump(y, s, u, noisy))
    assert torch.equal(again.velocity(y, s, noisy.cond), guided.velocity(y, s, noisy.cond))
    assert torch.equal(again.decode(y), model.decode(y))
    spec = Network(weights=str(path))
    assert spec.domain == model.domain
    assert spec.provides == {FlowMap, PosteriorMap}
    assert torch.equal(spec.build(CPU).decode(y), model.decode(y))


def test_a_file_without_a_map_provides_none(tmp_path):
    model, path = _vectors(posterior=None), tmp_path / "model.safetensors"
    weights.write(path, modules_of(model), about_of(model), torch.float32)
    assert Network(weights=str(path)).provides == frozenset()
    assert load(path, CPU).posterior is None


def _outer(path):
    auto = _randomised(Autoencoder(OUTER), 2)
    about = {"autoencoder": attrs.asdict(OUTER), "shape": (4, 4, 4)}
    weights.write(path, {"autoencoder": auto}, about, torch.float32)
    return auto


def test_an_untrained_flow_around_an_autoencoder(tmp_path):
    path = tmp_path / "outer.safetensors"
    auto = _outer(path)
    spec = Network(net=SMALL, autoencoder=str(path), classes=("a", "b"), guidance=2.0)
    assert (spec.domain, spec.provides, spec.prompt) == ("image", frozenset(), "")
    model = spec.build(CPU)
    assert (model.shape, model.classes, model.guidance) == ((4, 4, 4), ("a", "b"), 2.0)
    assert isinstance(model.flow, DiT)
    assert model.flow.y_embedder.embedding_table.num_embeddings == 3
    latents = torch.randn(2, 4, 4, 4)
    assert torch.equal(model.autoencoder.decode(latents), auto.decode(latents))
    again = spec.build(CPU).flow.state_dict()
    assert all(torch.equal(again[k], v) for k, v in model.flow.state_dict().items())


def test_options_and_files_that_make_no_model_are_refused(tmp_path):
    for wrong in ({}, {"weights": "a.safetensors", "net": SMALL}):
        with pytest.raises(ValueError, match="expected either 'weights' or 'net'"):
            Network(**wrong)
    for both in ({}, {"autoencoder": "a.safetensors", "shape": (2,)}):
        with pytest.raises(ValueError, match="'net' needs either 'autoencoder', the file"):
            Network(net=SMALL, **both)
    with pytest.raises(ValueError, match="'shape' must be one number"):
        Network(net=MLPConfig(), shape=(4, 8, 8))
    with pytest.raises(ValueError, match="'dit', which is for images, and with 'shape' the flow"):
        Network(net=SMALL, shape=(2,))
    with pytest.raises(ValueError, match="'mlp', which is for vectors, and with 'autoencoder'"):
        Network(net=MLPConfig(), autoencoder="a.safetensors")
    with pytest.raises(PartError, match="no file"):
        Network(weights=str(tmp_path / "none.safetensors")).build(CPU)
    path = tmp_path / "outer.safetensors"
    _outer(path)
    spec = Network(weights=str(path))
    assert spec.provides == frozenset()
    with pytest.raises(PartError, match="holds an autoencoder alone"):
        spec.build(CPU)


def test_only_networks_can_be_trained():
    model = _vectors()
    guarded = GuardedModel(model, "network", Meter(), 4)
    assert network_of(Problem(guarded)).flow is model.flow
    assert network_of(Problem(model)).posterior is model.posterior
    other = Mixture(weights=(1,), means=((0.0,),), stds=(1.0,)).build(CPU)
    with pytest.raises(PartError, match="only a model made of networks"):
        network_of(Problem(other))


def test_an_untrained_flow_of_vectors_needs_no_autoencoder():
    spec = Network(net=MLPConfig(width=16), shape=(2,), classes=("a", "b"))
    assert (spec.domain, spec.provides) == ("vector", frozenset())
    model = spec.build(CPU)
    assert (model.shape, model.classes, model.autoencoder) == ((2,), ("a", "b"), None)
    assert isinstance(model.flow, MLP)
    assert model.decode(torch.ones(3, 2)).shape == (3, 2)


def test_a_network_that_embeds_guidance_is_told_the_scale_and_sees_no_second_row():
    config = attrs.evolve(SMALL, guidance_scales=(1.0, 2.5))
    net = _randomised(DiT(config, (4, 4, 4), 3, "meta_flow_map"), 1)
    model = NetworkModel(shape=(4, 4, 4), classes=CLASSES, posterior=net, guidance=2.0)
    y, s, u, noisy = _state(model)
    label = torch.tensor([0, 2, 3])
    cond = Condition(("cat", "dog", ""), {"label": label})
    scale, zero, nothing = torch.tensor([2.5, 2.5, 1.0]), torch.zeros(3), torch.zeros_like(y)
    expected = net(y, s, u, zero, nothing, label, scale)
    assert torch.equal(model.average_velocity(y, s, u, cond), expected)
    assert torch.equal(model.velocity(y, s, cond), net(y, s, s, zero, nothing, label, scale))
    assert model.rows_per_velocity == 1
    state = NoisyState(noisy.x, noisy.t, cond)
    expected = net(y, s, u, noisy.t, noisy.x, label, scale)
    assert torch.equal(model.posterior_velocity(y, s, u, state), expected)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(expected, net(y, s, u, noisy.t, noisy.x, label))


def test_a_reader_finds_classes_in_place_of_their_names():
    numbers = {"puss": 0, "hound": 2}
    reader = ClassReader(
        lambda prompt: numbers[prompt],
        lambda prompt: prompt[1:],
        lambda names: [numbers[name] for name in names],
    )
    model = _vectors(reader=reader)
    assert model.encoding().numbers_of(["hound", "puss"]) == [2, 0]
    assert _labels(model, "hound", "puss", "") == [2, 0, 3]
    assert (model.left_out("puss"), model.left_out("")) == ("uss", "")
