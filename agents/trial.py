"""One roll-out and one update of a throw-away agent: do rewards arrive, and does the loss have a gradient?

Both are asked of Stable-Baselines3 itself: the rewards of its buffer, the gradients that its optimizers are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from agents.algos import Algorithm


@dataclass(frozen=True)
class Trial:
    """What a trial showed.

    Attributes:
        gradients: Norm over the parameters of ``"policy"`` (where there are only Q values, of their network) and of
            ``"critic"``, where there is one apart, at the first minibatch: of the policy's loss without entropy bonus
            (but for SAC and its kin, which have it built in), and not clipped.
        episodes: Episodes that ended in the roll-out.
        earned: ``[B]`` their returns, as the environment says.
        received: ``[B]`` the rewards of their steps in the agent's buffer.
    """

    gradients: dict[str, float]
    episodes: int
    earned: npt.NDArray[np.float64]
    received: npt.NDArray[np.float64]


def try_update(row: Algorithm, make: Callable[..., BaseAlgorithm], vec_env: VecEnv, steps: int) -> Trial:
    """Make an agent, let it collect ``steps`` steps of every lane and update once; it is thrown away.

    Args:
        row: The agent's row of ALGOS.
        make: Makes it for ``vec_env``, with these settings in place of its own. Its mask, if any, should be frozen.
        vec_env: Where it plays; reset here.
        steps: Steps of every lane. Off-policy agents take random ones, their warm-up.
    """
    model: Any = make(**row.short_update(vec_env.num_envs, steps))
    returns = _Returns()
    with _first_gradients(model.policy) as squares:
        if row.policy_step is not None:
            _note_step(model, row.policy_step, squares)
        model.learn(steps * vec_env.num_envs, returns)
    buffer: Any = getattr(model, "rollout_buffer", None) or getattr(model, "replay_buffer", None)
    received = [buffer.rewards[: returns.until[lane], lane].sum() for lane in range(vec_env.num_envs)]
    norms = {part: float(np.sqrt(square)) for part, square in squares.items()}
    return Trial(norms, returns.episodes, returns.earned, np.array(received, dtype=np.float64))


def part_of(parameter: str) -> str | None:
    """``"policy"`` or ``"critic"`` for the name of a parameter of an SB3 policy, None for a target network's."""
    if "target" in parameter:
        return None
    critic = parameter.startswith(("critic.", "vf_")) or "value_net." in parameter
    return "critic" if critic else "policy"


@contextmanager
def _first_gradients(policy: nn.Module) -> Iterator[dict[str, float]]:
    """Squared norms of the gradients of ``policy``'s parameters, by part, at the first step of each optimizer."""
    parts = {parameter: part_of(name) for name, parameter in policy.named_parameters()}
    squares: dict[str, float] = {}
    stepped: set[int] = set()

    def note(optimizer: Any, args: Any, kwargs: Any) -> None:
        if id(optimizer) in stepped:
            return
        stepped.add(id(optimizer))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                part = parts.get(parameter)
                if part is not None:
                    squares[part] = squares.get(part, 0.0) + _square(parameter.grad)

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield squares
    finally:
        handle.remove()


def _note_step(model: Any, name: str, squares: dict[str, float]) -> None:
    """Note the gradient with which ``model`` changes its policy by itself, without an optimizer."""
    sound = getattr(model, name)

    def noted(*args: Any) -> Any:
        result = sound(*args)
        squares["policy"] = squares.get("policy", 0.0) + _square(result[1])
        return result

    setattr(model, name, noted)


def _square(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.double().square().sum())


class _Returns(BaseCallback):
    """Returns of the ended episodes by lane, and the step ``until`` which each lane's last one went."""

    def _on_training_start(self) -> None:
        self.episodes = 0
        self.earned = np.zeros(self.training_env.num_envs)
        self.until = np.zeros(self.training_env.num_envs, dtype=np.int64)

    def _on_step(self) -> bool:
        for lane, info in enumerate(self.locals["infos"]):
            if "return" in info:  # from the environment's own account
                self.episodes += 1
                self.earned[lane] += info["return"]
                self.until[lane] = self.n_calls
        return True
