"""Stories: a sentence that names what the opening speaks of."""

from steer_env.tasks.stories.task import Stories

__all__ = ["Stories"]
