"""What a rewritten file declares about itself: layouts, steps and re-fitted layers that its original does not have.

An entry that stands in the original just so was declared by an earlier run, and is no change.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.nodes import Array, is_op, label
from onnx_ocs.model.tensors import unpack
from onnx_ocs.model.text import from_json
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer
from onnx_ocs.records.layouts import LAYOUT
from onnx_ocs.records.steps import NOW, SCALE, read_step
from onnx_ocs.records.weights import REFITTED, Refitted, read_refitted
from onnx_ocs.verification.values import Differs, Layout

__all__ = ["OURS", "Declared"]

OURS = "onnx_ocs."  # what the keys of our metadata begin with
JOINING = ("Concat", "Gather")  # what writes channels of which every part has a quantizer of its own


def _layout(text: str) -> tuple[str, Layout]:
    try:
        e = from_json(text)
        origin, level = unpack(e["origin"]), unpack(e["level"])
        halved, full = (bool(e.get(k, False)) for k in ("halved", "full"))
        found = Layout(int(e["axis"]), origin, level, int(e["narrow"]), halved, full)
        return str(e["original"]), found
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as e:
        raise Differs(f"a layout cannot be read ({type(e).__name__}: {e})") from None


@dataclass(eq=False)
class Declared:
    """The declarations of one file.

    Attributes:
        layouts: what a Q wrote in the original -> (what it writes now, the channels there).
        scales: what a Q wrote in the original -> its step now, float64, shape () or (C,).
        refitted: what a layer writes now -> which constants have new values.
        undated: Qs whose new step the file does not repeat beside it.
        parted: where a Q quantizes the bases alone now, and others the copies: what the node writes that joins them ->
            what the Q wrote in the original.
    """

    layouts: dict[str, tuple[str, Layout]] = field(default_factory=dict)
    scales: dict[str, Array] = field(default_factory=dict)
    refitted: dict[str, Refitted] = field(default_factory=dict)
    undated: list[str] = field(default_factory=list)
    parted: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def read(before: Graph, after: Graph) -> Declared:
        """Read a file's declarations, checked against the original.

        Args:
            before: the original.
            after: the rewritten model.

        Raises:
            Differs: an entry is damaged, or speaks of something that the original does not have.
        """
        found = Declared()
        inherited = {(p.key, p.value) for n in before.nodes for p in n.metadata_props if p.key.startswith(OURS)}
        for n in after.nodes:
            entries = {p.key: p.value for p in n.metadata_props if p.key in (LAYOUT, SCALE, NOW, REFITTED)}
            fresh = {k: v for k, v in entries.items() if (k, v) not in inherited}
            if not fresh:
                continue
            if len(entries) < sum(p.key in entries for p in n.metadata_props):
                raise Differs(f"'{label(n)}' declares one thing twice")
            name = str(n.output[0])
            if LAYOUT in fresh:
                name, layout = _layout(fresh[LAYOUT])
                found._add_layout(before, after, n, name, layout)
            if SCALE in fresh or NOW in fresh:
                found._add_step(before, after, n, name)
        try:
            refits = read_refitted(after.model)
        except ValueError as e:
            raise Differs(str(e)) from None
        for name, r in refits.items():
            entry = next(p.value for p in after.producer[name].metadata_props if p.key == REFITTED)
            if (REFITTED, entry) not in inherited:
                found.refitted[name] = r
        return found

    def _add_layout(self, before: Graph, after: Graph, n: NodeProto, name: str, layout: Layout) -> None:
        if not is_op(n, "QuantizeLinear", *JOINING) or not is_op(before.producer.get(name), "QuantizeLinear"):
            raise Differs(f"the original has no quantizer '{name}', which the rewritten model claims to have widened")
        if name in self.layouts:
            raise Differs(f"the quantizer '{name}' is declared twice")
        layout.check()
        self.layouts[name] = (str(n.output[0]), layout)
        if not is_op(n, "QuantizeLinear"):
            self.parted[str(n.output[0])] = name

    def _add_step(self, before: Graph, after: Graph, n: NodeProto, name: str) -> None:
        old = before.producer.get(name)
        was = read_quantizer(before, old) if old is not None and is_op(old, "QuantizeLinear") else None
        now = read_quantizer(after, n) if is_op(n, "QuantizeLinear") else None
        if not isinstance(was, Quantizer) or not isinstance(now, Quantizer):
            raise Differs(f"the original has no quantizer '{name}', which the rewritten model claims to have rescaled")
        try:
            step = read_step(n)
        except ValueError as e:
            raise Differs(str(e)) from None
        if step is None or not np.array_equal(step.before, was.scale):
            raise Differs(f"the step that '{name}' is said to have had is not the original's")
        scale = step.now
        if scale is None:
            self.undated.append(name)
            scale = now.scale
            if scale.size > 1 and name in self.layouts:
                layout = self.layouts[name][1]
                base = np.flatnonzero(layout.level == 0)
                narrow = np.empty(layout.narrow)
                narrow[layout.origin[base]] = scale[base]
                scale = narrow
        if scale.shape != was.scale.shape or not np.all((scale > 0) & np.isfinite(scale)):
            raise Differs(f"the step that '{name}' is said to have now cannot be")
        self.scales[name] = scale
