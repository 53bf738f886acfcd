"""Time as measured on the runtime that will run a model: of layers, of what may replace them, of nets."""
