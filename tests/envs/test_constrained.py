"""Options are judged whole, as a plain Hugging Face model with a hook over the whole text judges them."""

import copy
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, normalizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from steer_env.envs.registry import make_env, make_vector_env
from steer_env.errors import SteeringError
from steer_env.lm.loading import load_language_model, load_tokenizer
from steer_env.lm.model import SteeredModel
from steer_env.lm.tokenizer import Tokenizer
from steer_env.tasks import TASKS
from tests.conftest import FEATURES, LAYER, WIDTH
from tests.lm.test_parity import CONFIGS, prompts
from tests.toys import Quiz

FIXED = {"task": "quiz", "data": "own", "coefficient": 4.0, "coefficient_unit": "residual"}
STEPS = 4


@pytest.fixture(autouse=True)
def quiz(monkeypatch):
    monkeypatch.setitem(TASKS, "quiz", Quiz)


@pytest.fixture(scope="module")
def words(tiny):
    return load_tokenizer(tiny["model"])


class Oracle:
    """The plain model, no cache: what it says of a text whose tokens are steered at some positions."""

    def __init__(self, tiny, scene):
        self.lm = load_language_model(tiny["model"])
        self.block = self.lm.model.layers[scene.model.layer]
        self.site = scene.model.site
        self.vectors = scene.actuator.coefficient * scene.dictionary.directions
        self.encode = scene.dictionary.encode
        self.residual = torch.zeros(0)

    def logits(self, tokens, steered: dict[int, int]) -> torch.Tensor:
        """``[T, V]`` of the text with feature ``steered[position]`` added there (the no-op adds nothing)."""
        edits = torch.zeros(len(tokens), WIDTH)
        for position, action in steered.items():
            if action < FEATURES:
                edits[position] = self.vectors[action]

        def after(module, args, output):
            self.residual = output[0] if self.site == "post" else args[0][0]
            return output + edits if self.site == "post" else None

        def before(module, args):
            return (args[0] + edits, *args[1:]) if self.site == "pre" else None

        handles = [self.block.register_forward_hook(after), self.block.register_forward_pre_hook(before)]
        try:
            with torch.no_grad():
                return self.lm(torch.tensor([tokens]), use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()

    def options(self, prompt, options, steered) -> list[float]:
        """Summed log-probability of each option: one pass over the whole text each."""
        sums = []
        for option in options:
            logprobs = self.logits([*prompt, *option], steered).log_softmax(dim=-1)
            sums.append(sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(option)))
        return sums


def drawn(logprobs: list[float], temperature: float, chance: float) -> int:
    """The option that ``chance`` draws; the likeliest without a temperature."""
    if temperature == 0:
        return int(np.argmax(logprobs))
    weights = np.exp((np.array(logprobs) - max(logprobs)) / temperature)
    return int(np.searchsorted(np.cumsum(weights / weights.sum()), chance, side="right"))


@pytest.mark.parametrize("kind", ["single", "long", "mixed"])
@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize(("lanes", "temperature"), [(1, 0.0), (3, 0.7), (16, 0.0), (16, 2.0)])
def test_the_choice_is_that_of_a_plain_hook_over_the_whole_text(tiny, words, kind, site, lanes, temperature):
    where = {"site": site, "layer": LAYER + (site == "pre")}  # the output of a block is the input of the next
    envs = make_vector_env(lanes, kind=kind, temperature=temperature, **FIXED, **{**tiny, **where})
    oracle = Oracle(tiny, envs.episode.scene)
    envs.reset(seed=5)
    envs.action_space.seed(3)
    chosen = set()
    for _ in range(STEPS):
        asked = [(talk.opening, talk.choices) for talk in envs.episode.conversations]
        chances = [copy.deepcopy(running.draw.rng).random() for _, running in sorted(envs.episode._running.items())]
        actions = envs.action_space.sample()
        _, _, ended, _, infos = envs.step(actions)
        assert ended.all(), "a choice is one step"
        for lane, (opening, choices) in enumerate(asked):
            prompt = words.prompt(opening)
            final = {name: values[lane] for name, values in infos["final_info"].items() if name[0] != "_"}
            if not choices:
                logits = oracle.logits(prompt, {len(prompt) - 1: actions[lane]})[-1]
                place = drawn(logits.tolist(), temperature, chances[lane])
                assert (infos["token"][lane], final.get("option_logprobs")) == (place, None)
                continue
            options = [words.encode(choice) for choice in choices]
            expected = oracle.options(prompt, options, {len(prompt) - 1: actions[lane]})
            assert final["option_logprobs"] == pytest.approx(expected, abs=1e-4)
            place = drawn(expected, temperature, chances[lane])
            assert final["completion"] == infos["token_text"][lane] == choices[place]
            assert infos["token"][lane] == options[place][0]
            assert final["answer"] == choices[place].strip()
            assert final["steps"] == 1
            chosen.add(place)
    assert lanes == 1 or len(chosen) > 1, "a test in which the first option always wins tests nothing"


@pytest.mark.parametrize("kind", ["single", "long"])
def test_options_of_one_token_cost_no_further_pass(tiny, kind):
    envs = make_vector_env(3, kind=kind, **FIXED, **tiny)
    model = envs.episode.scene.model
    envs.reset(seed=0)
    read = model.forward_passes
    envs.episode.step(np.full(3, 2))
    assert model.forward_passes - read == {"single": 0, "long": 3}[kind], "one for each beginning, whatever the lanes"


@pytest.mark.parametrize("kind", ["single", "long", "mixed"])
def test_lane_i_of_a_batch_is_the_single_environment(tiny, kind):
    given = {"kind": kind, "temperature": 1.0, "compare": True, **FIXED, **tiny}
    envs = make_vector_env(4, **given)
    envs.reset(seed=7)
    envs.action_space.seed(1)
    singles = [make_env(**given) for _ in range(4)]
    for lane, env in enumerate(singles):
        env.reset(seed=7 + lane)
    for _ in range(5):
        actions = envs.action_space.sample()
        _, rewards, _, _, infos = envs.step(actions)
        for lane, env in enumerate(singles):
            _, reward, ended, _, info = env.step(actions[lane])
            assert (reward, ended) == (rewards[lane], True)
            for name in ("token", "token_text", "unsteered_token", "unsteered_token_text", "changed"):
                assert info[name] == infos[name][lane]
            assert info["completion"] == infos["final_info"]["completion"][lane]
            if "option_logprobs" in info:
                assert info["option_logprobs"] == pytest.approx(infos["final_info"]["option_logprobs"][lane], abs=1e-4)
            env.reset()


@pytest.mark.parametrize("kind", ["single", "long"])
def test_comparing_asks_the_unsteered_model_for_its_whole_option(tiny, words, kind):
    envs = make_vector_env(8, kind=kind, compare=True, **{**FIXED, "coefficient": 20.0}, **tiny)
    oracle = Oracle(tiny, envs.episode.scene)
    envs.reset(seed=2)
    envs.action_space.seed(2)
    changed, alike = 0, 0
    for _ in range(STEPS):
        asked = [(talk.opening, talk.choices) for talk in envs.episode.conversations]
        _, _, _, _, infos = envs.step(envs.action_space.sample())
        for lane, (opening, choices) in enumerate(asked):
            options = [words.encode(choice) for choice in choices]
            place = int(np.argmax(oracle.options(words.prompt(opening), options, {})))
            assert infos["unsteered_token_text"][lane] == choices[place]
            assert infos["unsteered_token"][lane] == options[place][0]
            assert infos["changed"][lane] == (infos["token_text"][lane] != choices[place])
            changed += infos["changed"][lane]
            alike += infos["changed"][lane] and infos["token"][lane] == options[place][0]
    assert changed > 0
    assert (alike > 0) == (kind == "long"), "options that begin alike differ all the same"


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_rest_of_an_option_is_read_alike_in_every_architecture(name):
    """Behind a steered and behind an unsteered token, lanes of all lengths and with the cache of a window."""
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()
    texts = prompts(4, seed=9)
    engine = SteeredModel(lm, layer=1, lanes=4)
    for lane, prompt in enumerate(texts):
        engine.restart(lane, prompt)
    heads = {0: [5], 2: [7, 8, 9], 3: [3, 3]}
    before = engine.foresee(heads)
    engine.advance(torch.zeros_like(engine.observe()))
    after = engine.foresee(heads)
    for lane, head in heads.items():
        with torch.no_grad():
            expected = lm(torch.tensor([texts[lane] + head])).logits[0, -len(head) :].log_softmax(dim=-1)
        assert torch.allclose(before[lane], expected, atol=2e-4)
        assert torch.allclose(after[lane], expected, atol=2e-4)


@pytest.mark.parametrize("replace", [None, " 1 2 1"])
@pytest.mark.parametrize("kind", ["single", "long"])
def test_a_conversation_goes_on_behind_the_option(tiny, words, kind, replace):
    """The second choice sees the first (or what replaced it) unsteered, and the steered token before it steered."""
    envs = make_vector_env(3, kind=kind, turns=2, replace=replace, mask="all", **FIXED, **tiny)
    oracle = Oracle(tiny, envs.episode.scene)
    envs.reset(seed=4)
    envs.action_space.seed(4)
    prompts = [list(words.prompt(talk.opening)) for talk in envs.episode.conversations]
    first = envs.action_space.sample()
    _, _, ended, _, infos = envs.step(first)
    assert not ended.any()
    legal = envs.action_masks()
    steered = []
    for lane, prompt in enumerate(prompts):
        steered.append({len(prompt) - 1: first[lane]})
        prompt += [*words.encode(replace or infos["token_text"][lane]), *words.encode(" 9 8")]
        oracle.logits(prompt, steered[lane])
        seen = (oracle.encode(oracle.residual) > 0).any(dim=0).numpy()
        assert np.array_equal(legal[lane, :-1], seen), "the mask knows the text and no option that was not taken"
    asked = [talk.choices for talk in envs.episode.conversations]
    second = envs.action_space.sample()
    _, _, ended, _, infos = envs.step(second)
    assert ended.all()
    for lane, prompt in enumerate(prompts):
        options = [words.encode(choice) for choice in asked[lane]]
        expected = oracle.options(prompt, options, steered[lane] | {len(prompt) - 1: second[lane]})
        assert infos["final_info"]["option_logprobs"][lane] == pytest.approx(expected, abs=1e-4)
        assert infos["final_info"]["steps"][lane] == 2


def test_reading_options_leaves_no_trace(tiny):
    """The same item again, its prompt now kept, gives the same numbers: nothing read behind it has stayed."""
    env = make_env(kind="long", **FIXED, **tiny)
    seen = []
    for _ in range(3):
        env.reset(options={"item": 3})
        lengths = list(env.episode.scene.model._cache.lengths)
        seen.append(env.step(5)[4]["option_logprobs"])
        assert env.episode.scene.model._cache.lengths[0] <= lengths[0] + 13
    assert seen[0] == pytest.approx(seen[1], abs=1e-5)
    assert seen[1] == seen[2]


def test_options_beyond_the_models_context_are_refused(tiny):
    env = make_env(kind="long", **FIXED, **tiny)
    env.episode.scene.model.context = 4
    with pytest.raises(SteeringError, match=r"lane 0 would hold .* tokens, but the model's context is 4"):
        env.reset(options={"item": 3})


def test_rendering_brackets_the_steered_option(tiny):
    env = make_env(kind="long", render_mode="ansi", **FIXED, **tiny)
    env.reset(options={"item": 2})
    info = env.step(1)[4]
    assert env.render().endswith(f"[{info['completion']}]")


def legacy_llama(vocabulary: list[str], chat_template: str | None = None) -> Tokenizer:
    """A tokenizer that puts a blank before every text, as SentencePiece did: a text's tokens depend on its place."""
    listed = {token: i for i, token in enumerate(["<s>", "<unk>", *vocabulary])}
    tokenizer = FastTokenizer(models.Unigram([(token, -float(i)) for token, i in listed.items()], unk_id=1))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    fast.name_or_path, fast.chat_template = "old-llama", chat_template
    return Tokenizer(fast, chat=chat_template is not None)


def test_an_options_tokens_are_those_it_has_in_its_place():
    words = legacy_llama(["▁Answer:", "▁A", "▁B", "▁", "A", "B", "\n"])
    assert len(words.encode(" A")) == 2, "by itself it has a blank too many"
    tokens = words.options("Answer:", (" A", " B"), True)
    assert [[words.hf.convert_ids_to_tokens(token) for token in option] for option in tokens] == [["▁A"], ["▁B"]]


@pytest.mark.parametrize(
    ("before", "options", "message"),
    [
        ("Answer:", (" A", " C"), r"option ' C' of the tokenizer of 'old-llama' has .* unknown ones .*decode='free'"),
        ("Answer:", (" A", ""), "option '' of the tokenizer of 'old-llama' has no tokens"),
        ("Answer:", (" A", " B", " A"), "option ' A' .* has the same tokens as option ' A'"),
        ("Answer", (":", " A"), "option ':' .* melts into the last token of the text before it .'Answer'."),
    ],
)
def test_options_that_cannot_be_told_apart_are_one_clear_error(before, options, message):
    words = legacy_llama(["▁Answer:", "▁Answer", "▁A", "▁B", "▁", "A", "B", ":"])
    with pytest.raises(SteeringError, match=message):
        words.options(before, options, True)


def test_an_empty_prompt_may_have_options(words):
    assert words.options("", (" 3", " 4 5"), True) == (words.encode("3"), words.encode("4 5"))
    assert words.options("", (" 3",), False) == (words.encode("3"),)


def test_a_chat_template_frames_the_prompt_and_begins_but_once(words):
    tokenizer = copy.deepcopy(words.hf)
    tokenizer.chat_template = "<s> 1 {% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %} 2{% endif %}"
    chat = Tokenizer(tokenizer, chat=True)
    assert chat.prompt("7 8") == (0, *words.encode("1 7 8 2"))
    assert chat.options("7 8", (" 3", " 4 5"), True) == (words.encode("3"), words.encode("4 5"))
    assert chat.encode("7 8") == words.encode("7 8")


def test_behind_the_header_of_a_chat_template_options_begin_without_a_space():
    vocabulary = ["▁Answer:", "▁A", "▁B", "▁", "A", "B", "\n"]
    said = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    for header, pieces in (("{{ '\n' }}", ["A", "B"]), ("<s>", ["▁A", "▁B"]), ("Answer:", ["▁A", "▁B"])):
        chat = legacy_llama(vocabulary, chat_template=said + header)
        spoken = chat.spoken((" A", " B"), True)
        assert spoken == ((" A", " B") if header == "Answer:" else ("A", "B"))
        tokens = chat.options("Answer:", spoken, True)
        assert [chat.hf.convert_ids_to_tokens(token) for (token,) in tokens] == pieces
        assert chat.spoken((" A", " B"), False) == (" A", " B"), "later turns stand behind plain text"
    assert legacy_llama(vocabulary).spoken((" A", " B"), True) == (" A", " B")


def test_what_is_chosen_behind_a_chat_template_is_recorded_as_it_was_said(tiny, words, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny["model"], folder)
    tokenizer = copy.deepcopy(words.hf)
    tokenizer.chat_template = "<s> 1 {% for m in messages %}{{ m['content'] }}{% endfor %} 2{{ '\n' }}"
    tokenizer.save_pretrained(folder)
    envs = make_vector_env(4, chat=True, kind="long", turns=2, **FIXED, **{**tiny, "model": str(folder)})
    oracle = Oracle(tiny, envs.episode.scene)
    envs.reset(seed=4)
    asked = [(talk.opening, talk.choices) for talk in envs.episode.conversations]
    _, _, _, _, infos = envs.step(np.full(4, FEATURES))
    for lane, (opening, choices) in enumerate(asked):
        options = [words.encode(choice) for choice in choices]
        likelihoods = oracle.options((0, *words.encode(f"1 {opening} 2")), options, {})
        assert infos["token_text"][lane] == choices[int(np.argmax(likelihoods))].strip()
    later = [talk.choices for talk in envs.episode.conversations]
    _, _, ended, _, infos = envs.step(np.full(4, FEATURES))
    assert ended.all()
    for lane, choices in enumerate(later):
        first, second = infos["final_info"]["completion"][lane].split("\n")
        assert first[0] != " "
        assert second in choices
        assert infos["final_info"]["answer"][lane] == second.strip()


def test_a_tokenizer_without_a_chat_template_refuses_one(tiny):
    with pytest.raises(ValueError, match="has no chat template: use chat=False"):
        make_env(chat=True, **FIXED, **tiny)
