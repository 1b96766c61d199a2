"""Rewrite every .onnx below a folder and count what happens: `python tests/whole/tally.py FOLDER --jobs 2`.

For each file the rewritten model must pass onnx.checker where the original does, load and run in onnxruntime at both
optimization levels where the original does (feeds: the `in:NAME` arrays of the .npz beside it, else random ones), and
keep the original's inputs, outputs, opset imports, functions and metadata.  Exits with 1 when anything is violated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from onnx_ocs import api
from onnx_ocs.calibration.drawn import random_samples
from onnx_ocs.errors import UserError
from onnx_ocs.passes.translate import Translate
from onnx_ocs.refusals import CATALOGUE

LEVELS = {
    "ORT_DISABLE_ALL": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "ORT_ENABLE_ALL": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
Feed = dict[str, np.ndarray]


@dataclass
class Record:
    """What happened to one file.

    verdict: "PASSED", "FAILED", "unchanged", "rejected" (the user is told why) or "exception".
    applied: by mode; refused: by code.
    feeding: quantized activations that a layer with a constant weight reads: applied, refused for a reason of
        principle ("principle"), for any other ("other").
    """

    file: str
    verdict: str = "exception"
    violations: list[str] = field(default_factory=list)
    applied: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    feeding: dict[str, int] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    seconds: float = 0.0


def is_valid(model: onnx.ModelProto, full: bool) -> str | None:
    """None, or what onnx.checker says."""
    try:
        onnx.checker.check_model(model, full_check=full)
    except Exception as e:
        return str(e).splitlines()[0]
    return None


def outcome(model: onnx.ModelProto, feed: Feed | None, level: str) -> list[np.ndarray] | str:
    """The outputs, or what onnxruntime says; without a feed the model is only loaded."""
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [] if feed is None else session.run(None, feed)
    except Exception as e:
        return str(e).splitlines()[0]


def feed_for(path: Path, model: onnx.ModelProto) -> Feed | None:
    """Arrays from the .npz beside the model, or random ones; None when neither can be had."""
    beside = path.with_suffix(".npz")
    if beside.is_file():
        with np.load(beside) as z:
            return {k.removeprefix("in:"): z[k] for k in z.files if k.startswith("in:")}
    try:
        return next(random_samples(model, 1, 0).batches())
    except UserError:
        return None


def signature(model: onnx.ModelProto) -> dict[str, Any]:
    """What must not change."""
    g = model.graph
    return {
        "inputs": [i.SerializeToString(deterministic=True) for i in g.input],
        "outputs": [o.SerializeToString(deterministic=True) for o in g.output],
        "opset imports": sorted((o.domain, o.version) for o in model.opset_import),
        "functions": [f.SerializeToString(deterministic=True) for f in model.functions],
        "ir_version": model.ir_version,
        "producer": (model.producer_name, model.producer_version, model.domain, model.model_version),
        "metadata": {p.key: p.value for p in model.metadata_props if not p.key.startswith("onnx_ocs")},
    }


def violations(old: onnx.ModelProto, new: onnx.ModelProto, feed: Feed | None, levels: Sequence[str]) -> list[str]:
    """What the rewritten model may not do, one sentence each."""
    was, now = signature(old), signature(new)
    wrong = [f"{k} changed" for k in was if was[k] != now[k]]
    for full in (True, False):
        if is_valid(old, full) is None:
            complaint = is_valid(new, full)
            wrong += [] if complaint is None else [f"onnx.checker (full_check={full}): {complaint}"]
            break
    for level in levels:
        before = outcome(old, feed, level)
        if isinstance(before, str):
            continue
        after = outcome(new, feed, level)
        if isinstance(after, str):
            wrong.append(f"{level}: {after}")
            continue
        for o, a, b in zip(old.graph.output, before, after, strict=True):
            if a.shape != b.shape or a.dtype != b.dtype:
                wrong.append(f"{level}: output {o.name} is {b.dtype}{b.shape}, was {a.dtype}{a.shape}")
            elif a.dtype.kind == "f" and np.isfinite(a).all() and not np.isfinite(b).all():
                wrong.append(f"{level}: output {o.name} is no longer finite")
    return wrong


def count(record: Record, regions: Sequence[dict[str, Any]]) -> None:
    """Add a report's regions up."""
    applied: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    feeding: Counter[str] = Counter()
    for r in regions:
        code = None if r["reason"] is None else r["reason"]["code"]
        if r["status"] == "applied":
            applied[r["mode"]] += 1
        else:
            refused[code] += 1
        if code in ("fold_only", "no_weight_consumer") or (r["mode"] == "carried" and not r["consumers"]):
            continue
        kind = "applied" if code is None else "principle" if CATALOGUE[code].principle else "other"
        feeding[kind] += 1
        if kind == "other":
            record.others.append(f"{code}: {r['tensor']}: {r['reason']['message']}")
    record.applied, record.refused, record.feeding = dict(applied), dict(refused), dict(feeding)


def examine(path: Path, translate: Translate, levels: Sequence[str] = tuple(LEVELS)) -> Record:
    """Rewrite one file (nothing is written) and look at what comes out."""
    record, start = Record(str(path)), time.perf_counter()
    try:
        old = onnx.load(path)
        bytes_before = old.SerializeToString(deterministic=True)
        result = api.rewrite(old, passes=[translate])
        record.verdict = result.verification.verdict if result.verification else "unchanged"
        count(record, result.report["regions"])
        if old.SerializeToString(deterministic=True) != bytes_before:
            record.violations.append("the input model was changed in place")
        if result.changed:
            record.violations += violations(old, result.model, feed_for(path, old), levels)
        elif result.model is not old:
            record.violations.append("nothing was rewritten, but another model came back")
        json.dumps(result.report)
    except UserError as e:
        record.verdict = "rejected"
        record.violations.append(f"rejected: {e}")
    except Exception as e:
        report = e.args[1] if len(e.args) > 1 and isinstance(e.args[1], dict) else None
        record.verdict = "exception" if report is None else "FAILED"
        where = traceback.extract_tb(e.__traceback__)[-1]
        record.violations.append(f"{type(e).__name__} at {Path(where.filename).name}:{where.lineno}: {e.args[0]}")
        if report is not None:
            count(record, report["regions"])
    record.seconds = time.perf_counter() - start
    return record


def total(records: Sequence[Record], what: str) -> dict[str, int]:
    """One of the counts over all files, largest first."""
    c: Counter[str] = Counter()
    for r in records:
        c.update(getattr(r, what))
    return dict(c.most_common())


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """The tally."""
    feeding = total(records, "feeding")
    n = sum(feeding.values())
    return {
        "files": len(records),
        "verdicts": dict(Counter(r.verdict for r in records).most_common()),
        "applied": total(records, "applied"),
        "refused": total(records, "refused"),
        "feeding": feeding,
        "share": (n - feeding.get("other", 0)) / n if n else 1.0,
        "violated": sum(bool(r.violations) for r in records),
        "seconds": round(sum(r.seconds for r in records), 1),
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--mode", choices=("auto", "early", "late"), default="auto")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of processes")
    parser.add_argument("--no-optimized", action="store_true", help="do not run the models at ORT_ENABLE_ALL")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write tally and records")
    args = parser.parse_args()
    files = sorted(args.folder.rglob("*.onnx"))
    translate = Translate(ratio=args.ratio, copies=args.copies, mode=args.mode)
    work = partial(examine, translate=translate, levels=tuple(LEVELS)[:1] if args.no_optimized else tuple(LEVELS))
    if args.jobs > 1:
        with ProcessPoolExecutor(args.jobs) as pool:
            records = list(pool.map(work, files, chunksize=4))
    else:
        records = [work(f) for f in files]
    tally = summary(records)
    for r in records:
        for v in r.violations:
            print(f"{r.file}: {v}")
    for r in records:
        for v in r.others:
            print(f"not implemented: {r.file}: {v}")
    print(json.dumps(tally, indent=1))
    if args.json:
        args.json.write_text(json.dumps({"tally": tally, "records": [asdict(r) for r in records]}, indent=1))
    return int(any(r.violations for r in records) or not files)


if __name__ == "__main__":
    sys.exit(main())
