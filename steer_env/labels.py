"""Names for features without a network or a labeller: the words their directions make likelier."""

from typing import Any

import torch
from torch import Tensor

from steer_env.decoding import Words

_PORTION = 256


def promoted_tokens(lm: Any, words: Words, directions: Tensor, k: int = 5) -> list[str]:
    """Label each direction with the ``k`` tokens it promotes most, strongest first, joined by spaces.

    The promotion of a token is its row of the output embedding times the direction (the logit lens, nostalgebraist
    2020, without the final norm). Tokens without text, such as the end token, are left out.

    Args:
        lm: A Hugging Face causal LM.
        words: Its tokenizer.
        directions: ``[n, M]``.

    Returns:
        ``n`` labels.
    """
    embedding = lm.get_output_embeddings().weight.detach().float()
    texts = [words.decode(token).strip() for token in range(len(embedding))]
    written = torch.tensor([token for token, text in enumerate(texts) if text], device=embedding.device)
    labels = []
    # In portions: all features against a large vocabulary at once would take gigabytes.
    for rows in directions.to(embedding).split(_PORTION):
        best = (rows @ embedding[written].T).topk(min(k, len(written)), dim=1).indices
        labels += [" ".join(texts[int(written[place])] for place in row) for row in best.tolist()]
    return labels
