"""An entry is written once, and replaced where it stands."""

from __future__ import annotations

import onnx
import pytest

from onnx_ocs.records.metadata import set_entry


@pytest.mark.parametrize("make", [onnx.NodeProto, onnx.ModelProto])
def test_an_entry_is_replaced_where_it_stands(make: type[onnx.NodeProto | onnx.ModelProto]) -> None:
    of = make()
    for key, value in (("a", "1"), ("b", "2"), ("a", "3")):
        set_entry(of, key, value)
    assert [(p.key, p.value) for p in of.metadata_props] == [("a", "3"), ("b", "2")]
