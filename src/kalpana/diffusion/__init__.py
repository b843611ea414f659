"""Diffusion sampling: schedule, denoiser, guidance and samplers. No layers, files or printing."""
