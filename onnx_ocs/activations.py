"""Float activations in front of the quantizers, streamed over the calibration samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx

from onnx_ocs.errors import UserError
from onnx_ocs.graph import Array
from onnx_ocs.manager import Context
from onnx_ocs.oracle import reference
from onnx_ocs.region import Region
from onnx_ocs.runtime import Session, expose

__all__ = ["BATCH", "stream"]

BATCH = 8  # samples a run


def stream(
    model: onnx.ModelProto, regions: Sequence[Region], wanted: Sequence[Region], context: Context
) -> Iterator[Mapping[str, Array]]:
    """Run the reference (`onnx_ocs.oracle.reference`) over the samples, batch by batch.

    No activation quantizer stands upstream that would already have clipped the values.

    Args:
        model: the QDQ model.
        regions: all its regions.
        wanted: those whose float tensors are asked for; nothing runs when there are none.
        context: the samples, and whom to tell about progress.

    Yields:
        Float tensors (and graph inputs) by name.

    Raises:
        UserError: the model does not run on the samples.
    """
    tensors = list(dict.fromkeys(r.tensor for r in wanted))
    if not tensors or context.samples is None:
        return
    session = Session(expose(reference(model, regions), tensors), "enable_all", fusion=False)
    total = context.samples.count() if context.limit is None else min(context.limit, context.samples.count())
    done = 0
    for feed in context.samples.batches(BATCH, context.limit):
        context.progress("calibrating", done, total)
        try:
            got = session.run(feed, [t for t in tensors if t not in feed])
        except Exception as e:  # onnxruntime raises many kinds
            raise UserError(
                f"onnxruntime does not run the model on the calibration samples: {str(e).splitlines()[0]}"
            ) from None
        yield {**feed, **got}
        done += len(next(iter(feed.values()), ()))
    context.progress("calibrating", total, total)
