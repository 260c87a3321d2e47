"""What RL agents themselves represent: recordings, SAEs and probes on agents of small worlds."""
