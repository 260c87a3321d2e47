"""What training runs are asked to do: settings, their limits, and how they are written on a command line.

This module imports nothing heavy, so that a command's help is there at once.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import gymnasium as gym
from tyro.constructors import PrimitiveConstructorSpec

from agents.algos import ALGOS
from agents.runs.folder import RunFolder
from steer_env.evaluation.masks import MASKS, check_mask_settings

_UNMASKED_OBSERVATIONS = ("both",)  # SB3 cannot nest a dictionary in another
_NOT_RECORDED = ("resume", "runs_dir", "workers")
CHECKPOINTS = 10
"""Of a training that is part of an experiment: a kill costs a tenth of it at most."""


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``["k=30", "side=O"]`` to ``{"k": 30, "side": "O"}``: values are JSON where they can be, else text.

    Raises:
        ValueError: An entry has no ``=``, or a name comes twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"settings are key=value, got {pair!r}")
        if name in settings:
            raise ValueError(f"setting {name!r} is given twice")
        try:
            settings[name] = json.loads(text)
        except json.JSONDecodeError:
            settings[name] = text
    return settings


KeyValues = Annotated[
    dict[str, Any],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="KEY=VALUE [KEY=VALUE ...]",
        instance_from_str=parse_settings,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda settings: [f"{key}={json.dumps(value)}" for key, value in settings.items()],
    ),
]


def one_of(names: Sequence[str]) -> PrimitiveConstructorSpec[str]:
    """A flag that takes one of ``names``, usually the keys of a table, which the help lists."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(names) + "}",
        instance_from_str=lambda given: given[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda name: [name],
        choices=tuple(names),
    )


Mask = Annotated[str, one_of(tuple(MASKS))]


def default_mask(algo: str, env: str, env_kwargs: Mapping[str, Any]) -> str:
    """The mask where none is asked for: features by effect, if the algorithm and the environment take a mask at all."""
    spec = gym.registry.get(env.rpartition(":")[2])
    given = {**(spec.kwargs if spec else {}), **env_kwargs}
    takes = algo in ALGOS and ALGOS[algo].no_mask is None
    choices = given.get("action", "choice") == "choice"
    return "effects" if takes and choices and given.get("observation") not in _UNMASKED_OBSERVATIONS else "off"


Head = Literal["linear", "tied"]
Mirror = Literal["online", "offline", "disabled"]


@dataclass(frozen=True)
class TrainConfig:
    """Train an agent in a Steer environment."""

    name: str
    """Name of the run folder."""
    env: str = "Steer-TicTacToe-v0"
    """Environment id."""
    algo: Annotated[str, one_of(tuple(ALGOS))] = "ppo"
    """Algorithm."""
    total_timesteps: int = 100_000
    """Tokens (actions) over all lanes."""
    num_envs: int = 64
    """Lanes in one forward pass."""
    seed: int = 0
    """Seed of networks, exploration, masks and the order of items."""
    mask: Mask | None = None
    """Which features are legal actions; by default those with distinct effects, where a mask can be."""
    head: Head = "linear"
    """Policy head."""
    env_kwargs: KeyValues = field(default_factory=dict)
    """Arguments of gym.make_vec, JSON where it can be."""
    algo_kwargs: KeyValues = field(default_factory=dict)
    """Settings of the algorithm, such as learning_rate=3e-4 or net_arch=[128,128]."""
    mask_kwargs: KeyValues = field(default_factory=dict)
    """Settings of the mask, such as width=32."""
    checkpoint_every: int = 20_000
    """Tokens between checkpoints."""
    wandb: Mirror = "offline"
    """Mirror of the run; online needs a key and is offline without."""
    resume: bool = False
    """Continue the run of this name from its newest checkpoint, with the settings it was started with."""
    runs_dir: Path = Path("runs")
    """Folder of run folders."""
    threads: int = 1
    """CPU threads of PyTorch; for the small matrices of one token a lane more are slower."""
    workers: int = 1
    """Ray workers that the lanes are shared among, each with a model of its own; 1 plays in this process."""

    def __post_init__(self) -> None:
        if self.mask is None:
            object.__setattr__(self, "mask", default_mask(self.algo, self.env, self.env_kwargs))

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs_dir / self.name

    def check(self) -> None:
        """Refuse what no run can be made of, before anything is made.

        Raises:
            ValueError: A setting is out of its range or unknown (it is named).
        """
        if not self.name.strip() or self.name in (".", "..") or set(self.name) & set("/\\"):
            raise ValueError(f"name must be a plain folder name, got {self.name!r}")
        for name in ("total_timesteps", "num_envs", "checkpoint_every", "threads", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_envs % self.workers:
            raise ValueError(f"workers must divide num_envs={self.num_envs}, got {self.workers}")
        assert self.mask is not None
        check_mask_settings(self.mask, self.mask_kwargs)

    def settings(self) -> dict[str, Any]:
        """The settings as they are recorded: all but where the folder is and whether it was there before."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_RECORDED}

    def require_recorded(self, saved: Mapping[str, Any]) -> None:
        """Refuse to resume a run with other settings than it was started with.

        Raises:
            ValueError: One differs (it is named).
        """
        for name, value in self.settings().items():
            if value != saved[name]:
                raise ValueError(f"{name} was {saved[name]!r} when run {self.name!r} was started, got {value!r}")

    def as_recorded(self) -> Self:
        """The settings that the run of this name was started with.

        Raises:
            FileNotFoundError: There is no such run.
        """
        saved = RunFolder.open(self.folder).config
        return replace(self, **{name: saved[name] for name in self.settings()})


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """What the trainings of one experiment have in common."""

    env: str
    """Environment id."""
    name: str
    """Name of the folder of results."""
    seeds: int = 5
    """Training seeds of whatever learns."""
    total_timesteps: int = 100_000
    """Tokens of each training."""
    env_kwargs: KeyValues = field(default_factory=dict)
    """Arguments of gym.make_vec, in every training and arm."""
    algo: Annotated[str, one_of(tuple(ALGOS))] = "ppo"
    """Algorithm."""
    algo_kwargs: KeyValues = field(default_factory=dict)
    """Settings of the algorithm."""
    mask: Mask | None = None
    """Which features are legal actions; by default those with distinct effects, where a mask can be and none is
    screened."""
    head: Head = "linear"
    """Policy head."""
    screen: int | None = None
    """The agent chooses among so many features, screened on train; by default among all."""
    num_envs: int = 64
    """Lanes in one forward pass."""
    seed: int = 0
    """Seed of whatever is drawn outside of training: decoding, random arms, searches."""
    jobs: int = 2
    """Trainings at a time."""
    on: Literal["processes", "ray"] = "processes"
    """Where trainings run: processes of this machine, or tasks of a Ray cluster, whose machines must share runs_dir."""
    wandb: Mirror = "disabled"
    """Mirror of each training."""
    runs_dir: Path = Path("runs")
    """Folder of run folders."""

    def __post_init__(self) -> None:
        if self.mask is None:
            found = default_mask(self.algo, self.env, self.env_kwargs) if self.screen is None else "off"
            object.__setattr__(self, "mask", found)
        for name in ("seeds", "total_timesteps", "num_envs", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def folder(self) -> Path:
        """Where all of it is written."""
        return self.runs_dir / self.name

    def common(self) -> dict[str, Any]:
        """The settings of this class alone, for another experiment that trains in the same way."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Trainings)}

    def record(self) -> dict[str, Any]:
        """All settings that do not depend on this machine, as they are written into results."""
        plain = {n: value for n, value in vars(self).items() if not isinstance(value, Path) and n != "resume"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    def begun_with(self) -> dict[str, Any]:
        """What an experiment must be gone on with: all settings but how many processes work, and where."""
        return {name: value for name, value in self.record().items() if name not in ("jobs", "on")}

    def training(self, name: str, seed: int, folder: Path, settings: Mapping[str, Any] | None = None) -> TrainConfig:
        """One training.

        Args:
            name: Name of its run folder.
            seed: Its training seed.
            folder: Where the run folder is.
            settings: Arguments of the environment beside the common ones.
        """
        flags = {key: getattr(self, key) for key in ("env", "algo", "algo_kwargs", "mask", "head", "num_envs", "wandb")}
        return TrainConfig(
            **flags,
            name=name,
            seed=seed,
            runs_dir=folder,
            env_kwargs=self.env_kwargs | dict(settings or {}),
            total_timesteps=self.total_timesteps,
            checkpoint_every=max(1, self.total_timesteps // CHECKPOINTS),
        )

    def choosing_among(self, features: Sequence[int] | None) -> Self:
        """The same with these features to choose from; None changes nothing."""
        if features is None:
            return self
        return replace(self, env_kwargs=self.env_kwargs | {"features": list(features)})


@dataclass(frozen=True, kw_only=True)
class Study(Trainings):
    """Trainings, the arms that are searched for beside them, and whether an earlier process began."""

    search_games: tuple[int, int] = (32, 256)
    """Items that every candidate plays in the search for the best fixed feature, and those that the best 16 play."""
    search_candidates: int | None = None
    """Features that are tried in this search, drawn; by default all."""
    resume: bool = False
    """Go on with the study of this name, with the settings it was begun with; what is finished is not done again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.search_candidates is not None and self.search_candidates < 1:
            raise ValueError(f"search_candidates must be at least 1, got {self.search_candidates}")

    @property
    def search(self) -> dict[str, Any]:
        """The two fields of a bench that say how the best fixed feature is searched for."""
        return {"search_games": self.search_games, "search_candidates": self.search_candidates}
