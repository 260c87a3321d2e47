"""Commands that look into agents."""
