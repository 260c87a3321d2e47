"""What the steering engine refuses, and what it warns of."""


class SteeringError(ValueError):
    """A model, dictionary, action or activation that cannot be steered; the message names the value."""


class NotTheBenchmark(UserWarning):
    """A task that bears a benchmark's name is played on an instrument: its scores are not the benchmark's."""
