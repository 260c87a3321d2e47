"""A run that others can load: its settings, its agent and what it scored, as a folder or on the hub.

No file of it runs code when it is read. The language model and the SAE are named, not copied.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.compare.results import Evaluation
from agents.report.markdown import markdown_table
from agents.runs.agent_files import RECORD, TENSORS, save_agent
from agents.runs.folder import to_json, write_json
from steer_env.errors import first_line
from steer_env.lm.presets import EMBEDDED, licence_of

if TYPE_CHECKING:
    from agents.runs.loading import Run

CONFIG, MASK, EVALUATION, CARD = "config.json", "mask.npz", "evaluation.json", "README.md"
SHARED = (CONFIG, TENSORS, RECORD, MASK, EVALUATION, CARD)
"""Files of a shared run, which are all that is fetched."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_OF_THIS_MACHINE = ("wandb", "wandb_id", "threads")


def located(name: str | Path) -> Path:
    """The folder of a run: a local one, or that of a hub id in the hub's cache, fetched where it is not there.

    Raises:
        FileNotFoundError: There is no such folder, and the hub's cannot be had.
    """
    path = Path(name)
    if isinstance(name, Path) or path.exists() or path.parent.exists() or not _HUB_ID.fullmatch(name):
        return path
    from huggingface_hub import snapshot_download  # slow to import

    try:
        return Path(snapshot_download(name, allow_patterns=list(SHARED)))
    except OSError as error:  # the hub's refusals are all OSErrors: gated, missing, offline
        raise FileNotFoundError(
            f"there is no run folder {name!r}, and no run of this name can be had from the hub ({first_line(error)}): "
            f"where there is a network, run 'hf download {name}', then set HF_HUB_OFFLINE=1"
        ) from error


def write_shared(run: Run, folder: Path, name: str) -> Path:
    """Write what others need of a run into a new folder.

    Args:
        run: A finished run.
        folder: Where to; it must not be there.
        name: By which they load it, for the card: a hub id or a folder.

    Raises:
        FileExistsError: The folder is there.
        FileNotFoundError: Training has not finished.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: give another")
    model = run.model
    folder.mkdir(parents=True)
    write_json(folder / CONFIG, {key: value for key, value in run.config.items() if key not in _OF_THIS_MACHINE})
    for file in (MASK, EVALUATION):
        if (run.path / file).is_file():
            shutil.copyfile(run.path / file, folder / file)
    (folder / CARD).write_text(card(run, name))
    save_agent(model, folder)
    return folder


def push(folder: Path, repo_id: str, private: bool) -> str:
    """Upload a shared run, into a repository that is made where there is none; returns the address of the commit.

    Raises:
        ValueError: ``repo_id`` is not ``owner/name``.
    """
    from huggingface_hub import HfApi  # slow to import

    if not _HUB_ID.fullmatch(repo_id):
        raise ValueError(f"on the hub a run is called owner/name, got {repo_id!r}")
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    done = api.upload_folder(
        repo_id=repo_id, folder_path=folder, allow_patterns=list(SHARED), commit_message="A steering policy"
    )
    return str(done.commit_url)


def card(run: Run, name: str) -> str:
    """The model card: what the policy is, how to load it, what it learned from and what it scored."""
    config, model = run.config, run.config.get("language_model", {}).get("name")
    licence = (licence_of(model) if model else None) or "not known"
    scores = _scores(run.evaluation()) if (run.path / EVALUATION).is_file() else "It has not been evaluated."
    front = ["library_name: steer-env", "tags:", *(f"- {tag}" for tag in ("steering", "reinforcement-learning"))]
    if model and _HUB_ID.fullmatch(model):
        front.append(f"base_model: {model}")
    return f"""---
{chr(10).join(front)}
---

# {name.rpartition("/")[2]}

A policy that steers a frozen language model: at each token it reads the residual stream and adds the decoder direction
of one SAE feature, or several, or none. The model's weights are not changed and are not in this folder; no file in it
runs code when it is loaded.

```python
import agents
run = agents.load_run("{name}")  # run.steered().generate("...") writes any text, where the task is one
print(run.play(items=100).score)
```

## What it was trained on

{markdown_table(("", ""), _facts(config, model or "not recorded", licence))}

The hashes of the model's weights and of the SAE's directions are in `{CONFIG}`: on others it refuses to play.

## Results

{scores}
"""


def _facts(config: Mapping[str, Any], model: str, licence: str) -> list[tuple[str, str]]:
    steering, data = config.get("steering", {}), config.get("data", {})
    features = steering.get("features", [])
    count = features["all"] if isinstance(features, Mapping) else len(features)
    facts = {
        "base model": f"{_named(model)} (licence: {licence})",
        "SAE": _named(config.get("language_model", {}).get("sae", "not recorded")),
        "steers": f"{steering.get('site')} of block {steering.get('layer')}, strength "
        f"{steering.get('coefficient', float('nan')):.4g} in residual units, {count} features",
        "environment": f"`{config['env']}` with `{to_json(config['env_kwargs'])}`",
        "items": ", ".join(f"{key} {data[key]}" for key in ("data", "split", "items", "sha256") if key in data),
        "algorithm": f"{config['algo']}, {config['total_timesteps']} tokens, seed {config['seed']}, "
        f"mask {config['mask']}, head {config['head']}",
        "scores count as the benchmark's": "yes" if config.get("benchmark") else "no: an instrument",
    }
    return list(facts.items())


def _named(name: str) -> str:
    """A model or SAE as others know it: folders of this machine by their last name alone."""
    path = Path(name)
    if path.is_relative_to(EMBEDDED.parent):
        return f"`{path.relative_to(EMBEDDED.parent)}` of the package steer-env"
    return f"`{path.name}`, a local folder" if path.exists() else f"`{name}`"


def _scores(result: Evaluation) -> str:
    """The arms with their intervals, and the tests against the trained one."""
    rows = []
    for name, arm in result.arms.items():
        test, (low, high) = result.tests.get(f"trained_vs_{name}"), arm.ci95
        shown = f"**{name}**" if name == "trained" else name.replace("_", " ")
        rows.append((shown, f"{arm.score:.3f}", f"{low:.3f} to {high:.3f}", f"{test.p_holm:.1e}" if test else ""))
    head = ("arm", "score", "95 % interval", "p, trained against it (McNemar, Holm)")
    return (
        f"{result.episodes} items of {result.split}, each played once by every arm with the same seeds, temperature "
        f"{result.temperature:g}.\n\n{markdown_table(head, rows)}\n\n{result.train_and_test()}."
    )
