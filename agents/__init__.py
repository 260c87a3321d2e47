"""The Stable-Baselines3 side of Steer: adapters, masks, policies, algorithm table and callbacks."""
