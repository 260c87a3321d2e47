"""Model cards: what was made, from what, with which versions, and what it measures; for machines and for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers", "sae-lens", "numpy")


def save_card(folder: Path, found: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    """Write ``card.json`` and ``CARD.md`` beside the weights.

    Args:
        folder: holds the weights already.
        found: what there is to say.
        text: from the whole card to what a person reads.

    Returns:
        ``found`` with the package ``versions`` and the ``sha256`` of every weight file.
    """
    card = {
        **found,
        "versions": {package: version(package) for package in PACKAGES},
        "sha256": {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*.safetensors"))
        },
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    (folder / "CARD.md").write_text(text(card))
    return card


def rounded(tree: Any, digits: int = 4) -> Any:
    """The same tree with floats that a person can read."""
    if isinstance(tree, dict):
        return {key: rounded(branch, digits) for key, branch in tree.items()}
    if isinstance(tree, list):
        return [rounded(branch, digits) for branch in tree]
    return round(tree, digits) if isinstance(tree, float) else tree
