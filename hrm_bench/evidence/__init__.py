"""Measurements of a model besides its score."""
