"""Windows to forecasts: ONNX Runtime, model registry, output gate, seasonal-naive fallback."""
