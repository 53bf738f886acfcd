"""From a model and inputs to a smaller model: the way itself, which command line and Python share."""
