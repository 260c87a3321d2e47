"""A shared run plays and steers as the one it was made of, from a folder and from the hub's cache, offline."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

import agents
from agents.runs.folder import RunFolder, write_json
from agents.runs.sharing import SHARED, card, write_shared
from experiments.__main__ import main as steer
from steer_env import SteeredLM
from tests.lm.test_hub import ROOT, put

FEW = {"features": [3, 40, 90], "coefficient": 1.0, "coefficient_unit": "norm"}
PROMPT = "Question: who is it?\nAnswer:"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = {"num_envs": 16, "mask": "current", "wandb": "disabled", "env_kwargs": FEW}
    learn = {"n_steps": 4, "net_arch": [8]}
    made = agents.train(
        "Steer-BBQ-v0", "bbq", 64, runs_dir=tmp_path_factory.mktemp("runs"), algo_kwargs=learn, **settings
    )
    flags = ["--items", "12", "--num-envs", "12", "--search-games", "1", "2", "--no-compare"]
    assert steer(["evaluate", "--run", str(made.path), *flags]) == 0
    return made


def test_a_shared_folder_plays_and_steers_as_the_run(run, tmp_path):
    folder = write_shared(run, tmp_path / "shared", "owner/bbq")
    assert {path.name for path in folder.iterdir()} == set(SHARED)
    shared = agents.load_run(folder)
    assert shared.play(6).scores.tolist() == run.play(6).scores.tolist()
    assert shared.evaluation() == run.evaluation()
    texts = [
        each.generate(PROMPT, max_new_tokens=6) for each in (run.steered(), SteeredLM.from_pretrained(str(folder)))
    ]
    assert texts[0] == texts[1]
    assert not {"wandb", "wandb_id"} & set(shared.config)


def test_the_hubs_cache_is_enough_without_a_network(run, tmp_path):
    put(tmp_path / "hf", "model", "owner/bbq", write_shared(run, tmp_path / "shared", "owner/bbq"))
    code = """
import json, agents
from steer_env import SteeredLM
scores = agents.load_run("owner/bbq").play(6).scores.tolist()
print(json.dumps([scores, SteeredLM.from_pretrained("owner/bbq").generate(PROMPT, max_new_tokens=6)]))
try:
    agents.load_run("owner/other")
except FileNotFoundError as error:
    print(error)
""".replace("PROMPT", repr(PROMPT))
    environ = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found, refused = ran.stdout.splitlines()[-2:]
    assert json.loads(found) == [run.play(6).scores.tolist(), run.steered().generate(PROMPT, max_new_tokens=6)]
    assert "no run folder 'owner/other'" in refused
    assert "hf download owner/other" in refused


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(run, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    monkeypatch.chdir(run.path.parent.parent)
    for name in (f"{run.path.parent.name}/other", "/a/b", "a/b/c", "first"):
        with pytest.raises(FileNotFoundError, match="is no run folder"):
            agents.load_run(name)


def test_the_card_is_one_of_the_hub_and_holds_the_evaluation(run, tmp_path):
    content = (write_shared(run, tmp_path / "shared", "owner/bbq") / "README.md").read_text()
    data = ModelCard(content).data
    assert data.library_name == "steer-env"
    assert data.base_model is None, "the embedded model is not on the hub"
    assert "| base model | `embedded/locked` of the package steer-env (licence: mit) |" in content
    result = run.evaluation()
    for name, arm in result.arms.items():
        low, high = arm.ci95
        shown = "**trained**" if name == "trained" else name.replace("_", " ")
        assert f"| {shown} | {arm.score:.3f} | {low:.3f} to {high:.3f} |" in content
    assert "p, trained against it" in content
    assert 'agents.load_run("owner/bbq")' in content
    assert "no: an instrument" in content
    assert str(tmp_path) not in content
    assert str(ROOT) not in content


def test_the_card_of_a_model_of_the_hub_names_it_and_its_licence(run, tmp_path):
    other = RunFolder.create(
        tmp_path / "other", run.config | {"language_model": {"name": "google/gemma-2-2b-it", "sae": "a:b"}}
    )
    content = card(agents.load_run(other.path), "owner/other")
    assert ModelCard(content).data.base_model == "google/gemma-2-2b-it"
    assert "`google/gemma-2-2b-it` (licence: gemma)" in content
    assert "It has not been evaluated." in content


def test_it_is_uploaded_whole_and_nothing_else(run, monkeypatch):
    """The hub is pretended at its boundary: the two calls of its client."""
    calls = []

    class Api:
        def create_repo(self, repo_id, private, exist_ok):
            calls.append((repo_id, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
            calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            return SimpleNamespace(commit_url="https://huggingface.co/owner/bbq/commit/1")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert run.push_to_hub("owner/bbq", private=True) == "https://huggingface.co/owner/bbq/commit/1"
    assert calls == [("owner/bbq", True, True), ("owner/bbq", sorted(SHARED))]
    with pytest.raises(ValueError, match="owner/name, got 'bbq'"):
        run.push_to_hub("bbq")


def test_the_command_writes_the_folder_and_pushes_if_asked_to(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    assert steer(["share", "--run", str(run.path), "--to", "owner/bbq"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "owner/bbq"
    assert agents.load_run("owner/bbq").play(2).scores.shape == (2,)
    assert steer(["share", "--run", str(run.path), "--to", "owner/bbq"]) == 2
    assert "owner/bbq is there already" in capsys.readouterr().err
    assert steer(["share", "--run", str(run.path), "--to", "a/b/c", "--push"]) == 2
    assert "owner/name, got 'a/b/c'" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["here.evil", "evil", "here.pack.evil"])
def test_code_that_comes_with_a_folder_is_not_imported(module, run, tmp_path, monkeypatch, capsys):
    """A config asks for it as the module of its environment, where the folder can be imported from."""
    folder = write_shared(run, tmp_path / "here", "owner/bbq")
    (folder / "pack").mkdir()
    for place in (folder / "evil.py", folder / "pack" / "__init__.py", folder / "pack" / "evil.py"):
        place.write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    write_json(folder / "config.json", run.config | {"env": f"{module}:Steer-BBQ-v0"})
    monkeypatch.syspath_prepend(folder if module == "evil" else tmp_path)
    for command in ("evaluate", "check", "report"):
        assert steer([command, "--run", str(folder)]) == 2
        assert f"asks for the module {module!r}, which comes with the folder" in capsys.readouterr().err
    assert not (tmp_path / "marker").exists()
