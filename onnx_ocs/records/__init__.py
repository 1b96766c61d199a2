"""What a rewritten file says of itself: the contract between who rewrites and who verifies."""
