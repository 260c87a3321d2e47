"""The page answers this machine alone, at once, and never with a traceback."""

from __future__ import annotations

import json
import threading
import urllib.request

import pytest

from agents.play import server as library
from agents.play.server import listening, serve
from experiments.__main__ import main
from experiments.play import PlayConfig, settings_of
from tests.play.serving import opened_session, post, served


@pytest.fixture
def address(house):
    with served(lambda: house) as found:
        yield found


@pytest.fixture
def asked(address, house):
    return {"session": opened_session(address), "prompt": house.about["openings"][0], "feature": 20}


def test_the_page_is_served_while_models_load(house):
    loaded = threading.Event()

    def opened():
        loaded.wait()
        return house

    with served(opened) as address:
        page = urllib.request.urlopen(address, timeout=5)
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert json.loads(post(f"{address}/open")[1]) == {"loading": True}
        assert post(f"{address}/ask/stop")[0] == 400
        loaded.set()
        assert opened_session(address)


def test_texts_are_streamed_a_line_a_token(address, asked):
    status, lines = post(f"{address}/stream/write", asked)
    events = [json.loads(line) for line in lines.splitlines()]
    assert status == 200
    assert "".join(each["text"] for each in events if each.get("arm") == "steered") == " Well, I cannot help with that."
    session = asked["session"]
    told = json.loads(post(f"{address}/ask/token", {"session": session, "arm": "steered", "step": 0})[1])
    assert told["feature"] == 20


def test_what_is_refused_is_one_line(address, asked, monkeypatch, house, capsys):
    refused = json.loads(post(f"{address}/stream/write", asked | {"feature": 999})[1])
    assert refused == {"error": "feature must be in [0, 256), got 999"}
    session = {"session": asked["session"]}
    assert json.loads(post(f"{address}/ask/play", {**session, "arm": "steered", "cell": 1})[1]) == {
        "error": "no game is under way: begin one"
    }
    assert post(f"{address}/ask/token", {"session": "x"}) == (
        400,
        '{"error":"this page was opened too long ago: reload it"}',
    )
    assert post(f"{address}/ask/_episode", session)[0] == 400
    assert post(f"{address}/stream/close", session)[0] == 400
    assert post(f"{address}/ask/token", [1])[0] == 400

    def broken(asked):
        raise KeyError("on purpose")

    monkeypatch.setattr(house.session(asked["session"]), "play", broken)
    assert json.loads(post(f"{address}/ask/play", session)[1]) == {"error": "KeyError: 'on purpose'"}
    assert "Traceback" in capsys.readouterr().err


def test_other_pages_cannot_reach_it(address, asked):
    """Neither by another name of this machine, nor as a form."""
    assert post(f"{address}/open", Host="steer.example")[0] == 400
    status, text = post(f"{address}/ask/stop", {"session": asked["session"]}, Content_Type="text/plain")
    assert (status, text) == (400, '{"error":"what is asked must be application/json"}')
    with listening(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        with pytest.raises(OSError, match=r"port \d+ of 127.0.0.1 cannot be had .*: choose another with --port"):
            listening(listener.getsockname()[1])


def test_a_reader_who_leaves_ends_the_text(address, asked, house):
    request = urllib.request.Request(f"{address}/stream/write", json.dumps(asked | {"max_new_tokens": 2000}).encode())
    request.add_header("Content-Type", "application/json")
    session = house.session(asked["session"])
    stop, stops = session.stop, []
    session.stop = lambda asked: (stops.append(len(session._texts)), stop(asked))[1]
    with urllib.request.urlopen(request, timeout=60) as reply:
        reply.readline()
    for _ in range(200):
        if len(stops) > 1:
            break
        threading.Event().wait(0.05)
    assert len(stops) > 1, "one before the text, one when nobody reads on"


def test_a_house_that_cannot_be_opened_ends_the_program():
    def opened():
        raise ValueError("no such model")

    said = []
    with pytest.raises(ValueError, match="no such model"):
        serve(opened, 0, said.append)
    assert said[0].startswith("http://127.0.0.1:")


def test_the_command_refuses_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "serve", lambda *asked: pytest.fail("nothing may be served"))
    for flags, message in (
        (["--run", str(tmp_path / "nowhere")], "there is no run folder"),
        (["--run", str(tmp_path), "--preset", "gpt2"], "--run says what is played: leave preset out"),
        (["--model", "gpt2"], "--model needs --sae"),
        (["--preset", "gpt2", "--env-kwargs", "preset=gpt2"], "preset is given twice"),
    ):
        assert main(["play", *flags]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert settings_of(PlayConfig(model="m", sae="s", env_kwargs={"layer": 3})) == {
        "model": "m",
        "sae": "s",
        "layer": 3,
    }
