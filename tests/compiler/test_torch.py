"""The torch front end: what it makes of models computes what torch computes."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest

import intaglio
from intaglio.compiler.api import compile as compile_model
from intaglio.ir.diagnostics import IntaglioError
from intaglio.ir.graph import Module
from intaglio.ir.interpret import check_inputs, evaluate
from intaglio.ir.verify import verify

for package in ("torch", "onnxscript"):
    pytest.importorskip(package, reason="the torch front end needs torch and onnxscript: pip install intaglio[torch]")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from intaglio.compiler.frontends.torch import load_torch  # noqa: E402

TOLERANCE = 1e-4  # of the largest magnitude in torch's output


# --- models -----------------------------------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, figure 5 left)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Any) -> Any:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        widths = [64, 64, 128, 256, 512]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(BasicBlock(a, b, 1 if i == 0 else 2), BasicBlock(b, b, 1))
                for i, (a, b) in enumerate(pairwise(widths))
            )
        )
        self.fc = nn.Linear(512, classes)

    def forward(self, image: Any) -> Any:
        y = self.layers(self.pool(F.relu(self.bn1(self.conv1(image)))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(20, 32)
        self.fc2 = nn.Linear(32, 32)
        self.fc3 = nn.Linear(32, 5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        return self.fc3(self.drop(torch.tanh(self.fc2(F.silu(self.fc1(x))))))


class Separable(nn.Module):
    """A depthwise-separable CNN as in MobileNet: depthwise 3x3, pointwise 1x1, ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[Any] = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6()]
        for a, b, stride in [(8, 16, 1), (16, 32, 2)]:
            layers += [nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False), nn.BatchNorm2d(a), nn.Hardswish()]
            layers += [nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classify = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        return self.classify(self.features(x).mean((2, 3)))


class Attention(nn.Module):
    """A pre-norm encoder block over torch's fused attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Any, causal: bool) -> Any:
        n, t, d = x.shape
        q, k, v = (
            y.view(n, t, self.heads, d // self.heads).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).reshape(n, t, d)
        x = x + self.out(y)
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Token and position embeddings, two blocks, a head."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.tokens, self.positions = nn.Embedding(50, 32), nn.Embedding(12, 32)
        self.blocks = nn.ModuleList(Attention(32, 4) for _ in range(2))
        self.head = nn.Linear(32, 50, bias=False)

    def forward(self, tokens: Any) -> Any:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x, self.causal)
        return self.head(x)


class StandardEncoder(nn.Module):
    """torch's own encoder layers behind sinusoidal positions, which are a buffer."""

    def __init__(self) -> None:
        super().__init__()
        angle = torch.arange(10)[:, None] / 10000 ** (torch.arange(16) / 16)
        self.register_buffer("positions", torch.cat([angle.sin(), angle.cos()], dim=1))
        layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(32), enable_nested_tensor=False)

    def forward(self, x: Any) -> Any:
        return self.encoder(x + self.positions)


class Classifier(nn.Module):
    """Bag of embeddings, normalised, through exact GELU; several outputs, some in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.fc = nn.Embedding(30, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, tokens: Any, weight: Any) -> Any:
        h = F.gelu(self.norm(self.embed(tokens) * weight[..., None]))
        logits = self.fc(h.mean(1))
        return {"logits": logits, "stats": (h.amax(1), logits.softmax(-1))}


class Standardize(nn.Module):
    """Buffers only, one of them not in the state_dict, and integers among the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1, 1, 6))
        self.register_buffer("deviation", torch.linspace(1, 2, 6), persistent=False)

    def forward(self, x: Any, shift: Any) -> tuple[Any, Any]:
        y = (x - self.mean) / self.deviation
        return y + shift, torch.where(y > 0, y, y.exp() - 1)


class Unet(nn.Module):
    """Down and up again: transposed convolution, concatenation, interpolation, group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 24, 3, 2, 1), nn.GroupNorm(2, 24)
        self.up, self.last = nn.ConvTranspose2d(24, 8, 2, 2), nn.Conv2d(35, 2, 1)

    def forward(self, x: Any) -> Any:
        y = F.leaky_relu(self.norm(self.down(x)), 0.1)
        up = [self.up(y), F.interpolate(y, scale_factor=2.0, mode="bilinear"), x]
        return self.last(torch.cat(up, dim=1))


def image(size: int, n: int = 2) -> Any:
    return torch.randn(n, 3, size, size)


def ids(high: int, length: int, n: int = 2) -> Any:
    return torch.randint(0, high, (n, length))


class Case(NamedTuple):
    make: Callable[[], Any]
    inputs: Callable[[int], tuple[Any, ...]]  # for a batch size
    batched: bool = True  # whether it takes any batch size


CASES = {
    "mlp": Case(Mlp, lambda n: (torch.randn(n, 20),)),
    "resnet18": Case(ResNet18, lambda n: (image(32, n),)),
    "separable": Case(Separable, lambda n: (image(32, n),)),
    "encoder": Case(Encoder, lambda n: (ids(50, 12, n),)),
    "decoder": Case(lambda: Encoder(causal=True), lambda n: (ids(50, 12, n),)),
    "standard_encoder": Case(StandardEncoder, lambda n: (torch.randn(n, 10, 32),)),
    "classifier": Case(Classifier, lambda n: (ids(30, 7, n), torch.rand(n, 7))),
    "buffers": Case(Standardize, lambda n: (torch.randn(n, 6), torch.arange(6)), batched=False),
    "unet": Case(Unet, lambda n: (image(16, n),)),
}


@pytest.fixture(scope="module")
def model_of() -> Callable[[str], Any]:
    """The models by name, made once; batch norms have seen data."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            torch.manual_seed(0)
            model = CASES[name].make()
            with torch.no_grad():
                for p in model.parameters():  # norms start with ones and zeros, and equal constants share a name
                    p.add_(0.1 * torch.randn_like(p))
                model(*CASES[name].inputs(4))
            made[name] = model.eval()
        return made[name]

    return get


@pytest.fixture(scope="module")
def module_of(model_of: Callable[[str], Any]) -> Callable[[str, bool], Module]:
    made: dict[tuple[str, bool], Module] = {}

    def get(name: str, dynamic: bool) -> Module:
        if (name, dynamic) not in made:
            torch.manual_seed(1)
            made[name, dynamic] = load_torch(model_of(name), CASES[name].inputs(2), dynamic_batch=dynamic)
        return made[name, dynamic]

    return get


def leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return [x for part in tree for x in leaves(part)] if isinstance(tree, tuple) else [tree.numpy()]


def expected_of(model: Any, inputs: tuple[Any, ...]) -> list[Any]:
    with torch.no_grad():
        return leaves(model(*inputs))


def check_close(found: Any, expected: Any) -> None:
    """Same types and shapes, and the largest difference at most TOLERANCE of the largest magnitude."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.abs(a - b).max() <= TOLERANCE * np.abs(b).max()


# --- what is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_interpreted_as_torch_computes(name: str, model_of: Any, module_of: Any) -> None:
    module = module_of(name, False)
    verify(module)
    torch.manual_seed(2)
    inputs = CASES[name].inputs(2)
    arrays = [x.numpy() for x in inputs]
    check_close(evaluate(module.main, arrays, check=True), expected_of(model_of(name), inputs))


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.batched])
def test_dynamic_batch(name: str, model_of: Any, module_of: Any) -> None:
    module = module_of(name, True)
    verify(module)
    assert set(module.dims) == {"N"}
    for size in (1, 3):
        torch.manual_seed(3)
        inputs = CASES[name].inputs(size)
        arrays = check_inputs(
            [(v.name, v.type) for v in module.main.inputs],
            {v.name: x.numpy() for v, x in zip(module.main.inputs, inputs, strict=True)},
            module.dims,
        )
        check_close(evaluate(module.main, arrays, check=True), expected_of(model_of(name), inputs))


@pytest.mark.parametrize(
    ("name", "dynamic"), [*((n, case.batched) for n, case in CASES.items()), ("separable", False), ("encoder", False)]
)
def test_compiled_for_cpu(name: str, dynamic: bool, model_of: Any, module_of: Any) -> None:
    compiled = compile_model(module_of(name, dynamic), target="cpu")
    torch.manual_seed(4)
    inputs = CASES[name].inputs(3 if dynamic else 2)
    found = compiled(*[x.numpy() for x in inputs])
    check_close(found if isinstance(found, tuple) else (found,), expected_of(model_of(name), inputs))


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_constants_are_called_as_in_the_state_dict(name: str, model_of: Any, module_of: Any) -> None:
    named = {c.name: c.array for c in module_of(name, False).constants()}
    for key, tensor in model_of(name).state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert key in named
            assert named[key].size == tensor.numel()  # possibly transposed or reshaped


def test_inputs_and_outputs_are_called_as_in_forward(module_of: Any) -> None:
    graph = module_of("classifier", False).main
    assert [v.name for v in graph.inputs] == ["tokens", "weight"]
    assert list(graph.output_names) == ["logits", "stats0", "stats1"]
    assert list(module_of("mlp", False).main.output_names) == ["output"]
    assert list(module_of("buffers", False).main.output_names) == ["output0", "output1"]
    assert module_of("resnet18", True).name == "ResNet18"
    assert str(module_of("resnet18", True).main.inputs[0].type) == "f32[N, 3, 32, 32]"


def test_nodes_are_located_by_submodule(module_of: Any) -> None:
    sources = {s for node in module_of("resnet18", False).main.nodes if node.loc for s in node.loc.sources}
    assert "layers.1.0.shortcut.0/conv2d_7" in sources


def test_named_tuples_name_outputs() -> None:
    class Pair(NamedTuple):
        low: Any
        high: Any

    class Extremes(nn.Module):
        def forward(self, x: Any) -> Any:
            return Pair(x.min(), x.max())

    assert load_torch(Extremes().eval(), (torch.randn(5),)).main.output_names == ("low", "high")


# --- ways to call it --------------------------------------------------------------------------------------------------


def test_example_inputs_by_name_and_from_numpy(model_of: Any, module_of: Any) -> None:
    weight = np.ones((2, 7), np.float32)
    module = load_torch(model_of("classifier"), {"weight": weight, "tokens": ids(30, 7)}, dynamic_batch=True)
    shapes = {v.name: str(v.type) for v in module.main.inputs}
    assert shapes == {"tokens": "i64[N, 7]", "weight": "f32[N, 7]"}
    assert load_torch(model_of("mlp"), np.zeros((2, 20), np.float32)) == module_of("mlp", False)


def test_a_batch_of_one_may_vary(model_of: Any, module_of: Any) -> None:
    """torch.export alone would refuse: it takes an extent of 1 for a constant."""
    assert load_torch(model_of("mlp"), (torch.zeros(1, 20),), dynamic_batch=True) == module_of("mlp", True)


def test_a_batch_in_nested_arguments() -> None:
    class Sum(nn.Module):
        def forward(self, *parts: Any, more: Any) -> Any:
            return sum(parts) + more["last"] + more["scale"]

    x = torch.ones(2, 3)
    inputs = (torch.zeros(2, 3), x, x)  # one tensor twice is two inputs
    model = Sum().eval()
    program = torch.export.export(model, inputs, {"more": {"last": x, "scale": torch.tensor(2.0)}})
    names = [v.name for v in load_torch(program).main.inputs]
    module = load_torch(Scripted(lambda self, x: x["a"] + x["b"][0]), ({"a": x, "b": (x, 3)},), dynamic_batch=True)
    assert names == ["parts_0", "parts_1", "parts_2", "more_last", "more_scale"]
    assert [(v.name, str(v.type)) for v in module.main.inputs] == [("x_a", "f32[N, 3]"), ("x_b_0", "f32[N, 3]")]


def test_exported_program(model_of: Any) -> None:
    model, x = model_of("mlp"), torch.randn(2, 20)
    module = load_torch(torch.export.export(model, (x,)))
    check_close(evaluate(module.main, [x.numpy()]), expected_of(model, (x,)))


def test_dynamic_shapes_with_a_range(model_of: Any) -> None:
    length = torch.export.Dim("T", min=3, max=12)
    module = load_torch(model_of("encoder"), (ids(50, 8),), dynamic_shapes=({1: length},))
    verify(module)
    assert dict(module.dims) == {"T": (3, 12)}
    x = ids(50, 5)
    check_close(evaluate(module.main, [x.numpy()], check=True), expected_of(model_of("encoder"), (x,)))


def test_through_the_public_interface(model_of: Any, module_of: Any) -> None:
    assert intaglio.load(model_of("mlp"), example_inputs=torch.zeros(2, 20)) == module_of("mlp", False)
    assert intaglio.load(model_of("mlp"), example_inputs=torch.zeros(2, 20), dynamic_batch=True) == module_of(
        "mlp", True
    )
    program = torch.export.export(model_of("mlp"), (torch.zeros(2, 20),))
    assert intaglio.load(program).main == module_of("mlp", False).main


def test_the_model_is_left_alone(model_of: Any) -> None:
    model = model_of("separable")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    load_torch(model, (image(32),))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not model.training


# --- what goes wrong --------------------------------------------------------------------------------------------------


def refused(model: Any, inputs: Any = None, **options: Any) -> str:
    with pytest.raises(IntaglioError) as caught:
        load_torch(model, inputs, **options)
    text = str(caught.value)
    assert "\x1b" not in text
    assert len(text) < 900
    return text


class Scripted(nn.Module):
    """A module whose forward is the function given."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("count", torch.zeros(3))
        self.eval()

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def test_training_mode() -> None:
    model = Mlp()
    assert "IG0122" in refused(model, torch.zeros(2, 20))
    model.eval()
    model.drop.train()
    text = refused(model, torch.zeros(2, 20))
    assert "`drop` (Dropout)" in text
    assert "model.eval()" in text


def test_branch_on_data() -> None:
    text = refused(Scripted(lambda self, x: x if x.sum() > 0 else -x), torch.ones(3))
    assert "IG0123" in text
    assert "torch.where" in text


def test_operator_without_onnx_form() -> None:
    text = refused(Scripted(lambda self, x: torch.linalg.svd(x)[1]), torch.ones(3, 3))
    assert "IG0125" in text
    assert "`aten._linalg_svd.default`" in text
    text = refused(Scripted(lambda self, x: x.amin()), torch.ones(3))  # the exporter (onnxscript 0.7) wants a dimension
    assert "`aten.amin.default` at test_torch.py:" in text


def test_state() -> None:
    text = refused(Scripted(lambda self, x: x * self.count.add_(x)), torch.ones(3))
    assert "IG0124" in text
    assert "`count`" in text


def test_constant_output() -> None:
    text = refused(Scripted(lambda self, x: (x * 2, 3)), torch.ones(3))
    assert "IG0125" in text
    assert "constant 3" in text


def test_none_among_outputs_is_left_out() -> None:
    module = load_torch(Scripted(lambda self, x: (None, x * 2, None, x + 1)), torch.ones(3))
    assert module.main.output_names == ("output1", "output3")


def test_shape_that_cannot_vary() -> None:
    text = refused(Scripted(lambda self, x: x + self.count[:, None]), torch.ones(3, 4), dynamic_batch=True)
    assert "IG0123" in text
    assert "fixed" in text


def test_wrong_example_inputs() -> None:
    assert "IG0121" in refused(Mlp().eval())
    assert "IG0123" in refused(Mlp().eval(), torch.zeros(2, 7))
    assert "IG0123" in refused(Mlp().eval(), (torch.zeros(2, 20), 1))
    assert "IG0121" in refused(3)
    both = {"dynamic_batch": True, "dynamic_shapes": ({0: torch.export.Dim("N")},)}
    assert "IG0121" in refused(Mlp().eval(), torch.zeros(2, 20), **both)
    assert "IG0121" in refused(torch.export.export(Mlp().eval(), (torch.zeros(2, 20),)), dynamic_batch=True)


def test_nothing_is_printed(model_of: Any, capfd: Any, recwarn: Any) -> None:
    load_torch(model_of("standard_encoder"), (torch.randn(2, 10, 32),), dynamic_batch=True)
    refused(Scripted(lambda self, x: torch.linalg.svd(x)[1]), torch.ones(3, 3))
    refused(Scripted(lambda self, x: x if x.sum() > 0 else -x), torch.ones(3))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("missing", ["torch", "onnxscript"])
def test_without_the_packages(missing: str) -> None:
    script = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from intaglio.compiler.frontends.torch import load_torch\n"
        "from intaglio.ir.diagnostics import IntaglioError\n"
        "try: load_torch(object(), ())\n"
        "except IntaglioError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert "IG0120" in done.stdout
    assert f"`{missing}`" in done.stdout
    assert "pip install intaglio[torch]" in done.stdout


def test_the_front_end_does_not_import_torch() -> None:
    script = "import sys, intaglio.compiler.frontends.torch; print('torch' in sys.modules, 'onnxscript' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_comparison_means_something(model_of: Any) -> None:
    """Outputs are neither all zero nor all alike."""
    for name, case in CASES.items():
        for y in expected_of(model_of(name), case.inputs(2)):
            assert math.isfinite(float(y.std())) and y.std() > 1e-3
