"""Real models and photographs, and what twofold does to them. Tests use the models too."""
