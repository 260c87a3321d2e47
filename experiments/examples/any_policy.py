"""Steer with any policy: here REINFORCE in a few lines of PyTorch, without Stable-Baselines3.

    python experiments/examples/any_policy.py

A policy is a function from observations to actions, and ``steer_env.evaluate`` plays any of them. ``steer_env.compare``
puts what they scored on the same items side by side, with intervals and an exact paired test.
"""

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

import steer_env

ENV, LANES, ROUNDS, STEPS = "Steer-TicTacToe-v0", 64, 60, 8


def main() -> None:
    """Train on one split, play another, and print the comparison."""
    torch.manual_seed(0)
    net = train(gym.make_vec(ENV, num_envs=LANES))
    test = gym.make_vec(ENV, num_envs=LANES, split="test")
    no_op = test.single_action_space.n - 1
    policies = {
        "unsteered": lambda observations, lanes: np.full(len(observations), no_op),
        "REINFORCE": lambda observations, lanes: net(torch.as_tensor(observations)).argmax(dim=1).numpy(),
    }
    print(steer_env.compare({name: steer_env.evaluate(test, policy, items=200) for name, policy in policies.items()}))


def train(envs: gym.vector.VectorEnv) -> nn.Module:
    """REINFORCE: logits of all actions, learned from whole episodes."""
    observations, _ = envs.reset(seed=0)
    net = nn.Sequential(nn.Linear(observations.shape[1], 64), nn.Tanh(), nn.Linear(64, int(envs.single_action_space.n)))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(ROUNDS):
        steps = []
        for _ in range(STEPS):
            choice = torch.distributions.Categorical(logits=net(torch.as_tensor(observations)))
            action = choice.sample()
            observations, reward, ended, _, _ = envs.step(action.numpy())
            steps.append((choice.log_prob(action), choice.entropy(), torch.as_tensor(reward), torch.as_tensor(ended)))
        optimizer.zero_grad()
        reinforce(*map(torch.stack, zip(*steps, strict=True))).backward()
        optimizer.step()
    return net


def reinforce(log_probs: Tensor, entropies: Tensor, rewards: Tensor, ended: Tensor) -> Tensor:
    """The loss, of ``[T, B]`` steps: choices become likelier that were followed by a return above the mean."""
    returns, known = rewards.clone(), ended.clone()
    for step in reversed(range(STEPS - 1)):
        returns[step] += torch.where(ended[step], 0.0, returns[step + 1])
        known[step] |= known[step + 1]  # what an episode earns is known where it ends within these steps
    return -(log_probs * known * (returns - returns[known].mean())).mean() - 0.01 * entropies.mean()


if __name__ == "__main__":
    main()
