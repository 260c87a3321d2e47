"""Which feature did what in an evaluated run, and was it the reason."""
