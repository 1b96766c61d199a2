"""onnxruntime sessions, and threads."""
