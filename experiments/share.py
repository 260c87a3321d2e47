"""A run as others can load it: ``steer share --run runs/first --to owner/name``, and ``--push`` puts it on the hub."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ShareConfig:
    """Write a run as others can load it, without pickles and with a model card."""

    run: Path
    """Run folder, finished and best evaluated."""
    to: str
    """Folder to make, and with --push also the name on the hub: owner/name."""
    push: bool = False
    """Upload it to the hub (log in first: hf auth login)."""
    private: bool = False
    """Where the hub has no such repository, make a private one."""


def main(cfg: ShareConfig) -> Path:
    """Write the folder, upload it if asked to, and return its path.

    Raises:
        FileExistsError: The folder is there.
        FileNotFoundError: Training has not finished.
        ValueError: The name is not one of the hub.
    """
    from agents.runs.loading import load_run
    from agents.runs.sharing import push, write_shared

    folder = write_shared(load_run(cfg.run), Path(cfg.to), cfg.to)
    if cfg.push:
        print(push(folder, cfg.to, cfg.private))
    return folder
