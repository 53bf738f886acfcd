"""Deciding: the candidates of each layer, and one choice over all layers under a budget."""
