"""What a model itself answers to many prompts, kept on disk: written once, resumed where a job was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from steer_env.lm.loading import weights_sha256
from steer_env.lm.text_residuals import in_groups


def write_replies(
    root: Path, lm: Any, prompts: Sequence[Sequence[int]], tokens: int, rows: int, ends: Collection[int]
) -> list[list[int]]:
    """Greedy replies to prompts, in their order.

    Args:
        root: Folder with a file for each model and set of prompts; what is there is not written again.
        lm: A frozen causal LM.
        prompts: Token ids.
        tokens: Longest reply.
        rows: Prompts per pass.
        ends: Tokens that end a reply; the first is its last token.
    """
    path = _file(
        root, {"model_sha256": weights_sha256(lm), "tokens": tokens, "prompts": [list(row) for row in prompts]}
    )
    found = _read(path)
    missing = sorted((i for i in range(len(prompts)) if i not in found), key=lambda i: len(prompts[i]))
    with tqdm(total=len(prompts), initial=len(found), unit="reply", desc="replies", mininterval=1) as bar:
        for group in in_groups(missing, rows):
            replies = _generate(lm, [prompts[i] for i in group], tokens, ends)
            found |= dict(zip(group, replies, strict=True))
            with path.open("a") as file:
                file.writelines(json.dumps([i, found[i]]) + "\n" for i in group)
            bar.update(len(group))
    return [found[i] for i in range(len(prompts))]


def _generate(lm: Any, prompts: Sequence[Sequence[int]], tokens: int, ends: Collection[int]) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in prompts], device=lm.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=lm.device)
    options = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": sorted(ends) or None, "pad_token_id": 0}
    with torch.no_grad():
        written = lm.generate(ids, attention_mask=mask, **options)[:, width:].tolist()
    return [_ended(row, ends) for row in written]


def _ended(reply: list[int], ends: Collection[int]) -> list[int]:
    stop = next((i for i, token in enumerate(reply, start=1) if token in ends), len(reply))
    return reply[:stop]


def _file(root: Path, record: dict[str, Any]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    return root / f"replies-{hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]}.jsonl"


def _read(path: Path) -> dict[int, list[int]]:
    """The replies that are there; a last line that was cut short is cut off."""
    if not path.exists():
        return {}
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return dict(json.loads(line) for line in whole.splitlines())
