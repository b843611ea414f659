"""Videos: motion tracks, the camera, and whether both are as was asked."""
