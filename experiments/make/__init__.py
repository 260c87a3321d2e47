"""Commands that make models, SAEs and agents."""
