"""A steered model to play with, on a page of this machine: ``steer play``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.runs.config import KeyValues

if TYPE_CHECKING:
    from agents.play.sessions import House


@dataclass(frozen=True)
class PlayConfig:
    """Play with a steered model in the browser: write texts, play tic-tac-toe, step through an environment.

    Without arguments it plays the embedded models.
    """

    run: Path | None = None
    """Run folder: the trained agent steers, in its own environment."""
    preset: str | None = None
    """Preset, a row of ``steer list --only presets``."""
    model: str | None = None
    """Hub id, local folder or GGUF file; in place of the preset's, or with --sae."""
    sae: str | None = None
    """SAELens folder or release:sae_id."""
    env: str | None = None
    """Environment id; by default the run's, one that the embedded model knows, or stories, which any model can tell."""
    env_kwargs: KeyValues = field(default_factory=dict)
    """Other arguments of gym.make, such as layer=12 coefficient=40 labels=export.jsonl, JSON where it can be."""
    port: int = 8010
    """Port of 127.0.0.1; 0 takes a free one."""
    threads: int = 1
    """CPU threads of PyTorch for each person who plays."""


def main(cfg: PlayConfig) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        ValueError: The arguments do not go together.
        ImportError: The packages of the page are not installed.
        OSError: The port is taken.
    """
    settings = settings_of(cfg)
    try:
        from agents.play.server import serve
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is missing: pip install 'steer-env[play]'") from error

    def opened() -> House:
        import torch

        from agents.play.sessions import House
        from agents.play.stage import stage_of_model, stage_of_run

        torch.set_num_threads(cfg.threads)
        house = House(stage_of_run(cfg.run) if cfg.run is not None else stage_of_model(cfg.env, settings))
        _ = house.about  # all is loaded before anybody presses a button
        return house

    serve(opened, cfg.port, lambda address: print(f"play at {address} (Ctrl-C ends it)", flush=True))


def settings_of(cfg: PlayConfig) -> dict[str, Any]:
    """Arguments of ``gym.make``.

    Raises:
        ValueError: Something is given with ``run``, which says it all, or a model without an SAE.
        FileNotFoundError: There is no such run.
    """
    named = {name: getattr(cfg, name) for name in ("preset", "model", "sae") if getattr(cfg, name) is not None}
    twice = sorted(set(named) & set(cfg.env_kwargs))
    if twice:
        raise ValueError(f"{twice[0]} is given twice: with --{twice[0]} and with --env-kwargs")
    settings = {**named, **cfg.env_kwargs}
    others = sorted(settings) + (["env"] if cfg.env is not None else [])
    if cfg.run is not None and others:
        raise ValueError(f"--run says what is played: leave {', '.join(others)} out")
    if cfg.run is not None and not cfg.run.is_dir():
        raise FileNotFoundError(f"there is no run folder {cfg.run}")
    if "model" in settings and not {"sae", "preset"} & set(settings):
        raise ValueError("--model needs --sae, or the --preset whose model it is")
    return settings
