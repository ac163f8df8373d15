"""Measures of masks against a truth, on numpy alone. A leaf."""

from alref_edge.metrics.avsbench import ClassScores, sounding_f, sounding_j
from alref_edge.metrics.davis import JAndF, Statistics, boundary_measure, j_and_f, region_similarity
from alref_edge.metrics.intervals import Estimate, clustered_mean

__all__ = [
    "ClassScores",
    "Estimate",
    "JAndF",
    "Statistics",
    "boundary_measure",
    "clustered_mean",
    "j_and_f",
    "region_similarity",
    "sounding_f",
    "sounding_j",
]
