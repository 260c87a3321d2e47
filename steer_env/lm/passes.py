"""Forward passes that show, and let others edit, the residual at one block. The only file that touches hooks."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

from steer_env.errors import SteeringError
from steer_env.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


def pausing_pass(lm: Any, inputs: dict[str, Any], block: nn.Module, site: str) -> Any:
    """Body of the greenlet: a forward pass that hands its residual ``[b, Q, M]`` to the parent and sleeps there.

    It must not refer to the engine: nothing collects a cycle through a sleeping stack.
    """

    def pause(hidden: Tensor) -> Tensor:
        delta = getcurrent().parent.switch(hidden)
        return steered_last(hidden, delta)

    return hooked_pass(lm, inputs, block, site, pause)


def steered_last(hidden: Tensor, delta: Tensor) -> Tensor:
    """Residuals ``[b, Q, M]`` with ``delta [b, M]`` added to each last one."""
    last = hidden[:, -1:] + delta.to(hidden)[:, None]
    return last if hidden.shape[1] == 1 else torch.cat([hidden[:, :-1], last], dim=1)


def hooked_pass(
    lm: Any, inputs: dict[str, Any], block: nn.Module, site: str, edit: Callable[[Tensor], Tensor | None]
) -> Any:
    """One forward pass; ``edit`` sees the site's residual ``[b, Q, M]`` once and may replace it."""
    # The loaded model is shared: another thread may be running it. A greenlet that its own sleeping stack refers to
    # would never be freed, nor the keys and values there.
    owner = weakref.ref(getcurrent())

    def at_site(hidden: Tensor) -> Tensor | None:
        if getcurrent() is not owner():
            return None
        handle.remove()
        return edit(hidden)

    handle = _attach(block, site, at_site)
    try:
        return lm(**inputs)
    finally:
        handle.remove()


@contextmanager
def edited_passes(
    lm: Any, block: nn.Module, site: str, edit: Callable[[Tensor, bool], Tensor | None]
) -> Iterator[None]:
    """Let ``edit`` see, and replace, the site's residual ``[b, Q, M]`` of every pass that this thread runs.

    It is also told whether the pass begins texts: whether there are no keys and values of earlier ones. Nothing of it
    is left behind.
    """
    thread, fresh = threading.get_ident(), True

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal fresh
        cache = kwargs.get("past_key_values")
        fresh = cache is None or cache.get_seq_length() == 0

    def at_site(hidden: Tensor) -> Tensor | None:
        return edit(hidden, fresh) if threading.get_ident() == thread else None

    handles = [lm.register_forward_pre_hook(begin, with_kwargs=True), _attach(block, site, at_site)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def explained_memory() -> Iterator[None]:
    """Say what to lower where a pass runs out of memory.

    Raises:
        SteeringError: In place of PyTorch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SteeringError(
            "out of memory in the forward pass: lower num_envs, shorten the prompts or load with dtype='bfloat16'"
        ) from error


def _attach(block: nn.Module, site: str, edit: Callable[[Tensor], Tensor | None]) -> Any:
    """Hook ``edit`` onto the block's output or input; returns the handle."""

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        edited = edit(hidden)
        if edited is None:
            return None
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        named = not args
        edited = edit(kwargs["hidden_states"] if named else args[0])
        if edited is None:
            return None
        return ((), {**kwargs, "hidden_states": edited}) if named else ((edited, *args[1:]), kwargs)

    if site == "post":
        return block.register_forward_hook(after)
    return block.register_forward_pre_hook(before, with_kwargs=True)
