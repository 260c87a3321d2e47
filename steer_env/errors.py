"""The one exception of our own: what the steering engine refuses."""


class SteeringError(ValueError):
    """A model, dictionary, action or activation that cannot be steered; the message names the value."""
