"""Metrics of single pictures and of sets of pictures."""
