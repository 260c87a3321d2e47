"""What the steering engine refuses, and what it warns of."""


class SteeringError(ValueError):
    """A model, dictionary, action or activation that cannot be steered; the message names the value."""


def first_line(error: BaseException) -> str:
    """What an error of another library says first; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class NotTheBenchmark(UserWarning):
    """A task that bears a benchmark's name is played on an instrument: its scores are not the benchmark's."""
