"""HTTP server: OpenAI's image and video API, that of Stable Diffusion web interfaces, and jobs that
survive a crash. ``kalpana serve`` starts it."""
