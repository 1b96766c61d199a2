"""At home in other tools: onnx_ocs as a step of their pipelines."""
