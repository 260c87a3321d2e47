"""By how much steering moves the residual, measured from outside the engine: what the next block receives.

The probe hooks the model elsewhere and in another way than the engine does, and knows nothing of its pauses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from steer_env.envs.base import unwrap
from steer_env.evaluation.controls import idle
from steer_env.lm.anatomy import find_block

_ROUNDINGS = 8  # of sums and products, each at most half an epsilon of what is summed


@dataclass
class Seen:
    """Residuals ``[b, Q, M]`` seen so far.

    Attributes:
        before: What came to the steering site last, before anybody edited it.
        after: What the modules after the site received, one entry a pass; the reader empties it.
    """

    before: Tensor | None = None
    after: list[Tensor] = field(default_factory=list)


@contextmanager
def watch_residual(lm: Any, layer: int, site: str) -> Iterator[Seen]:
    """Watch the steering site of a Hugging Face model from both sides.

    Args:
        lm: The model.
        layer: Block ``L``.
        site: ``"post"`` or ``"pre"``.

    Yields:
        What is seen. ``after`` is the input of the first module that takes the residual once the site is passed: the
        next block (or what comes after the last one); with ``"pre"``, the block's own first layer.
    """
    seen = Seen()
    shape: list[Any] = []  # of the residual on its way from the site to the next module

    def arrive(hidden: Tensor) -> None:
        seen.before = hidden.clone()
        shape[:] = [hidden.shape]

    def at_output(module: Any, args: Any, output: Any) -> None:
        arrive(output[0] if isinstance(output, tuple) else output)

    def at_input(module: Any, args: Any, kwargs: Any) -> None:
        arrive(args[0] if args else kwargs["hidden_states"])

    def receive(module: Any, args: Any) -> None:
        if shape and args and isinstance(args[0], Tensor) and args[0].shape == shape[0]:
            shape.clear()
            seen.after.append(args[0].clone())

    block = find_block(lm, layer, site)
    # The engine attaches its hook anew for every pass, so that this earlier one sees what it has not edited.
    here = (
        block.register_forward_hook(at_output)
        if site == "post"
        else block.register_forward_pre_hook(at_input, with_kwargs=True)
    )
    after = register_module_forward_pre_hook(receive)
    try:
        yield seen
    finally:
        here.remove()
        after.remove()


@dataclass(frozen=True)
class Pushes:
    """By how much the residual was moved, token by token.

    Attributes:
        steered: ``[n]`` bool: the action was not the no-op.
        right: ``[n]`` bool: it moved by what the action says, as exactly as its type of numbers can; and, where it was
            steered, at all.
        deviation: ``[n]`` largest difference from what the action says, over the width of the residual.
        seen: ``[n]`` bool: the environment showed the residual as it was before.
    """

    steered: np.ndarray
    right: np.ndarray
    deviation: np.ndarray
    seen: np.ndarray


def measure_pushes(envs: Any, episodes: int, seed: int = 0) -> Pushes:
    """Steer at random, not at all at every fourth token, until ``episodes`` episodes have ended, and measure.

    Args:
        envs: A SteerVectorEnv that does not compare.
        episodes: Number of episodes that end, at least.
        seed: Seed of the actions and of the items.

    Raises:
        RuntimeError: No residual came to the steering site, or none left it.
    """
    inner = unwrap(envs)
    envs.action_space.seed(seed)
    ended, step, rows = 0, 0, []
    with watch_residual(inner.lm, inner.layer, inner.site) as probe:
        envs.reset(seed=seed)
        # Four steps at least: then every lane has been steered and left alone, however short its episodes are.
        while ended < episodes or step < 4:
            resting = (np.arange(envs.num_envs) + step) % 4 == 3
            actions = _random_pushes(envs)
            actions[resting] = idle(envs)[resting]
            before, shown = probe.before, unwrap(envs).residual.clone()
            probe.after.clear()
            _, _, done, _, _ = envs.step(actions)
            if before is None or not probe.after:
                raise RuntimeError("no residual passed the steering site")
            rows.append(_compare(envs, actions, before[:, -1], probe.after[0][:, -1], shown))
            ended, step = ended + int(done.sum()), step + 1
    return Pushes(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _random_pushes(envs: Any) -> np.ndarray:
    """A random action in every lane, never the no-op."""
    actions: np.ndarray = envs.action_space.sample()
    if isinstance(envs.single_action_space, spaces.Discrete):
        actions %= len(unwrap(envs).features)  # the last action of all is the no-op
    return actions


def _compare(envs: Any, actions: np.ndarray, before: Tensor, after: Tensor, shown: Tensor) -> tuple[np.ndarray, ...]:
    """The fields of :class:`Pushes` for one token a lane; all residuals ``[B, M]``."""
    strengths = _strengths(envs, actions)
    used = torch.from_numpy(np.flatnonzero(strengths.any(axis=0)))
    weights = torch.from_numpy(strengths)[:, used]
    rows = unwrap(envs).coefficient * unwrap(envs).directions.cpu()[used].double()
    start, moved = before.cpu().double(), after.cpu().double() - before.cpu().double()
    wanted = weights @ rows
    deviation = (moved - wanted).abs()
    rounding = torch.finfo(before.dtype).eps * (start.abs() + weights.abs() @ rows.abs())
    exact = (deviation <= _ROUNDINGS * rounding).all(dim=1)
    steered = strengths.any(axis=1)
    # A push lost in the rounding of a large residual would count as exact.
    felt = deviation.norm(dim=1) < wanted.norm(dim=1) / 2
    right = torch.where(torch.from_numpy(steered), exact & felt, (moved == 0).all(dim=1))
    seen = (start == shown.cpu().double()).all(dim=1)
    return np.asarray(steered), right.numpy(), deviation.amax(dim=1).numpy(), seen.numpy()


def _strengths(envs: Any, actions: np.ndarray) -> np.ndarray:
    """Actions as strengths ``[B, A - 1]`` (or ``[B, k]``) of the features that they choose."""
    if isinstance(envs.single_action_space, spaces.Box):
        return actions.astype(np.float64)
    strengths = np.zeros((len(actions), len(unwrap(envs).features) + 1))
    strengths[np.arange(len(actions)), actions] = 1.0
    return strengths[:, :-1]
