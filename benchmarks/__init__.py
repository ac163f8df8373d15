"""Measuring programs; their results are JSON with the samples and the environment in it."""

from alref_edge import offline

offline.switch_off(offline.HUBS)  # of the official code, which runs in processes of its own, too
