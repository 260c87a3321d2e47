"""``gym.make_vec``: all lanes of the decision process in one forward pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from steer_env.envs.base import SteerBase
from steer_env.envs.env import pinned_items
from steer_env.envs.episode import Episode
from steer_env.envs.scene import Scene


class SteerVectorEnv(SteerBase, VectorEnv[Any, Any, np.ndarray]):
    """``B`` lanes side by side, with same-step autoreset.

    Lane ``i`` of ``reset(seed=s)`` is the single environment of ``reset(seed=s + i)``, as in all of Gymnasium; so runs
    with neighbouring seeds share most of their lanes' items unless they are given seeds further apart.

    ``reset(seed=, options={"items": [...]})`` deals the listed items to lanes as they become free, each once, then
    again from the start; ``infos["index"]`` is the place in that running order. After a step, top-level ``infos``
    are arrays ``[B]`` about the action just taken (``token``, ``token_text``, ``feature`` or ``strengths``) and the
    episode now running (``item``, ``index``); ended lanes fill ``final_info`` and ``final_obs``.

    Args:
        scene: The parts, with a model of ``B`` lanes.
        render_mode: ``"ansi"`` or None.
    """

    metadata = {
        "render_modes": ["ansi"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(self, scene: Scene, render_mode: str | None = None):
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be 'ansi' or None, got {render_mode!r}")
        self.episode = Episode(scene)
        self.num_envs = self.episode.lanes
        self.single_observation_space = scene.observation.space
        self.single_action_space = scene.actuator.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = render_mode
        self._last: Any = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every lane; see the class for ``options``.

        Raises:
            ValueError: An option is unknown, an item is not in the split, or the seeds are not one a lane.
        """
        seeds = self._seeds(seed)
        super().reset(seed=seeds[0] if seeds else None)
        pinned = pinned_items(options, "items")
        order = self.episode.order
        if seeds or self._last is None:
            order.seed([np.random.default_rng(lane) for lane in seeds or [None] * self.num_envs])
        order.pin(pinned, seeds[0] if seeds else None)
        for lane in range(self.num_envs):
            self.episode.start(lane)
        self._last = self.episode.observe()
        return self._last, self.episode.items()

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steer one token in every lane; lanes that end start their next episode in the same step."""
        outcome = self.episode.step(np.asarray(actions))
        previous = self._last
        for lane in outcome.finals:
            self.episode.start(lane)
        self._last = self.episode.observe()
        infos = outcome.applied | self.episode.items()
        if outcome.finals:
            infos |= self._ended(outcome.finals, outcome.ended, previous)
        return self._last, outcome.rewards, outcome.ended, np.zeros(self.num_envs, dtype=bool), infos

    def render(self) -> tuple[str, ...] | None:
        """Each lane's picture and transcript (``render_mode="ansi"``)."""
        if self.render_mode != "ansi":
            return None
        return tuple(self.episode.render(lane) for lane in range(self.num_envs))

    def action_masks(self) -> np.ndarray:
        """``[B, A]`` bool: legal actions of the states last returned."""
        return self.episode.legal()

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        """One seed a lane: ``s + i`` from a single ``s``, as Gymnasium's vector environments have it."""
        if seed is None:
            return []
        if not isinstance(seed, Sequence):
            return [int(seed) + lane for lane in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"reset needs one seed for each of {self.num_envs} lanes, got {len(seed)}")
        return list(seed)

    def _ended(self, finals: dict[int, dict[str, Any]], ended: np.ndarray, last: Any) -> dict[str, Any]:
        """``final_obs`` and ``final_info`` as Gymnasium's same-step autoreset lays them out."""
        observations = np.empty(self.num_envs, dtype=object)
        names = {name: None for final in finals.values() for name in final}
        info: dict[str, Any] = {}
        for name in names:
            values, known = np.empty(self.num_envs, dtype=object), np.zeros(self.num_envs, dtype=bool)
            for lane, final in finals.items():
                values[lane], known[lane] = final.get(name), name in final
            info |= {name: values, f"_{name}": known}
        for lane in finals:
            observations[lane] = (
                {k: v[lane].copy() for k, v in last.items()} if isinstance(last, dict) else last[lane].copy()
            )
        return {"final_obs": observations, "_final_obs": ended, "final_info": info, "_final_info": ended}
