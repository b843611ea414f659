"""What turns a network into samples: schedule, denoiser, guidance, samplers. No layers, no files, no printing."""
