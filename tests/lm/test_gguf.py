"""A real pretrained model out of a GGUF file: it says sense, the engine agrees with ``generate``, it can be saved."""

from pathlib import Path

import pytest
import torch

from steer_env.errors import SteeringError
from steer_env.lm.loading import load_language_model, load_tokenizer, new_language_model, weights_sha256
from steer_env.lm.model import SteeredModel

FILE = Path(__file__).parents[3] / "shared" / "models" / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_1.gguf"
needs_model = pytest.mark.skipif(not FILE.is_file(), reason=f"needs {FILE}")


@pytest.mark.slow
@needs_model
def test_a_gguf_model_says_sense_and_the_engine_agrees_with_generate():
    lm, tokenizer = load_language_model(str(FILE)), load_tokenizer(str(FILE), chat=True)
    prompt = tokenizer.prompt("What is the capital of France?")
    said = lm.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
    assert "The capital of France is Paris." in tokenizer.decode(*said)
    engine = SteeredModel(lm, 14)
    engine.restart(0, prompt)
    for token in said:
        engine.observe()
        assert int(engine.advance(torch.zeros(1, 576)).argmax()) == token
        engine.write(0, [token])


@pytest.mark.slow
@needs_model
def test_it_can_be_saved_and_read_again_as_a_folder(tmp_path):
    lm = new_language_model(str(FILE), torch.float32)
    lm.save_pretrained(tmp_path)
    assert weights_sha256(new_language_model(str(tmp_path), torch.float32)) == weights_sha256(lm)


@pytest.mark.slow
@needs_model
def test_the_tokenizer_is_converted_once_and_is_then_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, again = (load_tokenizer.__wrapped__(str(FILE), chat=True) for _ in range(2))
    assert len(list((tmp_path / "steer" / "tokenizers").iterdir())) == 1
    assert type(again.hf) is type(first.hf)
    assert again.hf.get_vocab() == first.hf.get_vocab()
    assert again.hf.special_tokens_map == first.hf.special_tokens_map
    for text in ("What is 2 + 2?", " Two  spaces\nand a line", "\u00e9\u4e2d<|im_start|>"):
        assert again.prompt(text) == first.prompt(text)
        assert again.encode(text) == first.encode(text)
    assert again.hf.name_or_path == first.hf.name_or_path == str(FILE)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SteeringError, match=r"pip install 'steer-env\[gguf\]'"):
        load_language_model("some/where/model.gguf")


@pytest.mark.parametrize("name", ["./models/typo", "/nowhere/model.gguf", "a/b/c"])
def test_a_path_that_is_not_there_is_called_that(name):
    with pytest.raises(SteeringError, match="there is no folder or file"):
        load_language_model(name)
