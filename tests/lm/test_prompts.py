"""What is kept of read prompts: exact, shared, bounded, and never wrong, in memory and on disk."""

import copy
import gc
import multiprocessing
import os
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
import torch

import steer_env
from experiments import __main__ as main
from steer_env.lm import prompt_files, prompts
from steer_env.lm.loading import load_language_model
from steer_env.lm.model import SteeredModel
from steer_env.lm.prompt_files import PromptFolder
from steer_env.lm.prompts import PIECE, PromptStore, prompt_store
from tests.conftest import LAYER, WIDTH, save_lm

LONG = [0, *([4, 8, 6, 3, 9] * 8)]
"""Its first two pieces, and a part of the third."""
KIND = "keys and values"


@pytest.fixture
def lm(tiny):
    return load_language_model(tiny["model"])


@pytest.fixture
def read(lm):
    """Numbers of tokens of each pass of the model, padding included."""
    counts: list[int] = []
    handle = lm.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    yield counts
    handle.remove()


def shared(**kwargs) -> PromptStore:
    return PromptStore(1 << 24, PIECE, alone=True, **kwargs)


def answer(lm, texts, store=None, **kwargs) -> torch.Tensor:
    """Logits ``[B, V]`` behind each text, the last token steered a little."""
    engine = SteeredModel(lm, LAYER, len(texts), prompts=store, **kwargs)
    for lane, text in enumerate(texts):
        engine.restart(lane, text)
    return engine.advance(torch.full_like(engine.observe(), 0.1))


def rows(count: int = 3, width: int = 4, start: float = 0.0) -> torch.Tensor:
    return start + torch.arange(count * width, dtype=torch.float32).reshape(count, width)


def folder_at(path: Path, **kwargs) -> PromptFolder:
    return PromptFolder(path, "a" * 64, "float32", **kwargs)


# --- exactness -------------------------------------------------------------------------------------------------------


def test_a_prompt_that_is_known_is_answered_alike_and_not_read_again(lm, read):
    store, texts = shared(), [LONG, [0, 5, *LONG[2:30]], [4]]
    plain = answer(lm, texts)
    first = answer(lm, texts, store)
    del read[:]
    again = answer(lm, texts, store)
    assert read == [1, len(texts)], "one token to learn the shapes, and the last ones"
    assert torch.equal(first, again)
    assert torch.allclose(first, plain, atol=1e-5)
    assert torch.equal(first.argmax(-1), plain.argmax(-1))


@pytest.mark.parametrize("shares", [PIECE, 2 * PIECE, 2 * PIECE + 5])
def test_of_a_prompt_that_begins_like_a_known_one_only_the_rest_is_read(lm, read, shares):
    store, other = shared(), [*LONG[:shares], 11, *LONG[shares + 1 :]]
    answer(lm, [LONG], store)
    expected = answer(lm, [other])
    del read[:]
    found = answer(lm, [other], store)
    known = shares // PIECE * PIECE
    assert read == [1, len(other) - 1 - known, 1]
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_prompt_that_is_the_beginning_of_a_known_one_is_read_from_its_last_whole_piece(lm, read):
    store, part = shared(), LONG[: 2 * PIECE + 4]
    answer(lm, [LONG], store)
    del read[:]
    assert torch.allclose(answer(lm, [part], store), answer(lm, [part]), atol=1e-5)
    assert read[:3] == [1, 3, 1]


def test_lanes_that_begin_alike_read_the_beginning_once(lm, read):
    texts = [[*LONG[: 2 * PIECE], last, *LONG[-5:]] for last in (3, 5, 7)]
    found = answer(lm, texts, shared())
    assert read == [2 * PIECE + 5, 5, 5, 3]
    assert torch.allclose(found, answer(lm, texts), atol=1e-5)


def test_lanes_that_are_read_together_may_begin_with_what_is_known(lm):
    """As on a GPU: all lanes in one pass, each behind what is known of it."""
    store = PromptStore(1 << 24, PIECE)
    answer(lm, [LONG], store)
    texts = [[*LONG[:20], 9, 9], LONG, [0, *LONG[5:]], [0, 5]]
    for _ in range(2):
        assert torch.allclose(answer(lm, texts, store), answer(lm, texts), atol=1e-5)


def test_peeking_at_a_new_prompt_keeps_it_all_the_same(lm, read):
    store = PromptStore(1 << 24, PIECE)
    answer(lm, [LONG[:20]], store)
    engine = SteeredModel(lm, LAYER, 2, prompts=store)
    for lane in range(2):
        engine.restart(lane, LONG)
    engine.peek()
    engine.advance(torch.zeros_like(engine.observe()))
    del read[:]
    answer(lm, [LONG, LONG], store)
    assert read == [1, 2]


def test_a_watcher_sees_of_a_known_prompt_what_it_saw_when_it_was_read(lm, read):
    def watched(store) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        answer(lm, [LONG], store, watch=lambda lanes, residuals, real: seen.append(residuals[real]))
        return torch.cat(seen)

    store = shared()
    answer(lm, [LONG], store)  # keys and values alone are of no use to a watcher
    plain, first = watched(None), watched(store)
    del read[:]
    again = watched(store)
    assert read == [1, 1]
    assert plain.shape == (len(LONG), WIDTH)
    assert torch.equal(first, again)
    assert torch.allclose(first, plain, atol=1e-5)


def test_what_is_kept_does_not_depend_on_the_layer_or_the_site(lm, read):
    store = shared()
    answer(lm, [LONG], store)
    for layer, site in ((0, "pre"), (2, "post")):
        engine, plain = (SteeredModel(lm, layer, site=site, prompts=own) for own in (store, None))
        for one in (engine, plain):
            one.restart(0, LONG)
        del read[:]
        hidden = engine.observe()
        assert read == [1, 1]
        assert torch.allclose(hidden, plain.observe(), atol=1e-5)


def test_a_prompt_read_with_numbers_that_are_not_finite_is_not_kept(tmp_path):
    store = shared(folder=folder_at(tmp_path))
    store.keep(KIND, (0, 1, 2), rows().index_fill(0, torch.tensor([1]), float("nan")))
    assert store.find([KIND], (0, 1, 2)) is None


# --- sharing ---------------------------------------------------------------------------------------------------------


def test_environments_of_one_model_share_what_they_read(tmp_path, read):
    def play(split: str, **kwargs) -> int:
        envs = gym.make_vec(
            "Steer-MMLU-v0", num_envs=4, split=split, data="embedded", prompt_store=str(tmp_path), **kwargs
        )
        handle = steer_env.unwrap(envs).lm.register_forward_pre_hook(
            lambda module, args, inputs: passes.append(inputs["input_ids"].numel()), with_kwargs=True
        )
        passes: list[int] = []
        envs.reset(seed=0, options={"items": [0, 1, 2, 3]})
        handle.remove()
        return sum(passes)

    with warnings.catch_warnings(action="ignore"):
        first, again, elsewhere = play("test"), play("test"), play("test", layer=0, coefficient_unit="residual")
    assert again == 1, "one token to learn the shapes"
    assert elsewhere == 1 + 4 < first / 10, "and the last ones, up to another block"


def test_a_loaded_model_has_one_store_a_place_and_takes_it_along(tmp_path):
    save_lm(tmp_path / "lm")
    lm = load_language_model(str(tmp_path / "lm"))
    own = copy.deepcopy(lm)
    store = prompt_store(own, str(tmp_path / "a"))
    assert prompt_store(own, str(tmp_path / "a")) is store
    assert prompt_store(lm, str(tmp_path / "a")) is not store
    assert prompt_store(own, str(tmp_path / "b")) is not store
    stores = len(prompts._SHARED)
    del own
    gc.collect()
    assert len(prompts._SHARED) == stores - 1


def test_where_prompts_are_kept(lm, tmp_path, monkeypatch):
    assert prompt_store(lm).folder is None, "a tiny model's are read faster than a file"
    monkeypatch.setattr(prompts, "TINY", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert prompt_store(lm).folder.folder == tmp_path / "steer" / "prompts"
    assert prompt_store(lm, "off").folder is None
    monkeypatch.setenv("STEER_PROMPT_STORE", str(tmp_path / "mine"))
    assert prompt_store(lm).folder.folder == tmp_path / "mine"
    assert prompt_store(lm, str(tmp_path / "other")).folder.folder == tmp_path / "other"
    assert not list(tmp_path.iterdir()), "nothing is made before something is read"


@pytest.mark.parametrize("flags", [["--prompt-store", "here"], ["--prompt-store=here"]])
def test_the_flag_of_every_command_says_where_prompts_are_kept(lm, monkeypatch, flags, capsys):
    places = []
    monkeypatch.setattr(main, "run", lambda name, rest: places.append((prompt_store(lm).folder.folder, rest)) or 0)
    assert main.main(["train", *flags, "--name", "x"]) == 0
    assert places == [(Path("here"), ["--name", "x"])]
    assert prompt_store(lm).folder is None
    assert main.main(["train", "--prompt-store"]) == 2
    assert "--prompt-store needs a folder" in capsys.readouterr().err


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_what_was_used_least_recently_goes_first_and_bytes_are_the_bound():
    size = rows().nbytes
    store = PromptStore(3 * size)
    for first in range(3):
        store.keep(KIND, (first, 8, 9), rows(start=first))
    store.find([KIND], (0, 8, 9))
    store.keep(KIND, (7, 8, 9), rows())
    assert [first for first in (0, 1, 2, 7) if store.find([KIND], (first, 8, 9)) is not None] == [0, 2, 7]
    assert store.bytes == 3 * size


def test_of_a_long_prompt_the_end_goes_first():
    prompt = tuple(range(3 * PIECE))
    store = PromptStore(rows(2 * PIECE).nbytes, PIECE)
    store.keep(KIND, prompt, rows(3 * PIECE))
    assert torch.equal(store.find([KIND], prompt)[0], rows(2 * PIECE))


def test_files_used_least_recently_go_first(tmp_path):
    room = folder_at(tmp_path / "one")
    room.write(KIND, (0, 1, 2), rows())
    size = room.path(KIND, (0, 1, 2)).stat().st_size
    folder = folder_at(tmp_path / "two", max_bytes=3 * size)
    for first in range(3):
        folder.write(KIND, (first, 1, 2), rows(start=first))
        os.utime(folder.path(KIND, (first, 1, 2)), (first, first))
    folder.touch(KIND, (0, 1, 2))
    folder.write(KIND, (7, 1, 2), rows())
    assert [first for first in (0, 1, 2, 7) if folder.read(KIND, (first, 1, 2)) is not None] == [0, 2, 7]


# --- files -----------------------------------------------------------------------------------------------------------


def play_in_a_process(model: str, place: str, texts) -> tuple[torch.Tensor, list[int]]:
    """Logits behind the texts, and how many tokens each pass read."""
    torch.set_num_threads(1)
    lm = load_language_model(model)
    counts: list[int] = []
    lm.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return answer(lm, texts, prompt_store(lm, place)).tolist(), counts


def test_another_process_reads_nothing_again_and_two_may_write_at_once(tiny, lm, tmp_path):
    texts = [LONG, [0, 5, *LONG[2:30]]]
    job = (tiny["model"], str(tmp_path), texts)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        both = pool.starmap(play_in_a_process, [job, job], chunksize=1)
        ((third, counts),) = pool.starmap(play_in_a_process, [job])
    assert both[0][0] == both[1][0] == third
    assert counts in ([1, 2], [2]), "nothing but the last tokens"
    assert torch.allclose(torch.tensor(third), answer(lm, texts), atol=1e-5)
    assert not [path for path in tmp_path.rglob("*.prompt") if "-" in path.name], "nothing half written is left"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rows_come_back_from_disk_to_the_bit(tmp_path, dtype):
    kept = torch.randn(5, 6).to(getattr(torch, dtype))
    PromptFolder(tmp_path, "a" * 64, dtype).write(KIND, (1, 2, 3), kept)
    found = PromptFolder(tmp_path, "a" * 64, dtype).read(KIND, (1, 2, 3))
    assert found.dtype == kept.dtype
    assert torch.equal(found, kept)


def test_what_another_model_type_kind_or_text_left_is_not_found(tmp_path):
    folder_at(tmp_path).write(KIND, (1, 2, 3), rows())
    assert PromptFolder(tmp_path, "b" * 64, "float32").read(KIND, (1, 2, 3)) is None
    assert PromptFolder(tmp_path, "a" * 64, "bfloat16").read(KIND, (1, 2, 3)) is None
    assert folder_at(tmp_path).read("residuals", (1, 2, 3)) is None
    assert folder_at(tmp_path).read(KIND, (1, 2, 4)) is None


def flip(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize(
    "damage",
    [flip, lambda content: content[:-1], lambda content: content[:10], lambda content: content + b"0"],
    ids=["a bit", "truncated", "header", "longer"],
)
def test_a_damaged_file_is_named_removed_and_written_anew(tmp_path, damage):
    folder = folder_at(tmp_path)
    folder.write(KIND, (1, 2, 3), rows())
    path = folder.path(KIND, (1, 2, 3))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=f"{path} is damaged"):
        assert folder.read(KIND, (1, 2, 3)) is None
    assert not path.exists()
    folder.write(KIND, (1, 2, 3), rows())
    assert torch.equal(folder.read(KIND, (1, 2, 3)), rows())


def test_another_prompts_file_under_this_ones_name_is_not_used(tmp_path):
    folder = folder_at(tmp_path)
    folder.write(KIND, (1, 2, 9), rows())
    folder.path(KIND, (1, 2, 9)).rename(folder.path(KIND, (1, 2, 3)))
    with pytest.warns(UserWarning, match="is damaged or another prompt's"):
        assert folder.read(KIND, (1, 2, 3)) is None


@pytest.mark.parametrize("content", [b"", b"letters to a friend"])
def test_a_file_of_somebody_else_is_left_alone(tmp_path, content):
    folder = folder_at(tmp_path)
    path = folder.path(KIND, (1, 2, 3))
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is no file of read prompts: it is left"):
        assert folder.read(KIND, (1, 2, 3)) is None
    folder.write(KIND, (1, 2, 3), rows())
    assert folder.read(KIND, (1, 2, 3)) is None, "and it is said once"
    assert path.read_bytes() == content


def test_where_nothing_can_be_written_it_is_said_once_and_memory_serves(lm, read, tmp_path):
    (tmp_path / "taken").write_text("a file where the folder should be")
    store = shared(folder=folder_at(tmp_path / "taken"))
    with pytest.warns(UserWarning, match="new prompts are kept in memory alone") as said:
        answer(lm, [LONG], store)
    assert len(said) == 1
    del read[:]
    answer(lm, [LONG], store)
    assert read == [1, 1]


def test_a_full_disk_is_said_once_and_leaves_nothing_half_written(monkeypatch, tmp_path):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    folder = folder_at(tmp_path)
    monkeypatch.setattr(prompt_files.Path, "replace", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        folder.write(KIND, (1, 2, 3), rows())
    folder.write(KIND, (1, 2, 4), rows())
    assert not list(tmp_path.rglob("*.prompt"))
