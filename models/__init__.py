"""Benchmark models for onnx_ocs, built at need: `python -m models list`, `python -m models build NAME`."""
