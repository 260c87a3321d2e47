"""Models that grade text, by name: tasks take plain functions, ``gym.make`` takes strings, and here they meet."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from steer_env.errors import SteeringError, first_line
from steer_env.tasks.answers import Similarity
from steer_env.tasks.refusal import COMPLIANCE, FULL, PARTIAL, RefusalClassifier

_NAMES = {  # what a label says, in the order in which it is asked
    PARTIAL: r"partial",
    COMPLIANCE: r"\b(?:no|not|non)\b|compl(?:y|iance)|accept|normal|answer",
    FULL: r"refus|reject|declin|deni",
}
_MOST_TOKENS = 512


def with_judges(options: Mapping[str, Any]) -> dict[str, Any]:
    """A task's arguments with every judge that is given by name loaded.

    Raises:
        SteeringError: A judge cannot be loaded or understood.
    """
    return {
        name: JUDGES[name](value) if name in JUDGES and isinstance(value, str) else value
        for name, value in options.items()
    }


@lru_cache(maxsize=4)
def load_classifier(name: str) -> RefusalClassifier:
    """A text classifier as a judge of refusal: it reads the completion alone.

    Args:
        name: Hub id or folder of a sequence classifier. Its labels must say what they mean ("rejection", "normal",
            "full refusal", "LABEL_0" does not); ``"id:label"`` names the one for refusal, and then every other label
            means compliance.

    Raises:
        SteeringError: It cannot be loaded, has no such label, or a label does not say what it means.
    """
    folder, refusal_label = _split_label(name)
    model, tokenizer = _load(AutoModelForSequenceClassification, folder)
    classes = _classes(folder, dict(model.config.id2label), refusal_label)

    def classify(completion: str) -> str:
        outputs = _outputs(model, tokenizer, completion)
        return COMPLIANCE if outputs is None else classes[int(outputs.logits[0].argmax())]

    return classify


@lru_cache(maxsize=4)
def load_similarity(name: str) -> Similarity:
    """Cosine of two texts' mean token states, as sentence transformers of that kind have it.

    Args:
        name: Hub id or folder of a text encoder.

    Raises:
        SteeringError: It cannot be loaded.
    """
    model, tokenizer = _load(AutoModel, name)

    @lru_cache(maxsize=4096)  # the same gold answers come back every epoch
    def embed(text: str) -> torch.Tensor:
        outputs = _outputs(model, tokenizer, text)
        return torch.zeros(1) if outputs is None else outputs.last_hidden_state[0].float().mean(dim=0)

    def similarity(first: str, second: str) -> float:
        return float(torch.nn.functional.cosine_similarity(embed(first), embed(second), dim=0))

    return similarity


JUDGES: dict[str, Callable[[str], Any]] = {"classifier": load_classifier, "similarity": load_similarity}


def _outputs(model: Any, tokenizer: Any, text: str) -> Any:
    """The model's outputs for as much of a text as it can read; None for a text without tokens."""
    longest = min(_MOST_TOKENS, getattr(model.config, "max_position_embeddings", _MOST_TOKENS))
    tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest)
    if tokens["input_ids"].shape[1] == 0:
        return None
    with torch.no_grad():
        return model(**tokens)


def _load(architecture: Any, name: str) -> tuple[Any, Any]:
    try:
        model = architecture.from_pretrained(name, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise SteeringError(
            f"cannot load judge {name!r} ({first_line(error)}). Where there is no network, run 'hf download {name}' "
            "elsewhere and set HF_HUB_OFFLINE=1, or give a local folder; without a judge the task grades by itself"
        ) from error
    return model.eval().requires_grad_(False), tokenizer


def _split_label(name: str) -> tuple[str, str | None]:
    """Id or folder, and the label behind the last colon."""
    folder, colon, label = name.rpartition(":")
    return (folder, label) if colon and "/" not in label else (name, None)


def _classes(name: str, labels: Mapping[int, str], refusal_label: str | None) -> dict[int, str]:
    if refusal_label is not None:
        if refusal_label not in labels.values():
            raise SteeringError(f"classifier {name!r} has no label {refusal_label!r}; it has {sorted(labels.values())}")
        return {index: FULL if label == refusal_label else COMPLIANCE for index, label in labels.items()}
    classes = {index: _class_of(label) for index, label in labels.items()}
    unclear = sorted(labels[index] for index, kind in classes.items() if kind is None)
    if unclear or FULL not in classes.values():
        raise SteeringError(
            f"cannot tell which label of classifier {name!r} means refusal, it has {sorted(labels.values())}: "
            f"name it, as in classifier='{name}:{next(iter(labels.values()))}'"
        )
    return {index: kind for index, kind in classes.items() if kind is not None}


def _class_of(label: str) -> str | None:
    words = re.sub(r"[\W_]+|(?<=[a-z])(?=[A-Z])", " ", label).lower()
    return next((kind for kind, pattern in _NAMES.items() if re.search(pattern, words)), None)
