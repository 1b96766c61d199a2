"""Quantized weights and biases, chosen again in closed form (`onnx_ocs.passes.reconstruct`)."""
