"""ONNX files and graphs: reading, editing, writing, exactly as they are where nothing was asked."""
