"""Real models, photographs and labelled images that tests, pages and benchmarks share; fetched and cached."""
