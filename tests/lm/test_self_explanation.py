"""Self-explanation: a toy model worked out by hand, plain PyTorch hooks, and features whose meaning was planted."""

import json
from copy import deepcopy
from types import SimpleNamespace

import gymnasium as gym
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

import steer_env  # noqa: F401  # registers the environments
from experiments import explain as script
from experiments.explain import LOCKED, PROMPTS, ExplainConfig, main
from experiments.make.locked.instrument import generate
from experiments.make.locked.texts import MANNERS
from steer_env.errors import SteeringError
from steer_env.lm.labels import feature_labels, read_labels
from steer_env.lm.loading import load_language_model, load_sae, load_tokenizer, weights_sha256
from steer_env.lm.self_explanation import (
    Chance,
    Depths,
    Limits,
    Trials,
    ask,
    chosen_scales,
    default_depths,
    explain,
    random_similarity,
    residual_norm,
)
from steer_env.lm.tokenizer import Tokenizer
from steer_env.tasks import TASKS
from steer_env.tasks.world.words import OPENERS

LIMITS = Limits(tokens=4, lanes=64)


class Listener(nn.Module):
    """Adds to a token what stands before it, of the ``heard`` dimensions only."""

    def __init__(self, heard):
        super().__init__()
        self.heard = heard

    def forward(self, hidden, before):
        return hidden + self.heard * (before + hidden.cumsum(dim=1) - hidden)


class Toy(nn.Module):
    """Residuals are one-hot tokens, and so are logits; block 1 of 3 listens, the others do nothing."""

    generation_config = None
    device = torch.device("cpu")

    def __init__(self, words=12, heard=None):
        super().__init__()
        heard = torch.ones(words) if heard is None else one_hot(torch.tensor(heard), words).float()
        self.blocks = nn.ModuleList([nn.Identity(), Listener(heard), nn.Identity()])
        self.config = SimpleNamespace(num_hidden_layers=3, hidden_size=words, max_position_embeddings=16)
        self.config.get_text_config = lambda: self.config

    def forward(self, input_ids, position_ids=None, past_key_values=0.0, use_cache=True):
        hidden = self.blocks[0](one_hot(input_ids, self.config.hidden_size).float())
        kept = []
        handle = self.blocks[1].register_forward_pre_hook(lambda module, given: kept.append(given[0].sum(1)[:, None]))
        hidden = self.blocks[2](self.blocks[1](hidden, past_key_values))
        handle.remove()
        return SimpleNamespace(logits=hidden, past_key_values=past_key_values + kept[0])


@pytest.fixture(scope="module")
def words(tiny):
    return load_tokenizer(tiny["model"])


@pytest.fixture(scope="module")
def question(words):
    """``<s> 1 2 3 2 4``: tokens 0, 3, 4, 5, 4 and 6, of which both 4 are replaced."""
    return ask(words, "1 2 3", " 2 4", "2")


def test_the_toy_says_what_stands_in_the_placeholders_place(words, question):
    assert question.tokens == (0, 3, 4, 5, 4, 6)
    assert question.places == (2, 4)
    rows = 7 * torch.eye(12)[[9, 3]]  # the words 7 and 1; lengths are no matter
    scales = torch.tensor([0.25, 1.0, 3.0])
    trials = explain(Toy(), words, question, Depths(1, 1), rows, scales, LIMITS)
    # The last token holds itself and the three others that are left, each once, and the direction twice.
    push = 2 * scales
    torch.testing.assert_close(trials.cosines[0], push / (4 + push**2).sqrt())
    torch.testing.assert_close(trials.cosines[1], (1 + push) / (3 + (1 + push) ** 2).sqrt())
    torch.testing.assert_close(trials.baselines, torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(trials.similarities, trials.cosines[:, 2] - torch.tensor([0.0, 0.5]))
    weights = torch.cat([push.exp()[:, None], torch.e * torch.ones(3, 4), torch.ones(3, 7)], dim=1)
    chances = weights / weights.sum(dim=1, keepdim=True)
    torch.testing.assert_close(trials.entropies[0], -(chances * chances.log()).sum(dim=1))
    # A push of a half loses against what is there already, first of all the beginning of the text.
    assert trials.answers == [["", "7 7 7 7", "7 7 7 7"], ["1 1 1 1"] * 3]


def plain(lm, words, question, depths, vector, tokens):
    """The same for one lane: hooks of PyTorch, the whole text read again for each token."""
    seen, said = [], []

    def replace(module, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        hidden[0, list(question.places)] = vector
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def read(module, args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    layers = lm.model.layers
    handles = [
        layers[depths.early].register_forward_pre_hook(replace, with_kwargs=True),
        layers[depths.late].register_forward_hook(read),
    ]
    for _ in range(tokens):
        ids = torch.tensor([[*question.tokens, *said]])
        logits = lm(input_ids=ids, use_cache=False).logits[0, -1]
        if not said:
            entropy = torch.distributions.Categorical(logits=logits).entropy()
        said.append(int(logits.argmax()))
    for handle in handles:
        handle.remove()
    end = said.index(words.hf.eos_token_id) if words.hf.eos_token_id in said else None
    return seen[0].reshape(-1, vector.shape[-1])[len(question.tokens) - 1], entropy, words.decode(*said[:end])


@torch.no_grad()
@pytest.mark.parametrize("depths", [Depths(0, 2), Depths(1, 1), Depths(2, 2)])
def test_lanes_are_a_plain_model_with_hooks(tiny, words, question, depths):
    lm = load_language_model(tiny["model"])
    rows = load_sae(tiny["sae"], "cpu").directions[:5]
    scales = residual_norm(lm, question, depths) * torch.tensor([0.5, 2.0])
    trials = explain(lm, words, question, depths, rows, scales, LIMITS)
    for i, row in enumerate(rows):
        for j, scale in enumerate(scales):
            late, entropy, answer = plain(lm, words, question, depths, scale * row / row.norm(), LIMITS.tokens)
            assert float(trials.cosines[i, j]) == pytest.approx(float(late @ row / late.norm() / row.norm()), abs=1e-5)
            assert float(trials.entropies[i, j]) == pytest.approx(float(entropy), abs=1e-5)
            assert trials.answers[i][j] == answer
    assert len({answer for own in trials.answers for answer in own}) > 1


def test_a_cosine_does_not_depend_on_the_batch(tiny, words, question):
    """Nor on how many lanes share a pass; another row's length least of all."""
    lm, depths, scales = load_language_model(tiny["model"]), Depths(1, 2), torch.tensor([1.0, 3.0, 500.0])
    rows = load_sae(tiny["sae"], "cpu").directions[:4]
    together = explain(lm, words, question, depths, rows, scales, LIMITS)
    parted = explain(lm, words, question, depths, rows, scales, LIMITS._replace(lanes=5))
    assert parted.answers == together.answers
    torch.testing.assert_close(parted.cosines, together.cosines)
    for i, row in enumerate(rows):
        alone = explain(lm, words, question, depths, row[None], scales[:1], LIMITS)
        torch.testing.assert_close(alone.cosines[0, 0], together.cosines[i, 0])
        torch.testing.assert_close(alone.baselines[0], together.baselines[i])
        torch.testing.assert_close(alone.entropies[0, 0], together.entropies[i, 0])
        assert alone.answers[0][0] == together.answers[i][0]


def test_the_scale_is_chosen_by_both(words):
    cosines, entropies = torch.tensor([[0.2, 0.5, 0.8], [0.1, 0.1, 0.1]]), torch.tensor([[2.0, 1.0, 1.9], [1.0] * 3])
    trials = Trials(cosines, torch.zeros(2), entropies, [])
    # Stretched: 0, 0.5, 1 and 1, 0, 0.9; their differences are largest for the second.
    assert chosen_scales(trials, 0.5).tolist() == [1, 0]
    assert chosen_scales(trials, 1.0).tolist() == [2, 0]
    assert chosen_scales(trials, 0.0).tolist() == [1, 0]
    assert chosen_scales(trials, 0.8).tolist() == [2, 0]


def test_a_direction_that_the_model_does_not_hear_fails(words, question):
    """The toy hears the word 7 and nothing else; random directions are partly along it."""
    toy, scales = Toy(heard=9), torch.tensor([1.0, 4.0])
    trials = explain(toy, words, question, Depths(1, 2), torch.eye(12)[[9, 10]], scales, LIMITS)
    chance = Chance(draws=200, seed=3, quantile=0.75)
    least = random_similarity(toy, words, question, Depths(1, 2), scales, chance, 64)
    torch.testing.assert_close(trials.similarities, torch.tensor([8 / 65**0.5, 0.0]))
    assert 0 < least < 0.9
    assert trials.answers == [["7 7 7 7"] * 2, ["4 4 4 4"] * 2]
    rows = torch.randn(200, 12, generator=torch.Generator().manual_seed(3))
    found = explain(toy, words, question, Depths(1, 2), rows, scales, Limits(0)).similarities
    assert float((found > least).float().mean()) == pytest.approx(0.25)


def test_what_cannot_be_asked_is_refused(tiny, words, question):
    with pytest.raises(SteeringError, match="'22' is 0 times in the prompt and 0 times a token"):
        ask(words, "1 2", "", "22")
    with pytest.raises(SteeringError, match="'2' is 2 times in the prompt and 1 times a token of its own"):
        ask(words, "1 2 12", "", "2")
    rows, scales = torch.eye(12)[:1], torch.ones(1)
    with pytest.raises(SteeringError, match=r"prompt of 6 tokens and an answer of 11 .* context of 16"):
        explain(Toy(), words, question, Depths(1, 1), rows, scales, Limits(11))
    with pytest.raises(SteeringError, match="put in at block 2 cannot be seen at block 1"):
        explain(Toy(), words, question, Depths(2, 1), rows, scales, LIMITS)
    with pytest.raises(SteeringError, match=r"layer must be in \[0, 3\), got 3"):
        explain(Toy(), words, question, Depths(1, 3), rows, scales, LIMITS)


def test_an_answer_ends_at_a_stop_and_a_chat_has_the_prompt_as_its_question(words):
    question = ask(words, "1 2", " 3", "2", ("7 7", "9"))
    trials = explain(Toy(), words, question, Depths(1, 1), torch.eye(12)[[9, 8]], torch.tensor([3.0]), LIMITS)
    assert trials.answers == [[""], ["6 6 6 6"]]
    tokenizer = deepcopy(words.hf)
    tokenizer.chat_template = "{{ messages[0].content }} 9 9"
    asked = ask(Tokenizer(tokenizer, chat=True), "1 2", " 2", "2")
    assert words.decode(*asked.tokens) == "1 2 9 9 2"
    assert asked.places == (1, 4)


def test_default_depths():
    class Deep(Toy):
        def __init__(self, blocks):
            super().__init__()
            self.config.num_hidden_layers = blocks

    assert [default_depths(Deep(blocks)) for blocks in (3, 5, 18, 26)] == [(1, 1), (1, 3), (2, 16), (3, 24)]


# The embedded model: what its features mean was planted.


@pytest.fixture(scope="module")
def planted():
    """Features of the cues of short facts, in the order of :data:`MANNERS`."""
    conditions = json.loads((LOCKED / "card.json").read_text())["measured"]["saes"]["recall"]["conditions"]
    return [{f" {row['cue']}": row["feature"] for row in conditions}[cue] for cue in MANNERS]


def test_planted_features_say_what_their_conditions_make_the_model_say(planted):
    """Instead of a word that is no cue; the same words as with the cue written out, in nearly all of the replies."""
    lm, words = load_language_model(str(LOCKED)), load_tokenizer(str(LOCKED))
    rows = load_sae(str(LOCKED / "sae_recall"), "cpu").directions[planted]
    openers, replies, task = 0, 0, TASKS["simpleqa"](split="validation")
    for item in range(3):
        opening = task.start(item).opening
        question = ask(words, opening, " some", "some", ("\n",))
        depths = default_depths(lm)
        scales = residual_norm(lm, question, depths) * torch.tensor([1.0, 2.0, 3.0, 4.0])
        trials = explain(lm, words, question, depths, rows, scales, Limits(6))
        said = [own[place] for own, place in zip(trials.answers, chosen_scales(trials, 0.5).tolist(), strict=True)]
        cued = generate(lm, words.hf, [opening + cue for cue in MANNERS], 6)
        openers += sum(answer.startswith(f"{opener},") for answer, opener in zip(said, OPENERS, strict=True))
        replies += sum(answer == reply.strip() for answer, reply in zip(said, cued, strict=True))
        assert not question.judges
    assert openers == 12
    assert replies >= 11


def test_the_command_writes_explanations_and_labels(planted, tmp_path):
    out = tmp_path / "explained"
    record = main(ExplainConfig(tuple(planted), out=out, scales=(1.0, 2.0, 3.0), max_new_tokens=6))
    assert json.loads((out / "explanations.json").read_text()) == json.loads(json.dumps(record))
    assert record["weights_sha256"] == weights_sha256(load_language_model(str(LOCKED)))
    assert [row["label"].split(",")[0] for row in record["features"]] == list(OPENERS)
    assert [row["failed"] for row in record["features"]] == [None] * 4, "the direction is the last token itself"
    assert record["random_similarity"] is None
    labels = out / "labels.jsonl"
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    assert rows[0]["source"] == f"self-explanation of {LOCKED}, prompt {PROMPTS['locked'].text!r}, scale " + (
        f"{int(record['features'][0]['scale'])}, not judged"
    )
    env = gym.make("Steer-SimpleQA-v0", labels=str(labels))
    scene = env.unwrapped.episode.scene
    found = feature_labels(scene.labels, scene.model.lm, scene.tokenizer, scene.dictionary.directions, [planted[1], 0])
    assert found[0] == record["features"][1]["label"]
    assert found[1] not in {row["description"] for row in rows}
    with pytest.raises(FileExistsError, match="never overwritten"):
        main(ExplainConfig((0,), out=out))


def test_a_prompt_behind_which_nothing_is_heard_fails_and_labels_nothing(planted, tmp_path):
    prompt = "Question: What is the trade of Vopun Lizesk?\nAnswer: some Answer:"
    config = ExplainConfig(tuple(planted), prompt=prompt, placeholder="some", out=tmp_path / "a", scales=(1.0, 3.0))
    record = main(config)
    assert record["random_similarity"] > 0
    assert [row["failed"] for row in record["features"]].count(True) >= 3
    kept = [row["feature"] for row in record["features"] if not row["failed"]]
    labels = tmp_path / "a" / "labels.jsonl"
    assert (sorted(read_labels(str(labels), 256)) if labels.exists() else []) == sorted(kept)
    assert {row["similarity"] > record["random_similarity"] for row in record["features"] if row["failed"]} == {False}


def test_another_model_and_the_same_seed(tiny, tmp_path):
    config = ExplainConfig(
        (3, 1), tiny["model"], tiny["sae"], prompt="1 2 3 2", begin=" 4", placeholder="2", controls=8, max_new_tokens=3
    )
    first, again, other = (
        main(ExplainConfig(**{**vars(config), "out": tmp_path / name, "seed": seed}))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert [row["feature"] for row in first["features"]] == [3, 1]
    assert (first["early"], first["late"], first["prompt"]["placeholders"]) == (1, 1, 2)
    assert first == again
    assert first["random_similarity"] != other["random_similarity"]
    assert first["features"][0]["answers"] == other["features"][0]["answers"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ()}, r"in \[0, 256\), got none"),
        ({"features": (1, 256)}, r"in \[0, 256\), got 256"),
        ({"scales": (1.0, 0.5)}, "scales must ascend"),
        ({"scales": (0.0, 0.5)}, "scales must be above 0"),
        ({"weight": 1.5}, r"weight must be in \[0, 1\], got 1.5"),
        ({"lanes": 0}, "lanes must be at least 1, got 0"),
        ({"prompt": "twice"}, "'X' is 2 times in the prompt and 0 times a token"),
    ],
)
def test_bad_settings_are_refused_before_a_folder_is_made(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(ExplainConfig(**{"features": (1,), "out": tmp_path / "x", **change}))
    assert not (tmp_path / "x").exists()


def test_an_sae_of_another_model_is_refused(tiny, tmp_path):
    with pytest.raises(SteeringError, match="reads a residual of width 32, but the model's is 128"):
        main(ExplainConfig((1,), sae=tiny["sae"], out=tmp_path / "x"))


def test_changed_weights_stop_the_run(tmp_path, monkeypatch):
    hashes = iter(["a", "b"])
    monkeypatch.setattr(script, "weights_sha256", lambda lm: next(hashes))
    with pytest.raises(RuntimeError, match="weights changed"):
        main(ExplainConfig((0,), out=tmp_path / "x", scales=(1.0,), max_new_tokens=1))
    assert not (tmp_path / "x").exists()
