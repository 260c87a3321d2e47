"""A steered model writes what the evaluator plays, and leaves nothing behind on the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import TextStreamer, pipeline

import agents
from steer_env import SteeredLM, SteeredModel, SteeringError, evaluate, fixed, steer, unsteered, unwrap
from steer_env.lm.anatomy import find_block

ENV = "Steer-SimpleQA-v0"
SHORT = {"num_envs": 8, "total_timesteps": 256, "wandb": "disabled"}


@pytest.fixture(scope="module", params=["off", "current", "generation", "opening"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    kwargs = {"observation": "prompted", "coefficient": 3.0}
    return agents.train(ENV, request.param, mask=request.param, env_kwargs=kwargs, runs_dir=folder, **SHORT)


@pytest.fixture(scope="module")
def parts():
    import gymnasium as gym

    return unwrap(gym.make_vec(ENV, num_envs=1))


@pytest.fixture(scope="module")
def feature(parts) -> int:
    """One that changes what is written behind the first prompt."""
    own = {"tokenizer": parts.tokenizer.hf, "coefficient": 30.0}
    plain = SteeredLM(parts.lm, parts.sae, unsteered(), **own).generate(openings(parts, 1), max_new_tokens=6)
    tried = (steer(parts.lm, parts.sae, feature, **own) for feature in range(parts.sae.width))
    written = (steered.generate(openings(parts, 1), max_new_tokens=6) for steered in tried)
    return next(number for number, texts in enumerate(written) if texts != plain)


def openings(envs, count: int) -> list[str]:
    return [envs.task.start(item).opening for item in envs.dealt[:count]]


def test_a_run_writes_what_the_evaluator_plays(run):
    """Token for token, in batches of prompts of different lengths, with the same features at the same tokens."""
    envs = run.envs("test", num_envs=4)
    items = unwrap(envs).dealt[:6]
    played = evaluate(envs, run.policy, items)
    steered = run.steered()
    steered.generate(openings(unwrap(envs), 12)[6:])  # earlier texts are forgotten
    written = steered.generate([unwrap(envs).task.start(item).opening for item in items], return_dict_in_generate=True)
    assert written.texts == [episode["completion"] for episode in played.episodes]
    for place, rows in enumerate(written.interventions):
        own = played.tokens["episode"] == place
        assert [row["token"] for row in rows] == played.tokens["token"][own].tolist()
        assert [row["feature"] for row in rows] == played.tokens["feature"][own].tolist()
        np.testing.assert_allclose([row["value"] for row in rows], played.tokens["value"][own], atol=1e-3)
        logs = np.log([row["probability"] for row in rows])
        np.testing.assert_allclose(logs, played.tokens["log_prob"][own], atol=1e-3)
        assert all(row["label"] for row in rows if row["feature"] >= 0)
        assert {row["coefficient"] for row in rows} == {unwrap(envs).coefficient}


def test_without_pushes_it_is_the_model_itself(parts):
    steered = SteeredLM(parts.lm, parts.sae, unsteered(), coefficient=9.0, tokenizer=parts.tokenizer.hf)
    ids = torch.randint(3, parts.lm.config.vocab_size, (3, 9), generator=torch.Generator().manual_seed(0))
    attention = torch.ones_like(ids)
    attention[1, :4] = 0
    plain = {"do_sample": False, "max_new_tokens": 7, "pad_token_id": parts.tokenizer.hf.pad_token_id}
    wanted = parts.lm.generate(ids, attention_mask=attention, **plain)
    assert torch.equal(steered.generate(ids, attention_mask=attention, max_new_tokens=7), wanted)


def test_one_feature_at_every_token_is_what_the_engine_does(parts, feature):
    steered = SteeredLM(parts.lm, parts.sae, fixed(feature), coefficient=30.0, tokenizer=parts.tokenizer.hf)
    prompt = openings(parts, 1)[0]
    found = steered.generate(prompt, max_new_tokens=6, return_dict_in_generate=True, stop=[])
    engine = SteeredModel(parts.lm, steered.layer, 1, steered.site)
    engine.restart(0, parts.tokenizer.prompt(prompt))
    wanted = []
    for _ in range(len(found.interventions[0])):
        engine.observe()
        wanted.append(int(engine.advance(30.0 * parts.sae.directions[[feature]]).argmax()))
        engine.write(0, wanted[-1:])
    assert [row["token"] for row in found.interventions[0]] == wanted
    alone = SteeredLM(parts.lm, parts.sae, unsteered(), coefficient=1.0, tokenizer=parts.tokenizer.hf)
    assert alone.generate(prompt, max_new_tokens=6, stop=[]) != found.texts[0], "the feature changes something"


def test_a_with_block_steers_whoever_calls_the_model_and_leaves_no_hook(parts, feature):
    lm, hf = parts.lm, parts.tokenizer.hf
    block, prompt = find_block(lm, parts.layer, parts.site), openings(parts, 1)[0]
    hooks = [len(lm._forward_pre_hooks), len(block._forward_hooks), len(block._forward_pre_hooks)]
    writer = pipeline("text-generation", model=lm, tokenizer=hf, device="cpu")
    settings = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}
    before = writer(prompt, **settings)[0]["generated_text"]
    with steer(lm, parts.sae, feature, coefficient=30.0, tokenizer=hf) as steered:
        within = writer(prompt, **settings)[0]["generated_text"]
        again = steered.generate(prompt, max_new_tokens=6, stop=[])
    assert within == again != before
    assert writer(prompt, **settings)[0]["generated_text"] == before
    with pytest.raises(RuntimeError, match="on purpose"), steer(lm, parts.sae, feature, coefficient=1.0, tokenizer=hf):
        raise RuntimeError("on purpose")
    assert hooks == [len(lm._forward_pre_hooks), len(block._forward_hooks), len(block._forward_pre_hooks)]


def test_drawing_is_seeded_and_moves_no_other_generator(parts):
    steered = SteeredLM(parts.lm, parts.sae, fixed(3), coefficient=1.0, tokenizer=parts.tokenizer.hf)
    prompts = openings(parts, 3)
    state = torch.random.get_rng_state()
    one, same, other = (
        steered.generate(prompts, do_sample=True, temperature=3.0, max_new_tokens=8, seed=seed) for seed in (1, 1, 2)
    )
    assert one == same != other
    assert torch.equal(state, torch.random.get_rng_state())
    greedy = steered.generate(prompts, max_new_tokens=8)
    assert steered.generate(prompts, do_sample=True, top_p=1e-6, max_new_tokens=8, seed=1) == greedy


def test_texts_end_at_stop_strings_and_stream(parts, capsys):
    steered = SteeredLM(parts.lm, parts.sae, unsteered(), coefficient=1.0, tokenizer=parts.tokenizer.hf)
    prompt = openings(parts, 1)[0]
    whole = steered.generate(prompt, max_new_tokens=8)
    stop = whole.split()[1]
    assert steered.generate(prompt, max_new_tokens=8, stop=stop) == whole[: whole.find(stop)]
    steered.generate(prompt, max_new_tokens=8, streamer=TextStreamer(parts.tokenizer.hf, skip_prompt=True))
    assert whole.strip() in capsys.readouterr().out


def test_what_comes_behind_a_stop_string_in_a_batch_is_no_part_of_a_reply(parts):
    """A text that has stopped is padded while others go on."""
    steered = SteeredLM(parts.lm, parts.sae, fixed(3), coefficient=1.0, tokenizer=parts.tokenizer.hf)
    prompts = openings(parts, 4)
    stop = steered.generate(prompts[0], max_new_tokens=8).split()[1]
    asked = {"max_new_tokens": 8, "stop": stop, "return_dict_in_generate": True}
    together = steered.generate(prompts, **asked)
    alone = [steered.generate(prompt, **asked) for prompt in prompts]
    lengths = [len(rows) for rows in together.interventions]
    assert min(lengths) < max(lengths)
    assert lengths == [len(each.interventions[0]) for each in alone]
    assert together.texts == [each.texts[0] for each in alone]


def test_what_cannot_be_is_refused(parts):
    own = {"tokenizer": parts.tokenizer.hf}
    steered = SteeredLM(parts.lm, parts.sae, fixed(3), coefficient=1.0, **own)
    for setting in ({"num_beams": 2}, {"use_cache": False}, {"prompt_lookup_num_tokens": 3}):
        with pytest.raises(SteeringError, match=f"{next(iter(setting))}=.* does not go with steering"):
            steered.generate("x", **setting)
    with pytest.raises(SteeringError, match="there is no prompt"):
        steered.generate([])
    with pytest.raises(SteeringError, match="coefficient must be finite, got nan"):
        SteeredLM(parts.lm, parts.sae, fixed(3), coefficient=float("nan"), **own)
    with pytest.raises(SteeringError, match=r"observation must be one of normalized, .*, got 'board'"):
        SteeredLM(parts.lm, parts.sae, fixed(3), coefficient=1.0, observation="board", **own)
    with pytest.raises(SteeringError, match=r"action must be in \[0, 257\), got 999"):
        SteeredLM(parts.lm, parts.sae, lambda seen, lanes: np.array([999]), coefficient=1.0, **own).generate("x")


def test_what_is_not_in_a_text_is_refused():
    import gymnasium as gym

    board = gym.make_vec("AutoSteer-TicTacToe-v0", num_envs=1)
    with pytest.raises(SteeringError, match="what the policy sees in task 'tictactoe' is not in a text alone"):
        SteeredLM.of(board, unsteered())
    whole = gym.make_vec(ENV, num_envs=1, mask="all")
    with pytest.raises(SteeringError, match="mask='all' looks at every token"):
        SteeredLM.of(whole, unsteered())


def test_chats_are_put_into_the_template(parts):
    hf = parts.tokenizer.hf.__class__.from_pretrained(parts.tokenizer.hf.name_or_path)
    hf.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    prompts = openings(parts, 2)
    steered = SteeredLM(parts.lm, parts.sae, fixed(40), coefficient=3.0, tokenizer=hf)
    plain = SteeredLM(parts.lm, parts.sae, fixed(40), coefficient=3.0, tokenizer=parts.tokenizer.hf)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    heads = [hf(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    wanted = [plain.generate(torch.tensor([head]), return_dict_in_generate=True).texts[0] for head in heads]
    assert steered.generate(chats) == wanted
    assert steered.generate(chats[0]) == wanted[0]
