"""Video evaluation: object tracks, camera motion, and the accuracy of both."""
