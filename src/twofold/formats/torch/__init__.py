"""PyTorch modules as models; needs the extra `torch`."""
