"""How long a new user waits: ``python -m tests.play.measure [FLAGS of steer play]``.

From the start of the command to a page that answers and to models that are loaded, and from a press of Go to the first
steered token, twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from typing import Any

from tests.play.serving import post

GIVE_UP = 120.0


def first_token(address: str, asked: dict[str, Any]) -> float:
    """Seconds until the first token has come."""
    request = urllib.request.Request(f"{address}/stream/write", json.dumps(asked).encode())
    request.add_header("Content-Type", "application/json")
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=GIVE_UP) as reply:
        assert json.loads(reply.readline())["arm"] == "steered"
        return time.perf_counter() - start


def main(flags: list[str]) -> None:
    """Print the four figures."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "experiments", "play", "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as program:
        assert program.stdout is not None
        address = program.stdout.readline().split()[2]
        urllib.request.urlopen(address, timeout=GIVE_UP).read()
        print(f"page answers after {time.perf_counter() - start:.2f} s")
        while "session" not in (found := json.loads(post(f"{address}/open")[1])):
            time.sleep(0.02)
        print(f"models loaded after {time.perf_counter() - start:.2f} s")
        about = found["about"]
        own = {} if about["agent"] else {"feature": (about["first"] or {"feature": 0})["feature"]}
        for press in ("first", "second"):
            seconds = first_token(address, {"session": found["session"], "prompt": about["openings"][0], **own})
            print(f"{press} press: first steered token after {seconds:.3f} s")
        program.terminate()


if __name__ == "__main__":
    main(sys.argv[1:])
