"""Which layers are fitted, and in what order: stages, and in these the layers that share a weight together.

A layer is fitted behind all that it depends on, so that it mends what those have left.  Layers that share a weight wait
for each other; where one of them stands behind another one, that weight stays.  What could be fitted at once is parted
where its moments would take much memory: an unrolled recurrent network has the layers of all its steps side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array
from onnx_ocs.model.order import mentioned
from onnx_ocs.reconstruction.bounds import reach
from onnx_ocs.reconstruction.find import sharing
from onnx_ocs.reconstruction.folds import Fold
from onnx_ocs.reconstruction.large import Kept, is_large, sample
from onnx_ocs.reconstruction.linear import LinearMap
from onnx_ocs.reconstruction.moments import Sums
from onnx_ocs.reconstruction.pairing import Pair
from onnx_ocs.reconstruction.solve import Problem, problem
from onnx_ocs.reconstruction.write import Values, scale_free

__all__ = ["STAGE", "Fitted", "Task", "leave", "one_bias", "prepare", "stages"]

STAGE = 1 << 29  # bytes of the moments of a stage
SHARED = 1 << 31  # of layers that share a weight, which are fitted at once
CLAMPED_LEVELS = 8  # grids of so few levels, in the weights or behind, get targets that know what can be expressed


@dataclass
class Fitted:
    """What became of one layer.

    Attributes:
        layer: the layer.
        values: its new values; None where it stays.
        ridge: the chosen ridge.
        signal: energy of the targets on the samples that judge.
        before: squared error there with the old values, behind the layers that were fitted before it.
        after: with the new ones.
        why: code and sentence where it stays.
    """

    layer: LinearMap
    values: Values | None = None
    ridge: float | None = None
    signal: float = 0.0
    before: float = 0.0
    after: float = 0.0
    why: tuple[str, str] | None = None


@dataclass(eq=False)
class Task:
    """A layer while it is fitted.

    Attributes:
        number: of the layer.
        fitted: what becomes of it.
        pair: what it aims at.
        free: whether its weight may get new scales.
        other: the tensor that is added behind it, where it is waited for.
        clamp: what follows can express, where that is coarse.
        sums: moments, by fold.
        rows: what is summed there, and how much it counts, where the targets will change.
        kept: the rows themselves, of a large layer; None of others.
    """

    number: int
    fitted: Fitted
    pair: Pair
    free: bool
    other: str | None = None
    clamp: tuple[Array, Array] | None = None
    sums: dict[int, Sums] = field(default_factory=dict)
    rows: list[tuple[Array, Array, Array | None]] = field(default_factory=list)
    kept: Kept | None = None

    @property
    def bytes(self) -> int:
        """What its moments take, in all folds."""
        if is_large(self.layer):
            return 0
        inputs = self.layer.columns.shape[1]
        return int(8 * len(Fold) * inputs * (self.layer.columns.size + self.layer.rows.size))

    @property
    def layer(self) -> LinearMap:
        """The layer."""
        return self.fitted.layer

    def problem(self) -> Problem:
        """What is known of it besides its moments; made anew, as it is many times what the file stores."""
        found = problem(self.layer, self.pair.prior, self.free)
        assert found is not None
        return found


def leave(tasks: Sequence[Task], code: str, why: str) -> None:
    """Say why layers stay as they are, where that is not said yet."""
    for t in tasks:
        t.fitted.why = t.fitted.why or (code, why)


def prepare(graph: Graph, fitted: Sequence[Fitted], pairs: Sequence[Pair | None]) -> list[Task]:
    """The layers that can be fitted; of the others it is said why not.

    Args:
        graph: the model's.
        fitted: the layers, in topological order.
        pairs: what each aims at.
    """
    tasks: dict[int, Task] = {}
    for k, (f, pair) in enumerate(zip(fitted, pairs, strict=True)):
        if pair is None:
            f.why = "no_target", "no tensor of the float model is what this layer writes"
            continue
        free = scale_free(f.layer, graph)
        p = problem(sample(f.layer), pair.prior, free)
        if p is None:
            f.why = "weight_form", "its scales lie neither along rows nor along inputs"
            continue
        found = reach(graph, f.layer)
        few = found is not None and min(p.high - p.low + 1, found.levels) <= CLAMPED_LEVELS
        clamp = (found.low, found.high) if few and found and not is_large(f.layer) else None
        tasks[k] = Task(k, f, pair, free and p.owner is not None, clamp=clamp)
    for numbers in sharing([f.layer for f in fitted]):
        group = [tasks[k] for k in numbers if k in tasks]
        if len(group) < len(numbers):
            leave(group, "weight_shared", "another layer that reads the weight cannot be fitted")
        elif len(group) > 1 and is_large(group[0].layer):
            leave(group, "weight_shared", "another layer reads the weight, and it is too large to be fitted for both")
        elif sum(t.bytes for t in group) > SHARED:
            told = f"{len(group)} layers read the weight: what is summed for all of them takes too much memory"
            leave(group, "weight_shared", told)
        elif len(group) > 1:
            free = all(t.free for t in group)
            for t in group:
                t.clamp, t.free = None, free
    return [t for t in tasks.values() if t.fitted.why is None]


def stages(graph: Graph, tasks: Sequence[Task]) -> list[list[list[Task]]]:
    """What is fitted at once, stage by stage: groups of layers that share a weight, mostly of one.

    Where layers that share a weight stand one behind the other, it is said of them and they are left out.
    """
    shared = Counter(t.layer.weight.root for t in tasks)
    depths = {root: 0 for root, count in shared.items() if count > 1}
    before: dict[str, int] = {}
    for _ in range(len(depths) + 2):  # every round, one more of them is as deep as it will ever be
        before = dict(depths)
        found = _levels(graph, tasks, depths)
        if depths == before:
            return [p for s in found for p in _parted([[s[k] for k in g] for g in sharing([t.layer for t in s])])]
    growing = {root for root, depth in depths.items() if depth > before[root]}
    cyclic = [t for t in tasks if t.layer.weight.root in growing]
    leave(cyclic, "weight_shared", "layers that share the weight stand one behind the other")
    return stages(graph, [t for t in tasks if t.fitted.why is None])


def _parted(groups: Sequence[list[Task]]) -> list[list[list[Task]]]:
    """A stage as several, of which each has little to sum."""
    found: list[list[list[Task]]] = []
    room = 0
    for group in groups:
        size = sum(t.bytes for t in group)
        if not found or size > room:
            found.append([])
            room = STAGE
        found[-1].append(group)
        room -= size
    return found


def _levels(graph: Graph, tasks: Sequence[Task], depths: dict[str, int]) -> list[list[Task]]:
    """Layers by how many must be fitted before them; what else they wait for.

    Args:
        graph: the model's.
        tasks: the layers.
        depths: of weights that are shared; they grow to what the layers need.
    """
    level: dict[str, int] = {}
    waiting = {id(t.layer.node): t for t in tasks}
    found: dict[int, list[Task]] = {}
    for n in graph.nodes:
        depth = max((level.get(t, 0) for t in mentioned(n)), default=0)
        task = waiting.get(id(n))
        if task is not None:
            other, root = task.pair.other, task.layer.weight.root
            if other is not None and (other[1] in level or other[1] in graph.inputs):
                task.other = other[1]
                depth = max(depth, level.get(other[1], 0))
            if root in depths:
                depth = depths[root] = max(depth, depths[root])
            found.setdefault(depth, []).append(task)
            depth += 1
        level |= dict.fromkeys(n.output, depth)
    return [found[k] for k in sorted(found)]


def one_bias(group: Sequence[LinearMap]) -> bool:
    """Whether layers that share a weight share the bias, too."""
    first = group[0].bias
    return len(group) > 1 and first is not None and all(x.bias is not None and x.bias.root == first.root for x in group)
