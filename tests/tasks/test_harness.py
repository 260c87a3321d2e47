"""Item-by-item agreement with lm-evaluation-harness: its own tasks, prompts, scoring and filters against ours."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import steer_env  # noqa: F401  # registers the environments
from steer_env.tasks.answers import flexible_extract, harness_match, strict_match
from steer_env.tasks.gsm8k import GSM8K

lm_eval = pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'steer-env[harness]'")
from lm_eval.evaluator import evaluate  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

SHARED = Path(__file__).parents[3] / "shared"
BABYLLAMA, MMLU, SUMS = SHARED / "models" / "babyllama", SHARED / "data" / "mmlu", SHARED / "data" / "gsm8k"
needs_mmlu = pytest.mark.skipif(not MMLU.is_dir(), reason="needs ../shared/data/mmlu")
needs_babyllama = pytest.mark.skipif(not BABYLLAMA.is_dir(), reason="needs ../shared/models/babyllama")
LETTERS = "ABCD"
Row = dict[str, Any]


# ---------------------------------------------------------------- the harness's side


def harness_tasks(folder: Path, sources: dict[str, str], rows: dict[str, dict[str, list[Row]]], **changes: Any) -> Any:
    """The harness's own tasks, read from its package, with local rows in the place of the data set."""
    for name, source in sources.items():
        (folder / name).mkdir()
        files = {split: folder / name / f"{split}.jsonl" for split in rows[name]}
        for split, file in files.items():
            write_rows(file, rows[name][split])
        spec = {
            "include": str(Path(lm_eval.__file__).parent / "tasks" / source),
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {split: str(file) for split, file in files.items()},
                "cache_dir": str(folder / "cache"),
            },
            **changes,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(spec))  # JSON is YAML
    return TaskManager(include_path=folder, include_defaults=False).load(list(sources))


def harness_choices(lm: Any, tokenizer: Any, tasks: Any) -> tuple[np.ndarray, list[float]]:
    """Log-likelihood ``[N, 4]`` of each option and the accuracy of each row, task by task in order of name."""
    wrapped = HFLM(pretrained=lm, tokenizer=tokenizer, backend="causal", batch_size=16)
    samples = evaluate(wrapped, tasks, bootstrap_iters=0)["samples"]
    rows = [row for name in sorted(samples) for row in sorted(samples[name], key=lambda row: row["doc_id"])]
    return np.array([[found for found, _ in row["filtered_resps"]] for row in rows]), [row["acc"] for row in rows]


# ---------------------------------------------------------------- our side


def our_choices(model: Path, rows: list[Row], folder: Path, **kwargs: Any) -> list[Row]:
    """Final info of each row, in order, without steering."""
    write_rows(folder / "test.jsonl", rows)
    envs = gym.make_vec(
        "Steer-MMLU-v0",
        num_envs=16,
        model=str(model),
        sae=str(model / "sae"),
        data=str(folder),
        split="test",
        template="harness",
        decode="constrained",
        observation="normalized",  # others, and units of the residual's norm, are measured on a training split
        coefficient_unit="residual",
        coefficient=1.0,
        **kwargs,
    )
    finals: dict[int, Row] = {}
    envs.reset(seed=0, options={"items": list(range(len(rows)))})
    noop = np.full(16, envs.single_action_space.n - 1)
    while len(finals) < len(rows):
        *_, infos = envs.step(noop)
        for lane in np.flatnonzero(infos["_final_info"]):
            final = {name: values[lane] for name, values in infos["final_info"].items()}
            finals.setdefault(int(final["item"]), final)
    envs.close()
    return [finals[item] for item in range(len(rows))]


# ---------------------------------------------------------------- rows, models


def read_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as lines:  # not splitlines(): some questions hold other line separators
        return [json.loads(line) for line in lines]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def whole_prompt(row: Row) -> str:
    """The longest text the model reads: only for the choice of rows that fit into its context."""
    options = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, row["choices"], strict=True))
    subject = row["subject"].replace("_", " ")
    header = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    return f"{header}{row['question']}\n{options}Answer: A"


def rows_that_fit(tokenizer: Any, context: int, per_subject: int) -> list[Row]:
    """Rows of every subject that the model can read untruncated, so many of each."""
    fitting = [row for row in read_rows(MMLU / "test.jsonl") if len(tokenizer(whole_prompt(row)).input_ids) <= context]
    by_subject = itertools.groupby(sorted(fitting, key=lambda row: row["subject"]), key=lambda row: row["subject"])
    return [row for _, rows in by_subject for row in list(rows)[:per_subject]]


def save_random_sae(folder: Path, width: int) -> None:
    torch.manual_seed(1)
    StandardSAE(StandardSAEConfig(d_in=width, d_sae=8)).save_model(folder)


def save_byte_tokenizer(folder: Path, words: Sequence[str], bos: bool) -> None:
    """A tokenizer of bytes, in which ``words`` such as ``"ĠA"`` (a space and an A) are one token each."""
    vocabulary = {token: i for i, token in enumerate(["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *words])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[(word[0], word[1]) for word in words]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>").save_pretrained(folder)


def save_random_lm(folder: Path) -> None:
    torch.manual_seed(0)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=261,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=4096,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    for parameter in lm.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    lm.save_pretrained(folder)


TOKENIZERS = {
    "one": {"words": ["ĠA", "ĠB", "ĠC", "ĠD"], "bos": True},
    "several": {"words": [], "bos": False},
    "mixed": {"words": ["ĠB", "ĠD"], "bos": True},
}


@pytest.fixture
def model(request: Any, tmp_path: Path) -> Path:
    """Folder of a model with its tokenizer and an SAE that is never used."""
    folder = tmp_path / "model"
    if request.param == "babyllama":
        folder.mkdir()
        for file in BABYLLAMA.iterdir():
            (folder / file.name).symlink_to(file)
    else:
        save_random_lm(folder)
        save_byte_tokenizer(folder, **TOKENIZERS[request.param])
    save_random_sae(folder / "sae", width=128 if request.param == "babyllama" else 32)
    return folder


def compare_mmlu(model: Path, folder: Path, context: int, per_subject: int, few_shot: int = 0) -> int:
    """Both sides on the same rows; returns how many there were."""
    lm = AutoModelForCausalLM.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = rows_that_fit(tokenizer, context, per_subject)
    dev = read_rows(MMLU / "dev.jsonl")
    subjects = sorted({row["subject"] for row in rows})
    sources = {f"mmlu_{subject}": f"mmlu/default/mmlu_{subject}.yaml" for subject in subjects}
    splits = {
        f"mmlu_{subject}": {
            "test": [row for row in rows if row["subject"] == subject],
            "dev": [row for row in dev if row["subject"] == subject],
        }
        for subject in subjects
    }
    (folder / "theirs").mkdir()
    tasks = harness_tasks(folder / "theirs", sources, splits, num_fewshot=few_shot)
    theirs, accuracies = harness_choices(lm, tokenizer, tasks)

    (folder / "ours").mkdir()
    write_rows(folder / "ours" / "dev.jsonl", dev)
    finals = our_choices(model, rows, folder / "ours", layer=1, few_shot=few_shot)
    assert [final["target"] for final in finals] == [LETTERS[row["answer"]] for row in rows]
    assert all(row["question"].strip() in final["transcript"] for final, row in zip(finals, rows, strict=True))
    ours = np.array([final["option_logprobs"] for final in finals])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    predictions = [LETTERS[best] for best in theirs.argmax(axis=1)]
    assert [final["completion"] for final in finals] == [f" {letter}" for letter in predictions]
    assert [final["score"] for final in finals] == accuracies
    rankings = len(np.unique(theirs.argsort(axis=1), axis=0))
    assert rankings > 1, "a model that ranks the letters the same way every time tests little"
    print(
        f"{len(rows)} items, {len(set(predictions))} letters predicted, {rankings} rankings of the options, "
        f"largest difference of log-likelihoods {np.abs(ours - theirs).max():.1e}"
    )
    return len(rows)


# ---------------------------------------------------------------- MMLU


@needs_mmlu
@pytest.mark.parametrize("model", ["mixed"], indirect=True)
def test_mmlu_choices_are_the_harnesss_on_a_few_items_of_each_subject(model: Path, tmp_path: Path) -> None:
    assert compare_mmlu(model, tmp_path, context=500, per_subject=1) >= 25


@pytest.mark.slow
@needs_mmlu
@needs_babyllama
@pytest.mark.parametrize("model", ["babyllama"], indirect=True)
def test_mmlu_choices_are_the_harnesss_on_a_pretrained_model(model: Path, tmp_path: Path) -> None:
    assert compare_mmlu(model, tmp_path, context=256, per_subject=30) >= 500


@pytest.mark.slow
@needs_mmlu
@pytest.mark.parametrize("model", sorted(TOKENIZERS), indirect=True)
def test_mmlu_choices_are_the_harnesss_whatever_the_tokenizer(model: Path, tmp_path: Path) -> None:
    assert compare_mmlu(model, tmp_path, context=600, per_subject=20) >= 500


@pytest.mark.slow
@needs_mmlu
@pytest.mark.parametrize("model", ["one"], indirect=True)
def test_mmlu_choices_are_the_harnesss_with_examples(model: Path, tmp_path: Path) -> None:
    assert compare_mmlu(model, tmp_path, context=250, per_subject=4, few_shot=1) >= 50


# ---------------------------------------------------------------- GSM8K

HAND_MADE = (
    "",
    " ",
    "18",
    "#### 18",
    "####18",
    "####  18",
    "#### -18",
    "#### $18",
    "#### 1,200",
    "#### 1,200.",
    "#### 1,200.50 dollars",
    "#### .",
    "#### ,",
    "#### -",
    "#### 18 #### 19",
    "#### 18\n#### 19",
    "He makes 9 * 2 = <<9*2=18>>18 dollars a day.\n#### 18",
    "The answer is 18.",
    "The answer is $18.",
    "The answer is $18.00",
    "The answer is 18,",
    "The answer is eighteen",
    "It is 17, not 18.",
    "18 and 1",
    "1 and 18 and",
    "-18",
    "- 18",
    "\u221218",
    "\\boxed{18}",
    "$18$",
    "1.2.3",
    "$$",
    "...",
    "$.",
    "a,b.c",
    "3/4",
    "50%",
    "1e5",
    "1 200",
    "#### 18%",
    "### 18",
    "##### 18",
    "#### 18.",
    "#### 18..",
    "#### $1,800.\n",
    "The total is 1,2,3.",
    "18\n\nQuestion: next 7",
    "\u0661\u0668",
    "\uff11\uff18",
    "#### 0018",
    "#### 18.0",
    "Sum: $1,234,567.89!",
)
FRAGMENTS = (
    *("####", "#### ", "#", "$", ",", ".", "-", "=", "\n", " ", " ", " is ", "The answer", "so", "%", "x"),
    *("18", "7", "1,200", "1200", "3.5", "0", "-4", "$18", "18.", "1,2", "..", "\\boxed{18}", "\u2212"),
)
GOLDS = ("18", "1,200", "-4", "3.5", "7", "0")
FILTERS = {"strict-match": strict_match, "flexible-extract": flexible_extract}


def answers() -> list[tuple[str, str]]:
    """Completions and golds: made by hand, put together at random, and worked answers with their own sum."""
    rng = np.random.default_rng(0)
    random = ["".join(rng.choice(FRAGMENTS, size=rng.integers(1, 12))) for _ in range(300)]
    worked = [
        (f"She has {a} and {b}, so {a} + {b} = <<{a}+{b}={a + b}>>{a + b}.{end.format(a + b)}", f"{a + b:,}")
        for a, b in rng.integers(1, 3_000, size=(40, 2)).tolist()
        for end in ("\n#### {:,}", "\n#### {}", " The answer is ${:,}.", "\nAnswer: {}.00")
    ]
    return [*itertools.product(HAND_MADE, GOLDS), *zip(random, itertools.cycle(GOLDS), strict=False), *worked]


def harness_outcomes(folder: Path, said: Sequence[str], rows: list[Row]) -> tuple[list[str], dict[str, list[Any]]]:
    """The harness's prompt of each row and, by filter, what it extracts from a completion and whether that is right."""
    splits = {"gsm8k": {"train": rows[:1], "test": rows}}
    task = harness_tasks(folder, {"gsm8k": "gsm8k/gsm8k.yaml"}, splits, num_fewshot=0)["tasks"]["gsm8k"]
    task.build_all_requests()
    instances = sorted(task.instances, key=lambda instance: instance.doc_id)
    for instance in instances:
        instance.resps = [said[instance.doc_id]]
    task.apply_filters()
    outcomes = {}
    for name in FILTERS:
        found = [instance.filtered_resps[name] for instance in instances]
        matches = [task.process_results(row, [text])["exact_match"] for row, text in zip(rows, found, strict=True)]
        outcomes[name] = list(zip(found, map(bool, matches), strict=True))
    return [instance.args[0] for instance in instances], outcomes


def compare_gsm8k(folder: Path, said: Sequence[str], rows: list[Row]) -> dict[str, list[Any]]:
    """Functions and task against the harness on the same completions; returns what both found, by filter."""
    prompts, theirs = harness_outcomes(folder, said, rows)
    for name, extract in FILTERS.items():
        extracted = [extract(text) for text in said]
        right = [harness_match(text, row["answer"]) for text, row in zip(extracted, rows, strict=True)]
        assert list(zip(extracted, right, strict=True)) == theirs[name]
        task = GSM8K("test", str(folder / "gsm8k"), "harness", scoring=name.partition("-")[0])
        talks = [task.start(item) for item in range(len(rows))]
        assert [talk.opening for talk in talks] == prompts
        assert [talk.respond(text).score for talk, text in zip(talks, said, strict=True)] == list(map(float, right))
    return theirs


def test_gsm8k_extraction_is_the_harnesss_on_made_up_completions(tmp_path: Path) -> None:
    said, golds = zip(*answers(), strict=True)
    assert len(set(said)) >= 450
    rows = [{"question": f"Number {i}?", "answer": f"Worked = 5.\n#### {gold}"} for i, gold in enumerate(golds)]
    found = compare_gsm8k(tmp_path, said, rows)
    for outcomes in found.values():
        assert 40 < sum(right for _, right in outcomes) < len(rows) - 40
        assert 40 < sum(text == "[invalid]" for text, _ in outcomes) < len(rows) - 40


@pytest.mark.skipif(not SUMS.is_dir(), reason="needs ../shared/data/gsm8k")
def test_gsm8k_extraction_is_the_harnesss_on_the_worked_solutions(tmp_path: Path) -> None:
    rows = read_rows(SUMS / "test.jsonl")
    found = compare_gsm8k(tmp_path, [row["answer"] for row in rows], rows)
    assert all(right for _, right in found["strict-match"])
    assert all(right for _, right in found["flexible-extract"])
