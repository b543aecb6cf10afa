"""Model definitions: each leaves as an ONNX file with its manifest."""
