"""Predicted errors against brute force: quantized random samples, and random errors sent through the readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from zoo import Net, Style, options

from onnx_ocs.calibration.histogram import Histogram
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.distortion import Readers, readers, tabulate
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.function import Function
from onnx_ocs.regions.region import Region

Array = np.ndarray[Any, Any]

# ---- tabulate -------------------------------------------------------------------------------------------------------


def brute(x: Array, scale: float, low: int, high: int, copies: int) -> tuple[Array, Array]:
    """Mean squared and mean error of every channel, side and number of copies, by quantizing the samples."""
    square, mean = (np.zeros((len(x), 2, copies + 1)) for _ in range(2))
    for n in range(copies + 1):
        error = x - scale * np.clip(np.rint(x / scale), -(n + 1) * low, (n + 1) * high)
        for side, mine in enumerate((x > 0, x < 0)):
            square[:, side, n] = np.mean(np.where(mine, error, 0) ** 2, axis=1)
            mean[:, side, n] = np.mean(np.where(mine, error, 0), axis=1)
    return square, mean


def samples(signed: bool) -> Array:
    """A normal, a heavy-tailed, a sparse and a smaller channel; the last is all zeros."""
    rng = np.random.default_rng(5)
    n = 150_000
    a = np.stack(
        [rng.standard_normal(n), 0.4 * rng.laplace(size=n), rng.standard_normal(n), 0.3 * rng.standard_normal(n)]
    )
    a[2, rng.random(n) < 0.6] = 0
    a = np.concatenate([a, np.zeros((1, n))])
    return (a if signed else np.maximum(a, 0)).astype(np.float32)


GRIDS = {  # signed, steps below zero, steps above, the step
    "2 bit": (False, 0, 3, 0.6),
    "2 bit, fine": (False, 0, 3, 0.11),
    "4 bit": (False, 0, 15, 0.13),
    "8 bit": (False, 0, 255, 0.0131),
    "8 bit, power of two": (False, 0, 255, 2.0**-6),
    "8 bit, finest power of two": (False, 0, 255, 2.0**-10),
    "16 bit": (False, 0, 65535, 7.7e-5),
    "16 bit, power of two": (False, 0, 65535, 2.0**-14),
    "signed 2 bit": (True, 2, 1, 0.7),
    "signed 4 bit": (True, 8, 7, 0.21),
    "signed 8 bit": (True, 128, 127, 0.017),
    "signed, off the middle": (True, 40, 215, 0.011),
    "signed 8 bit, finest power of two": (True, 128, 127, 2.0**-10),
    "signed 16 bit, power of two": (True, 32768, 32767, 2.0**-14),
}


@pytest.mark.parametrize("name", GRIDS)
def test_table_equals_quantized_samples(name: str) -> None:
    signed, low, high, scale = GRIDS[name]
    copies = 4
    x = samples(signed)
    h = Histogram(len(x), signed)
    h.add(x)
    _, table = tabulate(
        h, h.counts, [scale * 3, scale], low, high, [(copies, copies)] * 2, copies
    )  # the steps do not mix
    square, mean = brute(x.astype(np.float64), scale, low, high, copies)
    assert table.square.shape == table.mean.shape == square.shape == (5, 2, copies + 1)
    gap = np.abs(table.square - square)
    # a bin does not know where in it the one or two values lie that are clipped with many copies
    slack = 0.05 * square + 1e-3 * (square.max(2, keepdims=True) + scale**2)
    assert (gap / slack).max() <= 1
    # mean errors of rounding cancel out; those of clipping do not
    gap = np.abs(table.mean - mean)
    assert (gap / (0.05 * np.abs(mean) + 0.02 * scale)).max() <= 1
    assert not table.square[4].any() and not table.mean[4].any()
    if not signed:
        assert not table.square[:, 1].any() and not table.mean[:, 1].any()


FUNCTIONS: dict[str, Function] = {
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "ReLU": lambda x: np.maximum(x, 0),
    "leaky": lambda x: np.where(x < 0, 0.1 * x, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("scale", [0.03, 0.3, 2.0**-10])
def test_errors_behind_a_function(name: str, scale: float) -> None:
    f, x = FUNCTIONS[name], 3 * samples(True)
    h = Histogram(5, True)
    h.add(x)
    low, high, copies = 10, 60, 3
    [table] = tabulate(h, h.counts, [scale], low, high, [(copies, copies)], copies, behind=f)
    x = x.astype(np.float64)
    for n in range(copies + 1):
        error = f(x) - f(scale * np.clip(np.rint(x / scale), -(n + 1) * low, (n + 1) * high))
        for side, mine in enumerate((x > 0, x < 0)):
            square = np.mean(np.where(mine, error, 0) ** 2, axis=1)
            mean = np.mean(np.where(mine, error, 0), axis=1)
            least = 2e-3 * max(square.max(), scale**2 / 12)
            np.testing.assert_allclose(table.square[:, side, n], square, rtol=0.05, atol=least)
            np.testing.assert_allclose(table.mean[:, side, n], mean, rtol=0.05, atol=0.03 * scale)
    [plain] = tabulate(h, h.counts, [scale], low, high, [(copies, copies)], copies)
    assert table.square[0, 1, 0] < 0.1 * plain.square[0, 1, 0], "clipped negative values hardly count"


def test_more_copies_clip_less() -> None:
    x = samples(True)
    h = Histogram(5, True)
    h.add(x)
    [table] = tabulate(h, h.counts, [0.1], 4, 3, [(8, 8)], 8)
    assert np.all(np.diff(table.square, axis=2) <= 1e-15)
    assert np.all(table.mean[:4, 0, 0] > 0) and np.all(table.mean[:3, 1, 0] < 0), "clipped above and below"


def test_a_copy_of_a_whole_range_holds_what_two_others_do() -> None:
    h = Histogram(5, True)
    h.add(samples(True))
    [full] = tabulate(h, h.counts, [0.1], 4, 4, [(3, 3)], 3, full=True)
    [other] = tabulate(h, h.counts, [0.1], 4, 4, [(6, 6)], 6)
    for mine, theirs in ((full.square, other.square), (full.mean, other.mean)):
        assert np.allclose(mine, theirs[:, :, ::2], rtol=1e-12)


def test_table_of_parts_is_their_mean() -> None:
    """Tables are linear in the counts."""
    x = samples(True)
    parts = []
    for a in (x[:, :30_000], x[:, 30_000:], x):
        h = Histogram(5, True)
        h.add(np.asarray([[8.0]] * 5, np.float32))  # one range for all
        h.counts[:] = 0
        h.add(a)
        parts.append((tabulate(h, h.counts, [0.2], 3, 4, [(2, 2)], 2)[0], a.shape[1]))
    (first, n), (second, m), (whole, total) = parts
    assert np.allclose(first.square * n + second.square * m, whole.square * total)
    assert np.allclose(first.mean * n + second.mean * m, whole.mean * total)


# ---- readers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """A layer, or several, behind the tensor `relu1_dq`, without a border where a kernel sees padding.

    Attributes:
        build: adds it; gives the outputs.
        shape: of one sample of the tensor.
        per: energies are per input position ("input"), per output position ("output") or whole ("all").
    """

    build: Callable[[Net, str], tuple[str, ...]]
    shape: tuple[int, ...] = (8, 12, 12)
    per: str = "output"


def layer(op: str, *shape: int, **attributes: Any) -> Callable[[Net, str], tuple[str, ...]]:
    def build(n: Net, x: str) -> tuple[str, ...]:
        w = n.const(f"weights{len(n.initializers)}", n.rng.standard_normal(shape))
        return (n.op(op, x, w, **attributes),)

    return build


def both(*make: Callable[[Net, str], tuple[str, ...]]) -> Callable[[Net, str], tuple[str, ...]]:
    return lambda n, x: tuple(o for m in make for o in m(n, x))


def flattened(n: Net, x: str) -> tuple[str, ...]:
    return layer("Gemm", 7, 8 * 9, transB=1)(n, n.op("Flatten", x))


def flattened_pool(n: Net, x: str) -> tuple[str, ...]:
    pooled = n.op("MaxPool", x, kernel_shape=[1, 1])
    return layer("Gemm", 8 * 9, 7)(n, n.op("Flatten", pooled))


def joined(n: Net, x: str) -> tuple[str, ...]:
    """The last of three inputs of a Concat."""
    others = [n.const(f"other{k}", np.zeros((16, c, 12, 12))) for k, c in enumerate((3, 2))]
    return layer("Conv", 6, 13, 3, 3)(n, n.op("Concat", *others, x, axis=1))


def joined_depthwise(n: Net, x: str) -> tuple[str, ...]:
    other = n.const("other", np.zeros((16, 4, 12, 12)))
    return layer("Conv", 12, 1, 3, 3, group=12)(n, n.op("Concat", other, x, axis=1))


READERS = {
    "conv": Reader(layer("Conv", 6, 8, 3, 3)),
    "conv 1x1": Reader(layer("Conv", 6, 8, 1, 1)),
    "conv strided": Reader(layer("Conv", 6, 8, 3, 3, strides=[2, 2])),
    "conv dilated": Reader(layer("Conv", 6, 8, 3, 3, dilations=[2, 2])),
    "conv 1d": Reader(layer("Conv", 6, 8, 5), (8, 40)),
    "depthwise": Reader(layer("Conv", 8, 1, 3, 3, group=8)),
    "depthwise multiplier": Reader(layer("Conv", 16, 1, 3, 3, group=8)),
    "grouped": Reader(layer("Conv", 6, 4, 3, 3, group=2)),
    "transposed": Reader(layer("ConvTranspose", 8, 5, 1, 1), per="input"),
    "transposed 2x2 of stride 2": Reader(layer("ConvTranspose", 8, 5, 2, 2, strides=[2, 2]), per="input"),
    "transposed grouped": Reader(layer("ConvTranspose", 8, 3, 1, 1, group=2), per="input"),
    "gemm": Reader(layer("Gemm", 8, 5), (8,)),
    "gemm transB": Reader(layer("Gemm", 5, 8, transB=1), (8,)),
    "matmul": Reader(layer("MatMul", 8, 5), (6, 8)),
    "matmul of a matrix": Reader(layer("MatMul", 8, 5), (8,)),
    "two convs": Reader(both(layer("Conv", 6, 8, 3, 3), layer("Conv", 3, 8, 3, 3))),
    "conv and depthwise": Reader(both(layer("Conv", 6, 8, 3, 3), layer("Conv", 8, 1, 3, 3, group=8))),
    "flatten, gemm transB": Reader(flattened, (8, 3, 3), "all"),
    "flatten, gemm": Reader(flattened_pool, (8, 3, 3), "all"),
    "concat": Reader(joined),
    "concat, depthwise": Reader(joined_depthwise),
}
BATCH = 16


def build(case: Reader) -> tuple[onnx.ModelProto, Readers]:
    """A model with the readers behind a quantizer, and what the product says of them."""
    n = Net(Style(weight="float", bias="none", batch=BATCH), x=case.shape)
    n.feed = {"x": n.rng.standard_normal((BATCH, *case.shape)).astype(np.float32)}
    outputs = case.build(n, n.qdq(n.op("Relu", "x"), share=0.9))
    model = n.model(*outputs)
    graph = Graph(model)
    region = next(r for r in find_regions(graph, infer_shapes(model)) if r.tensor == "relu1")
    assert isinstance(region, Region) and region.walk.channels == 8 and region.walk.weights
    assert not region.walk.folded
    return model, readers(graph, region)


def behind(model: onnx.ModelProto, tensor: str, shape: tuple[int, ...]) -> Callable[[Array], list[Array]]:
    """The part of the model behind a tensor, as a function."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    kept = [n for n in new.graph.node if tensor not in n.output]
    del new.graph.node[:]
    new.graph.node.extend(kept)
    new.graph.input.append(helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, [BATCH, *shape]))
    session = ort.InferenceSession(new.SerializeToString(), options(), ["CPUExecutionProvider"])
    x = np.zeros((BATCH, *shape), np.float32)
    return lambda e: session.run(None, {tensor: e, "x": x})


def energy(case: Reader, model: onnx.ModelProto, mean: Array, deviation: Array, rounds: int) -> float:
    """Mean energy at the outputs for errors with these means and deviations, independent of each other."""
    run = behind(model, "relu1_dq", case.shape)
    rng = np.random.default_rng(0)
    channel = len(case.shape) - 1 if len(case.shape) == 2 and case.shape[1] == 8 else 0
    shape = [1] * len(case.shape)
    shape[channel] = 8
    total = 0.0
    for _ in range(rounds):
        e = rng.standard_normal((BATCH, *case.shape)) * deviation.reshape(shape) + mean.reshape(shape)
        for out in run(e.astype(np.float32)):
            channels_last = out.ndim == 3 and channel == 1
            pixels = out.size / out.shape[-1 if channels_last else 1] if case.per == "output" else None
            positions = pixels or (e.size / 8 if case.per == "input" else len(out))
            total += float((out.astype(np.float64) ** 2).sum()) / positions
    return total / rounds


def predict(r: Readers, mean: Array, deviation: Array) -> float:
    """The formula of the module's docstring."""
    coherent = 0.0 if r.coherent is None else mean @ r.coherent.times(mean)
    rest = r.gain_mean - (0 if r.coherent is None else r.coherent.diagonal)
    return float(r.gain @ deviation**2 + coherent + rest @ mean**2)


@pytest.mark.parametrize("name", READERS)
def test_readers_weigh_errors_as_they_do(name: str) -> None:
    case = READERS[name]
    model, r = build(case)
    rng = np.random.default_rng(1)
    mean, deviation, nothing = rng.uniform(-1, 1, 8), rng.uniform(0.2, 1.5, 8), np.zeros(8)
    if r.coherent is not None:
        matrix = r.coherent.matrix
        assert np.allclose(matrix, matrix.T) and np.linalg.eigvalsh(matrix).min() > -1e-9
    rounds = 400 if case.per == "all" or len(case.shape) < 3 else 4
    assert predict(r, nothing, deviation) == pytest.approx(energy(case, model, nothing, deviation, rounds), rel=0.08)
    assert predict(r, mean, nothing) == pytest.approx(energy(case, model, mean, nothing, 1), rel=1e-3)
    assert predict(r, mean, deviation) == pytest.approx(energy(case, model, mean, deviation, rounds), rel=0.08)
    for c in (0, 3, 7):  # channel by channel, which is what copies are given by
        one = np.eye(8)[c]
        assert predict(r, one, nothing) == pytest.approx(energy(case, model, one, nothing, 1), rel=1e-3)


def test_quantized_weights_are_read_through_their_dequantizer() -> None:
    gains = []
    for weight in ("float", "int8"):
        n = Net(Style(weight=weight), x=(4, 6, 6))
        model = n.model(n.conv(n.qdq(n.op("Relu", n.conv(n.qdq("x", "mid"))))))
        graph = Graph(model)
        region = next(r for r in find_regions(graph, infer_shapes(model)) if r.tensor == "relu1")
        assert isinstance(region, Region)
        gains.append(readers(graph, region))
    assert np.allclose(gains[0].gain, gains[1].gain, rtol=0.02)
    assert np.allclose(gains[0].gain_mean, gains[1].gain_mean, rtol=0.1)


def test_who_reads_the_value_itself_sees_every_channel_alike() -> None:
    """A residual Add: the gain of each channel grows by the same."""
    n = Net(Style(weight="float"), x=(4, 6, 6))
    a = n.qdq(n.op("Relu", n.conv(n.qdq("x", "mid"))))
    model = n.model(n.op("Add", n.conv(a), a))
    graph = Graph(model)
    region = next(r for r in find_regions(graph, infer_shapes(model)) if r.tensor == "relu1")
    assert isinstance(region, Region)
    w = next(t for t in model.graph.initializer if t.name == "conv2_w")
    alone = (onnx.numpy_helper.to_array(w).astype(np.float64) ** 2).sum((0, 2, 3))
    more = readers(graph, region).gain - alone
    assert np.allclose(more, more[0]) and more[0] > 0
