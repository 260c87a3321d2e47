"""From ``gym.make``'s strings and numbers to an environment: the one place where the parts meet."""

import dataclasses
import inspect
import math
import warnings
from functools import cache, lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from steer_env.envs.actions import Actuator, FeatureChoice, FeatureStrengths, chosen_features
from steer_env.envs.calibration import CALIBRATION_LANES, Calibration, calibrate
from steer_env.envs.context import require_context
from steer_env.envs.env import SteerEnv
from steer_env.envs.judges import with_judges
from steer_env.envs.observations import make_observation
from steer_env.envs.ordering import limited_items
from steer_env.envs.scene import Scene
from steer_env.envs.settings import Settings
from steer_env.envs.vector_env import SteerVectorEnv
from steer_env.errors import NotTheBenchmark, SteeringError
from steer_env.lm.labels import read_labels
from steer_env.lm.loading import load_language_model, load_sae, load_tokenizer, resolve_device
from steer_env.lm.model import SteeredModel
from steer_env.lm.presets import Preset, find_preset
from steer_env.lm.sae import FeatureDictionary
from steer_env.lm.tokenizer import end_tokens
from steer_env.tasks import TASKS
from steer_env.tasks.instructions import instruct

Options = tuple[tuple[str, Any], ...]


def make_env(render_mode: str | None = None, **kwargs: Any) -> SteerEnv:
    """One environment; the arguments are those of :class:`Settings` and of the task.

    Raises:
        ValueError: An argument is unknown or its value cannot be used; the message names it.
    """
    return SteerEnv(make_scene(1, **kwargs), render_mode)


def make_vector_env(num_envs: int = 1, render_mode: str | None = None, **kwargs: Any) -> SteerVectorEnv:
    """``num_envs`` lanes in one forward pass; otherwise as :func:`make_env`."""
    if not isinstance(num_envs, int) or num_envs < 1:
        raise ValueError(f"num_envs must be an integer of at least 1, got {num_envs!r}")
    return SteerVectorEnv(make_scene(num_envs, **kwargs), render_mode)


def make_scene(lanes: int, **kwargs: Any) -> Scene:
    """Assemble the parts of ``lanes`` episodes from ``gym.make``'s arguments.

    A task that reads data reads the hub's with every preset but the embedded one, unless ``data`` says otherwise; a
    ``model`` put into the embedded preset is asked the embedded items.
    """
    own = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: _frozen(value) for name, value in kwargs.items() if name in own})
    given = {name: _frozen(value) for name, value in kwargs.items() if name not in own}
    known = _arguments(settings.task)
    _refuse_unknown(given, known, own)
    if "data" in known and settings.preset != Settings.preset:
        given = {"data": "hub", **given}
    scene = _assemble(settings, tuple(sorted(given.items())), lanes)
    dealt = range(len(scene.task)) if scene.items is None else scene.items.tolist()
    require_context(scene.task, dealt, scene.tokenizer, scene.model.context)
    instrument = _instrument(settings, given) if "data" in known else ""
    if instrument:
        _warn_of_instrument(settings.task, instrument)
    return scene


def _assemble(settings: Settings, options: Options, lanes: int) -> Scene:
    row = _located(settings)
    device = resolve_device(settings.device)
    lm = load_language_model(row.model, settings.dtype, device)
    dictionary = load_sae(row.sae, device)
    dictionary.check_fits(lm.config.get_text_config().hidden_size)
    if settings.labels is not None:
        read_labels(settings.labels, dictionary.width)
    task = TASKS[settings.task](**with_judges(dict(options)))
    if settings.instruction:
        instruct(task)
    tokenizer = load_tokenizer(row.model, row.chat)
    model = SteeredModel(lm, row.layer, lanes, row.site, settings.prompt_cache)
    dictionary.warn_if_elsewhere(row.layer, row.site)
    measured = _on_train(options, task.narrowing)
    scale = _scale(row, settings, measured)
    return Scene(
        model=model,
        tokenizer=tokenizer,
        ends=end_tokens(lm, tokenizer),
        dictionary=dictionary,
        task=task,
        actuator=_actuator(settings, measured, row.coefficient * scale, dictionary.directions),
        observation=make_observation(settings.observation, dictionary, task),
        mask=settings.mask,
        temperature=settings.temperature,
        compare=settings.compare,
        benchmark=_is_benchmark(settings, dict(options)),
        labels=settings.labels,
        items=limited_items(len(task), settings.limit, settings.limit_seed),
    )


def _located(settings: Settings) -> Preset:
    """The preset's row with the overrides put in; layer and site are the SAE's own where nothing else is said."""
    if settings.model and settings.sae and settings.preset == Settings.preset:
        start = Preset(model=settings.model, sae=settings.sae, layer=-1)
    else:
        start = find_preset(settings.preset, settings.task)
    names = ("model", "sae", "layer", "site", "coefficient", "coefficient_unit", "chat")
    given = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    row = dataclasses.replace(start, **given)
    if settings.sae:
        row = _where_trained(row, settings, load_sae(row.sae, resolve_device(settings.device)))
    if (row.model, row.layer, row.site, row.chat) != (start.model, start.layer, start.site, start.chat):
        row = dataclasses.replace(row, residual_norm=None)
    if not math.isfinite(row.coefficient):
        raise SteeringError(f"coefficient must be finite, got {row.coefficient}")
    if row.coefficient_unit not in ("norm", "residual"):
        raise SteeringError(f"coefficient_unit must be 'norm' or 'residual', got {row.coefficient_unit!r}")
    return row


def _where_trained(row: Preset, settings: Settings, trained: FeatureDictionary) -> Preset:
    """The row with the layer and site of another SAE than its own, unless they are given."""
    if settings.layer is None:
        if trained.layer is None:
            raise SteeringError(f"SAE {settings.sae!r} does not say which block it was trained on: give layer=")
        row = dataclasses.replace(row, layer=trained.layer)
    if settings.site is None and trained.site is not None:
        row = dataclasses.replace(row, site=trained.site)
    return row


def _is_benchmark(settings: Settings, options: dict[str, Any]) -> bool:
    """Whether scores may carry the benchmark's name: the preset's own model and SAE on the hub's items."""
    if settings.model is not None or settings.sae is not None or options.get("data") != "hub":
        return False
    return find_preset(settings.preset, settings.task).benchmark


def _instrument(settings: Settings, options: dict[str, Any]) -> str:
    """What of ours stands in the benchmark's place; empty where only the user's own model or data does."""
    if settings.preset == Settings.preset and settings.model is None:
        return "the embedded model"
    return "the embedded items" if options.get("data") in (None, "embedded") else ""


@cache
def _warn_of_instrument(task: str, instrument: str) -> None:
    """Say once a process and task that scores are not the benchmark's."""
    ids = (name for name, spec in gym.registry.items() if (spec.kwargs or {}).get("task") == task)
    env_id = next(ids, f"Steer-{task}-v0")
    benchmark = env_id.split("-")[1]
    warnings.warn(
        f"{env_id} with {instrument} is an instrument, not the {benchmark} benchmark: never report its scores as "
        f"{benchmark}; preset='gemma-2-2b-it' is the published setting",
        NotTheBenchmark,
        stacklevel=4,
    )


def _scale(row: Preset, settings: Settings, measured: Options) -> float:
    """What one unit of the coefficient is worth in residual units."""
    if row.coefficient_unit == "residual":
        return 1.0
    if row.residual_norm is not None:
        return row.residual_norm
    return _calibrated(_unsteered(settings), measured).residual_norm


def _actuator(settings: Settings, measured: Options, coefficient: float, directions: Tensor) -> Actuator:
    if settings.action == "choice":
        features = chosen_features(settings.features, len(directions))
        return FeatureChoice(directions, features, coefficient)
    if settings.action != "strengths":
        raise ValueError(f"action must be 'choice' or 'strengths', got {settings.action!r}")
    if settings.features is None and not 1 <= settings.k <= len(directions):
        raise SteeringError(f"k must be in [1, {len(directions)}], got {settings.k}")
    chosen = settings.features
    if chosen is None:
        chosen = _calibrated(_unsteered(settings), measured).frequent[: settings.k]
    return FeatureStrengths(directions, chosen_features(chosen, len(directions)), coefficient, settings.bound)


def _unsteered(settings: Settings) -> Settings:
    """The settings with everything put away that does not change unsteered play, or what actions are to mean."""
    return dataclasses.replace(
        settings,
        action="choice",
        features=None,
        coefficient=0.0,
        coefficient_unit="residual",
        observation="residual",
        mask="off",
        compare=False,
        labels=None,
        temperature=0.0,
        instruction=False,
        limit=None,
        limit_seed=Settings.limit_seed,
        k=Settings.k,
        bound=Settings.bound,
        prompt_cache=Settings.prompt_cache,
    )


def _on_train(options: Options, narrowing: tuple[str, ...]) -> Options:
    """The task's arguments on the whole train split: actions must mean the same on every split, and see no test item.

    Train need not have the subject that is asked, nor examples of it: some data sets' train rows are from elsewhere.
    """
    return tuple((name, value) for name, value in options if name not in ("split", *narrowing))


@lru_cache(maxsize=32)
def _calibrated(settings: Settings, options: Options) -> Calibration:
    try:
        return calibrate(_assemble(settings, options, CALIBRATION_LANES))
    except ValueError as error:
        raise SteeringError(
            f"what actions mean is measured on the train split, which failed: {error}. To measure nothing, give "
            "coefficient_unit='residual' with a coefficient (and features=, for strengths)"
        ) from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, np.ndarray)) else value


def _arguments(task: str) -> set[str]:
    """Names of the task's own arguments."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; there are {sorted(TASKS)}")
    return set(inspect.signature(TASKS[task]).parameters)


def _refuse_unknown(options: dict[str, Any], known: set[str], own: set[str]) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"unknown argument {unknown[0]!r}; this environment takes {sorted(own | known)}")
