"""Grounding DINO: open-vocabulary detection by a caption."""

from alref_edge.models.grounding_dino.detector import GroundingDino, ImageFeatures, TextFeatures

__all__ = ["GroundingDino", "ImageFeatures", "TextFeatures"]
