"""Verifiers: what is in a picture, and how often they are wrong about it."""
