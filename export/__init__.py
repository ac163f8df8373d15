"""The build world: checkpoints become ONNX graphs in a verified bundle. Needs torch; the runtime does not."""
