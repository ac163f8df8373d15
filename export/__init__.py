"""The build world: checkpoints become ONNX graphs in a verified bundle. Needs torch; the runtime does not."""

from alref_edge import offline

offline.switch_off(offline.HUBS)  # before transformers is imported
