"""Arms, seeds and items: what a trained policy is worth beside its controls."""
