"""What an SB3 policy computes while it plays: activations of any module, with returns and what was true; kept on disk.

Whole trajectories only, in chunks of bounded size, by a seeded policy that may be made noisier.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import save_file
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

from agents.reading import Context, family_of
from steer_env.evaluation.masks import carries_mask

Array = npt.NDArray[Any]
Predicates = Callable[[VecEnv], Mapping[str, npt.ArrayLike]]
PREDICATE = "predicate/"
_ACTIVATION, _OBSERVATION = "activation/", "observation/"  # prefixes of tensors on disk
_BATCH = 4096


class Activations:
    """Named modules of a policy, watched while its networks read observations.

    Args:
        policy: A policy with Q values, or with an actor and a critic; without a memory.
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


@dataclass(frozen=True)
class RolloutConfig:
    """What is played.

    Attributes:
        episodes: how many, shared out over the lanes beforehand, so that short ones do not come too often.
        seed: of the environment and of every draw of the policy.
        epsilon: probability that an action is replaced by a uniform one (a legal one, where there is a mask).
        deterministic: the likeliest action instead of a drawn one.
        gamma: discount of the returns; the model's own by default.
        chunk_rows: rows after which a chunk is handed over, trajectories kept whole.
        longest: steps after which an episode that has not ended is an error.
    """

    episodes: int
    seed: int = 0
    epsilon: float = 0.0
    deterministic: bool = True
    gamma: float | None = None
    chunk_rows: int = 50_000
    longest: int = 10_000

    def __post_init__(self) -> None:
        for name in ("episodes", "chunk_rows", "longest"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("epsilon", "gamma"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {value}")


@dataclass(frozen=True)
class Recording:
    """N steps of whole trajectories, each in order.

    Attributes:
        activations: by module name, ``[N, ...]`` float32: what the module put out for the observation of that step.
        observations: by key, ``[N, ...]``; a plain observation has the key ``"obs"``.
        steps: columns ``[N]``: ``trajectory`` and ``step``; ``action`` (``action_0``, ... for continuous ones);
            ``explored``, whether epsilon chose it; ``reward``; ``return``, discounted, to the trajectory's end;
            ``value``, the critic's or the highest Q; ``truncated``, whether the trajectory was cut by a limit, so that
            its returns miss what would have come; and ``predicate/<name>``.
    """

    activations: dict[str, Tensor]
    observations: dict[str, Array]
    steps: dict[str, Array]

    def __len__(self) -> int:
        return len(self.steps["step"])

    @property
    def predicates(self) -> dict[str, Array]:
        """The predicates by their own names, ``[N]`` each."""
        return {name.removeprefix(PREDICATE): rows for name, rows in self.steps.items() if name.startswith(PREDICATE)}


def record(
    model: BaseAlgorithm, envs: VecEnv, modules: Sequence[str], cfg: RolloutConfig, predicates: Predicates | None = None
) -> Iterator[Recording]:
    """Let the policy play, and hand over what it computed, chunk by chunk.

    Args:
        model: DQN, or an algorithm with an actor and a critic (PPO, A2C, MaskedPolicy's).
        envs: lanes that reset themselves, as SB3 has them.
        modules: dotted names inside ``model.policy``, such as ``q_net.q_net.2`` or ``mlp_extractor.policy_net.1``.
        cfg: what is played.
        predicates: from the environment before a step to named arrays ``[B]``; see :func:`lanewise`.

    Yields:
        Recordings of about ``cfg.chunk_rows`` rows. A trajectory lies in one chunk; number ``i`` is the
        ``i // B``-th of lane ``i % B``.

    Raises:
        ValueError: a module does not exist, puts out no tensor or takes no part in playing; or epsilon is above 0 and
            actions are not discrete.
        TypeError: the policy is of another kind.
        RuntimeError: an episode is longer than ``cfg.longest``.
    """
    network = Activations(model.policy, modules)
    if cfg.epsilon > 0 and not isinstance(model.action_space, spaces.Discrete):
        raise ValueError(f"epsilon {cfg.epsilon} needs Discrete actions, got {model.action_space}")
    gamma = model.gamma if cfg.gamma is None else cfg.gamma  # type: ignore[attr-defined]  # every algorithm has one
    chunk: list[Recording] = []
    for trajectory in _play(model.policy, envs, cfg, predicates):
        trajectory.steps["return"] = discounted(trajectory.steps["reward"], gamma)
        chunk.append(trajectory)
        if sum(map(len, chunk)) >= cfg.chunk_rows:
            yield _complete(join(chunk), network)
            chunk = []
    if chunk:
        yield _complete(join(chunk), network)


def recompute(policy: BasePolicy, recording: Recording, modules: Sequence[str]) -> Recording:
    """The same steps with the activations and values of another policy, such as an untrained one."""
    return _complete(recording, Activations(policy, modules))


def discounted(rewards: npt.ArrayLike, gamma: float) -> npt.NDArray[np.float64]:
    """``[T]`` return from each step on: ``r_t + gamma r_{t+1} + ...`` to the end."""
    returns = np.array(rewards, dtype=np.float64)
    for step in range(len(returns) - 2, -1, -1):
        returns[step] += gamma * returns[step + 1]
    return returns


def join(parts: Sequence[Recording]) -> Recording:
    """Recordings of the same modules one after the other.

    Raises:
        ValueError: there are none.
    """
    if not parts:
        raise ValueError("there are no recordings to join")
    first = parts[0]
    return Recording(
        {name: torch.cat([part.activations[name] for part in parts]) for name in first.activations},
        {name: np.concatenate([part.observations[name] for part in parts]) for name in first.observations},
        {name: np.concatenate([part.steps[name] for part in parts]) for name in first.steps},
    )


def lanewise(predicates: Callable[[gym.Env[Any, Any]], Mapping[str, bool]]) -> Predicates:
    """Predicates of one environment, asked of every lane of a ``DummyVecEnv``."""

    def ask(envs: VecEnv) -> dict[str, npt.NDArray[np.bool_]]:
        lanes = envs.unwrapped
        if not isinstance(lanes, DummyVecEnv):
            raise TypeError(f"lanewise needs a DummyVecEnv, got {type(lanes).__name__}")
        answers = [predicates(env) for env in lanes.envs]
        return {name: np.array([answer[name] for answer in answers]) for name in answers[0]}

    return ask


def save_recording(folder: Path, chunks: Iterable[Recording], cfg: RolloutConfig) -> dict[str, int]:
    """Write chunks as they come; at most one is in memory.

    Args:
        folder: made here.
        chunks: of :func:`agents.inside.recordings.record`.
        cfg: kept beside them, in ``recording.json``.

    Returns:
        How many ``rows``, ``trajectories`` and ``chunks`` there are.

    Raises:
        FileExistsError: the folder exists and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"rows": 0, "trajectories": 0, "chunks": 0}
    for chunk in chunks:
        path = folder / f"chunk-{counts['chunks']:05}"
        tensors = {_ACTIVATION + name: rows.contiguous() for name, rows in chunk.activations.items()}
        tensors |= {_OBSERVATION + key: torch.from_numpy(np.array(rows)) for key, rows in chunk.observations.items()}
        save_file(tensors, path.with_suffix(".safetensors"))
        pq.write_table(pa.table(chunk.steps), path.with_suffix(".parquet"))
        counts["rows"] += len(chunk)
        counts["trajectories"] += len(np.unique(chunk.steps["trajectory"]))
        counts["chunks"] += 1
    (folder / "recording.json").write_text(json.dumps({**asdict(cfg), **counts}, indent=2) + "\n")
    return counts


def read_chunks(folder: Path, modules: Sequence[str] | None = None) -> Iterator[Recording]:
    """The chunks of a folder one by one, with the activations of these modules, all by default.

    Raises:
        FileNotFoundError: the folder holds no complete recording.
        ValueError: a module was not recorded; those that were are named.
    """
    if not (folder / "recording.json").is_file():
        raise FileNotFoundError(f"{folder} holds no complete recording")
    for path in sorted(folder.glob("chunk-*.safetensors")):
        table = pq.read_table(path.with_suffix(".parquet"))
        steps = {name: table[name].to_numpy() for name in table.column_names}
        with safe_open(path, framework="pt") as tensors:
            keys = list(tensors.keys())
            known = [key.removeprefix(_ACTIVATION) for key in keys if key.startswith(_ACTIVATION)]
            for name in modules or ():
                if name not in known:
                    raise ValueError(f"module {name!r} was not recorded; these were: {', '.join(known)}")
            wanted = known if modules is None else modules
            activations = {name: tensors.get_tensor(_ACTIVATION + name) for name in wanted}
            seen = [key for key in keys if key.startswith(_OBSERVATION)]
            observations = {key.removeprefix(_OBSERVATION): tensors.get_tensor(key).numpy() for key in seen}
        yield Recording(activations, observations, steps)


def read_recording(folder: Path, modules: Sequence[str] | None = None) -> Recording:
    """A whole folder at once; see :func:`read_chunks`."""
    return join(list(read_chunks(folder, modules)))


@dataclass
class _Step:
    """One step of all lanes; it lives as long as a lane's unfinished episode needs it."""

    observations: dict[str, Array]
    columns: dict[str, Array]


@dataclass
class _Lane:
    quota: int
    episodes: int = 0
    steps: list[_Step] = field(default_factory=list)


def _play(policy: BasePolicy, envs: VecEnv, cfg: RolloutConfig, predicates: Predicates | None) -> Iterator[Recording]:
    """Finished trajectories without activations, value and returns."""
    chooser = _Chooser(policy, cfg)
    count = envs.num_envs
    lanes = [_Lane((cfg.episodes + count - 1 - lane) // count) for lane in range(count)]
    envs.seed(cfg.seed)
    obs: Any = envs.reset()
    while any(lane.episodes < lane.quota for lane in lanes):
        said = {} if predicates is None else predicates(envs)
        truths = {PREDICATE + name: np.array(rows) for name, rows in said.items()}
        actions, explored = chooser(obs)
        step = _Step(obs if isinstance(obs, dict) else {"obs": obs}, truths | {"explored": explored})
        obs, rewards, ended, infos = envs.step(actions)
        step.columns |= _action_columns(actions) | {"reward": np.array(rewards, dtype=np.float64)}
        for number, lane in enumerate(lanes):
            if lane.episodes == lane.quota:
                continue
            lane.steps.append(step)
            if ended[number]:
                cut = bool(infos[number].get("TimeLimit.truncated", False))
                yield _trajectory(lane.steps, number, number + count * lane.episodes, cut)
                lane.episodes, lane.steps = lane.episodes + 1, []
            elif len(lane.steps) >= cfg.longest:
                raise RuntimeError(f"an episode of lane {number} did not end within {cfg.longest} steps")


def _complete(recording: Recording, network: Activations) -> Recording:
    activations, value = network(recording.observations)
    return Recording(activations, recording.observations, recording.steps | {"value": value})


def _trajectory(steps: Sequence[_Step], lane: int, number: int, cut: bool) -> Recording:
    observations = {key: np.stack([step.observations[key][lane] for step in steps]) for key in steps[0].observations}
    columns = {name: np.array([step.columns[name][lane] for step in steps]) for name in steps[0].columns}
    places = {"trajectory": np.full(len(steps), number), "step": np.arange(len(steps))}
    return Recording({}, observations, places | columns | {"truncated": np.full(len(steps), cut)})


def _action_columns(actions: Array) -> dict[str, Array]:
    if actions.ndim == 1:
        return {"action": actions}
    return {f"action_{axis}": actions[:, axis] for axis in range(actions.shape[1])}


class _Chooser:
    """The policy's actions with every draw from the config's seed, global random state left as it was."""

    def __init__(self, policy: BasePolicy, cfg: RolloutConfig) -> None:
        self.policy, self.cfg = policy, cfg
        self.rng = np.random.default_rng([cfg.seed, 1])

    def __call__(self, obs: Any) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Actions of all lanes, and which of them epsilon chose."""
        with torch.random.fork_rng(devices=[], enabled=not self.cfg.deterministic):
            if not self.cfg.deterministic:
                torch.manual_seed(int(self.rng.integers(2**63)))
            actions, _ = self.policy.predict(obs, deterministic=self.cfg.deterministic)
        explored = self.rng.random(len(actions)) < self.cfg.epsilon
        for lane in np.flatnonzero(explored).tolist():
            actions[lane] = self.rng.choice(self._legal(obs, lane))
        return actions, explored

    def _legal(self, obs: Any, lane: int) -> Array:
        count = int(self.policy.action_space.n)  # type: ignore[attr-defined]  # Discrete, checked
        if not carries_mask(self.policy.observation_space):
            return np.arange(count)
        return np.flatnonzero(np.unpackbits(obs["mask"][lane], count=count))


def _keep(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(f"module {name!r} puts out {type(output).__name__}, not a tensor: name one inside it")
        seen[name] = output.detach().float().cpu().clone()

    return hook
