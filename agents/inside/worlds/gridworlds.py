"""``GridWorld-v0``: walk to the goal, around walls; its transition table gives the exact value of any policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from agents.inside.worlds.tabular import Transition

LAYOUTS: dict[str, tuple[str, ...]] = {
    "empty": ("......", "......", "......", "......", "......", ".....G"),
    "obstacles": (".....#..", ".###.#..", "...#....", ".#.#.##.", ".#......", ".####.#.", "......#.", "..#....G"),
    "pits": (".......", ".P...P.", "...#...", ".P.#.P.", "...#...", ".P...P.", "......G"),
}
"""``.`` floor, ``#`` wall, ``G`` goal, ``P`` pit."""
STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))


class GridWorld(gym.Env[np.int64, np.int64]):
    """Four moves (north, east, south, west) on a grid, one that runs against a wall or the rim stays.

    Observation: the number of the cell, in reading order. Goal and pit end the episode. Each episode starts on a
    random floor cell, so that every state is seen; ``reset(options={"state": cell})`` chooses it.

    Attributes:
        P: transition table in the form of Gymnasium's toy environments; a wall is a state that is never entered.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}

    def __init__(
        self,
        layout: str | Sequence[str] = "empty",
        step_reward: float = -0.02,
        slip: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        """A grid by name or drawn.

        Args:
            layout: a key of ``LAYOUTS``, or lines of equal length in its letters.
            step_reward: of every move that does not end the episode; the goal gives 1, a pit -1.
            slip: probability that the move goes to the left or right of the direction chosen, half each.
            render_mode: ``"ansi"`` or None.

        Raises:
            ValueError: the layout is unknown or badly drawn, or slip is not in [0, 1].
        """
        self.cells = _read(layout)
        if not 0.0 <= slip <= 1.0:
            raise ValueError(f"slip must be in [0, 1], got {slip}")
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be 'ansi' or None, got {render_mode!r}")
        self.step_reward, self.slip, self.render_mode = step_reward, slip, render_mode
        self.P = {state: {action: self._outcomes(state, action) for action in range(4)} for state in range(self._size)}
        self.starts = [state for state in range(self._size) if self._letter(state) == "."]
        self.observation_space = spaces.Discrete(self._size)
        self.action_space = spaces.Discrete(4)
        self.state = self.starts[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """See the class.

        Raises:
            ValueError: an option is unknown, or the state is no floor cell.
        """
        super().reset(seed=seed)
        asked = dict(options or {})
        state = asked.pop("state", None)
        if asked:
            raise ValueError(f"unknown reset options {sorted(asked)}; known: ['state']")
        if state is not None and state not in self.starts:
            raise ValueError(f"state {state} is no floor cell")
        self.state = int(self.np_random.choice(self.starts)) if state is None else int(state)
        return np.int64(self.state), {}

    def step(self, action: Any) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Move once.

        Raises:
            ValueError: the action is not in [0, 4).
        """
        if not self.action_space.contains(action):
            raise ValueError(f"action must be in [0, 4), got {action}")
        outcomes = self.P[self.state][int(action)]
        drawn = 0 if len(outcomes) == 1 else self.np_random.choice(len(outcomes), p=[row[0] for row in outcomes])
        _, self.state, reward, terminated = outcomes[int(drawn)]
        return np.int64(self.state), reward, terminated, False, {}

    def render(self) -> str | None:
        """The grid with the agent as ``A`` (``render_mode="ansi"``)."""
        if self.render_mode != "ansi":
            return None
        letters = "".join(self.cells)
        drawn = letters[: self.state] + "A" + letters[self.state + 1 :]
        width = len(self.cells[0])
        return "\n".join(drawn[start : start + width] for start in range(0, len(drawn), width))

    @property
    def _size(self) -> int:
        return len(self.cells) * len(self.cells[0])

    def _letter(self, state: int) -> str:
        return self.cells[state // len(self.cells[0])][state % len(self.cells[0])]

    def _outcomes(self, state: int, action: int) -> list[Transition]:
        if self._letter(state) != ".":
            return [(1.0, state, 0.0, True)]
        ways = [(action, 1.0 - self.slip), (action - 1, self.slip / 2), (action + 1, self.slip / 2)]
        return [(chance, *self._arrive(state, STEPS[way % 4])) for way, chance in ways if chance > 0]

    def _arrive(self, state: int, step: tuple[int, int]) -> tuple[int, float, bool]:
        height, width = len(self.cells), len(self.cells[0])
        row, column = state // width + step[0], state % width + step[1]
        inside = 0 <= row < height and 0 <= column < width
        goal = row * width + column if inside and self.cells[row][column] != "#" else state
        end = {"G": 1.0, "P": -1.0}.get(self._letter(goal))
        return (goal, self.step_reward, False) if end is None else (goal, end, True)


def _read(layout: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(layout, str) and layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    cells = LAYOUTS[layout] if isinstance(layout, str) else tuple(layout)
    if len({len(line) for line in cells}) != 1 or set("".join(cells)) - set(".#GP"):
        raise ValueError(f"a layout is lines of equal length in '.', '#', 'G' and 'P', got {cells}")
    if "." not in "".join(cells):
        raise ValueError(f"the layout has no floor cell: {cells}")
    return cells
