"""What a runtime demands of a graph for its fast kernels."""
