"""Regions: a quantized activation, who makes it and who reads it."""
