"""From ``gym.make``'s strings and numbers to an environment: the one place where the parts meet."""

import dataclasses
import inspect
import math
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from steer_env.actions import Actuator, FeatureChoice, FeatureStrengths, chosen_features
from steer_env.decoding import end_tokens
from steer_env.env import SteerEnv
from steer_env.episode import Scene
from steer_env.errors import SteeringError
from steer_env.loading import load_language_model, load_shared_dictionary, load_words, resolve_device
from steer_env.model import SteeredModel
from steer_env.observations import make_observation
from steer_env.presets import Preset, find_preset
from steer_env.settings import Settings
from steer_env.survey import SURVEY_LANES, Survey, survey
from steer_env.tasks import TASKS
from steer_env.vector_env import SteerVectorEnv

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
    """Assemble the parts of ``lanes`` episodes from ``gym.make``'s arguments."""
    own = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: _frozen(value) for name, value in kwargs.items() if name in own})
    options = tuple(sorted((name, _frozen(value)) for name, value in kwargs.items() if name not in own))
    _refuse_unknown(settings.task, dict(options), own)
    return _assemble(settings, options, lanes)


def language_model(scene: Scene) -> Any:
    """The Hugging Face model behind a scene (to hash its weights, never to change them)."""
    return scene.model.lm


def _assemble(settings: Settings, options: Options, lanes: int) -> Scene:
    row = _located(settings)
    device = resolve_device(settings.device)
    lm = load_language_model(row.model, settings.dtype, device)
    dictionary = load_shared_dictionary(row.sae, device)
    dictionary.check_fits(lm.config.get_text_config().hidden_size)
    task = TASKS[settings.task](**dict(options))
    words = load_words(row.model)
    model = SteeredModel(lm, row.layer, lanes, row.site, settings.prompt_cache)
    dictionary.warn_if_elsewhere(row.layer, row.site)
    scale = _scale(row, settings, options)
    return Scene(
        model=model,
        words=words,
        ends=end_tokens(lm, words),
        dictionary=dictionary,
        task=task,
        actuator=_actuator(settings, options, row.coefficient * scale, dictionary.directions),
        observation=make_observation(settings.observation, dictionary, task),
        mask=settings.mask,
        temperature=settings.temperature,
        compare=settings.compare,
    )


def _located(settings: Settings) -> Preset:
    """The preset's row with the overrides put in; layer and site are the SAE's own where nothing else is said."""
    device = resolve_device(settings.device)
    if settings.model and settings.sae and settings.preset == Settings.preset:
        start = Preset(model=settings.model, sae=settings.sae, layer=-1)
    else:
        start = find_preset(settings.preset, settings.task)
    names = ("model", "sae", "layer", "site", "coefficient", "coefficient_unit")
    given = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    row = dataclasses.replace(start, **given)
    trained = load_shared_dictionary(row.sae, device)
    if settings.sae and settings.layer is None:
        if trained.layer is None:
            raise SteeringError(f"SAE {settings.sae!r} does not say which block it was trained on: give layer=")
        row = dataclasses.replace(row, layer=trained.layer)
    if settings.sae and settings.site is None and trained.site is not None:
        row = dataclasses.replace(row, site=trained.site)
    if (row.model, row.layer, row.site) != (start.model, start.layer, start.site):
        row = dataclasses.replace(row, residual_norm=None)
    if not math.isfinite(row.coefficient):
        raise SteeringError(f"coefficient must be finite, got {row.coefficient}")
    if row.coefficient_unit not in ("norm", "residual"):
        raise SteeringError(f"coefficient_unit must be 'norm' or 'residual', got {row.coefficient_unit!r}")
    return row


def _scale(row: Preset, settings: Settings, options: Options) -> float:
    """What one unit of the coefficient is worth in residual units."""
    if row.coefficient_unit == "residual":
        return 1.0
    if row.residual_norm is not None:
        return row.residual_norm
    return _survey(_unsteered(settings), _on_train(options)).residual_norm


def _actuator(settings: Settings, options: Options, coefficient: float, directions: Tensor) -> Actuator:
    if settings.action == "choice":
        features = chosen_features(settings.features, len(directions))
        return FeatureChoice(directions, features, coefficient)
    if settings.action != "strengths":
        raise ValueError(f"action must be 'choice' or 'strengths', got {settings.action!r}")
    if settings.features is None and not 1 <= settings.k <= len(directions):
        raise SteeringError(f"k must be in [1, {len(directions)}], got {settings.k}")
    chosen = settings.features
    if chosen is None:
        chosen = _survey(_unsteered(settings), _on_train(options)).frequent[: settings.k]
    return FeatureStrengths(directions, chosen_features(chosen, len(directions)), coefficient, settings.bound)


def _unsteered(settings: Settings) -> Settings:
    """The settings with everything put away that does not change unsteered play."""
    return dataclasses.replace(
        settings,
        action="choice",
        features=None,
        coefficient=0.0,
        coefficient_unit="residual",
        observation="residual",
        mask="off",
        compare=False,
        temperature=0.0,
        k=Settings.k,
        bound=Settings.bound,
        prompt_cache=Settings.prompt_cache,
    )


def _on_train(options: Options) -> Options:
    """The task's arguments on the train split: actions must mean the same on every split, and see no test item."""
    return tuple((name, value) for name, value in options if name != "split")


@lru_cache(maxsize=32)
def _survey(settings: Settings, options: Options) -> Survey:
    return survey(_assemble(settings, options, SURVEY_LANES))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, np.ndarray)) else value


def _refuse_unknown(task: str, options: dict[str, Any], own: set[str]) -> None:
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; there are {sorted(TASKS)}")
    known = set(inspect.signature(TASKS[task]).parameters)
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"unknown argument {unknown[0]!r}; this environment takes {sorted(own | known)}")
