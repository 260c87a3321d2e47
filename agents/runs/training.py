"""Train an agent to steer: ``steer train --name first --algo ppo --total-timesteps 100000``.

Everything goes into ``runs/<name>/``; ``--resume`` continues a run that was stopped or killed.
"""

import re
import secrets
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from agents.callbacks import EpisodeLog, UpdateLog
from agents.runs.agent_files import save_agent
from agents.runs.checkpoints import Checkpointer, Progress, StopOnRequest, lane_seed, restore, save_state, stop_requests
from agents.runs.config import TrainConfig
from agents.runs.folder import LOGS, RunFolder, provenance, refuse_existing
from agents.runs.loading import Run, fresh_agent, load_run, make_envs, make_run_mask, model_sha256, save_mask
from agents.runs.steering import require_same_steering, steering_record
from agents.runs.tracking import Tracker
from agents.vec_env import SB3VecEnv
from agents.workers import WorkerLostError, WorkersVectorEnv
from steer_env.envs.base import unwrap
from steer_env.evaluation.masks import ActionMask


def train(env: str, name: str, total_timesteps: int = 100_000, **settings: Any) -> Run:
    """Train an agent as ``steer train`` does.

    Args:
        env: Environment id.
        name: Name of the run folder, which must not be there yet.
        total_timesteps: Tokens (actions) over all lanes.
        settings: Other fields of :class:`agents.TrainConfig`, such as ``algo``, ``seed`` or ``runs_dir``;
            ``env_kwargs``, ``algo_kwargs`` and ``mask_kwargs`` are dictionaries.

    Returns:
        The finished run.

    Raises:
        FileExistsError: The run folder exists.
        ValueError: A setting is wrong.
    """
    return load_run(main(TrainConfig(env=env, name=name, total_timesteps=total_timesteps, **settings)))


def main(cfg: TrainConfig) -> Path:
    """Train, or continue, and return the run folder.

    Raises:
        FileExistsError: The run folder exists and ``resume`` is off.
        ValueError: A setting is wrong, or not the one the resumed run was started with.
        KeyboardInterrupt: The run was asked to stop; a checkpoint holds where it was.
        RuntimeError: The language model or what actions mean is not as when the resumed run was started, or the
            weights changed.
    """
    cfg.check()
    torch.set_num_threads(cfg.threads)
    path = cfg.folder
    resumed = RunFolder.open(path) if cfg.resume else None
    if resumed is None:
        refuse_existing(path)
    else:
        cfg.require_recorded(resumed.config)
    training = Training.begin(cfg.settings(), resumed, path, cfg.workers)
    while True:
        try:
            training.run_to_end()
            return path
        except WorkerLostError as lost:
            training = training.again(lost, cfg.workers)


@dataclass
class Training:
    """One process's share of a run: from the start or a checkpoint to the end or the next signal."""

    run: RunFolder
    config: dict[str, Any]
    envs: VectorEnv[Any, Any, Any]
    model: BaseAlgorithm
    mask: ActionMask | None
    episodes: int
    settings: dict[str, Any]
    lost_at: int | None = None

    @classmethod
    def begin(cls, settings: dict[str, Any], resumed: RunFolder | None, path: Path, workers: int = 1) -> "Training":
        """Build everything; the folder of a new run is made last, so that wrong settings leave none behind."""
        envs = make_envs(settings, "train", settings["num_envs"])
        mask = make_run_mask(settings, envs.single_action_space)
        vec_env = SB3VecEnv(envs if workers == 1 else _shared_out(settings, workers, mask is not None), mask)
        if resumed:
            require_same_steering(resumed.config, envs, path)
        checkpoint = resumed.rewind() if resumed else None
        model = fresh_agent(settings, envs, vec_env)
        if checkpoint:
            model = restore(checkpoint.path, model, mask)
        elif mask is not None:
            model.num_timesteps = _look(mask, envs, settings["total_timesteps"])
        vec_env.seed(lane_seed(settings["seed"], model.num_timesteps))
        run = resumed or RunFolder.create(path, _record(settings, envs))
        episodes = checkpoint.counters["episodes"] if checkpoint else 0
        return cls(run, run.config, envs, model, mask, episodes, settings)

    def again(self, lost: WorkerLostError, workers: int) -> "Training":
        """From the newest checkpoint, with workers in the place of those that were lost.

        Raises:
            WorkerLostError: The run has not come further since this happened last.
        """
        done = self.model.num_timesteps
        if self.lost_at is not None and done <= self.lost_at:
            raise lost
        warnings.warn(f"{lost}; the run goes on from its newest checkpoint", stacklevel=2)
        assert self.model.env is not None
        self.model.env.close()
        settings = {name: self.config[name] for name in self.settings}
        fresh = Training.begin(settings, RunFolder.open(self.run.path), self.run.path, workers)
        fresh.lost_at = done
        return fresh

    def run_to_end(self) -> None:
        """Train, log, checkpoint, and write the agent when all time steps are done."""
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
                    # SB3 takes None for "never", which its annotation does not say.
                    self.model.learn(left, callbacks, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]  # SB3 takes None
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
        every = max(self.config["num_envs"], self.config["total_timesteps"] // 500)
        update = UpdateLog(write, every=every, earlier=self.run.rows("episodes"))
        progress = Progress(self.config["total_timesteps"], update.recent)
        # Rows are written before the checkpoint that counts them; the one that ends training comes last.
        return [log, update, Checkpointer(save, self.config["checkpoint_every"]), progress, stop]

    def _require_same_weights(self) -> None:
        before, after = self.config["weights_sha256"], model_sha256(self.envs)
        if before != after:
            raise RuntimeError(f"the language model's weights changed: sha256 {before} before, {after} after")

    def _finish(self, tracker: Tracker) -> None:
        if self.mask is not None:
            save_mask(self.mask, self.run.path)
        save_agent(self.model, self.run.path)
        tracker.table("last_episodes", deque(self.run.rows("episodes"), maxlen=100))


def _shared_out(settings: Mapping[str, Any], workers: int, masked: bool) -> WorkersVectorEnv:
    """The lanes of a training in workers; this process keeps its own model for what is asked beside playing."""
    lanes = settings["num_envs"]
    return WorkersVectorEnv(partial(make_envs, settings, "train"), lanes, workers, masked)


def _look(mask: ActionMask, envs: Any, total: int) -> int:
    """The tokens that a mask spends, of those of training, on what features do."""
    spent = mask.look(envs)
    if spent >= total:
        raise ValueError(
            f"to see what each of {len(unwrap(envs).features)} features does took {spent} tokens, "
            f"which leaves none of total_timesteps={total} to learn from: give more, or mask 'off'"
        )
    return spent


def _record(settings: Mapping[str, Any], envs: Any) -> dict[str, Any]:
    """What ``config.json`` holds."""
    return {
        **settings,
        "seeds": {"train": settings["seed"], "lanes": lane_seed(settings["seed"], 0)},
        "weights_sha256": model_sha256(envs),
        "language_model": {"name": unwrap(envs).lm.name_or_path, "sae": unwrap(envs).sae.name},
        "steering": steering_record(envs),
        "data": unwrap(envs).task.data_record(),
        "benchmark": unwrap(envs).benchmark,
        "wandb_id": f"{re.sub(r'[^A-Za-z0-9]+', '-', settings['name'])}-{secrets.token_hex(4)}",
        **provenance(),
    }
