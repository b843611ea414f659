"""Editing on dev scenes of the world, whose true results are known: edits by two prompts, seams of
inpainting, and style references; each beside a floor and a ceiling."""
