"""Train an agent to steer a small language model, and read which feature it chose at each move.

    python experiments/examples/quickstart.py

The embedded model has learned tic-tac-toe from novices and loses to a perfect player. The agent may add one SAE feature
to its residual stream at each move; the model's weights stay as they are.
"""

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO

import steer_env
from agents import SB3VecEnv, policy_of
from steer_env.lm.labels import feature_labels

ENV = "Steer-TicTacToe-v0"


def main() -> None:
    """Train, compare with the unsteered model, and show one game."""
    train = SB3VecEnv(gym.make_vec(ENV, num_envs=64))  # 64 games in one forward pass
    agent = PPO("MlpPolicy", train, n_steps=8, batch_size=128, n_epochs=4, gamma=1.0, learning_rate=1e-3, ent_coef=0.01)
    agent.learn(25_000)

    test = gym.make_vec(ENV, num_envs=64, split="test")  # games that it has never seen
    no_op = test.single_action_space.n - 1
    unsteered = steer_env.evaluate(test, lambda observations, lanes: np.full(len(observations), no_op), items=200)
    trained = steer_env.evaluate(test, policy_of(agent), items=200)
    print(f"score against a perfect player: {unsteered.score:.2f} unsteered, {trained.score:.2f} trained\n")
    show_game(agent, item=trained.episodes[int(trained.scores.argmax())]["item"])


def show_game(agent: PPO, item: int) -> None:
    """Print each move of a game with the feature that steered it and the tokens which that feature promotes."""
    env = gym.make(ENV, split="test", render_mode="ansi")
    parts = steer_env.unwrap(env)
    observation, _ = env.reset(options={"item": item})
    ended = False
    while not ended:
        action, _ = agent.predict(observation, deterministic=True)
        observation, _, ended, _, info = env.step(action)
        feature = int(info["feature"])
        label = "left alone"
        if feature >= 0:
            (label,) = feature_labels(parts.labels, parts.lm, parts.tokenizer, parts.sae.directions, [feature])
        print(f"move {info['token_text'].strip()}   feature {feature:4}   {label}")
    print(f"\n{env.render()}\n\nscore {info['score']:g}")


if __name__ == "__main__":
    main()
