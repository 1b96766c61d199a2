"""Quantizers, weights, biases and activations of a QDQ graph, read by structure and value."""
