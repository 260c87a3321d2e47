"""``gym.make``: one lane of the decision process as a Gymnasium environment."""

from typing import Any

import gymnasium as gym
import numpy as np

from steer_env.envs.base import SteerBase
from steer_env.envs.episode import Episode
from steer_env.envs.scene import Scene


class SteerEnv(SteerBase, gym.Env[Any, Any]):
    """A frozen language model that an agent steers token by token.

    ``reset(seed=, options={"item": i})`` plays item ``i``; without it items come in a seeded shuffled order, each
    once an epoch. ``info`` holds ``item``; after a step also ``token``, ``token_text``, ``feature`` (or
    ``strengths``), and at the end ``score``, ``return``, ``steps``, ``completion``, ``transcript`` and what the task
    adds. Where the task offers options (constrained decoding), a step says a whole one: ``token`` is its first token,
    ``token_text`` all of it, and the end also tells ``option_logprobs``, one for each option. The observation
    returned with the end is the last one: an ended episode costs no further pass.

    Args:
        scene: The parts, with a model of one lane.
        render_mode: ``"ansi"`` or None.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}

    def __init__(self, scene: Scene, render_mode: str | None = None):
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be 'ansi' or None, got {render_mode!r}")
        self.episode = Episode(scene)
        self.observation_space = scene.observation.space
        self.action_space = scene.actuator.space
        self.render_mode = render_mode
        self._last: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; see the class for ``options``.

        Raises:
            ValueError: An option is unknown or the item is not in the split.
        """
        super().reset(seed=seed)
        pinned = pinned_items(options, "item", most=1)
        order = self.episode.order
        if seed is not None or self._last is None:
            order.seed([self.np_random])
        order.pin(pinned, seed)
        self.episode.start(0)
        self._last = self.episode.observe()
        return self._observation(), self._info({})

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steer one token. ``truncated`` is always False: an episode that runs out of tokens is graded."""
        outcome = self.episode.step(np.asarray(action)[None])
        ended = bool(outcome.ended[0])
        if not ended:
            self._last = self.episode.observe()
        applied = {name: values[0] for name, values in outcome.applied.items()}
        info = self._info(applied) | outcome.finals.get(0, {})
        return self._observation(), float(outcome.rewards[0]), ended, False, info

    def render(self) -> str | None:
        """The task's picture and the transcript, steered tokens in brackets (``render_mode="ansi"``)."""
        return self.episode.render() if self.render_mode == "ansi" else None

    def action_masks(self) -> np.ndarray:
        """``[A]`` bool: legal actions of the state last returned, in the form sb3-contrib's MaskablePPO asks for."""
        return self.episode.legal()[0]

    def _observation(self) -> Any:
        if isinstance(self._last, dict):
            return {name: values[0].copy() for name, values in self._last.items()}
        return self._last[0].copy()

    def _info(self, applied: dict[str, Any]) -> dict[str, Any]:
        active = self.episode.encode()[0].nonzero().squeeze(1).cpu().numpy()
        items = {name: int(values[0]) for name, values in self.episode.items().items()}
        return items | applied | {"active_features": active}


def pinned_items(options: dict[str, Any] | None, name: str, most: int | None = None) -> list[int]:
    """The item or items that ``options`` pins under ``name``; an empty list when it pins none.

    Raises:
        ValueError: ``options`` holds any other key, no item, more than ``most``, or something else than integers.
    """
    unknown = sorted(set(options or {}) - {name})
    if unknown:
        raise ValueError(f"unknown reset options {unknown}; {name!r} is the only one")
    if not options:
        return []
    pinned = np.atleast_1d(options[name])
    if pinned.dtype.kind not in "iu" or pinned.ndim != 1 or not 1 <= len(pinned) <= (most or len(pinned)):
        wanted = "an integer" if most == 1 else "a list of integers"
        raise ValueError(f"{name} must be {wanted}, got {options[name]!r}")
    return pinned.tolist()
