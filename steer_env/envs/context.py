"""Whether prompts and the replies to them have room in the model's context: asked before anything is played."""

from collections.abc import Iterable

from steer_env.errors import SteeringError
from steer_env.lm.tokenizer import Tokenizer
from steer_env.tasks.base import Conversation, Task

_TOKENISED = 200_000  # bytes of prompts that are tokenised at most: a fraction of a second


def require_context(task: Task, items: Iterable[int], tokenizer: Tokenizer, context: int | None) -> None:
    """Refuse items that the model cannot read to the end of the reply to them.

    No token is shorter than a byte, so that prompts short enough in bytes have room. Of the others the longest are
    tokenised, and all of them where they are few; the rest is left to the model, which refuses what is too long when
    it comes up. Games are left to it too, for nobody knows their replies beforehand.

    Args:
        task: The task.
        items: Those that will be dealt.
        tokenizer: The model's tokenizer.
        context: Tokens that the model can hold; None is no limit.

    Raises:
        SteeringError: An item has no room; the longest found is named.
    """
    if context is None or task.turns > 1:
        return
    suspects = _longest(task, items, context - len(tokenizer.prompt(".")))
    longest = max(suspects, key=lambda item: len(tokenizer.prompt(task.start(item).opening)), default=None)
    if longest is None or fits_context(task, tokenizer, context, longest):
        return
    prompt, reply = _tokens(task, tokenizer, longest)
    raise SteeringError(
        f"item {longest} of this split needs {prompt + reply} tokens ({prompt} for its prompt, the rest for the "
        f"reply), but the model's context is {context}: lower few_shot or max_new_tokens, leave such items out of "
        "data=, or take a model with a longer context"
    )


def fits_context(task: Task, tokenizer: Tokenizer, context: int | None, item: int) -> bool:
    """Whether an item's prompt and the longest reply to it fit; of a game that is not known, and it is True."""
    return context is None or task.turns > 1 or sum(_tokens(task, tokenizer, item)) <= context


def _tokens(task: Task, tokenizer: Tokenizer, item: int) -> tuple[int, int]:
    """Tokens of the prompt, and those of the longest reply that the model reads: all but the last."""
    talk = task.start(item)
    options = tokenizer.options(talk.opening, tokenizer.spoken(talk.choices, True), True) if talk.choices else ()
    return len(tokenizer.prompt(talk.opening)), max(map(len, options), default=task.max_new_tokens) - 1


def _longest(task: Task, items: Iterable[int], least: int) -> list[int]:
    """Items of more than ``least`` bytes, the longest first, as many as are tokenised."""
    bounds = ((_bytes(task.start(item), task.max_new_tokens), item) for item in items)
    found: list[int] = []
    total = 0
    for size, item in sorted((bound for bound in bounds if bound[0] > least), reverse=True):
        total += size
        if found and total > _TOKENISED:
            break
        found.append(item)
    return found


def _bytes(talk: Conversation, max_new_tokens: int) -> int:
    """Bytes of the prompt and of the longest choice; a free reply counts by its tokens."""
    return len(talk.opening.encode()) + max((len(choice.encode()) for choice in talk.choices), default=max_new_tokens)
