"""Does a run do what it says? ``steer check --run runs/first`` measures it, one line a check.

Each check looks for a fault that published systems had and nobody saw: steering that never fired, a policy without
gradient or never loaded, rewards lost on their way, logs of something else than was done. The steering is measured from
outside the engine (:mod:`agents.runs.residual_probe`), the log is held against the same episodes played again
(:mod:`agents.runs.replay`), and gradient and rewards against a throw-away update (:mod:`agents.trial`).

A check says what was found, what was expected, and in which file. It fails only on evidence of a fault: where a sound
run could look the same (few episodes, rounding in 16 bits, a policy that is certain) it passes or says why it cannot
tell.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.algos import ALGOS
from agents.compare.results import Evaluation
from agents.policies import policy_of
from agents.runs.agent_files import TENSORS, SavedAgent, fill
from agents.runs.folder import RunFolder
from agents.runs.loading import (
    PICKLED,
    Run,
    fresh_agent,
    load_mask,
    load_trained,
    make_envs,
    make_run_mask,
    model_sha256,
)
from agents.runs.replay import (
    APPLIED,
    SAID,
    EvaluationLog,
    differences,
    logged_actions,
    logged_episodes,
    replay_policy,
    tolerated,
)
from agents.runs.residual_probe import measure_pushes
from agents.runs.results import ResultFile
from agents.runs.steering import require_same_actions
from agents.trial import Trial, part_of, try_update
from agents.vec_env import SB3VecEnv
from steer_env.envs.base import unwrap
from steer_env.evaluation.token_log import interventions_of

LEAST_GRADIENT = 1e-8
LEAST_TRIAL_STEPS = 32
ENOUGH_EPISODES = 20  # that all return the same; fewer may do so by chance


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        verdict: Whether it passed; ``"not checked"`` where the run cannot show it.
        line: What was measured, what was expected and in which file, or why it was not checked.
    """

    verdict: Literal["passed", "FAILED", "not checked"]
    line: str


@dataclass(frozen=True, kw_only=True)
class Checks(ResultFile):
    """``check.json``: every check of a run.

    Attributes:
        run: Name of the run folder.
        items: Number of episodes played, and replayed of each arm of an evaluation.
        checks: Result of each check, by its name.
    """

    MADE_BY: ClassVar[str] = "steer check --run RUN"

    run: str
    items: int
    checks: dict[str, Result]


class NoEvidenceError(Exception):
    """The run does not hold what a check would look at."""


def check_run(folder: Path, items: int = 8) -> Checks:
    """Run every check of ``CHECKS`` on a run, print a line for each, and write ``check.json``.

    Args:
        folder: The run folder.
        items: Number of episodes played, and replayed of each arm of an evaluation.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: ``items`` is below 1, or the run's environments cannot be made.
    """
    if items < 1:
        raise ValueError(f"--items must be at least 1, got {items}")
    subject = Subject(RunFolder.open(folder), items)
    results = {}
    for name, check in CHECKS.items():
        results[name] = result = _result(check, subject)
        print(f"{result.verdict:<11}  {name:<23}  {result.line}", flush=True)
    found = Checks(run=folder.name, items=items, checks=results)
    found.write(folder / "check.json")
    return found


class Subject:
    """A run under check, with what several checks look at; everything is made when first asked for."""

    def __init__(self, run: RunFolder, items: int):
        self.run = run
        self.config = run.config
        self.envs = make_envs(self.config, "train", min(items, self.config["num_envs"]), compare=False)
        self.items = items

    @property
    def policy(self) -> Path:
        """The file of the trained agent."""
        paths = [self.run.path / name for name in (TENSORS, PICKLED)]
        found = [path for path in paths if path.is_file()]
        if not found:
            raise NoEvidenceError(f"{paths[0]} is missing: training has not finished")
        return found[0]

    @cached_property
    def trial(self) -> Trial:
        """A roll-out and an update of a copy of the trained agent."""
        path = self.policy
        return self.update(replace(Run(self.run).saved, path=path))

    def update(self, saved: SavedAgent) -> Trial:
        """A roll-out and an update of a copy of an agent, with the mask as training left it."""
        mask = make_run_mask(self.config, self.envs.single_action_space)
        if mask is not None:
            load_mask(mask, self.run.path)
            mask.frozen = True
        steps = max(LEAST_TRIAL_STEPS, unwrap(self.envs).task.max_new_tokens)
        vec_env = SB3VecEnv(self.envs, mask)

        def made(**settings: Any) -> BaseAlgorithm:
            agent = fresh_agent(self.config, self.envs, vec_env, device="cpu", **settings)
            fill(agent, saved)
            return agent

        return try_update(ALGOS[self.config["algo"]], made, vec_env, steps)

    def start(self) -> BaseAlgorithm:
        """The agent as training began with it."""
        # As many lanes as in training, on which some defaults depend.
        envs = make_envs(self.config, "train", self.config["num_envs"])
        return fresh_agent(self.config, envs, SB3VecEnv(envs, make_run_mask(self.config, envs.single_action_space)))

    @cached_property
    def evaluations(self) -> dict[Path, Evaluation]:
        """The run's evaluations, by file."""
        paths = sorted(self.run.path.glob("evaluation*.json"))
        try:
            return {path: Evaluation.read(path) for path in paths}
        except ValueError as error:  # of another version: no fault of the run
            raise NoEvidenceError(str(error)) from error

    @cached_property
    def logs(self) -> dict[Path, EvaluationLog]:
        """What can be played again of each evaluation's intervention log, by the log's file."""
        found = {}
        for path, result in self.evaluations.items():
            tokens = interventions_of(path)
            if tokens.is_file():
                found[tokens] = EvaluationLog(self.config, result, logged_episodes(tokens, self.items))
        return found


def steering_fires(subject: Subject) -> str:
    """The next block's input moves by what the action says, measured in the model itself."""
    pushes = measure_pushes(subject.envs, subject.items)
    steered, resting = pushes.steered, ~pushes.steered
    line = (
        f"{pushes.right[steered].sum()} of {steered.sum()} steered tokens moved by c * W_dec[a], largest deviation "
        f"{pushes.deviation.max():.0e}; {pushes.right[resting].sum()} of {resting.sum()} no-ops by 0"
    )
    _require(pushes.right.all() and steered.any(), f"{line} (expected all of both)")
    seen = f"the observed residual is the model's at {pushes.seen.sum()} of {len(steered)} tokens (expected all)"
    _require(pushes.seen.all(), seen)
    return line


def actions_mean_the_same(subject: Subject) -> str:
    """Layer, coefficient, features and SAE are those of the training."""
    record = subject.config.get("steering")
    if record is None:
        raise NoEvidenceError(f"{subject.run.path / 'config.json'} has no record of what the run's actions mean")
    require_same_actions(record, subject.envs)
    where = f"{record['site']} of block {record['layer']}, c = {record['coefficient']:.4g}"
    return f"{where}, the same SAE and features as in config.json"


def logged_is_applied(subject: Subject) -> str:
    """The logged actions, applied to the same items, give the logged tokens and scores again."""
    if not subject.logs:
        raise NoEvidenceError(f"no evaluation yet (steer evaluate --run {subject.run.path})")
    episodes = tokens = 0
    for path, log in subject.logs.items():
        actions = [logged_actions(log.envs, rows) for rows in log.episodes]
        other, compared = differences(log.episodes, log.play(log.episodes, replay_policy(actions)), (*APPLIED, *SAID))
        _require_replayed(other, log, len(log.episodes), f"{len(log.episodes)} logged episodes of {path.name}")
        episodes, tokens = episodes + len(actions), tokens + compared
    files = ", ".join(path.name for path in subject.logs)
    return f"{tokens} logged tokens in {episodes} episodes of all arms come out again ({files})"


def _require_replayed(other: list[str], log: EvaluationLog, count: int, episodes: str) -> None:
    most = tolerated(count, log.envs)
    expected = f"expected {f'at most {most}, which rounding explains' if most else 'none'}"
    line = f"{len(other)} of {episodes} differ when played again ({expected}), first {' '.join(other[:1])}"
    _require(len(other) <= most, line)


def gradient_is_not_zero(subject: Subject) -> str:
    """One minibatch of experience moves the policy."""
    norms = subject.trial.gradients
    line = f"norms at one minibatch of {subject.policy.name} (expected above {LEAST_GRADIENT:g}): {_norms(norms)}"
    _require("policy" in norms and np.isfinite(list(norms.values())).all(), line)
    if all(norm > LEAST_GRADIENT for norm in norms.values()):
        return line
    # A policy that has become certain has no gradient left, though it learned as it should: the agent that training
    # began with has one all the same, unless the way from the loss to the parameters is broken.
    began = subject.update(SavedAgent.of(subject.start(), subject.policy)).gradients
    _require(all(began.get(part, 0.0) > LEAST_GRADIENT for part in norms), f"{line}; untrained {_norms(began)}")
    return f"{line}; the untrained agent has {_norms(began)}: this one is certain of its choices"


def _norms(norms: Mapping[str, float]) -> str:
    return ", ".join(f"{part} {norm:.2g}" for part, norm in sorted(norms.items()))


def policy_is_the_saved_one(subject: Subject) -> str:
    """What is loaded is the file's, training has changed it, and it chooses what the log says it chose."""
    saved, seed = subject.policy, subject.config["seed"]
    model, mask = load_trained(subject.run, subject.envs)
    learned = _learned(model, subject)
    for part, changed in learned.items():
        _require(any(changed), f"the {part} in {saved} is the one that seed {seed} starts with (expected another)")
    parts = (f"{sum(changed)} of {len(changed)} tensors of the {part}" for part, changed in sorted(learned.items()))
    found = f"loaded as saved; training changed {' and '.join(parts)}"
    chosen = 0
    for path, log in subject.logs.items():
        own = [rows for rows in log.episodes if rows["arm"].iloc[0] == "trained"]
        other, _ = differences(own, log.play(own, policy_of(model, mask)), APPLIED)
        _require_replayed(other, log, len(own), f"{len(own)} trained episodes of {path.name}, by {saved.name},")
        chosen += len(own)
    return f"{found}; it chooses as logged in {chosen} episodes" if subject.logs else found


def _learned(model: BaseAlgorithm, subject: Subject) -> dict[str, list[bool]]:
    """For each part of the agent, which of its tensors training has changed."""
    start = subject.start().policy.state_dict()
    learned: dict[str, list[bool]] = {}
    for name, value in model.policy.named_parameters():
        part = part_of(name)
        if part is not None:
            learned.setdefault(part, []).append(not torch.equal(value, start[name].to(value.device)))
    return learned


def rewards_arrive(subject: Subject) -> str:
    """Returns in the log are what the task pays, and the agent's buffer receives them."""
    rows, task = list(subject.run.rows("episodes")), unwrap(subject.envs).task
    if not rows:
        raise NoEvidenceError(f"{subject.run.log_path('episodes')} has no rows: no episode has ended")
    wrong = [row for row in rows if not np.isclose(row["return"], task.pay(row), atol=1e-6)]
    first = "".join(f", first {row['return']:g} (expected {task.pay(row):g})" for row in wrong[:1])
    _require(not wrong, f"{len(wrong)} of {len(rows)} returns in episodes.jsonl are not what {task.name} pays{first}")
    different = len({row["return"] for row in rows})
    if different == 1:
        same = f"all {len(rows)} episodes of episodes.jsonl returned {rows[0]['return']}"
        _require(len(rows) < ENOUGH_EPISODES, f"{same} (expected different ones)")
        raise NoEvidenceError(f"{same}: too few to tell whether rewards arrive")
    trial = subject.trial
    if trial.episodes == 0:
        raise NoEvidenceError("no episode of the trial ended")
    _require(
        np.allclose(trial.received, trial.earned, atol=1e-4),
        f"{trial.episodes} episodes of a trial earned {trial.earned.sum():.4g}, and the agent's buffer received "
        f"{trial.received.sum():.4g} (expected as much)",
    )
    return (
        f"{len(rows)} logged returns are what {task.name} pays ({different} different ones); in a "
        f"trial of {trial.episodes} episodes the agent received {trial.received.sum():.4g} of {trial.earned.sum():.4g}"
    )


def weights_are_unchanged(subject: Subject) -> str:
    """The language model is the one of the record, before and after every evaluation and these checks."""
    now = model_sha256(subject.envs)
    hashes = {"config.json": subject.config["weights_sha256"]}
    for path, result in subject.evaluations.items():
        hashes |= {f"{path.name}, {when}": getattr(result, f"weights_sha256_{when}") for when in ("before", "after")}
    other = [where for where, sha256 in hashes.items() if sha256 != now]
    _require(
        not other, f"the language model's sha256 is {now[:12]} (expected everywhere), another in {'; '.join(other)}"
    )
    return f"sha256 {now[:12]} in {', '.join(['config.json', *(path.name for path in subject.evaluations)])}"


# The weights come last: the other checks have used the model by then.
CHECKS: dict[str, Callable[[Subject], str]] = {
    "steering fires": steering_fires,
    "actions mean the same": actions_mean_the_same,
    "logged is applied": logged_is_applied,
    "gradient is not zero": gradient_is_not_zero,
    "policy is the saved one": policy_is_the_saved_one,
    "rewards arrive": rewards_arrive,
    "weights are unchanged": weights_are_unchanged,
}


def _result(check: Callable[[Subject], str], subject: Subject) -> Result:
    try:
        return Result("passed", check(subject))
    except NoEvidenceError as missing:
        return Result("not checked", str(missing))
    except (RuntimeError, ValueError) as fault:
        return Result("FAILED", " ".join(str(fault).split()))


def _require(good: Any, line: str) -> None:
    if not good:
        raise RuntimeError(line)
