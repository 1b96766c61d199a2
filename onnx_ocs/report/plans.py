"""The report's entries of what a planner found, as types: plans, targets, and where the loss comes from."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

__all__ = [
    "CandidateEntry",
    "KernelsEntry",
    "LossEntry",
    "PlanEntry",
    "PointEntry",
    "ProbeEntry",
    "TargetEntry",
    "TimeEntry",
    "TimedEntry",
    "UnmendableEntry",
]


class CandidateEntry(TypedDict):
    """One of the plans that were compared.

    Attributes:
        objective: on held-out samples; smaller is better.
        sqnr_db: of the output there.
        extra_macs: share of the model's.
        mean_copies: a channel.
        regions: number of tensors that it changes.
        metric: the user's own figure there.
    """

    objective: float
    sqnr_db: float | None
    extra_macs: float
    mean_copies: float
    regions: int
    metric: NotRequired[float]


class PointEntry(TypedDict):
    """One point of a sweep of gain against cost.

    Attributes:
        budget: the share of extra multiply-accumulates that was allowed.
        chosen: how the plan was made.
        objective: on held-out samples; smaller is better.
        sqnr_db: of the output there.
        extra_macs: share of the model's.
        mean_copies: a channel.
        regions: number of tensors that it changes.
    """

    budget: float | None
    chosen: str
    objective: float
    sqnr_db: float | None
    extra_macs: float
    mean_copies: float
    regions: int


class KernelsEntry(TypedDict):
    """What copies would cost and gain where operators leave the integers in onnxruntime.

    Attributes:
        of: number of integer operators before: layers with fast kernels, and all others.
        lost: of them, with the copies.
        transposes: that come in between, with the copies.
        gain_db: of the objective, by the copies.
        kept: whether the copies were left out.
        why: the figures, in words.
    """

    of: int
    lost: int
    transposes: int
    gain_db: float
    kept: bool
    why: str


class FittedEntry(TypedDict):
    """Two plans with the weights that were fitted behind them, on all samples.

    Attributes:
        plans: how they were made: the better one by itself, and the best with the other kind of steps.
        sqnr_db: of the first output, of each; null for labels and where it is exact.
        gain_db: of the second over the first, over all outputs.
        taken: which was taken.
    """

    plans: list[str]
    sqnr_db: list[float | None]
    gain_db: float
    taken: str


class TimedEntry(TypedDict):
    """A plan that was timed against the model as it is.

    Attributes:
        allowed: share of extra time that its copies cost by their prices; of one that was made without, what it took.
        ratio: that was measured.
        tolerance: how far that may be off.
        limit: the most that it may be.
    """

    allowed: float
    ratio: float
    tolerance: float
    limit: NotRequired[float]


class TimeEntry(TypedDict):
    """How a plan was cut back until it held a limit of time.

    Attributes:
        limit: the largest ratio to the input's time; by multiply-accumulates, that of the last plan.
        measured: plans, one after the other; empty where there are no copies, and where nothing could be timed.
    """

    limit: float
    measured: list[TimedEntry]


class ProbeEntry(TypedDict):
    """A plan that was measured on the way to a target.

    Attributes:
        allowed: what it might spend.
        plan: how it was made.
        extra_macs: share of the model's.
        mean_copies: a channel.
        got: what it reaches; null for an exact output.
        chosen: whether it was taken.
    """

    allowed: float
    plan: str
    extra_macs: float
    mean_copies: float
    got: float | None
    chosen: bool


class TargetEntry(TypedDict):
    """A quality that was to be reached.

    Attributes:
        kind: "sqnr" in dB, "agreement" 0..1, "metric": the user's own figure.
        wanted: the least value.
        got: the value of the written model; null for an exact output.
        reached: whether it is enough.
        shortfall: what is missing, in words.
        probes: what was measured on the way.
    """

    kind: Literal["sqnr", "agreement", "metric"]
    wanted: float
    got: float | None
    reached: bool
    shortfall: str | None
    probes: NotRequired[list[ProbeEntry]]


class PlanEntry(TypedDict):
    """What the planner found.

    Attributes:
        chosen: how the plan that was taken was made.
        candidates: the plans that were compared, by name.
        rolled_back: tensors that were left out, since the samples are better off without.
        objective: what was minimised.
        effort: how long was searched.
        before: objective and SQNR (dB) of the model as it is, on held-out samples.
        after: the same of the plan, made from all samples.
        unseen: the same of the plan, on samples that it was not made from.
        kernels: whether copies are worth the integer operators that they cost.
        fitted: which of two plans is better with weights fitted behind it.
        time: how it was cut back until it held a limit of time.
        sweep: gain against cost.
        target: the search for the cheapest plan that reaches a target.
        regions: number of tensors that the plan changes.
        extra_macs: of the plan, as a share of the model's.
        mean_copies: of the plan, a channel.
        objective_before: of the model as it is, on held-out samples; smaller is better.
        objective_after: the same of the plan.
        sqnr_before_db: of the output there, of the model as it is.
        sqnr_after_db: the same of the plan.
    """

    chosen: str
    candidates: dict[str, CandidateEntry]
    rolled_back: list[str]
    objective: NotRequired[str]
    effort: NotRequired[str]
    before: NotRequired[list[float | None]]
    after: NotRequired[list[float | None]]
    unseen: NotRequired[list[float | None]]
    kernels: NotRequired[KernelsEntry]
    fitted: NotRequired[FittedEntry]
    time: NotRequired[TimeEntry]
    sweep: NotRequired[list[PointEntry]]
    target: NotRequired[TargetEntry]
    regions: NotRequired[int]
    extra_macs: NotRequired[float]
    mean_copies: NotRequired[float]
    objective_before: NotRequired[float]
    objective_after: NotRequired[float]
    sqnr_before_db: NotRequired[float | None]
    sqnr_after_db: NotRequired[float | None]


class UnmendableEntry(TypedDict):
    """A quantizer that neither copies nor another step can help.

    Attributes:
        tensor: its input.
        code: why.
        sqnr_db: of the model's output with this quantizer alone.
        share: its squared error as a share of that of all quantizers.
    """

    tensor: str
    code: str | None
    sqnr_db: float | None
    share: float | None


class LossEntry(TypedDict):
    """What the quantized activations cost at the model's outputs.

    Attributes:
        samples: number of samples.
        sqnr_all_db: with all quantizers.
        share_all: of their squared error: 1, or null where there is none.
        sqnr_mendable_db: with those alone that copies or another step can help.
        share_mendable: their squared error as a share of that of all.
        sqnr_unmendable_db: with all others alone.
        share_unmendable: the same of them.
        unmendable: these others, those that cost most first.
    """

    samples: int
    sqnr_all_db: float | None
    share_all: float | None
    sqnr_mendable_db: float | None
    share_mendable: float | None
    sqnr_unmendable_db: float | None
    share_unmendable: float | None
    unmendable: list[UnmendableEntry]
