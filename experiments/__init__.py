"""Scripts that train, evaluate and explain; the only place that knows run folders and wandb."""
