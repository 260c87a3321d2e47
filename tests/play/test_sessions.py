"""Sessions are told apart, speak plain data, and refuse what is not."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from agents.play.sessions import MOST, House
from agents.play.stage import stage_of_run
from steer_env import SteeringError


def events(stream):
    """All of a stream, which must be JSON."""
    return json.loads(json.dumps(list(stream)))


def text(found, arm):
    return "".join(event["text"] for event in found if event.get("arm") == arm)


@pytest.fixture
def session(house):
    return house.session(house.open())


@pytest.fixture
def asked(house):
    return {"prompt": house.about["openings"][0], "feature": house.about["first"]["feature"]}


def test_both_texts_come_token_by_token_the_steered_one_first(session, asked):
    found = events(session.write(asked))
    assert [event["arm"] for event in found[:4]] == ["steered", "unsteered"] * 2
    assert text(found, "steered") == " Well, I cannot help with that."
    assert text(found, "unsteered") == " Look, here is how to carry a pelom: be quick."
    assert found[-1]["ends"] == {"steered": "end", "unsteered": "end"}
    assert found[0]["label"]
    told = session.token({"arm": "steered", "step": 0})
    assert json.loads(json.dumps(told)) == told | {"continuations": told["continuations"]}
    assert told["active"][0]["label"]
    again = events(session.change({"step": 0, "feature": -1}))
    assert text(again, "steered") == text(found, "unsteered")
    assert {event.get("arm") for event in again} == {"steered", None}
    assert text(events(session.change({"step": 0, "back": True})), "steered") == text(found, "steered")


def test_a_text_that_is_stopped_says_so_and_goes_no_further(session, asked):
    writing = session.write(asked)
    found = [next(writing) for _ in range(4)]
    session.stop({})
    found += list(writing)
    assert len(found) <= 7
    assert found[-1]["ends"] == {"steered": "stopped", "unsteered": "stopped"}


def test_people_who_play_at_once_do_not_disturb_each_other(house):
    """In threads of their own, with texts, games and environments of the same model."""
    prompts = house.about["openings"]
    asking = [
        {"prompt": prompts[place % len(prompts)], "feature": 20 + place, "temperature": 1.5, "seed": place}
        for place in range(4)
    ]

    def play(asked):
        session = house.session(house.open())
        games = [session.begin({"arm": arm, "cell": asked["seed"], "feature": 135}) for arm in ("steered", "unsteered")]
        reset = session.reset({"env": "Steer-XSTest-v0", "item": asked["seed"]})
        found = events(session.write(asked))
        found += events(session.change({"step": 2, "feature": 55}))
        stepped = [session.step({"feature": asked["feature"]}) for _ in range(3)]
        return json.dumps([found, games, reset, stepped])

    alone = [play(asked) for asked in asking]
    with ThreadPoolExecutor(len(asking)) as threads:
        together = list(threads.map(play, asking))
    assert together == alone
    assert len(set(alone)) == len(asking)


def test_a_session_is_kept_while_it_is_used(house):
    first, second = house.open(), house.open()
    for _ in range(MOST - 1):
        house.session(first)
        house.open()
    assert house.session(first)
    for name in (second, "no such session", None, 3):
        with pytest.raises(SteeringError, match="opened too long ago: reload it"):
            house.session(name)


def test_games_and_episodes_are_told_in_plain_data(session):
    for state in (
        session.begin({"arm": "steered", "cell": 4, "feature": 135}),
        session.begin({"arm": "unsteered", "cell": None}),
        session.play({"arm": "steered", "cell": 0}),
        session.reset({"env": "Steer-MMLU-v0", "item": 3}),
        session.step({"feature": 128}),
    ):
        json.dumps(state, allow_nan=False)
    assert state["over"]
    assert state["final"]["option_logprobs"]
    assert state["steps"][0]["feature"] == 128
    assert state["steps"][0]["label"]
    assert session.reset({"env": "Steer-MMLU-v0", "item": 3})["total"] == 0


def test_features_are_found_by_number_and_by_words(session, house):
    house.main.features.read_all()
    assert [row["feature"] for row in session.search({"query": "20"})["found"]] == [20]
    assert session.search({"query": "999"})["found"] == []
    found = session.search({"query": "well i"})["found"]
    assert found
    assert all("well" in row["label"].lower() for row in found)
    whole = [("well" in row["label"].lower().split()) for row in session.search({"query": "well"})["found"]]
    assert whole == sorted(whole, reverse=True)
    label = session.search({"where": "game", "query": "135"})["found"][0]["label"]
    assert label == house.about["game"]["first"]["label"]
    session.reset({"env": "Steer-GSM8K-v0"})
    assert session.search({"where": "env", "query": "20"}) != session.search({"query": "20"})


def test_what_cannot_be_is_one_line(session, asked):
    for what, wrong, message in (
        (session.token, {"arm": "steered", "step": 0}, "nothing is written yet"),
        (session.token, {"arm": "both", "step": 0}, "arm must be 'steered' or 'unsteered', got 'both'"),
        (session.play, {"arm": "steered", "cell": 1}, "no game is under way"),
        (session.step, {"feature": 1}, "no episode is under way"),
        (session.begin, {"arm": "steered", "cell": "1", "feature": 1}, "cell must be a whole number, got '1'"),
        (session.begin, {"arm": "steered", "cell": 1}, "choose a feature first"),
        (session.reset, {"env": "Steer-Stories-v0"}, "environment must be one of .*, got 'Steer-Stories-v0'"),
        (session.reset, {"split": "tset"}, "split must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            what(wrong)
    for wrong, message in (
        ({"prompt": "x"}, "choose a feature first"),
        ({"feature": True}, "feature must be a whole number, got True"),
        ({"strength": "strong"}, "strength must be a number, got 'strong'"),
        ({"temperature": float("nan")}, "temperature must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            list(session.write((asked if "prompt" not in wrong else {}) | wrong))


def test_a_run_plays_its_own_agent(run):
    house = House(stage_of_run(run.path))
    assert house.about["agent"]
    assert house.envs == ["Steer-SimpleQA-v0"]
    session = house.session(house.open())
    prompt = house.about["openings"][0]
    found = events(session.write({"prompt": prompt, "max_new_tokens": 8}))
    steered = run.steered().generate(prompt, max_new_tokens=8)
    assert found[-1]["texts"]["steered"] == steered
    assert session.token({"arm": "steered", "step": 0})["weighed_by"] == "probability"
    assert session.reset({})["choice"]["alternatives"]
    assert session.step({})["steps"][0]["by_hand"] is False


def test_an_agent_that_sees_a_board_plays_games_and_writes_no_texts(tmp_path):
    import agents

    own = {"algo": "ppo", "env_kwargs": {"observation": "board"}, "runs_dir": tmp_path, "mask": "off"}
    run = agents.train(
        "Steer-TicTacToe-v0",
        "board",
        total_timesteps=64,
        num_envs=8,
        algo_kwargs={"n_steps": 8},
        wandb="disabled",
        **own,
    )
    house = House(stage_of_run(run.path))
    session = house.session(house.open())
    with pytest.raises(SteeringError, match="the agent writes no texts, a fixed feature can: what the policy sees"):
        list(session.write({"prompt": "5"}))
    assert events(session.write({"prompt": "5", "feature": 1}))
    game = session.begin({"arm": "steered", "cell": 4})
    assert game["moves"][0]["alternatives"]
    assert session.reset({})["seen"][0]["values"]
