"""The one command, ``steer`` (``python -m experiments`` is the same): a table of commands, their help, their errors."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import gymnasium as gym

OURS = ("steer_env", "agents", "experiments")


@dataclass(frozen=True)
class Command:
    """A row of COMMANDS.

    Attributes:
        module: The module below ``experiments``, with ``main(cfg)``; the type of ``cfg`` declares the flags.
        group: The heading of ``steer --help`` under which it stands.
        about: One line on what it does.
    """

    module: str
    group: str
    about: str


STEER, STUDY, INSIDE, MAKE, TOOLS = (
    "Steer a model",
    "Compare",
    "Look inside agents of small worlds",
    "Make models, SAEs and agents",
    "Tools",
)

COMMANDS: dict[str, Command] = {
    "train": Command("train", STEER, "train an agent; everything goes into one run folder"),
    "evaluate": Command("evaluate", STEER, "play a trained agent and its controls on the same items"),
    "check": Command("check", STEER, "check a run against the faults that nobody sees"),
    "analyze": Command("analyze", STEER, "which feature did what, and was it the reason"),
    "report": Command("report", STEER, "one page for a person, without network"),
    "share": Command("share", STEER, "a run as others can load it: a folder with a card, or on the hub"),
    "play": Command("play", STEER, "a local page to play with a steered model, token by token"),
    "evidence": Command("evidence", STUDY, "tune, train several seeds, play every arm, test"),
    "summary": Command("summary", STUDY, "one table over several runs or studies"),
    "sweep": Command("sweep", STUDY, "variants of one training side by side"),
    "transfer": Command("transfer", STUDY, "trained agents where the prompt is worded otherwise"),
    "layers": Command("layers", STUDY, "the same protocol at every layer"),
    "sample-efficiency": Command("sample_efficiency", STUDY, "score against the number of items learned from"),
    "refusal-agreement": Command("refusal_agreement", STUDY, "the refusal scorer against people's labels"),
    "make-sae": Command("make.sae", MAKE, "train an SAE for any model, on any text"),
    "make-tictactoe": Command("make.tictactoe.__main__", MAKE, "make the embedded tic-tac-toe model"),
    "make-locked": Command("make.locked.__main__", MAKE, "make the embedded locked model"),
    "make-agents": Command("make.agents", MAKE, "train agents on the small worlds"),
    "export": Command("export", MAKE, "a feature as a control vector for llama.cpp"),
    "explain": Command("explain", MAKE, "label features in the model's own words"),
    "rl-sae": Command("inside.rl_sae", INSIDE, "SAEs on an agent: what features detect, and what they cost"),
    "live-features": Command("inside.live_features", INSIDE, "score against the number of live features"),
    "value-probe": Command("inside.value_probe", INSIDE, "directions that predict the value of a state"),
    "controller": Command("inside.controller", INSIDE, "what the policy of a steering run represents"),
    "inside-summary": Command("inside.summary", INSIDE, "one table over agents that were looked into"),
    "list": Command("list", TOOLS, "ids, presets, algorithms, masks, observations, controls and what each needs"),
    "benchmark": Command("benchmark", TOOLS, "how fast the parts are, beside what they replace"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 where a check failed, 2 for an error, 130 for Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug, trusting = "--debug" in args, "--trust-pickle" in args
    args = [arg for arg in args if arg not in ("--debug", "--trust-pickle")]
    try:
        args, place = without_prompt_store(args)
    except ValueError as error:
        print(f"steer: {error}", file=sys.stderr)
        return 2
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        return 0
    name, *flags = args
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        print(f"steer: there is no command {name!r}{f'; {near[0]!r} is near' if near else ''}; see steer --help")
        return 2
    warnings.showwarning = _show_warning
    try:
        asked = {"STEER_PROMPT_STORE": place} if place else {}
        asked |= {"STEER_TRUST_PICKLE": "1"} if trusting else {}
        with patch.dict(os.environ, asked):  # the processes it starts inherit it
            return run(name, flags)
    except KeyboardInterrupt as stopped:
        print(f"\nsteer {name}: stopped. {stopped}".rstrip(), file=sys.stderr)
        return 130
    except Exception as error:  # whatever is not ours to explain is raised again, with its traceback
        if debug or not _is_told_in_one_line(error):
            raise
        print(f"steer {name}: {' '.join(str(error).split())} (--debug shows where)", file=sys.stderr)
        return 2


def without_prompt_store(args: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without ``--prompt-store DIR|off``, and what it says; None where it is not among them.

    Where prompts are kept changes nothing that a command computes: it is no setting of any, nor recorded by one.

    Raises:
        ValueError: Nothing follows the flag.
    """
    left, place = [], None
    rest = iter(args)
    for arg in rest:
        flag, equals, value = arg.partition("=")
        if flag != "--prompt-store":
            left.append(arg)
            continue
        place = value if equals else next(rest, "")
        if not place or place.startswith("--"):
            raise ValueError("--prompt-store needs a folder, or 'off' for memory alone")
    return left, place


def run(name: str, flags: Sequence[str]) -> int:
    """Parse ``flags`` and call the command's ``main``; a path that it returns is printed."""
    module = load(name)
    result = module.main(parse(name, module, flags))
    if isinstance(result, Path):
        print(result)
    exit_code = getattr(module, "exit_code", None)
    return 0 if exit_code is None else int(exit_code(result))


def load(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"experiments.{COMMANDS[name].module}")


def parse(name: str, module: ModuleType, flags: Sequence[str]) -> Any:
    """The configuration that ``flags`` ask for.

    With ``--resume`` the flags left out are those the run was started with, not the defaults.
    """
    import tyro

    declared = module.main.__annotations__["cfg"]
    config = getattr(module, declared) if isinstance(declared, str) else declared
    about = (config.__doc__ or COMMANDS[name].about).strip()
    cfg = tyro.cli(config, prog=f"steer {name}", args=flags, description=about)
    if getattr(cfg, "resume", False) and hasattr(cfg, "as_recorded"):
        cfg = tyro.cli(config, prog=f"steer {name}", args=flags, default=replace(cfg.as_recorded(), resume=True))
    return cfg


def overview() -> str:
    """The help text of ``steer`` itself: every command, by group."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: steer COMMAND [FLAGS]   (steer COMMAND --help lists its flags; --debug shows tracebacks;",
        "       --prompt-store DIR keeps prompts that were read there, --prompt-store off in memory alone;",
        "       --trust-pickle lets old or foreign agents be unpickled, which can run any code)",
    ]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines += ["", f"{group}:"]
        lines += [f"  {name:{width}}  {row.about}" for name, row in COMMANDS.items() if row.group == group]
    return "\n".join(lines)


def _is_told_in_one_line(error: Exception) -> bool:
    """Whether an error says what the user can do, so that a traceback would only hide it.

    Files that are missing or there already, ids that Gymnasium does not know, and what our own code refuses; anything
    else is a fault of the program.
    """
    if isinstance(error, (OSError, gym.error.Error)):
        return True
    if not isinstance(error, (ValueError, RuntimeError, ImportError, TypeError)):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).split(".")[0] in OURS


def _show_warning(message: Warning | str, *where: Any, **how: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
