"""What twofold does to real models, measured: each module checks the answer before the clock."""
