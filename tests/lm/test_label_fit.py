"""Labels that mean something fit their own features better than dealt out anew; others do not."""

import numpy as np
import pytest
import torch

from steer_env.lm.label_fit import LEAST, label_fit, label_fits, strongest_tokens
from steer_env.lm.loading import load_language_model, load_sae, load_tokenizer
from steer_env.lm.presets import EMBEDDED
from steer_env.lm.text_residuals import Place

LOCKED = EMBEDDED / "locked"
TEXT = "Question: What is the trade of Vopun Lizesk?\nAnswer: some"


@pytest.fixture(scope="module")
def model():
    return load_language_model(str(LOCKED), "float32", "cpu"), load_tokenizer(str(LOCKED))


def own_labels(words, about):
    return ["".join(words.decode(token) for token in tokens) for tokens in about]


def test_labels_of_the_tokens_themselves_fit_and_a_deal_of_them_does_not(model):
    lm, words = model
    about = [list(range(start, start + 5)) for start in range(300, 500, 5)]
    labels = own_labels(words, about)
    fit = label_fit(lm, words, labels, about, seed=0)
    assert fit.features == 40
    assert fit.auc > 0.9
    assert fit.own > fit.others + 0.3
    assert fit.p < 1e-3
    mixed = np.random.default_rng(0).permutation(40)
    turned = label_fit(lm, words, [labels[place] for place in mixed], about, seed=0)
    assert turned.auc == pytest.approx(0.5, abs=0.15)
    assert turned.p > 0.05


def test_what_is_common_to_all_labels_or_to_all_features_tells_nothing(model):
    lm, words = model
    about = [list(range(start, start + 5)) for start in range(300, 500, 5)]
    common = words.decode(*range(200, 240))
    plain = label_fit(lm, words, own_labels(words, about), about, seed=0)
    wordy = label_fit(lm, words, [f"{label} {common}" for label in own_labels(words, about)], about, seed=0)
    assert wordy.auc == pytest.approx(plain.auc, abs=0.05)
    assert wordy.own > plain.own / 2
    fit = label_fit(lm, words, ["the same"] * 30, about[:30], seed=0)
    assert fit.auc == 0.5
    assert fit.p == 1.0


def test_too_few_labels_or_one_without_text_are_refused(model):
    lm, words = model
    for labels in (["a"] * (LEAST - 1), ["a", " ", "b"]):
        with pytest.raises(ValueError, match="labels must be at least 3 texts"):
            label_fit(lm, words, labels, [[1]] * len(labels), seed=0)


def test_the_strongest_tokens_are_those_of_the_residuals_read_one_text_at_a_time(model):
    lm, words = model
    sae = load_sae(str(LOCKED / "sae_recall"), "cpu")
    texts = [list(words.encode(TEXT)), list(words.encode(TEXT[:30]))]
    found = strongest_tokens(Place(lm, sae.layer, sae.site, 2), sae, range(sae.width), texts, top=3)
    acts, tokens = [], []
    for text in texts:
        ids = torch.tensor([text])
        hidden = lm(ids, output_hidden_states=True).hidden_states[sae.layer + 1][0, 1:]
        acts.append(sae.encode(hidden))
        tokens += text[1:]
    acts = torch.cat(acts).detach()
    assert sum(map(bool, found)) > 5, "some feature is active"
    for feature, listed in enumerate(found):
        assert len(listed) == min(3, int((acts[:, feature] > 0).sum()))
        if listed:
            assert listed[0] == tokens[int(acts[:, feature].argmax())]


def test_features_without_a_label_or_that_are_never_active_are_left_out(model, tmp_path):
    lm, words = model
    sae = load_sae(str(LOCKED / "sae_recall"), "cpu")
    (tmp_path / "text.txt").write_text(TEXT)
    labels = {feature: f"word {feature}" for feature in range(sae.width)} | {0: " "}
    fits = label_fits(lm, words, sae, labels, tmp_path / "text.txt", 5, seed=0)
    assert fits["promote"].features == sae.width - 1
    alive = fits["are active on"]
    assert alive is None or alive.features < sae.width - 1
    assert set(label_fits(lm, words, sae, labels, None, 5, seed=0)) == {"promote"}
    with pytest.raises(ValueError, match="no text file or folder"):
        label_fits(lm, words, sae, labels, tmp_path / "nothing.txt", 5, seed=0)
