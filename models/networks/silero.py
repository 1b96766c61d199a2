"""Silero VAD, is somebody speaking: `audio` [N, 32, 576] at 16 kHz to `speech` [N, 32], a probability for each window.

A sample is a second: 32 windows of 512 values, each behind the 64 values before it.  The file of the package holds one
stream (windows are its first axis); here the recurrent layer gets a batch of streams, each from a state of zeros.

No package that we know of ships speech, so the samples are made: a voice-like source (pulses at 90 to 250 Hz through
three formants, in syllables), noise, chords, and silence.  That exercises the network; it measures no recognition, so
there are no labels.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter
from onnx import helper, numpy_helper
from scipy.signal import lfilter

from models.networks.zoo import Built

__all__ = ["build"]

Array = npt.NDArray[Any]
RATE, WINDOWS, STEP, BEFORE = 16_000, 32, 512, 64
CALIB, TEST = 48, 64
FORMANTS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))  # Hz
BANDWIDTHS = (80, 100, 120)


def batched(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with its streams on the first axis.

    Around the recurrent layer the windows become its sequence; what is around it is done window by window.
    """
    graph = model.graph
    nodes = list(graph.node)
    first = next(n for n in nodes if "input" in n.input)
    (recurrent,) = (n for n in nodes if n.op_type == "LSTM")
    last = next(n for n in nodes if n.output[0] == "speech_probs")
    nodes = [n for n in nodes if n.output[0] != last.input[1]]
    shapes = {"windows_shape": (-1, BEFORE + STEP), "streams_shape": (-1, WINDOWS, 128), "speech_shape": (-1, WINDOWS)}
    for name, shape in shapes.items():
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    flat = helper.make_node("Reshape", ["audio", "windows_shape"], ["windows"], "windows")
    streams = [
        helper.make_node("Reshape", [recurrent.input[0], "streams_shape"], ["streams"], "streams"),
        helper.make_node("Transpose", ["streams"], ["sequence"], "sequence", perm=[1, 0, 2]),
    ]
    first.input[0] = "windows"
    recurrent.input[0] = "sequence"
    del recurrent.input[5:], recurrent.output[1:]  # states: from zero, and not asked for
    last.input[1], last.output[0] = "speech_shape", "speech"
    place = nodes.index(recurrent)
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend([flat, *nodes[:place], *streams, *nodes[place:]])
    kind = onnx.TensorProto.FLOAT
    graph.input.append(helper.make_tensor_value_info("audio", kind, ["N", WINDOWS, BEFORE + STEP]))
    graph.output.append(helper.make_tensor_value_info("speech", kind, ["N", WINDOWS]))
    model = onnx.version_converter.convert_version(model, 17)
    onnx.checker.check_model(model, full_check=True)
    return model


def voice(length: int, rng: np.random.Generator) -> Array:
    """A pulse train with a gliding pitch through formants that change from syllable to syllable."""
    out, start = np.zeros(length), 0
    while start < length:
        n = min(int(RATE * rng.uniform(0.08, 0.3)), length - start)
        pitch = rng.uniform(90, 250) * np.linspace(rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15), n)
        source = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0.0) + 0.02 * rng.standard_normal(n)
        for centre, width in zip(FORMANTS[rng.integers(len(FORMANTS))], BANDWIDTHS, strict=True):
            radius = np.exp(-np.pi * width / RATE)
            source = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2], source)
        out[start : start + n] = source / (np.abs(source).max() + 1e-9) * np.hanning(n) ** 0.5
        start += n + int(RATE * rng.uniform(0.0, 0.08))
    return out


def second(kind: int, rng: np.random.Generator) -> Array:
    """One sample float32 [32, 576]: a voice (kind 0, 1), noise (2) or a chord (3), over faint noise."""
    length = BEFORE + WINDOWS * STEP
    t = np.arange(length) / RATE
    if kind < 2:
        sound = voice(length, rng)
    elif kind == 2:
        sound = lfilter([1], [1, -rng.uniform(0, 0.95)], rng.standard_normal(length))
    else:
        sound = np.sum([np.sin(2 * np.pi * f * t) for f in rng.uniform(100, 2000, 4)], axis=0)
    sound = sound / np.abs(sound).max() * 10 ** rng.uniform(-1.5, -0.2)
    sound[: int(length * max(rng.uniform(-0.5, 0.5), 0))] = 0
    sound += 10 ** rng.uniform(-4, -2.5) * rng.standard_normal(length)
    places = STEP * np.arange(WINDOWS)[:, None] + np.arange(BEFORE + STEP)
    return np.asarray(sound[places], np.float32)


def build(name: str, folder: Path, seed: int) -> Built:
    """Change the package's file, make samples; see `models.zoo.Network.build`."""
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None and spec.origin is not None
    built = Built.at(folder, name)
    model = batched(onnx.load(Path(spec.origin).parent / "data" / "silero_vad_16k_sequence.onnx"))
    onnx.save(model, built.float_model)
    for path, count, test in ((built.calib, CALIB, False), (built.test, TEST, True)):
        assert path is not None
        rng = np.random.default_rng((seed, test))
        np.savez_compressed(path, audio=np.stack([second(k % 4, rng) for k in range(count)]))
    return built
