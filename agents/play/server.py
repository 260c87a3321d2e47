"""The local page: one program for one machine, reached from this machine alone.

It answers at once, and says so while models are still being loaded. What is asked runs in the session's own thread.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from importlib.resources import files as package_files
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from agents.play.sessions import House, Session

HOST = "127.0.0.1"
ASKED = frozenset({"stop", "token", "search", "begin", "play", "reset", "step"})
STREAMED = frozenset({"write", "change"})
_AT_ONCE = frozenset({"stop", "search", "token"})
"""What does not wait for the text that is being written."""
_SCRIPTS = (
    ("agents.report", "page.js"),
    *(("agents.play", name) for name in ("play.js", "text.js", "game.js", "env.js", "start.js")),
)
_STYLES = (("agents.report", "page.css"), ("agents.play", "play.css"))
_POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:"


class Opening:
    """A house that is opened in a thread of its own.

    Args:
        opened: Opens it.

    Attributes:
        house: The house, or None while it is being opened.
        error: Why it could not be.
    """

    def __init__(self, opened: Callable[[], House]) -> None:
        self.house: House | None = None
        self.error: Exception | None = None
        self._opened = opened

    def begin(self, failed: Callable[[], None] = lambda: None) -> None:
        """Open it; ``failed`` is called where that cannot be done."""
        threading.Thread(target=self._open, args=(failed,), daemon=True).start()

    def _open(self, failed: Callable[[], None]) -> None:
        try:
            self.house = self._opened()
        except Exception as error:  # raised again where the program waits
            self.error = error
            failed()


def serve(opened: Callable[[], House], port: int, announce: Callable[[str], None] = print) -> None:
    """Serve the page until Ctrl-C.

    Args:
        opened: Opens the house; called in a thread of its own.
        port: Of 127.0.0.1; 0 takes a free one.
        announce: Is told the address once the page answers.

    Raises:
        OSError: The port is taken.
        Exception: What ``opened`` raises.
    """
    opening = Opening(opened)
    with listening(port) as listener:
        server = uvicorn.Server(configuration(opening))
        opening.begin(failed=lambda: setattr(server, "should_exit", True))
        announce(f"http://{HOST}:{listener.getsockname()[1]}")
        server.run(sockets=[listener])
    if opening.error is not None:
        raise opening.error


def listening(port: int) -> socket.socket:
    """A socket of this machine alone.

    Raises:
        OSError: The port is taken.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise OSError(f"port {port} of {HOST} cannot be had ({error}): choose another with --port") from error


def configuration(opening: Opening) -> uvicorn.Config:
    """How the page is served."""
    return uvicorn.Config(application(opening), log_level="warning", timeout_graceful_shutdown=1)


def application(opening: Opening) -> Starlette:
    """The page and what it asks for."""
    page = package_files("agents.play").joinpath("page/play.html").read_text(encoding="utf-8")
    script, style = _joined(_SCRIPTS), _joined(_STYLES)
    routes = [
        Route("/", lambda request: _file(page, "text/html")),
        Route("/play.js", lambda request: _file(script, "text/javascript")),
        Route("/play.css", lambda request: _file(style, "text/css")),
        Route("/open", _open, methods=["POST"]),
        Route("/ask/{what}", _ask, methods=["POST"]),
        Route("/stream/{what}", _stream, methods=["POST"]),
    ]
    # A page elsewhere that names itself this machine must not reach it.
    own = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    made = Starlette(routes=routes, middleware=[own])
    made.state.opening = opening
    return made


def told(error: Exception) -> str:
    """An error in one line; where it is a fault of the program, its traceback goes to the terminal."""
    if not isinstance(error, (ValueError, RuntimeError, OSError)):
        traceback.print_exception(error, file=sys.stderr)
        return f"{type(error).__name__}: {error}"
    return " ".join(str(error).split())


async def _open(request: Request) -> Response:
    """A new session and what it is about; while nothing can be played yet, that alone."""
    opening: Opening = request.app.state.opening
    if opening.error is not None:
        return JSONResponse({"error": told(opening.error)})
    if opening.house is None:
        return JSONResponse({"loading": True})
    return JSONResponse({"session": opening.house.open(), "about": opening.house.about})


async def _ask(request: Request) -> Response:
    try:
        session, what, asked = await _read(request, ASKED)
    except ValueError as error:
        return JSONResponse({"error": told(error)}, 400)
    return JSONResponse(await _answer(session, what, asked))


async def _stream(request: Request) -> Response:
    try:
        session, what, asked = await _read(request, STREAMED)
    except ValueError as error:
        return JSONResponse({"error": told(error)}, 400)
    return StreamingResponse(_events(session, what, asked), media_type="application/x-ndjson")


async def _read(request: Request, known: frozenset[str]) -> tuple[Session, str, dict[str, Any]]:
    """The session, what is asked of it, and with what.

    Raises:
        ValueError: Any of them is not what it should be.
    """
    house, what = request.app.state.opening.house, request.path_params["what"]
    if house is None or what not in known:
        raise ValueError(f"nothing here answers to {what!r}")
    # A form of another page cannot send this type.
    if request.headers.get("content-type") != "application/json":
        raise ValueError("what is asked must be application/json")
    asked = await request.json()
    if not isinstance(asked, dict):
        raise ValueError(f"what is asked must be an object, got {asked!r}")
    return house.session(asked.get("session")), what, asked


async def _answer(session: Session, what: str, asked: dict[str, Any]) -> dict[str, Any]:
    thread = None if what in _AT_ONCE else session.thread
    if thread is not None:
        session.stop({})
    try:
        found = await asyncio.get_running_loop().run_in_executor(thread, getattr(session, what), asked)
        return dict(found)
    except Exception as error:  # shown in the page
        return {"error": told(error)}


async def _events(session: Session, what: str, asked: dict[str, Any]) -> AsyncIterator[str]:
    """A line of JSON an event, as they come; the text ends where nobody reads on."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def put(event: dict[str, Any] | None) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    def work() -> None:
        try:
            for event in getattr(session, what)(asked):
                put(event)
        except Exception as error:  # shown in the page
            put({"error": told(error)})
        finally:
            put(None)

    session.stop({})
    session.thread.submit(work)
    try:
        while (event := await events.get()) is not None:
            yield json.dumps(event) + "\n"
    finally:
        session.stop({})


def _file(text: str, kind: str) -> Response:
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(text, media_type=kind, headers=headers)


def _joined(parts: tuple[tuple[str, str], ...]) -> str:
    found = (package_files(package).joinpath(f"page/{name}") for package, name in parts)
    return "\n".join(part.read_text(encoding="utf-8") for part in found)
