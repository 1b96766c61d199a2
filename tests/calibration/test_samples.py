import io
import logging
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from onnx_ocs.calibration import reading
from onnx_ocs.calibration.declared import InputSpec, input_specs
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.calibration.samples import Samples, open_samples
from onnx_ocs.errors import UserError

RNG = np.random.default_rng(0)


def make_model(**inputs) -> onnx.ModelProto:
    """Build a model that passes every input through: name=(element type, shape)."""
    values = [helper.make_tensor_value_info(name, elem, shape) for name, (elem, shape) in inputs.items()]
    outputs = [helper.make_tensor_value_info(f"{name}_out", elem, shape) for name, (elem, shape) in inputs.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs]
    graph = helper.make_graph(nodes, "g", values, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


IMAGE = make_model(x=(T.FLOAT, ["N", 3]))
FIXED = make_model(x=(T.FLOAT, [4, 3]))
PAIR = make_model(a=(T.FLOAT, ["N", 3]), b=(T.INT64, ["N", "s"]))


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def npz(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


def sizes(samples: Samples, **options) -> list[int]:
    return [len(next(iter(feed.values()))) for feed in samples.batches(**options)]


def pb(path: Path, array: np.ndarray, name: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(numpy_helper.from_array(array, name).SerializeToString())


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module of the user's into the current directory; gives back its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(code: str, name: str = "ocs_user_calib") -> str:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import numpy as np\n" + code)
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("ocs_user"):
            del sys.modules[name]


# ---------------------------------------------------------------- the model's inputs


def test_input_specs():
    model = make_model(x=(T.FLOAT, ["N", 3, None, -1]), s=(T.INT64, []), w=(T.FLOAT, [2]), u=(T.UINT8, None))
    model.graph.initializer.append(numpy_helper.from_array(f32(2), "w"))
    assert input_specs(model) == [
        InputSpec("x", np.dtype(np.float32), (None, 3, None, None)),
        InputSpec("s", np.dtype(np.int64), ()),
        InputSpec("u", np.dtype(np.uint8), None),
    ]


def test_input_that_is_not_a_tensor():
    value = helper.make_tensor_sequence_value_info("seq", T.FLOAT, None)
    model = helper.make_model(helper.make_graph([], "g", [value], []))
    with pytest.raises(UserError, match="'seq' of the model is not a typed tensor"):
        input_specs(model)


@pytest.mark.parametrize("opened", [lambda m: open_samples("x.npz", m), lambda m: random_samples(m, 1, 0)])
def test_model_without_inputs(opened):
    with pytest.raises(UserError, match="no inputs"):
        opened(make_model())


# ---------------------------------------------------------------- one npz


def test_npz_dynamic_batch(tmp_path):
    x = f32(20, 3)
    samples = open_samples(npz(tmp_path / "calib.npz", x=x), IMAGE)
    assert samples.description == "calib.npz, 20 samples"
    assert [samples.described(limit) for limit in (None, 1, 8, 64)] == [
        f"calib.npz, {n}" for n in ("20 samples", "1 sample", "8 samples", "20 samples")
    ]
    assert samples.count() == 20
    assert sizes(samples) == [8, 8, 4] == sizes(samples)  # again and again
    assert sizes(samples, batch_size=20) == [20]
    feeds = list(samples.batches(batch_size=7))
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), x)
    assert all(feed["x"].dtype == np.float32 and feed["x"].flags.writeable for feed in feeds)


@pytest.mark.parametrize(
    ("batch_size", "limit", "expected"),
    [(8, 1, [1]), (8, 8, [8]), (8, 10, [8, 2]), (8, 100, [8, 8, 4]), (3, 7, [3, 3, 1]), (1, 2, [1, 1])],
)
def test_limit_cuts_a_dynamic_batch(tmp_path, batch_size, limit, expected):
    samples = open_samples(npz(tmp_path / "c.npz", x=f32(20, 3)), IMAGE)
    assert sizes(samples, batch_size=batch_size, limit=limit) == expected
    assert samples.count() == 20


@pytest.mark.parametrize(("batch_size", "limit"), [(0, None), (-1, 3), (8, 0)])
def test_sizes_below_one(tmp_path, batch_size, limit):
    samples = open_samples(npz(tmp_path / "c.npz", x=f32(2, 3)), IMAGE)
    with pytest.raises(UserError, match="must be 1 or more"):
        next(samples.batches(batch_size, limit))


def test_fixed_batch_drops_the_remainder(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        samples = open_samples(npz(tmp_path / "c.npz", x=f32(10, 3)), FIXED)
        assert sizes(samples, batch_size=3) == [4, 4]
        assert sizes(samples) == [4, 4]
    assert samples.count() == 8
    assert [r.getMessage() for r in caplog.records] == ["2 samples left over are dropped: a batch is fixed to 4"]
    assert sizes(samples, limit=5) == [4, 4]  # a fixed batch is never cut
    assert sizes(samples, limit=4) == [4]


def test_fixed_batch_without_remainder_is_silent(tmp_path, caplog):
    assert open_samples(npz(tmp_path / "c.npz", x=f32(8, 3)), FIXED).count() == 8
    assert not caplog.records


@pytest.mark.parametrize(
    ("shape", "array", "feed"),
    [
        (["N", 3], (5, 2, 3), (2, 3)),
        ([2, 3], (5, 2, 3), (2, 3)),
        ([], (5,), ()),
        ([4], (5, 4), (4,)),
        ([1, 3], (5, 3), (1, 3)),
        (["N"], (5,), (5,)),
        (None, (5, 7), (5, 7)),
        (["N", "s"], (5, 7), (5, 7)),
        (["N", -1], (5, 7), (5, 7)),
    ],
)
def test_how_arrays_map(tmp_path, shape, array, feed):
    model = make_model(x=(T.FLOAT, shape))
    data = f32(*array)
    samples = open_samples(npz(tmp_path / "c.npz", x=data), model)
    assert samples.count() == 5
    first = next(samples.batches())["x"]
    assert first.shape == feed
    np.testing.assert_array_equal(first, data if data.ndim == first.ndim and feed[0] == 5 else data[:1].reshape(feed))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in samples.batches():
        session.run(None, batch)


def test_mixed_inputs_go_sample_by_sample(tmp_path):
    model = make_model(x=(T.FLOAT, ["N", 3]), gain=(T.FLOAT, []), one=(T.FLOAT, [1, 2]))
    samples = open_samples(npz(tmp_path / "c.npz", x=f32(4, 3), gain=f32(4), one=f32(4, 2)), model)
    feeds = list(samples.batches())
    assert [{k: v.shape for k, v in feed.items()} for feed in feeds] == [{"x": (1, 3), "gain": (), "one": (1, 2)}] * 4


def test_fortran_order_and_compression(tmp_path):
    x = np.asfortranarray(f32(9, 3))
    np.savez_compressed(tmp_path / "c.npz", x=x)
    feeds = list(open_samples(str(tmp_path / "c.npz"), IMAGE).batches(4))
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), x)


def test_extra_arrays_are_ignored_and_said_once(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        samples = open_samples(npz(tmp_path / "c.npz", x=f32(9, 3), label=np.arange(9)), IMAGE)
        assert [list(feed) for feed in samples.batches(4)] == [["x"]] * 3
    assert [r.getMessage() for r in caplog.records] == ["ignored arrays that the model does not take: ['label']"]


# ---------------------------------------------------------------- types and values


@pytest.mark.parametrize(
    ("elem", "array"),
    [
        (T.FLOAT, np.ones(3, np.float64)),
        (T.FLOAT, np.ones(3, np.float16)),
        (T.FLOAT, np.ones(3, ">f4")),
        (T.DOUBLE, np.ones(3, np.float32)),
        (T.INT64, np.arange(3, dtype=np.int32)),
        (T.INT32, np.arange(3, dtype=np.int64)),
        (T.INT8, np.array([-128, 127, 0], np.int64)),
        (T.UINT8, np.array([0, 255, 1], np.int64)),
        (T.UINT64, np.array([0, 127, 1], np.int8)),
        (T.STRING, np.array(["a", "bc", ""])),
    ],
)
def test_safe_casts(tmp_path, caplog, elem, array):
    model = make_model(x=(elem, ["N"]))
    with caplog.at_level(logging.INFO):
        feed = next(open_samples(npz(tmp_path / "c.npz", x=array), model).batches())
    assert feed["x"].dtype == input_specs(model)[0].dtype
    np.testing.assert_array_equal(feed["x"], array)
    assert "cast from" in caplog.text


@pytest.mark.parametrize(
    ("elem", "array"),
    [
        (T.FLOAT, np.ones(3, np.uint8)),
        (T.FLOAT, np.ones(3, np.int64)),
        (T.FLOAT, np.ones(3, bool)),
        (T.FLOAT, np.ones(3, np.complex64)),
        (T.FLOAT, np.array(["1", "2", "3"])),
        (T.FLOAT16, np.ones(3, np.float32)),
        (T.INT64, np.ones(3, np.float32)),
        (T.BOOL, np.ones(3, np.uint8)),
        (T.UINT8, np.ones(3, bool)),
        (T.INT8, np.array([0, 128, 0], np.int64)),
        (T.UINT8, np.array([0, -1, 0], np.int32)),
        (T.INT64, np.array([0, 2**63, 0], np.uint64)),
    ],
)
def test_casts_that_are_refused(tmp_path, elem, array):
    with pytest.raises(UserError, match=rf"input 'x' in .*c.npz' is {array.dtype}, no safe cast .*: save it as"):
        open_samples(npz(tmp_path / "c.npz", x=array), make_model(x=(elem, ["N"])))


def test_same_type_is_silent(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        open_samples(npz(tmp_path / "c.npz", x=f32(2, 3)), IMAGE)
    assert not caplog.records


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_not_finite(tmp_path, value):
    x = np.ones((20, 3))
    x[13, 2] = value
    with pytest.raises(UserError, match=r"input 'x' in .*c\.npz' has NaN or infinity in sample 13:"):
        open_samples(npz(tmp_path / "c.npz", x=x), IMAGE)


# ---------------------------------------------------------------- what is wrong with an npz


@pytest.mark.parametrize(
    ("model", "arrays", "message"),
    [
        pytest.param(IMAGE, {"X_": f32(2, 3)}, r"lacks input 'x', it has \['X_'\] for \['x'\]: add 'x'", id="missing"),
        pytest.param(
            make_model(input_ids=(T.FLOAT, ["N"])),
            {"input_id": f32(2), "other": f32(2)},
            r"lacks input 'input_ids'.*\['input_id', 'other'\].*: rename 'input_id' to 'input_ids'",
            id="close match",
        ),
        pytest.param(PAIR, {"a": f32(2, 3)}, "lacks input 'b'", id="second input missing"),
        pytest.param(IMAGE, {}, "lacks input 'x'", id="no arrays"),
        pytest.param(IMAGE, {"x": f32(2, 4)}, r"'x' takes \(any, 3\), but .*\(2, 4\): reshape", id="wrong dim"),
        pytest.param(IMAGE, {"x": f32(3)}, r"takes \(any, 3\), but .* has \(3,\)", id="rank too low"),
        pytest.param(IMAGE, {"x": f32(2, 1, 1, 3)}, r"takes \(any, any, 3\)", id="rank too high"),
        pytest.param(FIXED, {"x": f32(2, 5, 3)}, r"takes \(any, 4, 3\), but", id="wrong fixed batch below samples"),
        pytest.param(IMAGE, {"x": np.float32(1)}, r"has \(\)", id="scalar"),
        pytest.param(make_model(x=(T.FLOAT, [])), {"x": np.float32(1)}, r"has \(\)", id="scalar for scalar"),
        pytest.param(make_model(x=(T.FLOAT, None)), {"x": np.float32(1)}, r"has \(\)", id="scalar for unknown"),
        pytest.param(IMAGE, {"x": f32(0, 3)}, r"'x' in .* has no samples.*\(0, 3\)", id="zero samples"),
        pytest.param(
            FIXED, {"x": f32(3, 3)}, r"c\.npz gives no feed.*as many as a fixed batch needs", id="below fixed batch"
        ),
        pytest.param(
            PAIR,
            {"a": f32(2, 3), "b": np.zeros((3, 1), np.int64)},
            r"different numbers of samples, \{'a': 2, 'b': 3\}",
            id="counts differ",
        ),
        pytest.param(
            make_model(a=(T.FLOAT, [2, 3]), b=(T.FLOAT, [4])),
            {"a": f32(8, 3), "b": f32(8)},
            r"inputs of different batches, \{2, 4\}: put a sample axis",
            id="fixed batches differ",
        ),
        pytest.param(
            IMAGE,
            {"x": np.array([[1, None, "a"]], object)},
            r"no sound \.npz .*Object arrays.*numpy\.savez",
            id="pickle",
        ),
    ],
)
def test_npz_errors(tmp_path, model, arrays, message):
    with pytest.raises(UserError, match=message):
        open_samples(npz(tmp_path / "c.npz", **arrays), model)


def test_pickles_beside_the_inputs_are_not_loaded(tmp_path):
    source = npz(tmp_path / "c.npz", x=f32(2, 3), meta=np.array([{"a": 1}], object))
    assert open_samples(source, IMAGE).count() == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a zip at all",
        lambda data: data[: len(data) // 2],
        lambda data: data[:300] + b"\xff" * 40 + data[340:],
        lambda data: b"\x93NUMPY" + data[6:],
    ],
    ids=["empty", "text", "truncated", "flipped", "npy magic"],
)
def test_damaged_npz(tmp_path, damage):
    path = tmp_path / "c.npz"
    npz(path, x=f32(50, 3))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"c\.npz' is no sound \.npz .*: write it with numpy\.savez"):
        open_samples(str(path), IMAGE)


def test_npy_in_disguise(tmp_path):
    with (tmp_path / "c.npz").open("wb") as file:
        np.save(file, f32(2, 3))
    with pytest.raises(UserError, match="no sound"):
        open_samples(str(tmp_path / "c.npz"), IMAGE)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("nowhere.npz", "does not exist"),
        ("no/folder", "does not exist"),
        ("", "holds no samples"),
        ("empty", "holds no samples"),
        ("array.npy", "holds no samples"),
        ("my-module:fn", "does not exist"),
        ("module:", "does not exist"),
        ("dir/calib.py:fn", "does not exist"),
    ],
)
def test_unknown_sources(tmp_path, monkeypatch, source, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "array.npy", f32(2))
    with pytest.raises(UserError, match=f"^'{source}' {problem}: give an .npz, a folder of"):
        open_samples(source, IMAGE)


# ---------------------------------------------------------------- folders of npz


def test_folder_joins_files_in_order(tmp_path):
    folder = tmp_path / "calib"
    folder.mkdir()
    x = f32(12, 3)
    for name, part in {"b": x[5:6], "a": x[:5], "c": x[6:]}.items():
        npz(folder / f"{name}.npz", x=part)
    (folder / "readme.txt").write_text("not a sample")
    samples = open_samples(str(folder), IMAGE)
    assert samples.description == "calib (3 parts)"
    feeds = list(samples.batches(4))
    assert [len(feed["x"]) for feed in feeds] == [4, 4, 4]
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), x)
    assert samples.description == "calib (3 parts), 12 samples"
    assert sizes(samples, batch_size=8, limit=9) == [8, 1]


def test_folder_with_rows_of_different_shape(tmp_path):
    model = make_model(ids=(T.INT64, ["N", "s"]))
    for index, (n, s) in enumerate([(3, 5), (2, 5), (3, 7), (1, 5)]):
        npz(tmp_path / f"{index}.npz", ids=np.zeros((n, s), np.int64))
    samples = open_samples(str(tmp_path), model)
    assert [feed["ids"].shape for feed in samples.batches(4)] == [(4, 5), (1, 5), (3, 7), (1, 5)]
    assert samples.count() == 9


def test_folder_for_a_fixed_batch(tmp_path, caplog):
    for index in range(9):
        npz(tmp_path / f"{index}.npz", x=np.full((1, 3), index, np.float32))
    samples = open_samples(str(tmp_path), FIXED)
    assert [feed["x"][:, 0].tolist() for feed in samples.batches()] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert samples.count() == 8
    assert "1 samples left over are dropped" in caplog.text


def test_folder_mixes_stacked_and_batched(tmp_path):
    npz(tmp_path / "a.npz", x=f32(3, 3))
    npz(tmp_path / "b.npz", x=f32(2, 5, 3))
    assert [feed["x"].shape for feed in open_samples(str(tmp_path), IMAGE).batches(2)] == [
        (2, 3),
        (1, 3),
        (5, 3),
        (5, 3),
    ]


def test_later_files_are_checked_when_read(tmp_path):
    npz(tmp_path / "a.npz", x=f32(8, 3))
    npz(tmp_path / "b.npz", x=np.full((1, 3), np.nan, np.float32))
    samples = open_samples(str(tmp_path), IMAGE)
    batches = samples.batches(8)
    next(batches)
    with pytest.raises(UserError, match=r"NaN or infinity in sample 0"):
        next(batches)
    with pytest.raises(UserError, match=r"b\.npz"):
        samples.count()


def test_first_file_is_checked_at_once(tmp_path):
    npz(tmp_path / "a.npz", x=f32(8, 4))
    with pytest.raises(UserError, match=r"a\.npz"):
        open_samples(str(tmp_path), IMAGE)


def test_memory_stays_flat(tmp_path):
    for index in range(6):
        npz(tmp_path / f"{index}.npz", x=np.zeros((64, 4096), np.float32))  # 1 MiB each
    samples = open_samples(str(tmp_path), make_model(x=(T.FLOAT, ["N", 4096])))
    tracemalloc.start()
    try:
        assert sum(len(feed["x"]) for feed in samples.batches(8)) == 384
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.2 * 2**20


# ---------------------------------------------------------------- ONNX test data sets


def test_data_sets(tmp_path):
    for number in (10, 2, 0):
        folder = tmp_path / "model" / f"test_data_set_{number}"
        pb(folder / "input_0.pb", np.full((2, 3), number, np.float32))
        pb(folder / "input_1.pb", np.zeros((2, number + 1), np.int64))
        pb(folder / "output_0.pb", f32(1))
    samples = open_samples(str(tmp_path / "model"), PAIR)
    assert samples.description == "model (3 parts)"
    feeds = list(samples.batches(batch_size=1))
    assert [feed["a"][0, 0] for feed in feeds] == [0, 2, 10]
    assert [feed["b"].shape for feed in feeds] == [(2, 1), (2, 3), (2, 11)]
    assert samples.count() == 6
    assert samples.description == "model (3 parts), 6 samples"
    assert len(list(samples.batches(limit=3))) == 2


def test_one_data_set(tmp_path):
    pb(tmp_path / "test_data_set_0" / "input_0.pb", f32(4, 3))
    samples = open_samples(str(tmp_path / "test_data_set_0"), FIXED)
    assert samples.description == "test_data_set_0"
    assert samples.count() == 4


def test_scalar_data_set_counts_one(tmp_path):
    pb(tmp_path / "input_0.pb", np.float32(2).reshape(()))
    samples = open_samples(str(tmp_path), make_model(x=(T.FLOAT, [])))
    assert samples.count() == 1
    assert next(samples.batches())["x"].shape == ()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["", "", ""], "abc"),
        (["c", "b", "a"], "cba"),
        (["c", "", ""], "cab"),
        (["", "a", "other"], "bac"),
        (["x", "y", "z"], "abc"),
    ],
)
def test_names_win_over_the_order(tmp_path, names, expected):
    model = make_model(**{name: (T.FLOAT, ["N"]) for name in "abc"})
    for index, name in enumerate(names):
        pb(tmp_path / f"input_{index}.pb", np.array([index], np.float32), name)
    feed = next(open_samples(str(tmp_path), model).batches())
    assert {name: int(array[0]) for name, array in feed.items()} == {name: i for i, name in enumerate(expected)}


def test_many_inputs_are_in_numeric_order(tmp_path):
    model = make_model(**{f"v{index}": (T.FLOAT, [1]) for index in range(11)})
    for index in range(11):
        pb(tmp_path / f"input_{index}.pb", np.array([index], np.float32))
    feed = next(open_samples(str(tmp_path), model).batches())
    assert [float(feed[f"v{index}"][0]) for index in range(11)] == list(range(11))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([f32(2, 3)], "test_data_set_0' lacks input 'b'"),
        ([f32(2, 4), np.zeros((2, 1), np.int64)], r"'a' takes \(any, 3\)"),
        ([f32(1, 2, 3), np.zeros((2, 1), np.int64)], r"'a' takes \(any, 3\)"),
        ([f32(2, 3), f32(2, 1)], "'b' in .* is float32"),
        ([f32(0, 3), np.zeros((2, 1), np.int64)], "no samples"),
        ([np.full((2, 3), np.inf, np.float32), np.zeros((2, 1), np.int64)], "infinity in sample 0"),
    ],
    ids=["missing", "dims", "rank", "type", "empty", "inf"],
)
def test_data_set_errors(tmp_path, tensors, message):
    for index, tensor in enumerate(tensors):
        pb(tmp_path / "test_data_set_0" / f"input_{index}.pb", tensor)
    with pytest.raises(UserError, match=message):
        open_samples(str(tmp_path), PAIR)


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff garbage", b"\x08\x02\x10\x01\x4a\x01a"])
def test_damaged_tensor(tmp_path, data):
    (tmp_path / "input_0.pb").write_bytes(data)
    with pytest.raises(UserError, match=r"input_0\.pb' is not a readable TensorProto .*onnx\.save_tensor"):
        open_samples(str(tmp_path), IMAGE)


def test_data_set_folder_without_inputs(tmp_path):
    (tmp_path / "test_data_set_0").mkdir()
    with pytest.raises(UserError, match="lacks input 'x'"):
        open_samples(str(tmp_path), IMAGE)


# ---------------------------------------------------------------- the user's own code

ONES = "np.ones((2, 3), np.float32)"


def test_function(module):
    name = module(
        "calls = 0\ndef feeds():\n    global calls\n    calls += 1\n"
        f"    for _ in range(3):\n        yield {{'x': {ONES}}}\n"
    )
    samples = open_samples(f"{name}:feeds", IMAGE)
    assert samples.description == "ocs_user_calib:feeds"  # the number is not known before it was read
    assert sizes(samples, batch_size=1) == [2, 2, 2]  # as it is
    assert samples.count() == 6
    assert samples.description == "ocs_user_calib:feeds, 6 samples"
    assert sys.modules[name].calls == 2  # the check and one reading; count() came with it
    assert sizes(samples, limit=3) == [2, 2]
    assert sys.modules[name].calls == 3


def test_count_reads_a_function_once(module):
    name = module(f"calls = []\ndef feeds():\n    calls.append(1)\n    return [{{'x': {ONES}}}] * 2\n")
    samples = open_samples(f"{name}:feeds", IMAGE)
    assert samples.count() == samples.count() == 4
    assert len(sys.modules[name].calls) == 2


def test_function_in_a_package(module):
    module("", "ocs_user_pkg.__init__")
    name = module(f"feeds = lambda: [{{'x': {ONES}}}]\n", "ocs_user_pkg.data")
    assert open_samples(f"{name}:feeds", IMAGE).count() == 2


@pytest.mark.parametrize("base", ["", "(CalibrationDataReader)"])
def test_calibration_data_reader(module, base):
    pytest.importorskip("onnxruntime.quantization")
    name = module(
        "from onnxruntime.quantization import CalibrationDataReader\n"
        f"class Reader{base}:\n"
        f"    def __init__(self):\n        self.left = iter([{{'x': {ONES}}}] * 2)\n"
        "    def get_next(self):\n        return next(self.left, None)\n"
        "def make():\n    return Reader()\n"
    )
    for attribute in ("Reader", "make"):
        samples = open_samples(f"{name}:{attribute}", IMAGE)
        assert sizes(samples) == [2, 2]
        assert samples.count() == 4


def test_function_feeds_are_cast_and_trimmed(module):
    name = module("def feeds():\n    return [{'x': np.ones((1, 3)), 'extra': None}]\n")
    feed = next(open_samples(f"{name}:feeds", IMAGE).batches())
    assert list(feed) == ["x"]
    assert feed["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("fedes = 1", r"failed \(AttributeError: .*'feeds'"),
        ("feeds = {}", r"failed \(TypeError: 'dict' object is not callable\): .* name a function without arguments"),
        ("def feeds(n): return []", "failed .TypeError: .*argument"),
        ("def feeds(): return 3", "failed .TypeError: 'int' object is not iterable"),
        ("def feeds(): return None", "failed .TypeError: 'NoneType'"),
        ("def feeds(): return []", "ocs_user_calib:feeds gives no feed"),
        ("def feeds(): return {'x': 1}", "feed 0 of ocs_user_calib:feeds is a str: give dicts"),
        ("def feeds(): return [np.ones((1, 3))]", "feed 0 .* is a ndarray: give dicts"),
        ("def feeds(): return [{'x': [[1.0, 2.0, 3.0]]}]", "'x' in feed 0 .* is a list: give a numpy array"),
        ("def feeds(): return [{'y': np.ones((1, 3))}]", "feed 0 .* lacks input 'x'"),
        ("def feeds(): return [{1: np.ones((1, 3))}]", r"lacks input 'x', it has \[1\]"),
        ("def feeds(): return [{'x': np.ones((1, 4))}]", r"'x' takes \(any, 3\), but feed 0 .* has \(1, 4\)"),
        ("def feeds(): return [{'x': np.ones((2, 1, 3))}]", r"'x' takes \(any, 3\)"),
        ("def feeds(): return [{'x': np.ones((0, 3))}]", "no samples"),
        ("def feeds(): return [{'x': np.ones((1, 3), object)}]", "is object, no safe cast"),
        ("def feeds(): return [{'x': np.array([[1, 2, 3], [1, np.nan, 3]])}]", "feed 0 .* infinity in sample 1"),
        ("def feeds():\n    raise OSError('disk gone')", r"failed \(OSError: disk gone\)"),
        ("def feeds():\n    yield from ()\n", "gives no feed"),
        ("raise ValueError('at import')", r"failed \(ValueError: at import\)"),
        ("raise SystemExit(0)", r"failed \(SystemExit: 0\)"),
        ("def feeds(:", "failed .SyntaxError"),
        ("import ocs_no_such_module", "failed .ModuleNotFoundError: .*ocs_no_such_module"),
    ],
)
def test_function_errors(module, code, message):
    name = module(code)
    with pytest.raises(UserError, match=message):
        open_samples(f"{name}:feeds", IMAGE)


def test_module_not_found(module):
    with pytest.raises(UserError, match=r"ocs_nowhere\.calib:feeds failed \(ModuleNotFoundError: .* found from here"):
        open_samples("ocs_nowhere.calib:feeds", IMAGE)


def test_later_feeds_are_checked_when_read(module):
    name = module(f"def feeds():\n    yield {{'x': {ONES}}}\n    yield {{'x': {ONES}[0]}}\n    raise KeyError('k')")
    samples = open_samples(f"{name}:feeds", IMAGE)
    with pytest.raises(UserError, match="feed 1 of"):
        list(samples.batches())


def test_a_source_that_can_be_read_only_once(module):
    name = module(f"once = iter([{{'x': {ONES}}}])\ndef feeds():\n    return once\n")
    samples = open_samples(f"{name}:feeds", IMAGE)
    with pytest.raises(UserError, match="ended after 0 feeds, and there were 1 before"):
        list(samples.batches())


# ---------------------------------------------------------------- random samples


def test_random_samples():
    model = make_model(
        x=(T.FLOAT, ["N", 3, None]),
        h=(T.FLOAT16, [1]),
        i=(T.INT64, ["N", 200]),
        u=(T.UINT8, [1, 200]),
        m=(T.BOOL, [1, 200]),
    )
    samples = random_samples(model, 3, seed=7)
    assert samples.description == "random inputs (seed 7), 3 samples"
    feeds = list(samples.batches())
    assert len(feeds) == 3 == samples.count()
    assert {name: array.shape for name, array in feeds[0].items()} == {
        "x": (1, 3, 16),
        "h": (1,),
        "i": (1, 200),
        "u": (1, 200),
        "m": (1, 200),
    }
    assert all(feeds[0][spec.name].dtype == spec.dtype for spec in input_specs(model))
    assert all(set(np.unique(feeds[0][name]).tolist()) == {0, 1} for name in "ium")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    session.run(None, feeds[0])


def test_random_samples_are_seeded():
    first, again, other = (list(random_samples(IMAGE, 4, seed).batches()) for seed in (1, 1, 2))
    for left, right in zip(first, again, strict=True):
        np.testing.assert_array_equal(left["x"], right["x"])
    assert not np.array_equal(first[0]["x"], first[1]["x"])
    assert not np.array_equal(first[0]["x"], other[0]["x"])
    samples = random_samples(IMAGE, 2, 1)
    np.testing.assert_array_equal(list(samples.batches())[1]["x"], list(samples.batches())[1]["x"])


def test_random_floats_are_standard_normal():
    x = next(random_samples(make_model(x=(T.FLOAT, ["N", 20000])), 1, 0).batches())["x"]
    assert abs(x.mean()) < 0.03
    assert abs(x.std() - 1) < 0.03


def test_random_samples_fill_a_fixed_batch():
    samples = random_samples(FIXED, 6, 0)
    assert sizes(samples) == [4, 4]
    assert samples.count() == 8
    assert sizes(samples, limit=2) == [4]


def test_random_scalar():
    assert next(random_samples(make_model(x=(T.FLOAT, [])), 1, 0).batches())["x"].shape == ()


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (IMAGE, 0),
        (make_model(x=(T.FLOAT, None)), 1),
        (make_model(x=(T.STRING, [1])), 1),
        (make_model(x=(T.COMPLEX64, [1])), 1),
    ],
)
def test_random_errors(model, count):
    with pytest.raises(UserError, match="random samples cannot be made for"):
        random_samples(model, count, 0)


# ---------------------------------------------------------------- sources that misbehave


def test_an_endless_source_is_read_so_far_and_no_further(module):
    name = module(
        "read = []\ndef feeds():\n    k = 0\n    while True:\n        read.append(k)\n"
        "        yield {'x': np.full((2, 3), k, np.float32)}\n        k += 1\n"
    )
    samples = open_samples(f"{name}:feeds", IMAGE, 5)
    read = sys.modules[name].read
    assert samples.count(5) == 5 and max(read) == 2
    assert sizes(samples, limit=5) == [2, 2, 2]
    assert samples.count(4) == 4 and max(read) == 2
    assert samples.description == f"{name}:feeds"  # nobody knows how many there are


def test_an_endless_iterator_is_kept_so_far():
    given = []

    def feeds():
        while True:
            given.append(1)
            yield {"x": np.ones((2, 3), np.float32)}

    samples = open_samples(feeds(), IMAGE, 5)
    assert sizes(samples, limit=5) == [2, 2, 2] == sizes(samples, limit=5)
    assert len(given) == 3


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("rng = np.random.default_rng()\ndef feeds():\n    return [{'x': rng.random((2, 3), 'f4')} for _ in range(3)]",
         "feed 0 of .* is not what it was when it was read before: give the same"),
        ("n = [5]\ndef feeds():\n    n[0] -= 1\n    return [{'x': np.ones((1, 3), 'f4')}] * n[0]",
         "ended after 2 feeds, and there were 3 before"),
        ("n = [1]\ndef feeds():\n    n[0] += 1\n    return [{'x': np.ones((1, 3), 'f4')}] * n[0]",
         "feed 3 of .* is not what it was"),
    ],
    ids=["others", "fewer", "more"],
)  # fmt: skip
def test_other_samples_at_each_reading(module, code, message):
    """The first reading, of one feed, was when the source was opened."""
    samples = open_samples(f"{module(code)}:feeds", IMAGE)
    with pytest.raises(UserError, match=message):
        for _ in range(3):
            sizes(samples)


def test_equal_samples_at_each_reading(module):
    name = module(
        "def feeds():\n    rng = np.random.default_rng(0)\n"
        "    return [{'x': np.asfortranarray(rng.random((2, 3), 'f4'))} for _ in range(3)]"
    )
    samples = open_samples(f"{name}:feeds", IMAGE)
    assert sizes(samples) == sizes(samples) == [2, 2, 2] and samples.count() == 6
    words = make_model(x=(T.STRING, ["N"]))
    feeds = [{"x": np.array(["a", "bc"], object)}]
    assert sizes(open_samples(feeds, words)) == [2]


@pytest.mark.parametrize("wrap", [lambda feed: feed, lambda feed: [feed]], ids=["arrays", "feeds"])
def test_masked_arrays(wrap):
    masked = np.ma.masked_array(np.ones((2, 3), np.float32), [[0, 0, 1], [0, 0, 0]])
    with pytest.raises(UserError, match=r"'x' in .* is a masked array: fill what is masked"):
        open_samples(wrap({"x": masked}), IMAGE)


def declaring(path: Path, shape: tuple[int, ...]) -> str:
    """An .npz with an array that says it has this shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue() + b"1234")
    return str(path)


def test_a_size_that_is_only_said(tmp_path):
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"the array 'x' says 12,000,000,000,000 bytes, 1.. are stored"):
            open_samples(declaring(tmp_path / "c.npz", (10**12, 3)), IMAGE)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
    open_samples(npz(tmp_path / "v2.npz", x=f32(2, 3), meta=np.array([{"a": 1}], object)), IMAGE)


def test_more_than_this_machine_has(tmp_path, monkeypatch):
    source = npz(tmp_path / "c.npz", x=f32(20, 3), unread=f32(1000))
    monkeypatch.setattr(reading, "memory", lambda: 240)
    assert open_samples(source, IMAGE).count() == 20
    monkeypatch.setattr(reading, "memory", lambda: 239)
    with pytest.raises(UserError, match="needs 240 bytes, this machine has 239: split it"):
        open_samples(source, IMAGE)
