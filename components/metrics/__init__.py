"""Metrics: their registry, functions of arrays, and Beam combiners over whole sets."""
