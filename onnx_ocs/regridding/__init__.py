"""New grids for quantizers that kill what they quantize: split at a Concat, left out before an output, or re-chosen."""
