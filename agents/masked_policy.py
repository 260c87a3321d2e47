"""One masked categorical for SB3's actor-critic algorithms; the mask is never a network input.

The same inputs give the parameters of sb3-contrib's MaskablePPO, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, kl_divergence, register_kl

from agents.algos import HEADS
from agents.wide_head import Places, chosen_in_blocks, products_at
from steer_env.evaluation.masks import carries_mask

ILLEGAL_LOGIT = -1e8  # sb3-contrib's value: its probability is exactly 0 in float32
WIDE = 1_024
"""Actions from which on logits are computed of legal ones alone, or in blocks; fewer give MaskablePPO's very bits."""
SPARSE = 8
"""One in so many actions at most is legal where logits of these alone are computed."""


class LegalCategorical(Categorical):
    """Categorical over the legal actions, equal to sb3-contrib's MaskableCategorical bit for bit.

    PPO trains 1.7 times as fast with it at 16,384 actions: the C library's ``exp`` is ten times slower
    where it underflows, so it is not asked about illegal actions; and nothing is validated, which would
    scan every probability at every call and say nothing of the mask.
    """

    def __init__(self, logits: Tensor, legal: Tensor) -> None:
        """Args: ``logits [B, A]``, not normalised, and ``legal`` bool ``[B, A]``."""
        self.legal = legal
        normalised = logits - logits.logsumexp(-1, keepdim=True)
        masked = torch.where(legal, normalised, torch.full_like(normalised[:1, :1], ILLEGAL_LOGIT))
        self.logits = self._param = masked - _LegalLogSumExp.apply(masked, legal)
        self._num_events = logits.shape[-1]
        Distribution.__init__(self, logits.shape[:-1], validate_args=False)

    def entropy(self) -> Tensor:
        """``[B]`` in nats, over the legal actions."""
        p_log_p = self.logits * self.probs
        return -torch.where(self.legal, p_log_p, torch.zeros_like(p_log_p[:1, :1])).sum(-1)


class _LegalLogSumExp(torch.autograd.Function):
    """``logsumexp`` over the legal entries of ``[B, A]``, with its gradient: ``[B, 1]``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, legal: Tensor) -> Tensor:
        peak = logits.amax(-1, keepdim=True)
        result = _legal_exp(logits - peak, legal).sum(-1, keepdim=True).log_().add_(peak)
        ctx.save_for_backward(logits, legal, result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, legal, result = ctx.saved_tensors
        return grads[0] * _legal_exp(logits - result, legal), None


def _legal_exp(exponents: Tensor, legal: Tensor) -> Tensor:
    # Nothing is edited in place: TRPO differentiates the gradient once more.
    return torch.where(legal, exponents, 0.0).exp() * legal


class SparseCategorical(Distribution):
    """Categorical over few legal actions of many: ``LegalCategorical`` with a column for each that a row has."""

    def __init__(self, values: Tensor, legal: Places) -> None:
        """Args: logits ``[n]`` of the legal actions, not normalised, and which these are, at least one a row."""
        self.legal = legal
        self.actions = legal.padded(legal.columns, -1)
        self.inner = LegalCategorical(legal.padded(values, ILLEGAL_LOGIT), self.actions >= 0)
        super().__init__(self.inner.batch_shape, validate_args=False)

    @property
    def logits(self) -> Tensor:
        """``[B, A]`` log-probabilities, ``ILLEGAL_LOGIT`` where illegal."""
        blank = self.inner.logits.new_full(self.legal.shape, ILLEGAL_LOGIT)
        return blank.index_put((self.legal.rows, self.legal.columns), self.inner.logits[self.inner.legal])

    @property
    def probs(self) -> Tensor:
        """``[B, A]`` probabilities."""
        return self.logits.exp()

    @property
    def mode(self) -> Tensor:
        """``[B]`` the most probable actions, the first of equal ones."""
        return self._action(self.inner.probs.argmax(-1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """``[*sample_shape, B]`` actions."""
        return self._action(self.inner.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """``[B]`` in nats; about ``ILLEGAL_LOGIT`` of an illegal action."""
        found = self.actions == value[:, None]
        chosen = self.inner.logits.gather(-1, found.to(torch.uint8).argmax(-1, keepdim=True)).squeeze(-1)
        return torch.where(found.any(-1), chosen, ILLEGAL_LOGIT)

    def entropy(self) -> Tensor:
        """``[B]`` in nats, over the legal actions."""
        return self.inner.entropy()

    def _action(self, column: Tensor) -> Tensor:
        return self.actions.expand(*column.shape, -1).gather(-1, column[..., None]).squeeze(-1)


@register_kl(SparseCategorical, SparseCategorical)
def _sparse_divergence(one: SparseCategorical, other: SparseCategorical) -> Tensor:
    return kl_divergence(one.inner, other.inner)


class MaskedCategorical(CategoricalDistribution):
    """Categorical over the legal actions only."""

    def __init__(self, action_dim: int, make_net: Callable[[int], nn.Module]) -> None:
        """Args: A, and how to make the network from latent width to logits."""
        super().__init__(action_dim)
        self.make_net = make_net

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """The module from latent ``[B, latent_dim]`` to logits ``[B, A]``."""
        return self.make_net(latent_dim)

    def of(self, head: LinearHead | TiedHead, latent: Tensor, mask: Tensor | None) -> MaskedCategorical:
        """Set the distribution: ``latent [B, d]``, and bits of legal actions ``[B, A / 8]`` uint8 or None for all."""
        if mask is None:
            self.distribution = Categorical(logits=head(latent), validate_args=False)
            return self
        if self.action_dim >= WIDE:
            legal = Places.of_bits(mask, self.action_dim)
            if int(legal.counts.max()) * SPARSE <= self.action_dim:
                self.distribution = SparseCategorical(head.at(latent, legal), legal)  # type: ignore[assignment]  # SB3 says Categorical
                return self
        self.distribution = LegalCategorical(head(latent), unpack_bits(mask, self.action_dim))
        return self

    def mode(self) -> Tensor:
        """``[B]`` the most probable actions."""
        return self.distribution.mode


class LinearHead(nn.Linear):
    """Logits = latent times a row an action, plus a bias: SB3's own head."""

    def at(self, latent: Tensor, legal: Places) -> Tensor:
        """``[n]`` logits of the legal actions alone."""
        return products_at(legal, latent, self.weight) + self.bias.index_select(0, legal.columns)

    def chosen(self, latent: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """``[B]`` log-probabilities of actions and ``[B]`` entropies, where all are legal."""
        return chosen_in_blocks(latent, self.weight, self.bias, actions)[:2]


class TiedHead(nn.Module):
    """Logits = learned query of the latent against fixed keys, plus a bias: few parameters.

    The keys come from the SAE's decoder directions, so that nearby features get nearby logits;
    the no-op, which has no direction, has a learned key. Cost ``latent * d + d * F``.
    """

    keys: Tensor

    def __init__(self, latent_dim: int, keys: Tensor) -> None:
        """Args: latent width, and the fixed keys ``[F, d]``."""
        super().__init__()
        features, width = keys.shape
        self.register_buffer("keys", keys)
        self.query = nn.Linear(latent_dim, width, bias=False)
        self.noop_key = nn.Parameter(torch.zeros(1, width))
        self.bias = nn.Parameter(torch.zeros(features + 1))

    def forward(self, latent: Tensor) -> Tensor:
        """``[B, latent]`` to logits ``[B, F + 1]``."""
        keys = torch.cat([self.keys, self.noop_key])
        return torch.addmm(self.bias, self.query(latent), keys.T)

    def at(self, latent: Tensor, legal: Places) -> Tensor:
        """``[n]`` logits of the legal actions alone."""
        query, features = self.query(latent), len(self.keys)
        # The no-op's key is none of the matrix: another row is read in its place, and not used.
        listed = Places(legal.rows, legal.columns.clamp(max=features - 1), (legal.shape[0], features))
        noop = (query @ self.noop_key.T).squeeze(1).index_select(0, legal.rows)
        logits = torch.where(legal.columns == features, noop, products_at(listed, query, self.keys))
        return logits + self.bias.index_select(0, legal.columns)

    def chosen(self, latent: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """``[B]`` log-probabilities of actions and ``[B]`` entropies, where all are legal."""
        query, features = self.query(latent), len(self.keys)
        is_noop = actions == features
        log_prob, entropy, log_total = chosen_in_blocks(
            query, self.keys, self.bias[:-1], actions.clamp(max=features - 1)
        )
        # Whether to push at all, and then with which feature: the entropies of both choices add up.
        odds = (query @ self.noop_key.T).squeeze(1) + self.bias[-1] - log_total
        log_noop, log_push = F.logsigmoid(odds), F.logsigmoid(-odds)
        pushes = log_push.exp()
        entropy = pushes * (entropy - log_push) - log_noop.exp() * log_noop
        return torch.where(is_noop, log_noop, log_prob + log_push), entropy


def tied_keys(directions: npt.ArrayLike, dim: int, projection: str = "pca", seed: int = 0) -> npt.NDArray[np.float32]:
    """Unit keys ``[F, dim]`` that keep the geometry of decoder directions ``[F, M]``.

    Args:
        directions: ``[F, M]``; each row is normalised first (a zero row stays zero).
        dim: width of the keys; where ``M <= dim`` there is nothing to project.
        projection: ``"pca"`` (the leading eigenvectors of ``D^T D``, uncentred, which keep inner
            products best) or ``"random"`` (orthonormal, from ``seed``).
        seed: of the random projection.

    Raises:
        ValueError: directions not a finite matrix, ``dim`` below 1, or unknown projection.
    """
    matrix = np.asarray(directions, dtype=np.float64)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise ValueError(f"directions must be a finite [F, M] matrix, got shape {matrix.shape}")
    if dim < 1:
        raise ValueError(f"the width of the keys must be at least 1, got {dim}")
    if projection not in ("pca", "random"):
        raise ValueError(f"unknown projection {projection!r}; known: pca, random")
    matrix = _unit_rows(matrix)
    width = matrix.shape[1]
    if width > dim:
        if projection == "pca":
            basis = np.linalg.eigh(matrix.T @ matrix)[1][:, ::-1][:, :dim]
        else:
            basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, dim)))[0]
        matrix = _unit_rows(matrix @ basis)
    return matrix.astype(np.float32)


class MaskedPolicy(ActorCriticPolicy):
    """Actor-critic policy that reads the legal actions from the observation.

    For observations ``{"obs", "mask"}`` (see ``SB3VecEnv``) every network reads ``obs["obs"]``
    only, and roll-out, update and prediction share one categorical with the same logits and mask.
    For any other observation it is SB3's own policy, with a choice of head.
    """

    action_dist: MaskedCategorical

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        head: str = "linear",
        directions: npt.ArrayLike | None = None,
        key_dim: int = 64,
        **kwargs: Any,
    ) -> None:
        """Args beyond SB3's (``kwargs`` are those of ActorCriticPolicy).

        Args:
            head: ``"linear"``, or ``"tied"`` to the SAE's directions (see ``TiedHead``).
            directions: ``[F, M]`` decoder directions behind the actions, for the tied head; made
                keys by ``tied_keys`` (project them yourself for small files or another projection).
            key_dim: width of the keys.

        Raises:
            ValueError: actions not discrete, unknown head, directions missing or not one a feature.
        """
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"MaskedPolicy needs Discrete actions, got {action_space}")
        if head not in HEADS:
            raise ValueError(f"unknown head {head!r}; known heads: {', '.join(HEADS)}")
        # Set before the parent's constructor, which builds the networks.
        self.head, self.directions, self.key_dim = head, directions, key_dim
        if action_space.n >= WIDE and kwargs.get("optimizer_class", torch.optim.Adam) is torch.optim.Adam:
            # Eight times as fast on so many parameters; SB3 sets the same epsilon where nothing is given.
            kwargs["optimizer_kwargs"] = {"fused": True, **(kwargs.get("optimizer_kwargs") or {"eps": 1e-5})}
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    @property
    def visible_space(self) -> spaces.Space[Any]:
        """The space of what the networks read."""
        space = self.observation_space
        return space["obs"] if carries_mask(space) else space

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """An extractor of ``visible_space``, whatever class was asked for."""
        return self.features_extractor_class(self.visible_space, **self.features_extractor_kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.action_dist = MaskedCategorical(int(self.action_space.n), self._make_head)  # type: ignore[attr-defined]  # Discrete, checked
        super()._build(lr_schedule)

    def _make_head(self, latent_dim: int) -> nn.Module:
        n_actions = self.action_dist.action_dim
        if self.head == "linear":
            return LinearHead(latent_dim, n_actions)
        if self.directions is None:
            raise ValueError("head 'tied' needs directions=, the [F, M] decoder directions")
        keys = tied_keys(self.directions, self.key_dim)
        if len(keys) != n_actions - 1:
            raise ValueError(f"{len(keys)} directions for {n_actions - 1} features and a no-op")
        return TiedHead(latent_dim, torch.from_numpy(keys))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"head": self.head, "directions": self.directions, "key_dim": self.key_dim}
        return {**super()._get_constructor_parameters(), **own}

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions ``[B]``, values ``[B, 1]`` and log-probabilities ``[B]`` for a batch."""
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values ``[B, 1]``, log-probabilities and entropies ``[B]`` of given actions."""
        if self.action_dist.action_dim >= WIDE and self._part(obs, "mask") is None:
            log_prob, entropy = self._head.chosen(self._actor_latent(obs), actions.long().flatten())
            return self.predict_values(obs), log_prob, entropy
        distribution = self.get_distribution(obs)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: PyTorchObs) -> MaskedCategorical:
        """The one categorical over the legal actions, used everywhere."""
        return self.action_dist.of(self._head, self._actor_latent(obs), self._part(obs, "mask"))

    @property
    def _head(self) -> LinearHead | TiedHead:
        head: Any = self.action_net
        return head

    def _actor_latent(self, obs: PyTorchObs) -> Tensor:
        return self.mlp_extractor.forward_actor(self._read(obs, self.pi_features_extractor))

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Values ``[B, 1]``; independent of the mask."""
        features = self._read(obs, self.vf_features_extractor)
        return self.value_net(self.mlp_extractor.forward_critic(features))

    def extract_features(  # type: ignore[override]  # as in SB3's ActorCriticPolicy
        self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Features of the visible part, a pair (actor, critic) where extractors are not shared."""
        if self.share_features_extractor or features_extractor is not None:
            return self._read(obs, features_extractor or self.features_extractor)
        return self._read(obs, self.pi_features_extractor), self._read(obs, self.vf_features_extractor)

    def _read(self, obs: PyTorchObs, extractor: BaseFeaturesExtractor) -> Tensor:
        visible = self._part(obs, "obs")
        ready = preprocess_obs(
            obs if visible is None else visible,
            self.visible_space,
            normalize_images=self.normalize_images,
        )
        return extractor(ready)

    def _part(self, obs: PyTorchObs, key: str) -> Tensor | None:
        masked = carries_mask(self.observation_space)
        return obs[key] if masked and isinstance(obs, dict) else None


class VisibleExtractor(BaseFeaturesExtractor):
    """What sb3-contrib's MaskablePPO reads of ``{"obs", "mask"}``: the observation; the environment says the mask."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, get_flattened_obs_dim(observation_space["obs"]))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """``[B, width]`` of the observation alone."""
        return observations["obs"].flatten(1)


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """Undo ``np.packbits(..., axis=1)``: uint8 ``[B, ceil(count / 8)]`` to bool ``[B, count]``."""
    powers = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    bits = packed.to(torch.uint8).unsqueeze(-1).bitwise_and(powers)
    return bits.ne(0).flatten(1)[:, :count]


def _unit_rows(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(norms > 0, norms, 1.0)
