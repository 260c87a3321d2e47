"""The features of an SAE by name: labels looked up when asked for, and searched."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from steer_env.errors import SteeringError
from steer_env.lm.labels import feature_labels

if TYPE_CHECKING:
    from torch import Tensor

    from steer_env.lm.tokenizer import Tokenizer

_PORTION = 256
FOUND = 12


class Features:
    """Labels of ``F`` features. All are found portion by portion in :meth:`read_all`, some at once in :meth:`labels`.

    Args:
        source: Where labels come from (:func:`steer_env.lm.labels.read_labels`), or None.
        lm: A Hugging Face causal LM.
        tokenizer: Its tokenizer.
        directions: ``[F, M]``.
    """

    def __init__(self, source: str | None, lm: Any, tokenizer: Tokenizer, directions: Tensor) -> None:
        self._source, self._lm, self._tokenizer, self._directions = source, lm, tokenizer, directions
        self._known: dict[int, str] = {}
        self._lock = threading.Lock()

    @property
    def width(self) -> int:
        """Number of features ``F``."""
        return len(self._directions)

    @property
    def read(self) -> int:
        """Number of features whose labels are known by now."""
        return len(self._known)

    def labels(self, features: Iterable[int]) -> dict[int, str]:
        """Labels of ``features``; -1, no feature, has none.

        Raises:
            SteeringError: There is no such feature.
        """
        wanted = sorted({feature for feature in features if feature >= 0})
        if wanted and wanted[-1] >= self.width:
            raise SteeringError(f"feature must be in [0, {self.width}), got {wanted[-1]}")
        missing = [feature for feature in wanted if feature not in self._known]
        if missing:
            with self._lock:
                found = feature_labels(self._source, self._lm, self._tokenizer, self._directions, missing)
            self._known |= dict(zip(missing, found, strict=True))
        return {feature: self._known[feature] for feature in wanted}

    def label(self, feature: int) -> str | None:
        """The label of a feature where it is known by now: texts do not wait for it."""
        return self._known.get(feature)

    def read_all(self) -> None:
        """Look up all labels."""
        for start in range(0, self.width, _PORTION):
            self.labels(range(start, min(start + _PORTION, self.width)))

    def search(self, query: str, count: int = FOUND) -> list[tuple[int, str]]:
        """Features by number or by words of their labels, those with whole words first.

        Args:
            query: A number, or words that must all be in the label.
            count: How many at most.
        """
        asked = query.lower().split()
        if len(asked) == 1 and asked[0].isdecimal():
            number = int(asked[0])
            return list(self.labels([number]).items()) if number < self.width else []
        known = sorted(self._known.items())
        found = [(feature, label) for feature, label in known if all(word in label.lower() for word in asked)]
        return sorted(found, key=lambda pair: -_whole(asked, pair[1]))[:count]


def _whole(asked: list[str], label: str) -> int:
    """How many of the words asked for are whole words of the label."""
    return len(set(asked) & set(label.lower().split()))
