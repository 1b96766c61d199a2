"""Gains are kept where the outputs gain, nothing is worse, no kernel is lost, and time allows."""
