"""The decision process, written once and batched, and the two thin shells that Gymnasium makes of it."""
