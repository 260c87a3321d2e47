"""What a training run is asked to do: the flags, their limits, and what ``--resume`` makes of them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from agents.runs.folder import RunFolder
from agents.runs.loading import parse_settings
from steer_env.evaluation.masks import check_mask_settings

KeyValues = tuple[str, ...]
_KEY_VALUES = ("env_kwargs", "algo_kwargs", "mask_kwargs")
_NOT_RECORDED = ("resume", "runs_dir")


@dataclass(frozen=True)
class TrainConfig:
    """Train an agent in a Steer environment."""

    name: str
    """Name of the run folder."""
    env: str = "Steer-TicTacToe-v0"
    """Environment id."""
    algo: str = "ppo"
    """Algorithm: ppo, recurrent_ppo, a2c, dqn, sac or td3."""
    total_timesteps: int = 100_000
    """Tokens (actions) over all lanes."""
    num_envs: int = 64
    """Lanes in one forward pass."""
    seed: int = 0
    """Of networks, exploration, masks and the order of items."""
    mask: str = "off"
    """Legal actions: off, current, generation, all or adaptive."""
    head: str = "linear"
    """Policy head: linear or tied."""
    env_kwargs: KeyValues = ()
    """key=value for gym.make_vec, JSON where it can be."""
    algo_kwargs: KeyValues = ()
    """key=value for the algorithm, such as learning_rate=3e-4 or net_arch=[128,128]."""
    mask_kwargs: KeyValues = ()
    """key=value for the mask, such as width=32."""
    checkpoint_every: int = 20_000
    """Tokens between checkpoints."""
    wandb: Literal["online", "offline", "disabled"] = "offline"
    """Mirror of the run; online needs a key and is offline without."""
    resume: bool = False
    """Continue the run of this name from its newest checkpoint, with the settings it was started with."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    threads: int = 1
    """CPU threads of PyTorch; for the small matrices of one token a lane more are slower."""


def from_flags(args: Sequence[str] | None = None) -> TrainConfig:
    """The configuration of a command line (default: this process's).

    With ``--resume`` the flags left out are those the run was started with, not the defaults.

    Raises:
        FileNotFoundError: There is no run to resume.
    """
    cfg = tyro.cli(TrainConfig, args=args)
    if not cfg.resume:
        return cfg
    saved = RunFolder.open(cfg.runs_dir / cfg.name).config
    return tyro.cli(TrainConfig, args=args, default=_recorded(saved, cfg.runs_dir))


def check_config(cfg: TrainConfig) -> None:
    """Refuse what no run can be made of, before anything is made.

    Raises:
        ValueError: A setting is out of its range or unknown (it is named).
    """
    if not cfg.name.strip() or cfg.name in (".", "..") or set(cfg.name) & set("/\\"):
        raise ValueError(f"name must be a plain folder name, got {cfg.name!r}")
    for name in ("total_timesteps", "num_envs", "checkpoint_every", "threads"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(cfg, name)}")
    check_mask_settings(cfg.mask, parse_settings(cfg.mask_kwargs))


def settings_of(cfg: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, key=value pairs parsed."""
    settings = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg)}
    for name in _NOT_RECORDED:
        del settings[name]
    for name in _KEY_VALUES:
        settings[name] = parse_settings(settings[name])
    return settings


def as_flags(settings: Mapping[str, Any]) -> KeyValues:
    """Settings as ``key=value``, which :func:`agents.runs.loading.parse_settings` reads."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())


def require_same_settings(cfg: TrainConfig, saved: Mapping[str, Any]) -> None:
    """Refuse to resume a run with other settings than it was started with.

    Raises:
        ValueError: One differs (it is named).
    """
    for name, value in settings_of(cfg).items():
        if value != saved[name]:
            raise ValueError(f"{name} was {saved[name]!r} when run {cfg.name!r} was started, got {value!r}")


def _recorded(saved: Mapping[str, Any], runs_dir: Path) -> TrainConfig:
    """The configuration that ``config.json`` was made from."""
    names = [field.name for field in dataclasses.fields(TrainConfig) if field.name not in _NOT_RECORDED]
    values = {name: saved[name] for name in names}
    for name in _KEY_VALUES:
        values[name] = as_flags(values[name])
    return TrainConfig(**values, resume=True, runs_dir=runs_dir)
