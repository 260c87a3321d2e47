"""The steering engine: one pass a token, exactly ``c * W_dec[a]`` above the site, nothing else touched."""

import copy
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from steer_env.errors import SteeringError
from steer_env.lm.loading import load_language_model, load_tokenizer, weights_sha256
from steer_env.lm.model import SteeredModel
from steer_env.lm.prompts import PromptStore
from tests.conftest import LAYER, WIDTH

PROMPTS = [[0, 5], [0, 7, 3, 4, 9], [0, *([4, 8, 6] * 5)]]


@pytest.fixture
def lm(tiny):
    return load_language_model(tiny["model"])


def engine_with(lm, texts, **kwargs) -> SteeredModel:
    engine = SteeredModel(lm, LAYER, lanes=len(texts), **kwargs)
    for lane, prompt in enumerate(texts):
        engine.restart(lane, prompt)
    return engine


def observed(lm) -> SteeredModel:
    engine = engine_with(lm, PROMPTS)
    engine.observe()
    return engine


def in_a_thread(call, *args) -> None:
    """Call in another thread and raise what it raised."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call, *args).result()


def two_pass_logits(lm, tokens, steered: dict[int, torch.Tensor], site="post") -> torch.Tensor:
    """Logits ``[V]`` after ``tokens`` by a plain hook over the whole sequence, no cache: an independent answer."""
    edits = torch.zeros(len(tokens), WIDTH)
    for position, delta in steered.items():
        edits[position] = delta
    block = lm.model.layers[LAYER]
    if site == "post":
        handle = block.register_forward_hook(lambda module, args, output: output + edits)
    else:
        handle = block.register_forward_pre_hook(lambda module, args: (args[0] + edits, *args[1:]))
    try:
        with torch.no_grad():
            return lm(torch.tensor([tokens]), use_cache=False).logits[0, -1]
    finally:
        handle.remove()


@pytest.mark.parametrize("site", ["post", "pre"])
def test_steered_tokens_equal_a_plain_hook_over_the_whole_text(lm, site):
    """Steered keys and values stay steered, the prompt's stay unsteered: five steered tokens in a row agree."""
    engine = engine_with(lm, PROMPTS, site=site)
    texts = [list(prompt) for prompt in PROMPTS]
    steered: list[dict[int, torch.Tensor]] = [{} for _ in PROMPTS]
    draw = torch.Generator().manual_seed(3)
    for _ in range(5):
        engine.observe()
        delta = 2 * torch.randn(len(PROMPTS), WIDTH, generator=draw)
        logits = engine.advance(delta)
        for lane, text in enumerate(texts):
            steered[lane][len(text) - 1] = delta[lane]
            expected = two_pass_logits(lm, text, steered[lane], site)
            assert torch.allclose(logits[lane], expected, atol=1e-5, rtol=1e-5)
            text.append(int(expected.argmax()))
            engine.write(lane, text[-1:])


def test_the_next_block_receives_exactly_the_residual_plus_delta(lm):
    engine = engine_with(lm, PROMPTS)
    received = []
    handle = lm.model.layers[LAYER + 1].register_forward_pre_hook(lambda module, args: received.append(args[0]))
    hidden = engine.observe()
    delta = torch.randn(len(PROMPTS), WIDTH)
    engine.advance(delta)
    handle.remove()
    # The long prompt is read ahead in a pass of its own, which passes the next block unsteered.
    assert torch.equal(received[-1][:, -1], hidden + delta)


def test_blocks_below_the_site_do_not_see_the_steering(lm):
    plain, steered = engine_with(lm, PROMPTS), engine_with(lm, PROMPTS)
    assert torch.equal(plain.observe(), steered.observe())
    plain.advance(torch.zeros(3, WIDTH))
    steered.advance(torch.ones(3, WIDTH))
    for lane in range(3):
        plain.write(lane, [6])
        steered.write(lane, [6])
    below = [(a.key_buffer, b.key_buffer) for a, b in zip(plain._cache.layers, steered._cache.layers, strict=True)]
    plain.observe()
    steered.observe()
    assert all(torch.equal(a, b) for a, b in below[: LAYER + 1])


def test_one_forward_pass_a_token_and_one_for_all_restarted_lanes(lm):
    calls = []
    handle = lm.register_forward_pre_hook(lambda module, args: calls.append(1))
    engine = engine_with(lm, PROMPTS)
    for step in range(6):
        hidden = engine.observe()
        tokens = engine.advance(torch.zeros_like(hidden)).argmax(-1).tolist()
        for lane, token in enumerate(tokens):
            engine.write(lane, [token])
        if step == 2:  # two lanes restart with long prompts: one pass reads both ahead
            engine.restart(0, PROMPTS[2])
            engine.restart(1, [0] + [5] * 20)
    handle.remove()
    assert len(calls) == 6 + 2 == engine.forward_passes


def test_a_kept_prompt_gives_the_same_logits_with_less_reading(lm):
    prompt = PROMPTS[2]
    read = []
    handle = lm.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    kept, fresh = engine_with(lm, [prompt], prompts=PromptStore(1 << 20)), engine_with(lm, [prompt])
    for _ in range(2):
        outputs = []
        for engine in (kept, fresh):
            engine.restart(0, prompt)
            hidden = engine.observe()
            outputs.append(engine.advance(torch.ones_like(hidden)))
        assert torch.equal(*outputs), "to the last bit, for a lane alone"
    handle.remove()
    head = len(prompt) - 1
    assert read == [head, 1, head, 1, 1, head, 1]


def test_a_prompt_dropped_before_its_first_token_is_not_kept(lm):
    engine, fresh = engine_with(lm, [PROMPTS[2]], prompts=PromptStore(1 << 20)), engine_with(lm, [PROMPTS[2]])
    engine.observe()
    engine.restart(0, [0, 5])
    engine.advance(torch.zeros_like(engine.observe()))
    engine.restart(0, PROMPTS[2])
    assert torch.allclose(engine.observe(), fresh.observe(), atol=1e-5)


def test_lanes_that_read_different_numbers_of_tokens_do_not_disturb_each_other(lm):
    """Replies of a task differ in length: the shorter lanes are padded, and what padding writes must not be seen."""
    texts = [[first, *prompt[1:]] for first, prompt in zip((3, 4, 6), PROMPTS, strict=True)]  # padding reads token 0
    engine = engine_with(lm, texts)
    for replies in ([[7, 9, 4], [6], [5, 8]], [[6], [8, 3, 3, 5], [11]]):
        engine.advance(torch.zeros_like(engine.observe()))
        for lane, reply in enumerate(replies):
            texts[lane] += reply
            engine.write(lane, reply)
    logits = engine.advance(torch.zeros_like(engine.observe()))
    for lane, text in enumerate(texts):
        assert torch.allclose(logits[lane], two_pass_logits(lm, text, {}), atol=1e-5, rtol=1e-5)


def test_several_tokens_written_at_once_equal_one_by_one(lm):
    together, single = engine_with(lm, [[0, 5]]), engine_with(lm, [[0, 5]])
    for engine in (together, single):
        engine.advance(torch.zeros_like(engine.observe()))
    together.write(0, [7, 9, 4])
    for token in (7, 9):
        single.write(0, [token])
        single.advance(torch.zeros_like(single.observe()))
    single.write(0, [4])
    assert torch.allclose(together.observe(), single.observe(), atol=1e-5)


def test_rewind_forgets_the_last_tokens(lm):
    engine, straight = engine_with(lm, [[0, 5]]), engine_with(lm, [[0, 5, 8]])
    for token in (7, 9):
        engine.advance(torch.zeros_like(engine.observe()))
        engine.write(0, [token])
    engine.advance(torch.zeros_like(engine.observe()))
    engine.rewind(0, 2)
    engine.write(0, [8])
    assert torch.allclose(engine.observe(), straight.observe(), atol=1e-5)


def test_peek_is_the_unsteered_answer_and_leaves_no_trace(lm):
    peeking, plain = engine_with(lm, PROMPTS), engine_with(lm, PROMPTS)
    for _ in range(3):
        unsteered = peeking.peek()
        for engine in (peeking, plain):
            hidden = engine.observe()
        assert torch.allclose(unsteered, two := plain_logits(plain, hidden), atol=1e-5)
        logits = peeking.advance(torch.zeros_like(hidden))
        assert torch.equal(logits, two)
        for engine in (peeking, plain):
            for lane in range(3):
                engine.write(lane, [int(logits[lane].argmax())])


def plain_logits(engine, hidden):
    return engine.advance(torch.zeros_like(hidden))


def test_gradients_stay_on_outside_a_paused_pass(lm):
    engine = engine_with(lm, PROMPTS)
    hidden = engine.observe()
    assert torch.is_grad_enabled()
    engine.advance(torch.zeros_like(hidden))
    assert torch.is_grad_enabled()
    assert not hidden.requires_grad


def test_two_engines_may_pause_on_the_same_model_at_once(lm):
    first, second = engine_with(lm, PROMPTS[:1]), engine_with(lm, PROMPTS[:1])
    alone = engine_with(lm, PROMPTS[:1])
    expected = alone.advance(torch.ones_like(alone.observe()))
    hidden = first.observe()
    second.observe()
    assert torch.equal(first.advance(torch.ones_like(hidden)), expected)
    assert torch.equal(second.advance(torch.ones_like(hidden)), expected)


def test_a_pass_in_another_thread_is_neither_paused_nor_steered(lm):
    """The loaded model is shared by the whole process; here a thread uses it in the middle of a pass."""
    expected = two_pass_logits(lm, PROMPTS[1], {})
    answers = []

    def interrupt(module, args, output):
        if not answers:
            answers.append(None)
            thread = threading.Thread(target=lambda: answers.append(two_pass_logits(lm, PROMPTS[1], {})))
            thread.start()
            thread.join()

    handle = lm.model.layers[0].register_forward_hook(interrupt)
    engine = engine_with(lm, PROMPTS[:1])
    engine.advance(torch.ones_like(engine.observe()))
    handle.remove()
    assert torch.equal(answers[1], expected)


def test_a_sleeping_pass_leaves_no_hook_and_an_abandoned_one_no_keys_and_values(lm):
    before = [len(block._forward_hooks) for block in lm.model.layers]
    engine = engine_with(lm, PROMPTS)
    cache = weakref.ref(engine._cache)
    engine.advance(torch.zeros_like(engine.observe()))
    for lane in range(3):
        engine.write(lane, [4])
    engine.observe()
    assert [len(block._forward_hooks) for block in lm.model.layers] == before
    del engine
    gc.collect()
    assert cache() is None


def test_weights_are_hashed_and_untouched(lm):
    before = weights_sha256(lm)
    engine = engine_with(lm, PROMPTS)
    engine.advance(torch.ones_like(engine.observe()))
    assert weights_sha256(lm) == before
    with torch.no_grad():
        lm.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
        assert weights_sha256(lm) != before
        lm.model.layers[0].mlp.up_proj.weight[0, 0] -= 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: SteeredModel(lm, 3), r"layer must be in \[0, 3\), got 3"),
        (lambda lm: SteeredModel(lm, -1), r"layer must be in \[0, 3\), got -1"),
        (lambda lm: SteeredModel(lm, 1, site="mid"), "site must be 'post' or 'pre', got 'mid'"),
        (lambda lm: SteeredModel(lm, 1).observe(), "lane 0 has no token to read"),
        (lambda lm: SteeredModel(lm, 1).advance(torch.zeros(1, WIDTH)), "call observe first"),
        (lambda lm: engine_with(lm, PROMPTS).rewind(1, 1), "cannot rewind lane 1 by 1: it holds 0 tokens and 5 queued"),
        (lambda lm: observed(lm).advance(torch.zeros(1, WIDTH)), r"must be of shape \(3, 32\), got \(1, 32\)"),
        (lambda lm: in_a_thread(observed(lm).restart, 0, [5]), "belongs to the thread that reset it"),
        (lambda lm: engine_with(lm, [[0] * 65]), "lane 0 would hold 65 tokens, but the model's context is 64"),
    ],
)
def test_misuse_is_one_clear_error(lm, call, message):
    with pytest.raises(SteeringError, match=message):
        call(lm)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_steering_vector_that_is_not_finite_names_its_lane(lm, bad):
    engine = engine_with(lm, PROMPTS)
    delta = torch.zeros_like(engine.observe())
    delta[2, 5] = bad
    with pytest.raises(SteeringError, match="steering vector of lane 2 is not finite"):
        engine.advance(delta)


def test_logits_that_are_not_finite_name_their_lane_and_leave_nothing_behind(lm):
    """An overflow above the site must not become token 0 and a grade, nor spread through what the cache keeps."""
    engine = engine_with(lm, PROMPTS)
    handle = lm.model.layers[2].register_forward_hook(
        lambda module, args, output: output.index_fill(0, torch.tensor([1]), float("nan")) if len(output) == 3 else None
    )
    hidden = engine.observe()
    for layer in engine._cache._blocks:
        layer.key_buffer[1, :, 1] = float("nan")
    with pytest.raises(SteeringError, match="logits' maximum of lane 1 is not finite; lower the coefficient"):
        engine.advance(torch.zeros_like(hidden))
    handle.remove()
    fresh = engine_with(lm, PROMPTS)
    for lane, prompt in enumerate(PROMPTS):
        engine.restart(lane, prompt)
    assert torch.equal(engine.advance(0 * engine.observe()), fresh.advance(0 * fresh.observe()))


def test_a_delta_that_overflows_in_the_models_own_type_is_refused(lm):
    half = copy.deepcopy(lm).half()
    engine = engine_with(half, PROMPTS[:1])
    with pytest.raises(SteeringError, match="steering vector of lane 0 is not finite"):
        engine.advance(torch.full_like(engine.observe(), 1e6))


def test_activations_that_are_not_finite_name_their_lane(lm):
    engine = engine_with(lm, PROMPTS)
    handle = lm.model.layers[0].register_forward_hook(
        lambda module, args, output: output.index_fill(0, torch.tensor([1]), float("nan")) if len(output) == 3 else None
    )
    with pytest.raises(SteeringError, match="residual of lane 1 is not finite"):
        engine.observe()
    handle.remove()


def test_out_of_memory_says_what_to_lower(lm):
    def explode(module, args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine = engine_with(lm, PROMPTS[:1])
    handle = lm.model.layers[2].register_forward_pre_hook(explode)
    hidden = engine.observe()
    with pytest.raises(SteeringError, match="lower num_envs"):
        engine.advance(torch.zeros_like(hidden))
    handle.remove()


def test_words_round_trip(tiny):
    words = load_tokenizer(tiny["model"])
    assert words.prompt("5 1") == (0, 7, 3)
    assert words.encode(" 9") == (11,)
    assert words.decode(0, 7, 1) == "5"
