"""Data that networks are trained, calibrated and judged on."""
