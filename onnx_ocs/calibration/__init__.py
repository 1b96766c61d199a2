"""Calibration: samples, and what is seen of the activations when they run."""
