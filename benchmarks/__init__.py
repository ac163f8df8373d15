"""Measuring programs; their results are JSON with the samples and the environment in it."""
