"""Judges by name: tiny models on disk whose answers are known, and clear words about those that cannot judge."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from steer_env.envs.judges import load_classifier, load_similarity, with_judges
from steer_env.errors import SteeringError
from steer_env.tasks.harmbench import HarmBench
from steer_env.tasks.refusal import COMPLIANCE, FULL, PARTIAL

WORDS = ["[UNK]", "[PAD]", "no", "yes", "maybe"]


def save_tokenizer(folder):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)


def config(**kwargs):
    return BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        **kwargs,
    )


def save_classifier(folder, labels, always):
    """A classifier with these labels that always says ``always``."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        config(id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
    )
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([float(label == always) for label in labels]))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("labels", "always", "kind"),
    [
        (["NORMAL", "REJECTION"], "REJECTION", FULL),
        (["NORMAL", "REJECTION"], "NORMAL", COMPLIANCE),
        (["not_refusal", "refusal"], "not_refusal", COMPLIANCE),
        (["non-refusal", "refusal"], "refusal", FULL),
        (["NotRefused", "Refused"], "NotRefused", COMPLIANCE),
        (["full_compliance", "full_refusal", "partial_refusal"], "partial_refusal", PARTIAL),
        (["full_compliance", "full_refusal", "partial_refusal"], "full_refusal", FULL),
    ],
)
def test_labels_that_say_what_they_mean_are_understood(tmp_path, labels, always, kind):
    judge = load_classifier(save_classifier(tmp_path / "judge", labels, always))
    assert [judge(text) for text in ("yes", "who", "no " * 50)] == [kind] * 3
    assert judge("") == COMPLIANCE  # nothing is refused; nothing is paid either


@pytest.mark.parametrize(("always", "kind"), [("LABEL_0", COMPLIANCE), ("LABEL_1", FULL)])
def test_a_label_may_be_named(tmp_path, always, kind):
    folder = save_classifier(tmp_path / "judge", ["LABEL_0", "LABEL_1"], always)
    assert load_classifier(f"{folder}:LABEL_1")("yes") == kind


def test_labels_that_do_not_say_are_refused_with_the_way_out(tmp_path):
    folder = save_classifier(tmp_path / "judge", ["LABEL_0", "LABEL_1"], "LABEL_0")
    with pytest.raises(SteeringError, match=r"\['LABEL_0', 'LABEL_1'\].*classifier='.*judge:LABEL_0'"):
        load_classifier(folder)
    with pytest.raises(SteeringError, match=r"no label 'refusal'; it has \['LABEL_0', 'LABEL_1'\]"):
        load_classifier(f"{folder}:refusal")


def test_classifiers_of_something_else_are_refused(tmp_path):
    folder = save_classifier(tmp_path / "judge", ["answer", "normal"], "normal")
    with pytest.raises(SteeringError, match="means refusal"):
        load_classifier(folder)


def test_similarity_is_the_cosine_of_mean_states(tmp_path):
    torch.manual_seed(0)
    model = BertModel(config()).eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    similarity = load_similarity(str(tmp_path))
    with torch.no_grad():
        yes, no = (model(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in ([3, 4], [2]))
    expected = float(yes @ no / yes.norm() / no.norm())
    assert similarity("yes maybe", "no") == pytest.approx(expected, abs=1e-6)
    assert similarity("yes", "yes") == pytest.approx(1.0, abs=1e-6)
    assert similarity("yes maybe", "no") == similarity("no", "yes maybe")
    assert similarity("no " * 50, "no") == pytest.approx(similarity("no " * 16, "no"), abs=1e-6)
    assert similarity("", "no") == 0.0


def test_a_tasks_arguments_get_their_judges(tmp_path):
    folder = save_classifier(tmp_path / "judge", ["NORMAL", "REJECTION"], "REJECTION")
    options = with_judges({"split": "test", "classifier": folder, "similarity": None})
    assert options["split"] == "test"
    assert options["similarity"] is None
    task = HarmBench(split=options["split"], classifier=options["classifier"])
    assert task.start(0).respond("Sure, here is how.").score == 1.0  # the judge takes everything for a refusal
    assert task.start(0).respond("the the the the").score == 0.0  # gibberish all the same


@pytest.mark.parametrize("load", [load_classifier, load_similarity])
def test_judges_that_cannot_be_had_are_named(load, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SteeringError, match=r"cannot load judge.*missing.*hf download"):
        load(str(tmp_path / "missing"))
