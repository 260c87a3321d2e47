"""From ``gym.make``'s strings and numbers to an environment: the one place where the parts meet."""

import dataclasses
import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import gymnasium as gym
import numpy as np

from steer_env.envs.actions import Actuator, FeatureChoice, FeatureStrengths, chosen_features
from steer_env.envs.calibration import CALIBRATION_LANES, Calibration, calibrate, kept_calibration
from steer_env.envs.context import require_context
from steer_env.envs.env import SteerEnv
from steer_env.envs.judges import with_judges
from steer_env.envs.observations import Source, Statistics, make_observation, usual_observation
from steer_env.envs.ordering import limited_items
from steer_env.envs.scene import Scene
from steer_env.envs.settings import Settings
from steer_env.envs.vector_env import SteerVectorEnv
from steer_env.errors import NotTheBenchmark, SteeringError
from steer_env.lm.labels import read_labels
from steer_env.lm.loading import load_language_model, load_sae, load_tokenizer, resolve_device
from steer_env.lm.model import SteeredModel, proven_upper_half
from steer_env.lm.presets import Preset, find_preset, is_embedded
from steer_env.lm.prompts import prompt_store
from steer_env.lm.sae import FeatureDictionary
from steer_env.lm.tokenizer import Tokenizer, end_tokens
from steer_env.tasks import Task, find_task

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
    known = set(inspect.signature(find_task(settings.task)).parameters)
    _refuse_unknown(given, known, own)
    if "data" in known and not is_embedded(settings.preset):
        given = {"data": "hub", **given}
    options = tuple(sorted(given.items()))
    parts, task = _load(settings), _make_task(settings, options)

    def calibration() -> Calibration:
        return _calibration(settings.calibrated(), _on_train(options, task))

    actuator = _make_actuator(settings, parts, calibration)
    source = Source(parts.sae, task, lambda: _statistics(settings, parts) or calibration().statistics)
    scene = _make_scene(settings, parts, source, actuator, lanes, _is_benchmark(settings, given))
    dealt = range(len(scene.task)) if scene.items is None else scene.items.tolist()
    require_context(scene.task, dealt, scene.tokenizer, scene.model.context)
    instrument = _instrument(settings, given) if "data" in known else ""
    if instrument:
        _warn_of_instrument(settings.task, instrument)
    return scene


@dataclass(frozen=True)
class _Parts:
    """What is loaded once a process: the located preset's row, the model, its tokenizer and the SAE."""

    row: Preset
    lm: Any
    tokenizer: Tokenizer
    sae: FeatureDictionary


def _load(settings: Settings) -> _Parts:
    row = _located(settings)
    device = resolve_device(settings.device)
    lm = load_language_model(row.model, settings.dtype, device)
    sae = load_sae(row.sae, device)
    sae.check_fits(lm.config.get_text_config().hidden_size)
    if settings.labels is not None:
        read_labels(settings.labels, sae.width)
    return _Parts(row, lm, load_tokenizer(row.model, row.chat), sae)


def _make_task(settings: Settings, options: Options) -> Task:
    task = find_task(settings.task)(**with_judges(dict(options)))
    if settings.instruction:
        task.instruct()
    return task


def _make_scene(
    settings: Settings, parts: _Parts, source: Source, actuator: Actuator, lanes: int, benchmark: bool = False
) -> Scene:
    prompts = prompt_store(parts.lm, settings.prompt_store)
    upper = proven_upper_half(parts.lm, parts.row.layer, parts.row.site) if prompts.shared else None
    model = SteeredModel(parts.lm, parts.row.layer, lanes, parts.row.site, prompts, upper=upper)
    parts.sae.warn_if_elsewhere(parts.row.layer, parts.row.site)
    return Scene(
        model=model,
        tokenizer=parts.tokenizer,
        ends=end_tokens(parts.lm, parts.tokenizer),
        dictionary=parts.sae,
        task=source.task,
        actuator=actuator,
        observation=make_observation(settings.observation or usual_observation(source.task), source),
        mask=settings.mask,
        temperature=settings.temperature,
        compare=settings.compare,
        benchmark=benchmark,
        labels=settings.labels,
        items=limited_items(len(source.task), settings.limit, settings.limit_seed),
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
    if settings.sae is None and row.layer in row.saes:
        row = dataclasses.replace(row, sae=row.saes[row.layer])
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
    if is_embedded(settings.preset) and settings.model is None:
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


def _make_actuator(settings: Settings, parts: _Parts, calibration: Callable[[], Calibration]) -> Actuator:
    """What the agent's actions do; ``calibration`` is asked only for what no card and no setting says."""
    row, directions = parts.row, parts.sae.directions
    unit = 1.0 if row.coefficient_unit == "residual" else row.residual_norm
    coefficient = row.coefficient * (calibration().residual_norm if unit is None else unit)
    if settings.action == "choice":
        return FeatureChoice(directions, chosen_features(settings.features, len(directions)), coefficient)
    if settings.action != "strengths":
        raise ValueError(f"action must be 'choice' or 'strengths', got {settings.action!r}")
    features = settings.features
    if features is None:
        if not 1 <= settings.k <= len(directions):
            raise SteeringError(f"k must be in [1, {len(directions)}], got {settings.k}")
        features = calibration().frequent[: settings.k]
    return FeatureStrengths(directions, chosen_features(features, len(directions)), coefficient, settings.bound)


def _on_train(options: Options, task: Task) -> Options:
    """The task's arguments on the whole train split: actions must mean the same on every split, and see no test item.

    Train need not have the subject that is asked, nor examples of it: some data sets' train rows are from elsewhere.
    """
    return tuple((name, value) for name, value in options if name not in ("split", *task.narrowing))


def _statistics(settings: Settings, parts: _Parts) -> Statistics | None:
    """The given mean and deviation, if there are any."""
    if settings.statistics is None:
        return None
    given = np.array(settings.statistics, dtype=np.float32)
    width = parts.lm.config.get_text_config().hidden_size
    if given.shape != (2, width) or not np.isfinite(given).all():
        raise SteeringError(f"statistics must be two finite rows of {width} numbers, got shape {given.shape}")
    return Statistics(*given)


@lru_cache(maxsize=32)
def _calibration(settings: Settings, options: Options) -> Calibration:
    """What unsteered episodes of the train split show; measured once for the same settings and kept with prompts."""
    try:
        parts, task = _load(settings), _make_task(settings, options)
        still = FeatureChoice(parts.sae.directions, chosen_features(None, parts.sae.width), 0.0)
        plain = dataclasses.replace(settings, observation="residual")
        scene = _make_scene(plain, parts, Source(parts.sae, task), still, CALIBRATION_LANES)
        disk = prompt_store(parts.lm, settings.prompt_store).folder
        if disk is None:
            return calibrate(scene)
        identity = {
            "model": disk.model,
            "sae": parts.sae.sha256(),
            "settings": dataclasses.asdict(dataclasses.replace(settings, prompt_store=None)),
            "options": options,
            "data": task.data_record(),
        }
        return kept_calibration(scene, identity, disk.folder / "calibrations")
    except ValueError as error:
        raise SteeringError(
            f"what actions and observations mean is measured on the train split, which failed: {error}. To measure "
            "nothing, give observation='normalized' and coefficient_unit='residual' with a coefficient (and features=, "
            "for strengths)"
        ) from error


def _frozen(value: Any) -> Any:
    """A value that can be a key of what is kept: lists as tuples, dictionaries as tuples of pairs."""
    if isinstance(value, dict):
        return tuple((name, _frozen(inner)) for name, inner in sorted(value.items()))
    return tuple(value) if isinstance(value, (list, np.ndarray)) else value


def _refuse_unknown(options: dict[str, Any], known: set[str], own: set[str]) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"unknown argument {unknown[0]!r}; this environment takes {sorted(own | known)}")
