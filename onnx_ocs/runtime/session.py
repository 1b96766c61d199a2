"""onnxruntime sessions, and models instrumented for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import Error as ProtobufError
from onnx import TensorProto
from onnxruntime.capi import onnxruntime_pybind11_state

from onnx_ocs.errors import CPP_ERRORS, UserError, first_line
from onnx_ocs.model import sizes, tensors
from onnx_ocs.model.nodes import Array
from onnx_ocs.runtime.cpu import may_saturate
from onnx_ocs.runtime.instrument import constants_first, outputs_apart
from onnx_ocs.runtime.names import shorten

__all__ = [
    "LARGE",
    "LEVELS",
    "NUMBERS",
    "RUN_ERRORS",
    "SMALL",
    "Session",
    "as_written",
    "attempt",
    "attempt_run",
    "serialized",
    "session_options",
]

LEVELS = {
    "disable_all": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "enable_all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
NUMBERS = {
    f"tensor({name})": int(getattr(TensorProto, name.upper()))
    for name in ("float", "float16", "double", "int8", "uint8", "int16", "uint16", "int32", "int64", "bool")
}  # what onnxruntime calls tensors that numpy can share
SMALL = 200_000  # bytes of a model that one thread runs fastest
LARGE = 1 << 28  # bytes of a model from which memory counts more than time
PROTOBUF_LIMIT = 1 << 31
# what loading or running a model may raise; onnxruntime's own classes have no common base
RUN_ERRORS: tuple[type[Exception], ...] = (
    *(c for c in vars(onnxruntime_pybind11_state).values() if isinstance(c, type) and issubclass(c, Exception)),
    ProtobufError,
    OSError,  # side files
    UserError,
    *CPP_ERRORS,
)


def session_options(level: str, fusion: bool, size: int = SMALL, precise: bool = True) -> ort.SessionOptions:
    """Options for a level of `LEVELS`, with or without fusion, for a model of so many bytes."""
    options = ort.SessionOptions()
    if size < SMALL:  # threads cost more than they bring
        options.intra_op_num_threads = 1
    options.graph_optimization_level = LEVELS[level]
    # an arena keeps up to twice what a run needs as long as the session lives, and many live at once
    options.enable_cpu_mem_arena = not precise and size <= LARGE  # what is timed runs as users run it
    options.enable_mem_pattern = size <= LARGE  # of a large model, what a layer needs is given back when it is done
    options.log_severity_level = 4
    # many short-lived sessions: threads that spin would take the time of the next one
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # MatMulNBits rounds its activation once more by default, which shows only where the original does not clip
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if precise:  # without VNNI, int8 kernels add pairs of products in 16 bits and saturate: not with this
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not fusion:
        # onnxruntime quantizes float weights behind a DequantizeLinear silently, from ENABLE_BASIC on
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def serialized(model: onnx.ModelProto, options: ort.SessionOptions) -> tuple[bytes, list[Any]]:
    """The model as onnxruntime reads it; side files are read by onnxruntime itself, from their folder.

    What is taken from a side file, and what protobuf could not hold, is handed over in memory, and must be kept as
    long as the session.
    """
    outside = [t for t in tensors.all_tensors(model) if tensors.is_external(t)]
    inside = sizes.inline_size(model)
    if not outside and inside <= LARGE:
        return model.SerializeToString(), []
    large = inside >= PROTOBUF_LIMIT // 2
    new = onnx.ModelProto()
    new.CopyFrom(model)
    constants_first(new.graph)
    folder = _folder(outside)
    if folder:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    names: list[str] = []
    given: list[Any] = []
    initializers = list(new.graph.initializer)  # held, or their identities would not last
    main = {id(t) for t in initializers}
    for t in tensors.all_tensors(new):
        external = tensors.is_external(t)
        near = external and not tensors.is_taken(t) and tensors.reference(t)[tensors.FOLDER] == folder
        if near:
            tensors.refer(t, {k: v for k, v in tensors.reference(t).items() if not k.startswith(tensors.PRIVATE)})
        elif id(t) in main and (external or large) and tensors.stored_size(t) > sizes.INLINE:
            value = np.ascontiguousarray(tensors.values(t))
            if value.dtype.kind not in "fiub":  # bfloat16, float8: their bits
                value = value.view(f"u{value.itemsize}")
            names.append(t.name)
            given.append(ort.OrtValue.ortvalue_from_numpy_with_onnx_type(value, t.data_type))
            t.ClearField("raw_data")
            for field in tensors.TYPED:
                t.ClearField(field)
            tensors.refer(t, {"location": "in_memory", "offset": "0", "length": str(value.nbytes)})
        elif external:
            t.CopyFrom(tensors.inlined(t))
    if names:
        options.add_external_initializers(names, given)
    return new.SerializeToString(), given


def _folder(outside: Sequence[onnx.TensorProto]) -> str:
    """The folder with most bytes of side files, which onnxruntime reads; empty where there are none."""
    found: dict[str, int] = {}
    for t in outside:
        place = tensors.reference(t)[tensors.FOLDER]
        found[place] = found.get(place, 0) + tensors.stored_size(t)
    return max(sorted(found), key=lambda f: found[f], default="")


class Session:
    """One model in onnxruntime's CPU provider.

    Raises:
        RUN_ERRORS: onnxruntime does not load the model.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        level: str = "disable_all",
        fusion: bool = True,
        threads: int | None = None,
        precise: bool = True,
    ) -> None:
        """Load a model.

        Args:
            model: the model.
            level: of optimization, "disable_all" or "enable_all".
            fusion: whether Q and DQ are fused into integer kernels; if not, all outputs are what is written for them.
            threads: how many; None for onnxruntime's choice.
            precise: whether integer kernels must not saturate, on whatever CPU; else they are as fast as they are.
        """
        if not fusion and level != "disable_all":
            model = outputs_apart(model)
        model, self._short = shorten(model)
        size = sizes.rough_size(model, SMALL)
        options = session_options(level, fusion, size, precise)
        if threads is not None:
            options.intra_op_num_threads = threads
        self._long = {short: long for long, short in self._short.items()}
        data, self._kept = serialized(model, options)
        # folded, the integers of a large model's weights would be held as floats, four times as much
        without = {"disabled_optimizers": ["ConstantFolding"]} if size > LARGE and not fusion else {}
        self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"], **without)
        self.inputs = {self._long.get(i.name, i.name) for i in self._session.get_inputs()}
        self.outputs: list[str] = [self._long.get(o.name, o.name) for o in self._session.get_outputs()]
        self._shared = all(v.type in NUMBERS for v in (*self._session.get_inputs(), *self._session.get_outputs()))

    def described(self) -> list[tuple[str, str, list[int | str | None] | None]]:
        """Name, type and shape of every output, as far as onnxruntime infers them."""
        return [(self._long.get(o.name, o.name), o.type, o.shape or None) for o in self._session.get_outputs()]

    def run(self, feed: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """Run one feed; returns the outputs by name."""
        names = self.outputs if names is None else list(names)
        if not names:  # onnxruntime takes that for all
            return {}
        if self._shared and (missing := self.inputs.difference(feed)):  # found out in the middle of the run
            raise ValueError(f"inputs are missing: {', '.join(sorted(missing))}")
        feed = {self._short.get(name, name): value for name, value in feed.items()}
        wanted = [self._short.get(name, name) for name in names]
        if not self._shared:
            return dict(zip(names, self._session.run(wanted, feed), strict=True))
        # `InferenceSession.run` copies its outputs to fresh memory, which takes about as long as a layer does
        binding = self._session.io_binding()
        for name, value in feed.items():
            binding.bind_cpu_input(name, np.asarray(value, order="C"))
        for name in wanted:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        return {name: value.numpy() for name, value in zip(names, binding.get_outputs(), strict=True)}


def as_written(model: onnx.ModelProto, threads: int | None = None) -> Session:
    """A session that computes Q and DQ as they stand: optimized, and plain where the optimizer fails on the model.

    Raises:
        UserError: onnxruntime does not load it.
    """
    try:
        return Session(model, "enable_all", fusion=False, threads=threads)
    except RUN_ERRORS:  # a Clip in front of a 4-bit quantizer is more than onnxruntime 1.31's optimizer can take
        try:
            return Session(model, "disable_all", threads=threads)
        except RUN_ERRORS as e:
            raise UserError(f"onnxruntime does not load the model: {first_line(e)}") from None


def attempt(model: onnx.ModelProto, level: str) -> Session | str:
    """A session, or why there is none.

    onnxruntime 1.32 does not load some files with int8 activations where kernels must not saturate; where the CPU's
    kernels do not anyway, they need not be told.
    """
    try:
        return Session(model, level)
    except RUN_ERRORS as e:  # the message is the finding
        why = first_line(e)
    try:
        return why if may_saturate() else Session(model, level, precise=False)
    except RUN_ERRORS:
        return why


def attempt_run(
    session: Session, feed: Mapping[str, Array], names: Sequence[str] | None = None
) -> dict[str, Array] | str:
    """What a session computes (all of it, or these outputs), or why it does not."""
    try:
        return session.run(feed, names)
    except RUN_ERRORS as e:
        return first_line(e)
