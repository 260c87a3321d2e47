"""A run as one page for a person, without network."""
