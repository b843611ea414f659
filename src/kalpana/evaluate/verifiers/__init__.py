"""Verifiers: detection and reading of the contents of pictures, and their published errors."""
