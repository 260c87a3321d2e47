"""The page as it is served, in a thread of the test."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from agents.play.server import Opening, configuration, listening


@contextmanager
def served(opened: Any) -> Iterator[str]:
    """Its address, once it answers."""
    with listening(0) as listener:
        opening = Opening(opened)
        opening.begin()
        server = uvicorn.Server(configuration(opening))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def post(url: str, asked: Any = None, **headers: str) -> tuple[int, str]:
    """Status and text of the reply."""
    told = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    request = urllib.request.Request(url, json.dumps({} if asked is None else asked).encode(), told)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def opened_session(address: str) -> str:
    """A session, once the models are loaded."""
    while "session" not in (found := json.loads(post(f"{address}/open")[1])):
        time.sleep(0.05)
    return str(found["session"])
