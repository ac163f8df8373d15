"""Datasets: scenes that are generated with their truth, and the folder layouts that public datasets use."""
