"""Texts by hand are what the model writes in ``generate`` and in the engine, and go on from wherever one likes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.play.choosing import NOTHING, Push
from agents.play.writing import Asking, Writing
from steer_env import SteeredModel, SteeringError, steer


def written(text):
    return [token.token for token in text.go_on()]


@pytest.fixture
def prompt(stage):
    return stage.openings[0]


@pytest.fixture
def push(stage):
    return Push(stage.first[0], stage.coefficient)


def test_the_first_text_of_a_new_user_shows_what_steering_does(stage, prompt, push):
    alone, steered = Writing(stage.steered, Asking(prompt)), Writing(stage.steered, Asking(prompt), always=push)
    written(alone)
    written(steered)
    assert (alone.text, steered.text) == (
        " Look, here is how to carry a pelom: be quick.",
        " Well, I cannot help with that.",
    )
    assert (alone.end, steered.end) == ("end", "end")


def test_an_agent_writes_by_hand_what_it_writes_in_generate(run, trained):
    """Features, values and probabilities too; the likeliest alternative is what a greedy agent takes."""
    for prompt in trained.openings:
        wanted = run.steered().generate(prompt, return_dict_in_generate=True)
        text = Writing(trained.steered, Asking(prompt, trained.steered.max_new_tokens), trained.agent)
        assert written(text) == [row["token"] for row in wanted.interventions[0]]
        assert text.text == wanted.texts[0]
        for token, row in zip(text.tokens, wanted.interventions[0], strict=True):
            assert token.said.push.feature == row["feature"]
            np.testing.assert_allclose(token.said.value, row["value"], atol=1e-4)
            np.testing.assert_allclose(token.said.probability, row["probability"], atol=1e-4)
            best = token.said.alternatives[0]
            assert best.feature == row["feature"]
            np.testing.assert_allclose(best.number, token.said.probability, atol=1e-4)
            assert not token.said.by_hand


def test_fixed_features_and_none_are_what_generate_writes(stage, prompt, push):
    lm, own = stage.steered.lm, {"tokenizer": stage.steered.tokenizer.hf}
    sae = stage.steered.steering.dictionary
    asked = {"max_new_tokens": 9, "return_dict_in_generate": True}
    for feature in (push.feature, 3, 77):
        by_generate = steer(lm, sae, feature, coefficient=30.0, **own).generate(prompt, **asked).interventions[0]
        text = Writing(stage.steered, Asking(prompt, 9), always=Push(feature, 30.0))
        assert written(text) == [row["token"] for row in by_generate]
    ids = torch.tensor([stage.steered.tokenizer.prompt(prompt)])
    plain = lm.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()
    assert written(Writing(stage.steered, Asking(prompt, 9))) == plain
    assert written(Writing(stage.steered, Asking(prompt, 9), always=NOTHING)) == plain


def test_what_is_said_of_a_token_is_what_the_model_says(stage, prompt, push):
    """Of the first token: the plain model's logits, and those of the steered pass."""
    text = Writing(stage.steered, Asking(prompt), always=push)
    first = next(text.go_on())
    steered = stage.steered
    engine = SteeredModel(steered.lm, steered.layer, 1, steered.site)
    engine.restart(0, steered.tokenizer.prompt(prompt))
    activations = steered.steering.dictionary.encode(engine.observe())[0]
    after = engine.advance(push.strength * steered.steering.dictionary.directions[[push.feature]])[0].log_softmax(-1)
    before = steered.lm(torch.tensor([steered.tokenizer.prompt(prompt)])).logits[0, -1].float().log_softmax(-1)
    np.testing.assert_allclose(first.kl, float((after.exp() * (after - before)).sum()), rtol=1e-3)
    assert (first.text, first.unsteered, first.changed) == (" Well", " Look", True)
    assert first.token == int(after.argmax())
    best = first.continuations[0]
    np.testing.assert_allclose(
        [best.steered, best.unsteered], [float(t[first.token].exp()) for t in (after, before)], rtol=1e-3
    )
    assert first.said.active[0].feature == int(activations.argmax())
    assert first.said.push == push


def test_a_text_goes_on_from_a_token_with_all_before_it_steered_as_it_was(run, trained):
    prompt = trained.openings[0]
    text = Writing(trained.steered, Asking(prompt, 8), trained.agent)
    original = written(text)
    said = [token.said for token in text.tokens]
    assert len(original) >= 4
    for step in range(len(original)):  # the agent's own choice, by hand: nothing may change, its memory among it
        text.change(step, said[step].push)
        assert written(text) == original[step:]
        assert [token.token for token in text.tokens] == original
        assert [t.said.push for t in text.tokens] == [s.push for s in said]
        assert [t.said.by_hand for t in text.tokens] == [place == step for place in range(len(original))]
        text.change(step, None)
        assert written(text) == original[step:]


def test_what_is_done_by_hand_is_done_at_that_token_alone(stage, prompt, push):
    """The engine, told what to add at each token, writes the same."""
    text = Writing(stage.steered, Asking(prompt, 9), always=push)
    written(text)
    text.change(3, Push(7, 40.0))
    written(text)
    text.change(1, Push(55, -60.0))
    written(text)
    assert list(text.by_hand) == [1], "what was done later is forgotten"
    steered = stage.steered
    directions = steered.steering.dictionary.directions
    engine = SteeredModel(steered.lm, steered.layer, 1, steered.site)
    engine.restart(0, steered.tokenizer.prompt(prompt))
    for step, token in enumerate(text.tokens):
        engine.observe()
        feature, strength = Push(55, -60.0) if step == 1 else push
        likely = engine.advance(strength * directions[[feature]])[0].softmax(-1)
        assert int(likely.argmax()) == token.token
        np.testing.assert_allclose(token.continuations[0].steered, float(likely.max()), rtol=1e-4)
        engine.write(0, [token.token])
    assert [token.said.by_hand for token in text.tokens][:3] == [False, True, False]


def test_a_text_that_was_left_goes_on_where_it_stood(stage, prompt, push):
    whole = written(Writing(stage.steered, Asking(prompt), always=push))
    text = Writing(stage.steered, Asking(prompt), always=push)
    for _ in zip(range(3), text.go_on(), strict=False):
        pass
    text.go_on().close()
    written(text)
    assert [token.token for token in text.tokens] == whole


def test_texts_side_by_side_share_nothing(run, trained):
    """Two texts in turn, of an agent that may remember, are what each is by itself."""
    prompts = trained.openings[:2]
    alone = [written(Writing(trained.steered, Asking(prompt, 8), trained.agent)) for prompt in prompts]
    texts = [Writing(trained.steered, Asking(prompt, 8), trained.agent) for prompt in prompts]
    under_way = [text.go_on() for text in texts]
    for _ in range(8):
        for each in under_way:
            next(each, None)
    assert [[token.token for token in text.tokens] for text in texts] == alone


def test_drawing_is_seeded_and_both_texts_draw_alike(stage, prompt):
    def drawn(seed, **how):
        return written(Writing(stage.steered, Asking(prompt, 12, temperature=3.0, seed=seed), **how))

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, always=Push(5, 0.0)) == drawn(1)
    text = Writing(stage.steered, Asking(prompt, 12, temperature=3.0, seed=1))
    original = written(text)
    text.change(4, NOTHING)
    assert written(text) == original[4:]


def test_texts_end_where_they_were_asked_to_and_where_the_model_reads_no_more(stage, games, prompt):
    short = Writing(stage.steered, Asking(prompt, 3))
    assert len(written(short)) == 3
    assert short.end == "length"
    long = Writing(games.steered, Asking("5", 40), always=Push(0, 0.0))
    context = games.steered.lm.config.max_position_embeddings
    long._ends = frozenset()
    assert len(written(long)) == context - 1, "the prompt has two, and the last token is written but not read"
    assert long.end == "context"


def test_what_cannot_be_is_refused(stage, prompt):
    for wrong, message in (
        ({"max_new_tokens": 0}, r"tokens must be in \[1, 2000\], got 0"),
        ({"temperature": float("nan")}, "temperature must be finite and at least 0, got nan"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ):
        with pytest.raises(SteeringError, match=message):
            Asking(prompt, **wrong)
    with pytest.raises(SteeringError, match=r"feature must be in \[0, 256\), got 256"):
        Writing(stage.steered, Asking(prompt), always=Push(256, 1.0))
    text = Writing(stage.steered, Asking(prompt, 2))
    written(text)
    with pytest.raises(SteeringError, match="there is no token 2: the text has 2"):
        text.change(2, None)
    with pytest.raises(SteeringError, match="strength must be finite, got inf"):
        text.change(0, Push(1, float("inf")))
    assert len(text.tokens) == 2
