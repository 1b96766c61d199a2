"""Quantizers: other tools', and our own for few bits."""
