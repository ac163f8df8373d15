"""Training of the nano networks on generated scenes, from scratch; `python -m export` then takes their checkpoints."""
