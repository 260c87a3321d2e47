"""The embedded locked model."""
