"""A training run: its settings, its folder, its checkpoints, and the checks that it means what it meant."""
