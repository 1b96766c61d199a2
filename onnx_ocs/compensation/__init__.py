"""NBC: small nonlinear branches that undo what quantization left."""
