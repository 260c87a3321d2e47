"""The arguments of ``gym.make``, checked."""

from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from steer_env.errors import SteeringError


@dataclass(frozen=True)
class Settings:
    """Arguments of ``gym.make`` beyond the task's own.

    Attributes:
        task: Row of the task table (set by the id).
        preset: Row of the preset table; the seven that follow override it.
        model: Hugging Face id or local folder.
        sae: SAELens folder or ``"release:sae_id"``.
        layer: Block ``L``; with ``sae=`` alone, the block the SAE was trained on.
        site: ``"post"`` or ``"pre"``.
        coefficient: ``c``, in ``coefficient_unit``.
        coefficient_unit: ``"norm"`` (times the median residual norm at the site) or ``"residual"``. Where no card
            holds that norm, it is measured on the first 64 items of the train split that have room in the model's
            context, unsteered, at every token that an action would steer; without the task's narrowing arguments
            (``few_shot``, ``subject``, ``category``), so that a coefficient means the same with and without them.
        chat: Whether prompts are put into the tokenizer's chat template.
        action: ``"choice"`` (one feature a token) or ``"strengths"`` (a vector of strengths).
        features: SAE indices behind the actions; None is all, or for strengths the ``k`` most frequent.
        k: Number of features with strengths.
        bound: Largest strength.
        observation: ``"normalized"``, ``"prompted"``, ``"residual"``, ``"features"``, ``"board"`` or ``"both"``.
        mask: Scope of :meth:`action_masks`: ``"off"``, ``"current"``, ``"generation"`` or ``"all"``.
        temperature: 0 is greedy.
        instruction: Whether the task's instruction stands in front of every prompt
            (:mod:`steer_env.tasks.instructions`).
        limit: Only so many items are dealt, by a seeded choice; ``reset``'s options pin any item of the split still.
        limit_seed: Of that choice; a larger limit holds the items of a smaller one.
        compare: Report the unsteered token too, at one more forward pass a token.
        labels: Where features' labels come from: a Neuronpedia export or a JSON file
            (:func:`steer_env.lm.labels.read_labels`); None labels them by the tokens they promote.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        prompt_cache: Prompt tokens whose keys and values are kept for reuse. In a vector environment a reused prompt
            differs from one read anew by rounding (about 1e-6).
    """

    task: str
    preset: str = "embedded"
    model: str | None = None
    sae: str | None = None
    layer: int | None = None
    site: str | None = None
    coefficient: float | None = None
    coefficient_unit: str | None = None
    chat: bool | None = None
    action: str = "choice"
    features: tuple[int, ...] | None = None
    k: int = 30
    bound: float = 1.0
    observation: str = "normalized"
    mask: str = "off"
    temperature: float = 0.0
    instruction: bool = False
    limit: int | None = None
    limit_seed: int = 0
    compare: bool = False
    labels: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    prompt_cache: int = 16_384

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if not _is_a(value, hints[field.name]):
                raise SteeringError(f"{field.name} must be {_name(hints[field.name])}, got {value!r}")


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
