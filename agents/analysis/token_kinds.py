"""What kind of token each token of a task's texts is: punctuation, digits, function word, format or content.

The kind is that of the word a token is part of. Function words are a closed list of English. Format is what the texts'
frame brings along whatever the item: special tokens, and words that nearly every prompt has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence, Set
from typing import Any

KINDS = ("punctuation", "function", "digits", "format", "content")
FRAME = 0.9  # of the prompts have a word of the frame
SPACES = "▁Ġ"  # how tokenizers write the space in front of a word

_CLOSED_CLASSES = {
    "determiners": "a an the this that these those each every either neither some any no all both few many much more "
    "most other another such own same several enough less least",
    "pronouns": "i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its "
    "itself we us our ours ourselves they them their theirs themselves one ones who whom whose which what whoever "
    "whatever someone somebody something anyone anybody anything everyone everybody everything none nobody nothing",
    "prepositions": "about above across after against along among around at before behind below beneath beside besides "
    "between beyond by despite down during except for from in inside into like near of off on onto out outside over "
    "past per since through throughout till to toward towards under until up upon via with within without",
    "conjunctions": "and or but nor so yet if then else than because although though while whereas unless whether as "
    "when where why how",
    "auxiliaries": "am is are was were be been being do does did doing have has had having can could may might must "
    "shall should will would ought cannot s re ve ll d m",
    "adverbs": "not t there here too very just also only even still again ever never",
}
FUNCTION_WORDS = frozenset(word for words in _CLOSED_CLASSES.values() for word in words.split())


def token_kinds(rows: Sequence[Sequence[int]], prompts: Sequence[int], tokenizer: Any) -> list[list[str]]:
    """The kind of every token, one of ``KINDS``.

    Args:
        rows: Tokens of each text.
        prompts: How many tokens of each are its prompt.
        tokenizer: The tokenizer (:class:`steer_env.lm.tokenizer.Tokenizer`).

    Raises:
        ValueError: There are no texts.
    """
    if len(rows) == 0:
        raise ValueError("there are no texts to find the kinds of tokens in")
    special = set(tokenizer.hf.all_special_ids)
    owners = [_words_of([_piece(token, tokenizer) for token in row]) for row in rows]
    frame = frame_words([owned[:length] for owned, length in zip(owners, prompts, strict=True)])
    return [
        ["format" if token in special else word_kind(word, frame) for token, word in zip(row, owned, strict=True)]
        for row, owned in zip(rows, owners, strict=True)
    ]


def frame_words(prompts: Sequence[Sequence[str]]) -> frozenset[str]:
    """The words that at least ``FRAME`` of the prompts have."""
    counts = Counter(word for prompt in prompts for word in set(prompt))
    return frozenset(word for word, count in counts.items() if count >= FRAME * len(prompts))


def word_kind(word: str, frame: Set[str]) -> str:
    """The kind of a word; ``""`` stands for what is no word, white space and signs."""
    if not word:
        return "punctuation"
    if word[0].isdigit():
        return "digits"
    # The letter of an option is no article.
    if word in frame and len(word) == 1 and word.isupper():
        return "format"
    if word.lower() in FUNCTION_WORDS:
        return "function"
    return "format" if word in frame else "content"


def _piece(token: int, tokenizer: Any) -> str:
    """The token's text, with the space in front of it that some tokenizers only mark."""
    text = tokenizer.decode(token)
    marked = tokenizer.hf.convert_ids_to_tokens(token)[:1]
    return f" {text}" if marked and marked in SPACES and not text[:1].isspace() else text


def _words_of(pieces: Sequence[str]) -> list[str]:
    """For each piece of a text the word that its first sign is in, ``""`` for none."""
    text, owner = "".join(pieces), {}
    for match in re.finditer(r"[^\W_]+", text):
        owner.update(dict.fromkeys(range(*match.span()), match.group()))
    found, start = [], 0
    for piece in pieces:
        found.append(owner.get(start + len(piece) - len(piece.lstrip()), "") if piece.strip() else "")
        start += len(piece)
    return found
