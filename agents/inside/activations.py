"""What the modules of an SB3 policy put out for given observations, and the value beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from agents.reading import Context, family_of

Array = npt.NDArray[Any]
_BATCH = 4096


class Activations:
    """Named modules of a policy, watched while its networks read observations.

    Args:
        policy: with Q values, or with an actor and a critic; without a memory.
        modules: dotted names inside it.

    Raises:
        ValueError: a module does not exist; those that do are named.
        TypeError: the policy is of another kind.
    """

    def __init__(self, policy: BasePolicy, modules: Sequence[str]) -> None:
        if not family_of(policy).networks:
            raise TypeError(f"recording needs a DQN or an actor-critic policy, got {type(policy).__name__}")
        known = dict(policy.named_modules())
        for name in modules:
            if not name or name not in known:
                raise ValueError(f"the policy has no module {name!r}; it has: {', '.join(filter(None, known))}")
        self.policy, self.modules = policy, {name: known[name] for name in modules}

    def __call__(self, observations: Mapping[str, Array]) -> tuple[dict[str, Tensor], Array]:
        """Read observations, a few thousand at a time.

        Args:
            observations: ``[N, ...]`` by key; a plain observation has the key ``"obs"``.

        Returns:
            ``[N, ...]`` float32 by module, and the values ``[N]``: the critic's, or the highest Q.

        Raises:
            ValueError: a module puts out no tensor or takes no part in playing.
        """
        count = len(next(iter(observations.values())))
        parts = [
            self._read({name: rows[start : start + _BATCH] for name, rows in observations.items()})
            for start in range(0, count, _BATCH)
        ]
        activations = {name: torch.cat([seen[name] for seen, _ in parts]) for name in self.modules}
        return activations, np.concatenate([value for _, value in parts])

    @torch.no_grad()
    def _read(self, rows: dict[str, Array]) -> tuple[dict[str, Tensor], Array]:
        plain = not isinstance(self.policy.observation_space, spaces.Dict)
        obs, _ = self.policy.obs_to_tensor(rows["obs"] if plain else rows)
        seen: dict[str, Tensor] = {}
        handles = [module.register_forward_hook(_keep(seen, name)) for name, module in self.modules.items()]
        try:
            self.policy.set_training_mode(False)
            # Every network that plays runs on the way to the value.
            value = family_of(self.policy).read(self.policy, obs, Context()).value
        finally:
            for handle in handles:
                handle.remove()
        silent = [name for name in self.modules if name not in seen]
        if silent:
            raise ValueError(f"module {silent[0]!r} takes no part in playing")
        assert value is not None
        return seen, value.cpu().numpy()


def _keep(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(f"module {name!r} puts out {type(output).__name__}, not a tensor: name one inside it")
        seen[name] = output.detach().float().cpu().clone()

    return hook
