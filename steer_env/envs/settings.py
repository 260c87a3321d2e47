"""The arguments of ``gym.make``, checked."""

from dataclasses import dataclass, field, fields, replace
from types import UnionType
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from steer_env.errors import SteeringError


def _uncalibrated(default: Any) -> Any:
    """A field that does not change what calibration measures: it steers, shows or narrows, and is measured without.

    Calibration (:mod:`steer_env.envs.calibration`) plays greedily, unsteered, on all of train, so that one unit of the
    coefficient means the same whatever the agent sees, may do, or is dealt.
    """
    return field(default=default, metadata={"calibrated": False})


@dataclass(frozen=True)
class Settings:
    """Arguments of ``gym.make`` beyond the task's own.

    Attributes:
        task: Row of the task table (set by the id).
        preset: Row of the preset table; the seven that follow override it.
        model: Hugging Face id or local folder.
        sae: SAELens folder or ``"release:sae_id"``.
        layer: Block ``L``; with ``sae=`` alone, the block the SAE was trained on. A preset with SAEs of several blocks
            takes the one there.
        site: ``"post"`` or ``"pre"``.
        coefficient: ``c``, in ``coefficient_unit``.
        coefficient_unit: ``"norm"`` (times the median residual norm at the site) or ``"residual"``. Where no card
            holds that norm, it is measured on 64 items from all over the train split that have room in the model's
            context, unsteered, at every token that an action would steer; without the task's narrowing arguments
            (``few_shot``, ``subject``, ``category``, ``letters``, ``shuffle_options``), so that a coefficient means
            the same with and without them.
        chat: Whether prompts are put into the tokenizer's chat template.
        action: ``"choice"`` (one feature a token) or ``"strengths"`` (a vector of strengths).
        features: SAE indices behind the actions; None is all, or for strengths the ``k`` most frequent.
        k: Number of features with strengths.
        bound: Largest strength.
        observation: ``"standardized"``, ``"normalized"``, ``"prompted"``, ``"residual"``, ``"features"``, ``"board"``
            or ``"both"`` (:mod:`steer_env.envs.observations`); None is the first where the model's turn is one token,
            and the second where it is longer (measured in ``experiments/LOG.md``).
        statistics: Mean and deviation ``[2, M]`` that standardised observations are measured against, as a run's record
            has them; None measures them on 64 items of the train split, as the norm.
        mask: Scope of :meth:`action_masks`: ``"off"``, ``"current"``, ``"generation"``, ``"all"`` or ``"opening"``.
        temperature: 0 is greedy.
        instruction: Whether the task's own instruction (an attribute of its class) stands in front of every prompt.
        limit: Only so many items are dealt, by a seeded choice; ``reset``'s options pin any item of the split still.
        limit_seed: Of that choice; a larger limit holds the items of a smaller one.
        compare: Report the unsteered token too, at one more forward pass a token.
        labels: Where features' labels come from: a Neuronpedia export or a JSON file
            (:func:`steer_env.lm.labels.read_labels`); None labels them by the tokens they promote.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        prompt_store: Where prompts that were read are kept, so that nobody reads them again
            (:func:`steer_env.lm.prompts.prompt_store`): a folder, ``"off"`` for memory alone, or None for the
            user's cache folder. A prompt that was recalled differs from one read anew by rounding at most.
    """

    task: str
    preset: str = "embedded"
    model: str | None = None
    sae: str | None = None
    layer: int | None = None
    site: str | None = None
    coefficient: float | None = _uncalibrated(None)
    coefficient_unit: str | None = _uncalibrated(None)
    chat: bool | None = None
    action: str = _uncalibrated("choice")
    features: tuple[int, ...] | None = _uncalibrated(None)
    k: int = _uncalibrated(30)
    bound: float = _uncalibrated(1.0)
    observation: str | None = _uncalibrated(None)
    statistics: tuple[Any, ...] | None = _uncalibrated(None)
    mask: str = _uncalibrated("off")
    temperature: float = _uncalibrated(0.0)
    instruction: bool = _uncalibrated(False)
    limit: int | None = _uncalibrated(None)
    limit_seed: int = _uncalibrated(0)
    compare: bool = _uncalibrated(False)
    labels: str | None = _uncalibrated(None)
    device: str = "auto"
    dtype: str = "float32"
    prompt_store: str | None = None

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for own in fields(self):
            value = getattr(self, own.name)
            if not _is_a(value, hints[own.name]):
                raise SteeringError(f"{own.name} must be {_name(hints[own.name])}, got {value!r}")

    def calibrated(self) -> Self:
        """The settings that calibration plays with: equal for all that differ only in what it does not measure."""
        ignored: dict[str, Any] = {
            own.name: own.default for own in fields(self) if not own.metadata.get("calibrated", True)
        }
        return replace(self, **ignored)


def _is_a(value: Any, wanted: Any) -> bool:
    """Whether ``value`` is of type ``wanted``; an integer is a number, True and False are not."""
    if get_origin(wanted) in (Union, UnionType):
        return any(_is_a(value, option) for option in get_args(wanted))
    if get_origin(wanted) is tuple:
        return isinstance(value, tuple)  # what it holds is checked where it is used
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)


def _name(wanted: Any) -> str:
    options = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
    names = {str: "text", int: "an integer", float: "a number", bool: "True or False", type(None): "None"}
    return " or ".join(names.get(option, "a list") for option in options)
