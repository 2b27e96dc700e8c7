"""A network of the user's own: every convention in closed form, its file, its prompts."""

import re

import pytest
import torch
from loguru import logger

from align.catalog.registry import load_catalog
from align.core.errors import ContractError, PartError, PromptError, RecipeError
from align.core.model import (
    ClassConditional,
    NoisyState,
    Scheduled,
    TrainableVelocity,
    build_model,
)
from align.core.path import times_of
from align.models.mixture import Mixture
from align.models.torch import Torch
from align.modes.sampling.rollout import flow
from align.recipe import load

CPU = torch.device("cpu")
WORLD = {"weights": (0.3, 0.7), "means": ((-1.5,), (1.0,)), "stds": (0.4, 0.7)}

# The name of a function says its convention. It computes from the formulas alone.
FILE = '''
import math
import torch
from torch import nn

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHAS = (1 - BETAS).cumprod(0)
LOG_SIGMAS = 0.5 * ((1 - ALPHAS) / ALPHAS).log()


class Net(nn.Module):
    def __init__(self, path, predicts, zero, end):
        super().__init__()
        self.path, self.predicts, self.zero, self.end = path, predicts, zero, float(end)
        self.register_buffer("weights", torch.tensor([0.3, 0.7], dtype=torch.float64))
        self.means = torch.tensor([-1.5, 1.0], dtype=torch.float64)
        self.variances = torch.tensor([0.4, 0.7], dtype=torch.float64) ** 2

    def coefficients(self, t):
        """Of noise and data, and their rates by the network's own time from 0 to 1."""
        if self.path == "variance":
            k = (t / self.end if self.zero == "data" else 1 - t / self.end) * 999
            low = k.floor().long().clamp(0, 998)
            sigma = (LOG_SIGMAS[low] * (1 - (k - low)) + LOG_SIGMAS[low + 1] * (k - low)).exp()
            return sigma / (1 + sigma**2).sqrt(), 1 / (1 + sigma**2).sqrt(), None, None
        share = t / self.end
        if self.path == "linear":
            ends = (1 - share, share, -torch.ones_like(t), torch.ones_like(t))
        else:
            angle, rate = math.pi / 2 * share, math.pi / 2
            ends = (angle.cos(), angle.sin(), -rate * angle.sin(), rate * angle.cos())
        if self.zero == "noise":
            return ends
        if self.path == "linear":
            return share, 1 - share, torch.ones_like(t), -torch.ones_like(t)
        return angle.sin(), angle.cos(), rate * angle.cos(), -rate * angle.sin()

    def forward(self, x, t):
        a, b, a_rate, b_rate = (None if c is None else c[:, None] for c in self.coefficients(t))
        spread = a**2 + b**2 * self.variances
        logits = self.weights.log() - 0.5 * (x - b * self.means) ** 2 / spread - 0.5 * spread.log()
        weights = logits.softmax(1)
        off = (x - b * self.means) / spread
        clean = (weights * (self.means + b * self.variances * off)).sum(1, keepdim=True)
        noise = (weights * a * off).sum(1, keepdim=True)
        if self.predicts == "velocity":
            return a_rate * noise + b_rate * clean
        score = -(weights * off).sum(1, keepdim=True)
        return {"noise": noise, "x0": clean, "score": score, "v": b * noise - a * clean}[
            self.predicts
        ]


def __getattr__(name):
    if name.count("_") != 3:
        raise AttributeError(name)
    return lambda: Net(*name.split("_"))
'''
PATHS = {"linear": "linear", "trigonometric": "trigonometric", "variance": "variance_preserving"}
CLOCKS = [("noise", 1), ("data", 1), ("data", 999)]
PREDICTIONS = ("velocity", "noise", "x0", "score", "v")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(FILE)
    return str(path)


def spec(file, path, predicts, zero="noise", end=1):
    function = f"{path}_{predicts}_{zero}_{end}"
    options = {"predicts": predicts, "path": PATHS[path], "zero": zero, "time_end": float(end)}
    return Torch(file=file, function=function, shape=(1,), **options)


def world(path):
    return Mixture(**WORLD, path="linear" if path == "variance" else path).build(CPU)


@pytest.mark.parametrize(("zero", "end"), CLOCKS)
@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_velocity_of_every_convention_is_that_of_the_closed_form(file, path, predicts, zero, end):
    if (path, predicts) == ("variance", "velocity"):
        with pytest.raises(ValueError, match="in which nothing has a velocity"):
            spec(file, path, predicts, zero, end)
        return
    model, exact = spec(file, path, predicts, zero, end).build(CPU), world(path)
    t = torch.tensor([0.011, 0.1, 0.3, 0.5, 0.8, 0.97], dtype=torch.float64)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64).repeat_interleave(len(t))[:, None]
    t, cond = t.repeat(7), model.encode([""] * len(x))
    difference = model.velocity(x, t, cond) - exact.velocity(x, t, cond)
    assert difference.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("path", "predicts"),
    [("linear", "noise"), ("trigonometric", "x0"), ("trigonometric", "score"), ("variance", "v")],
)
def test_samples_follow_the_exact_flow_map_the_nearer_the_more_steps(file, path, predicts):
    model, exact = spec(file, path, predicts, "data", 999).build(CPU), world(path)
    noise = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
    zero, cond = times_of(noise, 0.0), model.encode([""] * len(noise))
    wanted = exact.jump(noise, zero, zero + 1, cond)
    few, many = (
        (flow(model, noise, cond, steps=steps) - wanted).abs().mean() for steps in (10, 100)
    )
    assert many < 0.05 and many < few / 4


def test_table_is_sampled_by_the_steps_of_ddim(file):
    model = spec(file, "variance", "noise", "data", 999).build(CPU)
    assert model.capability(Scheduled) is not None
    alphas = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    noise = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    z, ks = noise, [999, 799, 599, 400, 200]
    for k, later in zip(ks, [*ks[1:], None], strict=True):
        predicted = model.network(z, torch.full((5,), float(k), dtype=torch.float64))
        clean = (z - (1 - alphas[k]).sqrt() * predicted) / alphas[k].sqrt()
        following = alphas[later] if later is not None else torch.tensor(1.0)
        z = following.sqrt() * clean + (1 - following).sqrt() * predicted
    assert (flow(model, noise, model.encode([""] * 5), steps=5) - z).abs().max() < 1e-9


def test_other_models_have_no_times_of_their_own(file):
    assert spec(file, "linear", "noise").build(CPU).capability(Scheduled) is None
    assert spec(file, "linear", "noise").provides == frozenset()
    assert spec(file, "variance", "v").provides == {Scheduled}


OWN = """
import torch
from torch import nn
from helper import scale

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.at = nn.Embedding(3, 2)
        nn.init.constant_(self.at.weight, 0)
        self.at.weight.data[:, 0] = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x, t, label):
        assert t.dtype == torch.float32
        return scale * self.at(label)

net = Net()

def by_class(): return Net()
def by_name(): return lambda x, t, *, y: x + y[:, None]
def of_text(): return lambda x, t, embedding, count: x + embedding.mean(1, keepdim=True) * count[:, None]
def texts(prompts):
    lengths = torch.tensor([float(len(p)) for p in prompts])
    return {"embedding": lengths[:, None].expand(-1, 4), "count": torch.ones(len(prompts))}
def few_texts(prompts): return {"embedding": torch.ones(1)}
def half(): return Net().bfloat16()
def flat(): return lambda x, t: x.mean(1)
def two(): return lambda x, t: (x, t)
def late(x, t): return x
def nothing(): return None
def broken(): raise RuntimeError("no weights")
def model(): return lambda x, t: -x
def pictures(x): return (x + 1) / 2
def bytes_of(x): return 255 * pictures(x)
def whole(): return lambda x, t: x.long()
def complex_(): return lambda x, t: x + 0j
def sparse(): return lambda x, t: x.to_sparse()
def itself(): return Net
def one_number(): return 1
class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * t[:, None]
def scripted(): return torch.jit.trace(Scripted(), (torch.zeros(3, 2), torch.zeros(3)))
number = 3
"""  # noqa: E501


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder that the command is started in, with own.py and a helper beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "helper.py").write_text("scale = 10.0\n")
    return tmp_path


def built(**options):
    return build_model(Torch(**{"file": "own.py", "shape": (2,), **options}), CPU)


def velocity(model, prompts, rows=2):
    x = torch.zeros(rows, *model.shape)
    return model.velocity(x, torch.full((rows,), 0.5), model.encode(prompts))


@pytest.mark.parametrize("function", ["by_class", "Net", "net"])
def test_labels_are_the_third_argument(own, function):
    model = built(function=function, classes=("cat", "dog"), null_class=True)
    assert velocity(model, ["A dog.", ""])[:, 0].tolist() == [20.0, 30.0]
    assert not any(weight.requires_grad for weight in model.network.parameters())
    assert model.capability(ClassConditional).classes == ("cat", "dog")
    assert "'cat'" in model.left_out("a cat and a dog")


def test_labels_go_to_a_named_argument(own):
    model = built(function="by_name", classes=("cat", "dog"), label="y", prompt="{class}")
    assert velocity(model, ["dog", "cat"])[:, 0].tolist() == [1.0, 0.0]
    with pytest.raises(PromptError, match="names none of the classes: cat, dog"):
        model.encode([""])


def test_classes_may_come_from_a_file_of_prompts(own, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    named = {"function": "by_class", "classes": ("cat", "dog")}
    model = built(prompts="prompts.txt", **named)
    assert model.encode(("a cat", "a dog")).tensors["label"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="'prompt' must name one of the classes"):
        built(**named)


def test_tensors_of_prompts_go_to_named_arguments(own):
    model = built(function="of_text", encode="texts")
    assert velocity(model, ["abc", "abcde"])[:, 0].tolist() == [3.0, 5.0]
    with pytest.raises(ContractError, match="a row for each of 2 prompts"):
        built(function="of_text", encode="few_texts").encode(["a", "b"])


def test_model_without_prompts_refuses_them(own):
    model = built()
    assert model.capability(ClassConditional) is None
    with pytest.raises(PromptError, match="neither 'classes' nor 'encode'"):
        model.encode(["cat"])


def test_states_of_half_precision_networks_are_single(own):
    model = built(function="half", classes=("cat", "dog"), prompt="cat")
    assert model.dtype == torch.float32
    assert velocity(model, ["cat", "dog"]).dtype == torch.float32


def test_pictures_are_decoded_clamped_and_coloured(own):
    model = built(shape=(1, 2, 2), decode="pictures")
    x1 = torch.tensor([-3.0, 0.0, 0.5, 3.0]).reshape(1, 1, 2, 2).requires_grad_()
    data = model.decode(x1)
    assert data.shape == (1, 3, 2, 2) and data[0, 2].flatten().tolist() == [0.0, 0.5, 0.75, 1.0]
    (gradient,) = torch.autograd.grad(data.sum(), x1)
    assert (gradient == 1.5).all()
    assert model.domain == "image" and built(shape=(3, 2, 2)).domain == "image"


@pytest.mark.parametrize(
    ("function", "error", "told"),
    [
        (
            "flat",
            ContractError,
            r"'own.py' returned \(2,\) torch.float32, expected a tensor \(2, 2\)",
        ),
        ("whole", ContractError, r"returned \(2, 2\) torch.int64, expected .* of a floating type"),
        ("complex_", ContractError, r"returned \(2, 2\) torch.complex64, expected"),
        ("sparse", ContractError, r"returned \(2, 2\) torch.float32 torch.sparse_coo, expected"),
        ("itself", ContractError, "'itself' of 'own.py' returned the class 'Net', expected a netw"),
        ("one_number", ContractError, "returned an int, expected a network"),
        ("two", ContractError, r"'own.py' returned a tuple, expected a tensor \(2, 2\)"),
        ("nothing", ContractError, "'nothing' of 'own.py' returned a NoneType, expected a network"),
        ("broken", PartError, r"'broken' of 'own.py' raised RuntimeError: no weights \(own.py"),
        ("late", PartError, "'late' of 'own.py' raised TypeError: late.. missing 2 required"),
        ("number", PartError, "'own.py' has no function 'number'"),
    ],
)
def test_function_that_makes_no_network_is_told(own, function, error, told):
    with pytest.raises(error, match=told):
        velocity(built(function=function), ["", ""])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"encode": "Net"}, "'Net' of 'own.py' is a class; name a function"),
        ({"decode": "Net"}, "'Net' of 'own.py' is a class; name a function"),
    ],
)
def test_a_class_in_place_of_a_function_is_told(own, options, told):
    with pytest.raises(ContractError, match=told):
        built(**options)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_sampled_and_not_trained(own):
    model = built(function="scripted")
    x = torch.ones(3, 2, requires_grad=True)
    made = model.velocity(x, torch.full((3,), 0.5), model.encode([""] * 3))
    assert torch.autograd.grad(made.sum(), x)[0].any()
    assert not any(weight.requires_grad for weight in model.network.parameters())
    assert model.capability(TrainableVelocity) is None
    with pytest.raises(
        PartError, match=r"'own.py' has a module of TorchScript, which cannot be tr"
    ):
        _ = model.module


def test_pictures_of_another_range_are_told_once(own):
    lines = list[str]()
    handler = logger.add(lambda line: lines.append(line.record["message"]))
    logger.enable("align")  # as a run does
    try:
        for decode in ("pictures", "bytes_of"):
            model = built(shape=(3, 2, 2), decode=decode)
            for _ in range(2):
                model.decode(torch.linspace(-1.2, 1.2, 12).reshape(1, 3, 2, 2))
    finally:
        logger.disable("align")
        logger.remove(handler)
    (line,) = lines
    assert "of the values of pictures are beyond [0, 1] by more than 0.5, and are clamped" in line


RECIPE = """\
[model]
kind = "torch"
file = "own.py"
shape = [2]
{}

[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.0]]
observed = [1.0]
std = 0.5

[mode]
kind = "best_of_n"
"""


TABLE = 'path = "variance_preserving"\npredicts = "noise"'


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ('function = "modle"', "r.toml:5: model.function: 'own.py' has no 'modle'; it has"),
        ('decode = "picture"', "r.toml:5: model.decode: 'own.py' has no 'picture'; it has"),
        ('module = "helper"', "r.toml:1: model: expected either file, a Python file, or module"),
        ('path = "variance_preserving"', "r.toml:5: model.path: 'path' = 'variance_preserving' is"),
        ('predicts = "epsilon"', "r.toml:5: model.predicts: expected one of 'velocity', 'noise',"),
        ('prompt = "cat"', "r.toml:5: model.prompt: the model has neither 'classes' nor 'encode'"),
        ('classes = ["cat"]', "r.toml:1: model: 'prompt' must name one of the classes, or stand"),
        ('classes = ["cat"]\nprompt = "dog"', "r.toml:6: model.prompt: 'dog' names none of the"),
        ('classes = ["cat", "Cat"]', "r.toml:5: model.classes: 'classes' must be names, no two"),
        ('label = "y"', "r.toml:5: model.label: 'label' needs 'classes'"),
        ('domain = "image"', "r.toml:1: model: states of shape [2] are no pictures"),
        ("time_end = 0", "r.toml:5: model.time_end: 'time_end' must be greater than 0"),
        (
            "schedule = { betas = [0.0, 0.1] }",
            "r.toml:5: model.schedule.betas: 'betas' must be at least two numbers above 0",
        ),
        (
            'schedule = { name = "linear" }',
            "r.toml:5: model.schedule: 'schedule' is a table, which",
        ),
        (
            f'{TABLE}\nschedule = {{ name = "cosine", beta_start = 0.001 }}',
            "r.toml:7: model.schedule.beta_start: 'name' = 'cosine' leaves nothing to 'beta_start'",
        ),
        (
            f"{TABLE}\nschedule = {{ betas = [1.0, 1.0] }}",
            "r.toml:7: model.schedule: 0 of its 2 steps hold data",
        ),
    ],
)
def test_mistakes_are_located_without_running_the_file(own, options, told):
    (own / "helper.py").write_text("raise SystemExit('run')")
    (own / "r.toml").write_text(RECIPE.format(options))
    with pytest.raises(RecipeError) as caught:
        load("r.toml", catalog=load_catalog())
    lines = str(caught.value).replace(f"{own}/", "").splitlines()
    assert any(line.startswith(told) for line in lines), lines


@pytest.mark.parametrize(
    ("said", "meant"),
    [("eps", "noise"), ("v_prediction", "v"), ("sample", "x0"), ("flow_prediction", "velocity")],
)
def test_prediction_by_another_name_is_one_mistake_that_names_its_own(own, said, meant):
    wrong = f'path = "variance_preserving"\npredicts = "{said}"'
    (own / "r.toml").write_text(RECIPE.format(wrong))
    with pytest.raises(RecipeError) as caught:
        load("r.toml", catalog=load_catalog())
    (line,) = str(caught.value).splitlines()
    assert line.startswith("r.toml:6: model.predicts: expected one of 'velocity', 'noise', 'x0', ")
    assert line.endswith(f"got the string '{said}'; did you mean '{meant}'?")


def test_prompt_of_classes_that_are_wrong_is_no_second_mistake(own):
    (own / "r.toml").write_text(RECIPE.format('classes = "cat"\nprompt = "a cat"\nlabel = "y"'))
    with pytest.raises(RecipeError) as caught:
        load("r.toml", catalog=load_catalog())
    assert len(str(caught.value).splitlines()) == 1


SHAPELY = """
import torch
from torch import nn

class Plain(nn.Module):
    def forward(self, x, t):
        return x

class Told(nn.Module):
    def forward(self, x, t, y):
        return x

def told():
    return lambda x, t, y: x

class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(100, 2)

    def forward(self, x, t):
        return x + self.rows(t.round().long())
"""


@pytest.mark.parametrize(
    ("function", "options", "told"),
    [
        ("Told", {}, r"as f\(x, t\), .* arguments \(x, t, y\): missing .* 'y'; give 'classes' if"),
        ("told", {}, r"as f\(x, t\), .* arguments \(x, t, y\): missing .* 'y'; give 'classes' if"),
        ("Told", {"label": "cls"}, r"f\(x, t, cls=cls\), .*; name one of them as 'label'"),
        (
            "Plain",
            {"classes": ("a",)},
            r"f\(x, t, label\), .*\(x, t\): too .*; leave 'classes' out",
        ),
    ],
)
def test_network_of_other_arguments_is_refused_when_it_is_built(own, function, options, told):
    (own / "shapely.py").write_text(SHAPELY)
    if "label" in options:
        options = {"classes": ("a",)} | options
    made = {"prompt": "a"} | options if options else {}
    # A class is made first, as any function is called.
    (own / "made.py").write_text(f"import shapely\ndef model():\n    return shapely.{function}()\n")
    with pytest.raises(PartError, match=told):
        Torch(file="made.py", shape=(2,), **made).build(CPU)


def test_call_that_fails_is_told_with_its_times(own):
    (own / "made.py").write_text(SHAPELY + "\ndef model():\n    return Table()\n")
    model = Torch(file="made.py", shape=(2,), zero="data", time_end=100).build(CPU)
    with pytest.raises(PartError) as caught:
        model.velocity(torch.zeros(2, 2), torch.tensor([0.0, 0.5]), model.encode(["", ""]))
    message = str(caught.value)
    assert "IndexError: index out of range in self (made.py, line " in message
    assert "with tensors (2, 2), (2,) at its times 50 to 100; see the options" in message


def test_a_refused_name_is_told_beside_what_the_file_defines_itself(own):
    with pytest.raises(ValueError, match=r"has no 'modle'; it has 'Net', 'net', 'by_class'"):
        built(function="modle")


def test_a_file_with_a_nul_is_no_python(own):
    (own / "own.py").write_bytes(b"x = 1\n\0")
    with pytest.raises(ValueError, match=r"'own.py' is not Python: (?!line None)"):
        built()


def test_check_reads_the_file_and_says_where_it_is_from(own):
    (own / "helper.py").write_text("raise SystemExit('run')")
    (own / "r.toml").write_text(RECIPE.format(""))
    part = load("r.toml", catalog=load_catalog()).recipe.model
    assert part.state_shape == (2,) and part.domain == "vector"
    assert re.fullmatch(r"sha256 [0-9a-f]{64}", part.origins()[str(own / "own.py")])


def test_module_is_found_by_name(own):
    module = Torch(module="own", shape=(2,)).build(CPU)
    assert (velocity(module, ["", ""]) == 0).all()


def test_rows_of_several_times_are_asked_at_once(own):
    model = built(predicts="x0", path="trigonometric")
    x, t = torch.randn(3, 2), torch.tensor([0.2, 0.5, 0.8])
    cond = model.encode([""] * 3)
    together = model.velocity(x, t, cond)
    for row in range(3):
        one = NoisyState(x, t, cond).rows(slice(row, row + 1))
        assert torch.allclose(model.velocity(one.x, one.t, one.cond), together[row : row + 1])


@pytest.mark.parametrize(
    ("shape", "mode", "told"),
    [
        ("[2]", "", "r.toml:5: mode.net: the model has no network that a meta_flow_map can grow"),
        (
            "[1, 8, 8]",
            "net = { kind = 'unet', widths = [8, 8, 8, 8, 8] }",
            "8 x 8 cannot be halved",
        ),
        ("[1, 8, 8]", "net = { kind = 'dit', patch = 3 }", "of 8 x 8 cannot be cut into squares"),
        (
            "[16]",
            "net = { kind = 'unet' }",
            "'unet' is a network of images, but the model's states",
        ),
    ],
)
def test_networks_that_cannot_be_are_refused_before_a_run(shape, mode, told, own):
    options = f'[model]\nkind = "torch"\nfile = "own.py"\nshape = {shape}\n'
    options += 'domain = "image"\ndecode = "pictures"\n' if shape == "[16]" else ""
    (own / "own.py").write_text((own / "own.py").read_text() + "\n\ndef pictures(x): ...\n")
    (own / "r.toml").write_text(f'{options}[mode]\nkind = "distill"\n{mode}\n')
    with pytest.raises(RecipeError) as caught:
        load("r.toml", catalog=load_catalog())
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_network_that_writes_into_its_states_is_given_a_copy(own):
    """A "v" is converted with the states that the network was given."""
    (own / "twice.py").write_text(
        "def model():\n    return lambda x, t: x.mul_(0.5)\n"
        "def other():\n    return lambda x, t: x * 0.5\n"
    )
    x, t = torch.randn(3, 2), torch.full((3,), 0.4)
    written, kept = (
        Torch(file="twice.py", shape=(2,), predicts="v", function=name).build(CPU)
        for name in ("model", "other")
    )
    cond = kept.encode(["", "", ""])
    assert torch.equal(written.velocity(x.clone(), t, cond), kept.velocity(x, t, cond))


@pytest.mark.parametrize("predicts", ["velocity", "noise", "x0", "score", "v"])
@pytest.mark.parametrize("how", ["detached", "no_grad"])
def test_network_that_cuts_gradients_is_told_whatever_it_predicts(own, how, predicts):
    """States take part in the conversion, so that the velocity has a gradient, but a wrong one."""
    (own / "cut.py").write_text(
        "import torch\n"
        "def detached():\n    return lambda x, t: (-x).detach()\n"
        "def no_grad():\n    return torch.no_grad()(lambda x, t: -x)\n"
    )
    model = Torch(file="cut.py", shape=(2,), predicts=predicts, function=how).build(CPU)
    x, t, cond = torch.ones(1, 2, requires_grad=True), torch.full((1,), 0.4), model.encode([""])
    with pytest.raises(ContractError, match=r"the network of 'cut.py' cuts gradients inside its"):
        model.velocity(x, t, cond)
    assert model.velocity(x.detach(), t, cond).isfinite().all()
