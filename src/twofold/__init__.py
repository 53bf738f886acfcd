"""Make trained convolutional networks faster by low-rank decomposition."""
