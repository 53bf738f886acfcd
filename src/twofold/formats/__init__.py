"""Model files: read into a model, written back without loss. Nothing here knows about ranks."""
