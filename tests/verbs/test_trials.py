"""Candidates are judged on samples that no fit has seen, each half of them and every output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import feeds
import pytest
import zoo
from tried import quality, seen

from onnx_ocs.calibration.apart import set_apart
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.judging import Judging
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.verbs.outcome import Outcome, Prepared
from onnx_ocs.verbs.trials import Bench, gain, not_better


def test_a_gain_is_the_mean_of_the_outputs() -> None:
    assert gain(quality(10.0, 20.0), quality(12.0, 21.0)) == pytest.approx(1.5)
    assert gain(quality(10.0, metric=0.5), quality(12.0, metric=0.1)) == pytest.approx(2.0), "whatever the metric says"


def test_what_takes_the_place_of_the_best() -> None:
    assert not_better(seen(10, 10), seen(11, 11), 0.5) is None
    assert not_better(seen(10, 10), seen(14, 9.8), 0.5) == "loses on unseen samples: 'y0' 10.00 dB -> 9.80 dB"
    assert not_better(seen(10, 10), seen(14, 9.92), 0.5) is None, "a half may lose a little by chance"
    assert not_better(seen(10, 10), seen(9.98, 9.98), -1) == "loses on unseen samples: 'y0' 10.00 dB -> 9.98 dB"
    assert not_better(seen(10, 10), seen(10.2, 10.2), 0.5) == "+0.20 dB on unseen samples, where 0.5 dB would pay"
    assert not_better(seen(10, 10), seen(10.2, 10.2), 0.1) is None
    assert not_better(seen(10, 10, 0.5), seen(8, 8, 0.6), 0.5) is None, "the metric decides"
    assert "the metric 0.5 -> 0.4" in str(not_better(seen(10, 10, 0.5), seen(12, 12, 0.4), 0.5))


@pytest.fixture(scope="module")
def bench() -> Any:
    model = zoo.build("conv_relu_conv")[0]
    samples = open_samples(feeds.inputs(model, 32), model)
    ready = Prepared(model, None, Context(samples), ("a note",))
    apart = set_apart(samples, None)
    assert apart is not None
    asked = []

    def run(ready: Prepared, moves: Any, options: Any, onto: Any) -> Outcome:
        asked.append((ready.context.total(), onto.notes))
        return replace(onto, changed=True)

    return ready, apart, run, asked


def test_the_bench(bench: Any) -> None:
    """Passes get the samples to fit on; the model as it is was judged on the others, as a whole and by halves."""
    ready, apart, run, asked = bench
    found = Bench(ready, apart, run, 1.1)
    assert found.start.name == "the model as it is" and found.start.seen.whole.samples == 8
    assert [p.samples for p in found.start.seen.parts] == [4, 4]
    outcome = found.outcome([], None, found.start)
    assert outcome.changed and asked == [(24, ("a note",))]
    trial = found.trial(("steps",), (), None, outcome)
    assert trial.name == "steps" and trial.macs == 1.0 and trial.latency is not None
    assert trial.seen.whole == found.start.seen.whole, "the same model"


def test_a_metric_gets_all_samples_at_once(bench: Any) -> None:
    ready, apart, run, _ = bench
    judging = Judging(metric=lambda outputs, references, labels: float(len(next(iter(outputs.values())))))
    start = Bench(replace(ready, context=replace(ready.context, judging=judging)), apart, run, None).start
    assert start.seen.whole.metric == 8 and start.seen.parts == (start.seen.whole,)
