"""Small worlds with known answers, for looking inside the agents that play them; importing registers them."""

import gymnasium as gym

from agents.inside.worlds.arcade import GAMES

gym.register(
    "KingRookKing-v0",
    entry_point="agents.inside.worlds.king_rook_king:KingRookKing",
    vector_entry_point="agents.inside.worlds.king_rook_king:KingRookKingVectorEnv",
    max_episode_steps=50,
)
gym.register("GridWorld-v0", entry_point="agents.inside.worlds.gridworlds:GridWorld", max_episode_steps=100)
gym.register("AtariBreakout-v0", entry_point="agents.inside.worlds.arcade:atari_breakout", max_episode_steps=2_000)
gym.register("TicTacToeDuel-v0", entry_point="agents.inside.worlds.tictactoe:TicTacToeDuel")
for _game in GAMES:
    gym.register(
        f"MinAtar{_game.title().replace('_', '')}-v0",
        entry_point="agents.inside.worlds.arcade:MinAtar",
        kwargs={"game": _game},
        max_episode_steps=5_000,
    )
