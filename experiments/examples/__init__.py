"""Short programs, made to be copied."""
