"""Train an agent to steer: everything goes into one run folder, and a killed run goes on."""

from pathlib import Path

from agents.runs.config import TrainConfig


def main(cfg: TrainConfig) -> Path:
    """Train, or continue with ``--resume``, and return the run folder."""
    from agents.runs.training import main as train  # heavy: not for a help text

    return train(cfg)
