"""Factorizing one convolution: pure arrays, one decomposition, every rank."""
