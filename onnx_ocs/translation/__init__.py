"""OCS+: clipped outliers live in extra channels, and steps are chosen anew."""
