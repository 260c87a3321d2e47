"""Train an agent to steer: ``python -m experiments.train --name first --algo ppo --total-timesteps 100000``.

Everything goes into ``runs/<name>/``; ``--resume`` continues a run that was stopped or killed.
"""

import dataclasses
import re
import secrets
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from agents.algos import ALGOS, make_algo
from agents.callbacks import EpisodeLog, UpdateLog
from agents.masks import ActionMask
from agents.vec_env import SB3VecEnv
from experiments.assembly import (
    is_benchmark,
    make_envs,
    make_run_mask,
    model_sha256,
    parse_settings,
    provenance,
    save_mask,
)
from experiments.checkpoints import (
    Checkpointer,
    Progress,
    StopOnRequest,
    lane_seed,
    restore,
    save_state,
    stop_requests,
)
from experiments.run_folder import LOGS, RunFolder, refuse_existing
from experiments.tracking import Tracker

KeyValues = tuple[str, ...]


@dataclass(frozen=True)
class TrainConfig:
    """Train an agent in a Steer environment."""

    name: str
    """Name of the run folder."""
    env: str = "Steer-TicTacToe-v0"
    """Environment id."""
    algo: str = "ppo"
    """Algorithm: ppo, a2c, dqn, sac or td3."""
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
    """Continue the run of this name from its newest checkpoint."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    threads: int = 1
    """CPU threads of PyTorch; for the small matrices of one token a lane more are slower."""


def main(cfg: TrainConfig) -> Path:
    """Train, or continue, and return the run folder.

    Raises:
        FileExistsError: The run folder exists and ``resume`` is off.
        ValueError: A setting is wrong, or not the one the resumed run was started with.
        KeyboardInterrupt: The run was asked to stop; a checkpoint holds where it was.
        RuntimeError: The language model's weights changed.
    """
    torch.set_num_threads(cfg.threads)
    path = cfg.runs_dir / cfg.name
    resumed = RunFolder.open(path) if cfg.resume else None
    if resumed is None:
        refuse_existing(path)
    settings = settings_of(cfg) if resumed is None else same_settings(cfg, resumed.config)
    training = Training.begin(settings, resumed, path)
    training.run_to_end()
    return path


def settings_of(cfg: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, key=value pairs parsed."""
    settings = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg)}
    for name in ("resume", "runs_dir"):
        del settings[name]
    for name in ("env_kwargs", "algo_kwargs", "mask_kwargs"):
        settings[name] = parse_settings(settings[name])
    return settings


def same_settings(cfg: TrainConfig, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run to be resumed; those given anew must be the same, those left out need not be repeated.

    Raises:
        ValueError: One differs (it is named).
    """
    defaults = settings_of(TrainConfig(name=cfg.name))
    for name, value in settings_of(cfg).items():
        if value != defaults[name] and value != saved[name]:
            raise ValueError(f"{name} was {saved[name]!r} when run {cfg.name!r} was started, got {value!r}")
    return dict(saved)


@dataclass
class Training:
    """One process's share of a run: from the start or a checkpoint to the end or the next signal."""

    run: RunFolder
    config: dict[str, Any]
    envs: VectorEnv[Any, Any, Any]
    model: BaseAlgorithm
    mask: ActionMask | None
    episodes: int

    @classmethod
    def begin(cls, settings: dict[str, Any], resumed: RunFolder | None, path: Path) -> "Training":
        """Build everything; the folder of a new run is made last, so that wrong settings leave none behind."""
        envs = make_envs(settings, "train", settings["num_envs"])
        mask = make_run_mask(settings, envs)
        vec_env = SB3VecEnv(envs, mask)
        digest = model_sha256(envs)
        if resumed and digest != resumed.config["weights_sha256"]:
            raise ValueError(f"the language model is not the one {path} was started with (weights_sha256 differs)")
        checkpoint = resumed.rewind() if resumed else None
        if checkpoint:
            algorithm = ALGOS[settings["algo"]].cls
            device = settings["algo_kwargs"].get("device", "cpu")
            model = restore(checkpoint.path, algorithm, vec_env, mask, device)
        else:
            model = _fresh_model(settings, envs, vec_env)
        vec_env.seed(lane_seed(settings["seed"], model.num_timesteps))
        run = resumed or RunFolder.create(path, _record(settings, digest))
        return cls(run, run.config, envs, model, mask, checkpoint.counters["episodes"] if checkpoint else 0)

    def run_to_end(self) -> None:
        """Train, log, checkpoint, and write ``policy.zip`` when all time steps are done."""
        total = self.config["total_timesteps"]
        logs = {name: self.run.log(name) for name in LOGS}
        tracker = Tracker(self.config["wandb"], self.run.path, self.config, self.config["wandb_id"])
        log = EpisodeLog(logs["episodes"].write, self.episodes)

        def save() -> None:
            counters = {"num_timesteps": self.model.num_timesteps, "episodes": log.episodes}
            self.run.save_checkpoint(counters, logs, lambda folder: save_state(folder, self.model, self.mask))

        def write(row: dict[str, Any]) -> None:
            logs["metrics"].write(row)
            tracker.write(row, step=row["num_timesteps"])

        try:
            with stop_requests() as request:
                callbacks = self._callbacks(log, write, save, StopOnRequest(request))
                left = total - self.model.num_timesteps
                if left > 0:
                    self.model.learn(left, callbacks, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
                save()
            self._require_same_weights()
            if request.signals and self.model.num_timesteps < total:
                raise KeyboardInterrupt(f"stopped at {self.model.num_timesteps} of {total} steps; go on with --resume")
            self._finish(tracker)
        finally:
            tracker.finish()
            for each in logs.values():
                each.close()

    def _callbacks(
        self, log: EpisodeLog, write: Callable[[dict[str, Any]], None], save: Callable[[], None], stop: BaseCallback
    ) -> list[BaseCallback]:
        # Off-policy algorithms update at every step, which would be a row a step.
        update = UpdateLog(write, every=max(self.config["num_envs"], self.config["total_timesteps"] // 500))
        progress = Progress(self.config["total_timesteps"], update.recent)
        # Rows are written before the checkpoint that counts them; the one that ends training comes last.
        return [log, update, Checkpointer(save, self.config["checkpoint_every"]), progress, stop]

    def _require_same_weights(self) -> None:
        before, after = self.config["weights_sha256"], model_sha256(self.envs)
        if before != after:
            raise RuntimeError(f"the language model's weights changed: sha256 {before} before, {after} after")

    def _finish(self, tracker: Tracker) -> None:
        part = self.run.path / ".policy.part.zip"
        self.model.save(part)
        if self.mask is not None:
            save_mask(self.mask, self.run.path)
        part.replace(self.run.path / "policy.zip")
        tracker.table("last_episodes", deque(self.run.rows("episodes"), maxlen=100))


def _fresh_model(settings: Mapping[str, Any], envs: Any, vec_env: SB3VecEnv) -> BaseAlgorithm:
    directions = envs.unwrapped.directions.cpu().numpy() if settings["head"] == "tied" else None
    overrides = {"device": "cpu", **settings["algo_kwargs"]}
    return make_algo(settings["algo"], vec_env, settings["seed"], settings["head"], directions, **overrides)


def _record(settings: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """What ``config.json`` holds."""
    return {
        **settings,
        "seeds": {"train": settings["seed"], "lanes": lane_seed(settings["seed"], 0)},
        "weights_sha256": digest,
        "benchmark": is_benchmark(settings),
        "wandb_id": f"{re.sub(r'[^A-Za-z0-9]+', '-', settings['name'])}-{secrets.token_hex(4)}",
        **provenance(),
    }


if __name__ == "__main__":
    try:
        print(main(tyro.cli(TrainConfig)))
    except KeyboardInterrupt as stopped:
        sys.exit(f"\n{stopped}")
