"""Properties that hold for every QDQ graph; `python tests/whole/properties.py --count 10000` looks for counterexamples.

- rewriting raises nothing, in every mode, with and without verification;
- `onnx.checker` accepts the result where it accepts the input, and graph inputs and outputs are the same;
- in onnxruntime (ORT_DISABLE_ALL) the result gives, to the last bit, what the numpy interpreter gives for the original
  with the quantizers as wide as the report says; only where an exact value lies on a rounding tie may it differ;
- in mode "integer" no layer loses its integer kernel.

With `--planned`: a plan made from samples, at either effort, raises nothing, is verified, and loses no more than
`LOSS_DB` on these samples (several outputs: `OUTPUT_DB` each); where it says that kernels were kept, they are; and the
switchboard that it is made with gives in stages what it gives in one session, to the last bit; where its last
stages have no quantizer on, but for the order of sums.

With `--all`: all passes of the house one after the other, fitted to samples, raise nothing, are verified, and lose no
more than that.

With `--refitted`: re-fitted weights, with copies or without, raise nothing, are verified, and lose no more than that;
without copies nothing but what the layers declare is another than before.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from interpreter import Interpreter
from random_graphs import graphs

from onnx_ocs import api
from onnx_ocs.errors import VerificationError
from onnx_ocs.measurement import latency
from onnx_ocs.measurement.quality import LOSS_DB
from onnx_ocs.measurement.yardstick import OUTPUT_DB
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes import Compensate, Pass, Reconstruct, Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.options import Effort, PlanOptions
from onnx_ocs.probes import stages as staged
from onnx_ocs.probes.stages import STAGES
from onnx_ocs.probes.switchboard import Switchboard, narrow
from onnx_ocs.records.weights import Refit, read_refitted
from onnx_ocs.regions.find import find_regions
from onnx_ocs.targets.ort import integer_kernels
from onnx_ocs.translation.decision import Mode

Array = np.ndarray[Any, Any]
SAMPLES = 16  # feeds to fit on


def accepted(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return True


def execute(model: onnx.ModelProto, feed: dict[str, Array]) -> dict[str, Array]:
    o = ort.SessionOptions()
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    o.log_severity_level, o.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(model.SerializeToString(), o, providers=["CPUExecutionProvider"])
    return dict(zip([v.name for v in session.get_outputs()], session.run(None, feed), strict=True))


def equal(found: dict[str, Array], expected: dict[str, Array]) -> bool:
    return all(np.array_equal(v.astype(np.float64), expected[k].astype(np.float64)) for k, v in found.items())


def held(value: Array) -> bool:
    """Whether float32 holds what was computed exactly."""
    return value.dtype != np.float64 or np.array_equal(value, value.astype(np.float32))


def refused(model: onnx.ModelProto, error: VerificationError) -> str:
    """What onnxruntime does by itself that the verification is right to refuse; anything else is a counterexample."""
    failures = error.args[1]["verification"]["failures"]
    if any("No Op registered for Round" in f for f in failures):
        # its optimizer rounds a float bias with an operator that the model's opset does not have
        assert model.opset_import[0].version < 11
        return "refused, onnxruntime's optimizer makes an invalid graph of it"
    # onnxruntime quantizes float weights behind a DequantizeLinear, and what is added to a MatMul, by itself at
    # ORT_ENABLE_ALL, and other ones than in the original: the verification refuses that, rightly
    scales = {n.input[1] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims]
    assert any(t.name not in scales for t in floats)
    assert all(f.startswith("at ORT_ENABLE_ALL") for f in failures), failures
    return "refused, onnxruntime quantizes float weights"


def check(
    model: onnx.ModelProto,
    feed: dict[str, Array],
    ratio: float,
    copies: int,
    mode: Mode,
    verify: bool,
) -> str:
    """Hold one graph to the properties; says what kind of case it was."""
    plain = Interpreter(model).run(feed)
    try:
        before = execute(model, feed)
    except Exception:
        return "onnxruntime does not run it"
    if not equal(before, plain.values):
        # several layers without a quantizer between them may need more bits than float32 has
        for k, v in before.items():
            assert np.allclose(v, plain.values[k], rtol=1e-6, atol=1e-6), "the interpreter and onnxruntime disagree"
        return "sums that float32 does not hold"
    try:
        result = api.rewrite(model, passes=[Translate(ratio, copies, mode)], verify=verify)
    except VerificationError as e:
        return refused(model, e)
    if not result.changed:
        return "nothing to rewrite"
    assert result.verification is None or result.verification.verdict == "PASSED"
    assert accepted(result.model) or not accepted(model), "onnx.checker rejects the result"
    left = integer_kernels(result.model) if mode == "integer" else None
    assert left is None or left >= (integer_kernels(model) or 0), "a layer lost its integer kernel"
    after = execute(result.model, feed)
    wide = Interpreter(model, result.report["regions"]).run(feed)
    if wide.ties:
        return "rewritten, a value on a rounding tie"
    if equal(after, wide.values):
        return "rewritten, the oracle's very numbers"
    # wide values may need more bits where those of the original just fitted
    assert not all(held(v) for v in wide.values.values()), "the result is not what the oracle is"
    for k, v in after.items():
        assert np.allclose(v, wide.values[k], rtol=1e-6, atol=1e-6), "the result is not what the oracle is"
    return "sums that float32 does not hold"


def check_planned(
    model: onnx.ModelProto, feed: dict[str, Array], budget: float, mode: Mode, effort: Effort, seed: int
) -> str:
    """Hold one graph to the properties of plans; says what kind of case it was."""
    feeds = scaled(feed, 4, seed)
    if not runs(model, feeds):
        return "onnxruntime does not run it"
    check_stages(model, feeds)
    options = PlanOptions(budget=budget, mode=mode, effort=effort, copies=3)
    try:
        result = api.rewrite(model, calib=feeds, options=options)
    except VerificationError as e:
        return refused(model, e)
    check_fitted(model, result)
    if not result.changed:
        return "left as it is"
    if mode == "integer" or result.report["plan"].get("kernels", {}).get("kept"):
        left = integer_kernels(result.model)
        assert left is None or left >= (integer_kernels(model) or 0), "a layer lost its integer kernel"
    return "planned"


def check_all(model: onnx.ModelProto, feed: dict[str, Array], first: Pass, seed: int) -> str:
    """Hold one graph to the properties of all passes together; says what kind of case it was."""
    feeds = scaled(feed, 10, seed)
    if not runs(model, feeds):
        return "onnxruntime does not run it"
    try:
        result = api.rewrite(model, calib=feeds, passes=[first, Reconstruct(), Compensate(0.5)])
    except VerificationError as e:
        return refused(model, e)
    check_fitted(model, result)
    kinds = ("regions", "reconstructions", "compensations")
    done = [k for k in kinds if any(e["status"] == "applied" for e in result.report.get(k, ()))]
    return " and ".join(done) or "left as it is"


def scaled(feed: dict[str, Array], count: int, seed: int) -> list[dict[str, Array]]:
    """Samples of several sizes."""
    rng = np.random.default_rng(seed)
    return [{k: (v * rng.uniform(0.5, 2.5)).astype(v.dtype) for k, v in feed.items()} for _ in range(count)]


def runs(model: onnx.ModelProto, feeds: list[dict[str, Array]]) -> bool:
    try:
        for f in feeds:
            execute(model, f)
    except Exception:
        return False
    return True


def check_fitted(model: onnx.ModelProto, result: api.RewriteResult) -> None:
    """A result that samples decided is valid, verified, and loses nothing on them."""
    assert accepted(result.model) or not accepted(model), "onnx.checker rejects the result"
    if not result.changed:
        return
    assert result.verification is not None and result.verification.verdict == "PASSED"
    outputs = result.report["outputs"]
    allowed = LOSS_DB if len(outputs) == 1 else OUTPUT_DB
    for o in outputs:
        before, after = o["sqnr_before_db"], o["sqnr_after_db"]
        agrees = (o["agreement_after"] or 0) > (o["agreement_before"] or 0)
        assert after is None or agrees or (before is not None and after >= before - allowed), f"'{o['name']}' lost"


def check_refitted(model: onnx.ModelProto, feed: dict[str, Array], ratio: float, copies: bool, seed: int) -> str:
    """Hold one graph to the properties of re-fitted weights; says what kind of case it was."""
    rng = np.random.default_rng(seed)
    feeds = [{k: (v * rng.uniform(0.5, 1.5, v.shape)).astype(v.dtype) for k, v in feed.items()} for _ in range(SAMPLES)]
    try:
        for f in feeds:
            execute(model, f)
    except Exception:
        return "onnxruntime does not run it"
    passes: list[Pass] = [Translate(ratio), Reconstruct()] if copies else [Reconstruct()]
    try:
        result = api.rewrite(model, calib=feeds, passes=passes)
    except VerificationError as e:
        return refused(model, e)
    check_fitted(model, result)
    if not result.changed:
        return "left as it is"
    fitted = read_refitted(result.model)
    if not copies:
        declared = {e.name for r in fitted.values() for e in vars(r).values() if isinstance(e, Refit)}
        old = {t.name: t.SerializeToString() for t in model.graph.initializer}
        for t in result.model.graph.initializer:
            assert t.name in declared or old[t.name] == t.SerializeToString(), f"{t.name} is not declared"
    return "re-fitted" if fitted else "translated only"


def check_stages(model: onnx.ModelProto, feeds: list[dict[str, Array]]) -> None:
    """The switchboard in stages against the same in one session: to the last bit, but behind the last switch."""
    shapes = infer_shapes(model)
    regions = find_regions(Graph(model), shapes)
    with patch.object(staged, "LARGE", 0):
        board, whole = (Switchboard(model, regions, shapes, stages) for stages in (STAGES, 1))
    on = {k: narrow(r.quantizer) for k, r in enumerate(regions) if r.quantizer is not None}
    for trial in ({}, on, *({i: s for i, s in on.items() if i != k} for k in on), *({k: s} for k, s in on.items())):
        # where the last stages are at rest, they may add up in another order
        same = np.array_equal if max(on, default=-1) in trial else close
        for f in feeds[:2]:
            a, b = board.run(f, trial), whole.run(f, trial)
            assert a.keys() == b.keys()
            assert all(same(a[o], b[o], equal_nan=a[o].dtype.kind == "f") for o in a), "stages give others"


def close(a: Array, b: Array, equal_nan: bool) -> bool:
    """Equal but for the order of float sums."""
    most = np.abs(b).max(initial=0.0, where=np.isfinite(b))
    return bool(np.allclose(a, b, rtol=1e-5, atol=1e-5 * float(most), equal_nan=equal_nan))


ratios = st.sampled_from([0.25, 0.5, 1.0, 2.0])
modes = st.sampled_from(["auto", "auto", "early", "late", "integer"])
cases = given(graphs(), ratios, st.integers(1, 3), modes, st.integers(0, 3).map(lambda k: k == 0))
efforts = st.sampled_from(["auto", "quick", "full"])
planned_cases = given(graphs(), st.sampled_from([0.0, 0.1, 0.5, 2.0]), modes, efforts, st.integers(0, 99))
firsts = st.one_of(st.builds(Translate, ratios, st.integers(1, 3), modes), st.builds(Split, ratios))
all_cases = given(graphs(), firsts, st.integers(0, 99))
refitted_cases = given(graphs(), st.sampled_from([0.25, 1.0]), st.booleans(), st.integers(0, 99))
COMMON = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": list(HealthCheck),
}


def search(count: int, seed: int, kind: str = "hold", shrink: bool = True) -> Counter[str]:
    """Look at so many graphs; raises on the first (shrunk) counterexample."""
    tally: Counter[str] = Counter()
    start = time.perf_counter()

    def count_in(kind: str) -> None:
        tally[kind] += 1
        total = sum(tally.values())
        if total % 500 == 0:
            print(f"{total} graphs, {time.perf_counter() - start:.0f} s: {dict(sorted(tally.items()))}", flush=True)

    @cases
    def hold(graph: Any, ratio: float, copies: int, mode: Any, verify: bool) -> None:
        count_in(check(*graph, ratio, copies, mode, verify))

    @planned_cases
    def hold_planned(graph: Any, budget: float, mode: Any, effort: Any, seed: int) -> None:
        count_in(check_planned(*graph, budget, mode, effort, seed))

    @all_cases
    def hold_all(graph: Any, first: Pass, seed: int) -> None:
        count_in(check_all(*graph, first, seed))

    @refitted_cases
    def hold_refitted(graph: Any, ratio: float, copies: bool, seed: int) -> None:
        count_in(check_refitted(*graph, ratio, copies, seed))

    kinds = {"hold": hold, "planned": hold_planned, "all": hold_all, "refitted": hold_refitted}
    random.seed(seed)
    look = settings(max_examples=count, phases=[Phase.generate, *([Phase.shrink] if shrink else [])], **COMMON)
    seeded(seed)(look(kinds[kind]))()
    return tally


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--count", type=int, default=10_000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--planned", dest="kind", action="store_const", const="planned", default="hold")
    p.add_argument("--all", dest="kind", action="store_const", const="all")
    p.add_argument("--refitted", dest="kind", action="store_const", const="refitted")
    p.add_argument("--no-shrink", dest="shrink", action="store_false", help="show the first counterexample as it is")
    a = p.parse_args()
    latency.ROUNDS = 99  # how fast a graph of ten nodes runs is not asked here
    tally = search(a.count, a.seed, a.kind, a.shrink)
    print(f"{sum(tally.values())} graphs: " + ", ".join(f"{n} {w}" for w, n in sorted(tally.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
