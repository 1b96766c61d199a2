"""`auto`: what is free first, then what costs; what does not pay on unseen samples is left, and so is more of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import feeds
import numpy as np
import onnx
import pytest
import zoo
from heads import detector, hits, two_heads
from tried import seen

import onnx_ocs
from onnx_ocs.errors import UserError
from onnx_ocs.measurement.latency import Compared
from onnx_ocs.passes import Compensate, Reconstruct, Regrid, Translate
from onnx_ocs.passes.registry import Auto
from onnx_ocs.planning.goal import Target
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.verbs import automatic as module
from onnx_ocs.verbs.outcome import Outcome
from onnx_ocs.verbs.trials import Trial

ROOT = Path(__file__).resolve().parents[2]
LIMITED = PlanOptions(budget=None, max_latency=1.2)
COPIED = ({"status": "applied", "copies": [1], "copies_low": [0]},)
MOVES = (Regrid(), Translate(), Reconstruct(), Compensate())


class Script:
    """In the place of a bench: what each list of passes brings, in decibels, and how long it takes."""

    def __init__(
        self, brings: Mapping[str, float], takes: Mapping[str, float] | None = None, limit: float | None = 1.2
    ) -> None:
        self.brings, self.takes, self.limit = brings, takes or {}, limit
        self.start = Trial((), (), None, Outcome(onnx.ModelProto(), False), seen(10, 10))
        self.asked: list[str] = []

    def outcome(self, moves: Any, options: Any, onto: Trial) -> Outcome:
        words = [self._word(m, options) for m in moves]
        known = any(words[-1] in name.split(" ") for name in self.brings)
        copied = COPIED if "copies" in words[0] else onto.outcome.regions
        return Outcome(onnx.ModelProto() if known else onto.outcome.model, True, copied if known else ())

    def _word(self, move: Any, options: Any) -> str:
        if isinstance(move, Translate):
            return "steps" if options.budget == 0 else f"copies{options.max_latency}"
        return f"branches{move.budget}" if isinstance(move, Compensate) else str(move.name)

    def trial(self, labels: Any, passes: Any, options: Any, outcome: Outcome) -> Trial:
        words = [self._word(p, options) for p in passes]
        name = " ".join(w for w in words if any(w in n.split(" ") for n in self.brings))
        self.asked.append(name)
        ratio = self.takes.get(name, 1.0)
        macs = 1.1 if "copies" in name or "branches" in name else 1.0
        gained = 10 + self.brings[name]
        return Trial(labels, passes, options, outcome, seen(gained, gained), macs, Compared(1, ratio, ratio, 0.01))


def searched(script: Script, options: PlanOptions = LIMITED, moves: Any = MOVES) -> tuple[Any, str]:
    search = module._Search(script, moves, options)  # type: ignore[arg-type]
    return search, search.run()


def test_free_moves_come_one_after_the_other_then_without_the_steps() -> None:
    script = Script({"regrid": 1, "regrid steps": 2, "regrid steps reconstruct": 5, "regrid reconstruct": 6})
    search, _ = searched(script, PlanOptions())
    assert script.asked == ["regrid", "regrid steps", "regrid steps reconstruct", "regrid reconstruct"]
    assert search.best.labels == ("regrid", "reconstruct"), "the fits did better without the steps"
    assert [e["status"] for e in search.entries()] == ["kept"] * 4 + ["chosen"]
    assert [e["front"] for e in search.entries()] == [False] * 4 + [True]


def test_what_changed_nothing_is_tried_again_on_all_samples() -> None:
    search, _ = searched(Script({"reconstruct": 5}), PlanOptions())
    assert search.best.labels == ("reconstruct",)
    assert [p.name for p in search.best.passes] == ["regrid", "translate", "reconstruct"]
    assert [e["why"] for e in search.entries()][1:3] == ["changes nothing"] * 2


def test_more_of_what_pays_until_it_does_not() -> None:
    script = Script({
        "reconstruct": 5, "copies1.1 reconstruct": 6, "copies1.2 reconstruct": 6.2,
        "copies1.1 reconstruct branches0.05": 8, "copies1.1 reconstruct branches0.1": 8.1,
    })  # fmt: skip
    search, stopped = searched(script)
    assert search.best.name == "copies (time x 1.1), reconstruct, branches (5 % MACs)"
    assert stopped == "more copies would not pay; more branches would not pay"
    left = [e["why"] for e in search.entries() if e["status"] == "left" and e["why"] != "changes nothing"]
    assert left == [f"+0.{n}0 dB on unseen samples, where 0.5 dB would pay" for n in (2, 1)]


def test_no_more_copies_where_few_do_not_pay() -> None:
    script = Script({"reconstruct": 5, "copies1.1 reconstruct": 5.1, "copies1.2 reconstruct": 9})
    search, stopped = searched(script)
    assert search.best.name == "reconstruct" and stopped == "copies do not pay"
    assert "copies1.2 reconstruct" not in script.asked


def test_what_takes_too_long_is_left() -> None:
    brings = {"reconstruct": 5, "reconstruct branches0.05": 9}
    search, _ = searched(Script(brings, {"reconstruct branches0.05": 1.3}))
    assert search.best.name == "reconstruct"
    assert "takes x 1.30 of the time (to 0.01), where x 1.2 is allowed" in [e["why"] for e in search.entries()]
    search, _ = searched(Script(brings, {"reconstruct branches0.05": 1.195}))
    assert search.best.name == "reconstruct", "it might be beyond the limit"
    search, _ = searched(Script(brings, {"reconstruct branches0.05": 1.3}, None), PlanOptions(budget=1.0))
    assert search.best.name == "reconstruct, branches (5 % MACs)", "there is no limit"


def test_a_target_ends_the_search_as_soon_as_it_is_reached() -> None:
    brings = {"reconstruct": 5.0} | {f"copies{x} reconstruct": y for x, y in ((1.0125, 5.3), (1.05, 7.0), (1.2, 9.0))}
    for wanted, asked in ((14.0, 1), (16.0, 3), (19.5, 4)):
        script = Script(brings)
        target = PlanOptions(budget=None, max_latency=1.2, target=Target("sqnr", wanted))
        _, stopped = searched(script, target)
        assert len(script.asked) == asked
        assert (stopped == "the target is reached") == (wanted < 19)


def test_targets_without_floats_get_no_branches() -> None:
    script = Script({"reconstruct": 5, "reconstruct branches0.05": 9})
    search, _ = searched(script, PlanOptions(budget=None, max_latency=1.2, runtime="generic-int8"))
    assert search.best.name == "reconstruct" and script.asked == ["reconstruct"]


# ---- whole files ----------------------------------------------------------------------------------------------------


def test_no_output_is_worse_on_samples_that_nobody_has_seen() -> None:
    model, floats, calib = two_heads()
    done = onnx_ocs.rewrite(model, calib=calib, float_model=floats, passes="auto")
    trials = done.report["trials"]
    assert (trials["fitted"], trials["unseen"]) == (36, 12)
    assert trials["limit"] == 1.1 == done.report["latency"]["limit"]
    assert trials["tried"][0]["name"] == "the model as it is"
    assert sum(e["status"] == "chosen" for e in trials["tried"]) == 1
    held = {k: v + 0.1 for k, v in feeds.inputs(model, 16).items()}
    truth, before, after = (zoo.execute(m, held) for m in (floats, model, done.model))
    for t, b, a in zip(truth, before, after, strict=True):
        assert np.square(t - a).sum() <= 1.05 * np.square(t - b).sum()


def test_the_user_s_metric_and_a_target_decide() -> None:
    model, floats, calib = detector()
    options = PlanOptions(budget=0.0, target=Target("metric", 2.0))
    judging = onnx_ocs.Judging(metric=hits)
    done = onnx_ocs.rewrite(
        model, calib=calib, float_model=floats, passes="auto", options=options, judging=judging, verify=False
    )
    assert all("metric" in e for e in done.report["trials"]["tried"])
    assert done.report["trials"]["stopped"] == "nothing may be spent"
    assert not done.report["target"]["reached"] and done.report["target"]["kind"] == "metric"


def test_few_samples_and_none() -> None:
    model, floats, calib = two_heads()
    done = onnx_ocs.rewrite(
        model, calib={k: v[:20] for k, v in calib.items()}, float_model=floats, passes=Auto(MOVES[1:3]), verify=False
    )
    assert "trials" not in done.report
    assert any("of fewer than 24 samples none can be set apart" in n for n in done.report["notes"])
    with pytest.raises(UserError, match="'auto' needs calibration samples"):
        onnx_ocs.rewrite(model, passes="auto")


def test_nothing_is_applied_where_nothing_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "not_better", lambda *_: "chance")
    model, floats, calib = two_heads()
    moves = Auto((Translate(), Reconstruct()))
    done = onnx_ocs.rewrite(model, calib=calib, float_model=floats, passes=moves, options=PlanOptions(), verify=False)
    assert not done.changed and module.NOTHING in done.report["notes"]
    assert {e["status"] for e in done.report["trials"]["tried"][1:]} == {"left"}


def test_the_candidate_is_written_where_a_fit_on_all_samples_is_no_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_refit_is_worse", lambda *_: True)
    monkeypatch.setattr(module, "not_better", lambda *_: None)
    model, floats, calib = (ROOT / "models" / f"digits.{n}" for n in ("w8a2.onnx", "fp32.onnx", "calib.npz"))
    done = onnx_ocs.rewrite(
        model, calib=calib, float_model=floats, passes=Auto((Reconstruct(),)), options=PlanOptions(), limit=80,
        verify=False,
    )  # fmt: skip
    assert [e["status"] for e in done.report["trials"]["tried"]] == ["kept", "chosen"]
    assert done.changed and any("what was fitted on 60 samples is written" in n for n in done.report["notes"])
