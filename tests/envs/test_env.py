"""The environment: Gymnasium's and SB3's contracts, one lane equals a batch, and every refusal is clear."""

import shutil
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import steer_env  # noqa: F401  (registers the ids)
from steer_env.envs.observations import OBSERVATIONS
from steer_env.envs.scene import OPENING
from tests.conftest import FEATURES, WIDTH

IDS = ["Steer-TicTacToe-v0", "AutoSteer-TicTacToe-v0"]
EXTRA = {"Steer-TicTacToe-v0": {}, "AutoSteer-TicTacToe-v0": {"k": 5}}


@pytest.fixture(params=IDS)
def make(request, tiny):
    """Makes one of the two environments with the tiny model: ``make()`` or ``make(num_envs)``."""

    def build(num_envs=None, **kwargs):
        kwargs = {**tiny, **EXTRA[request.param], **kwargs}
        if num_envs is None:
            return gym.make(request.param, **kwargs)
        return gym.make_vec(request.param, num_envs=num_envs, **kwargs)

    return build


def test_gymnasium_accepts_it(make):
    check_env(make(render_mode="ansi").unwrapped)


def test_gymnasium_accepts_it_with_every_observation(make):
    for observation in OBSERVATIONS:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(infinity|inf).*")  # a raw residual has no bound
            check_env(make(observation=observation).unwrapped, skip_render_check=True)


def test_stable_baselines_accepts_it(make):
    sb3_check_env(make().unwrapped)


def test_the_vector_environment_keeps_gymnasiums_contract(make):
    envs = make(3)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert envs.single_observation_space == make().observation_space
    assert envs.single_action_space == make().action_space
    observation, infos = envs.reset(seed=4)
    assert observation in envs.observation_space
    first = observation.copy()
    again, _ = envs.reset(seed=4)
    assert np.array_equal(first, again)
    envs.action_space.seed(0)
    for _ in range(12):
        before = observation.copy()
        returned, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
        assert returned in envs.observation_space
        assert returned is not observation
        assert np.array_equal(before, observation), "an observation handed out has changed"
        assert rewards.shape == terminations.shape == truncations.shape == (3,)
        assert rewards.dtype == np.float64
        assert terminations.dtype == truncations.dtype == bool
        assert not truncations.any()
        if terminations.any():
            assert np.array_equal(infos["_final_info"], terminations)
            assert all(
                infos["final_obs"][lane] in envs.single_observation_space for lane in np.flatnonzero(terminations)
            )
        observation = returned
    envs.close()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_lane_i_of_a_batch_is_the_single_environment(make, temperature):
    """Same seed, same actions: the same observations, tokens, rewards, ends and records, over many episodes."""
    lanes = 4
    options = {"temperature": temperature, "opponent": "random", "illegal": "random_move", "mask": "off"}
    envs = make(lanes, **options)
    batched, infos = envs.reset(seed=11)
    envs.action_space.seed(5)
    actions = [envs.action_space.sample() for _ in range(15)]
    history = [(batched, None, None, infos)]
    for action in actions:
        observation, rewards, ended, _, infos = envs.step(action)
        history.append((observation, rewards, ended, infos))
    for lane in range(lanes):
        env = make(**options)
        observation, info = env.reset(seed=11 + lane)
        for step, action in enumerate(actions, start=1):
            past, (batch_observation, rewards, ended, infos) = history[step - 1], history[step]
            assert np.allclose(observation, past[0][lane], atol=1e-5)
            assert info["item"] == past[3]["item"][lane]
            observation, reward, terminated, _, info = env.step(action[lane])
            assert reward == rewards[lane]
            assert terminated == ended[lane]
            assert info["token"] == infos["token"][lane]
            if terminated:
                final = {name: values[lane] for name, values in infos["final_info"].items() if name[0] != "_"}
                assert {name: info[name] for name in final} == final
                assert np.allclose(observation, infos["final_obs"][lane], atol=1e-5)
                observation, info = env.reset()
            assert np.allclose(observation, batch_observation[lane], atol=1e-5)


def test_an_observation_is_the_residual_before_steering(tiny):
    raw = gym.make("Steer-TicTacToe-v0", observation="residual", **tiny)
    scaled = gym.make("Steer-TicTacToe-v0", observation="normalized", **tiny)
    features = gym.make("Steer-TicTacToe-v0", observation="features", **tiny)
    residual, info = raw.reset(seed=1)
    normalised, _ = scaled.reset(seed=1)
    activations, _ = features.reset(seed=1)
    assert np.allclose(normalised, residual / np.sqrt((residual**2).mean()), atol=1e-6)
    dictionary = raw.unwrapped.episode.scene.dictionary
    assert np.allclose(activations, dictionary.encode(torch.tensor(residual)).numpy(), atol=1e-5)
    assert activations.shape == (FEATURES,)
    assert np.array_equal(info["active_features"], np.flatnonzero(activations))


def test_an_action_adds_the_coefficient_times_its_direction(tiny):
    """Read at the next block's own input, not from the environment's books."""
    env = gym.make("Steer-TicTacToe-v0", coefficient=3.0, coefficient_unit="residual", features=[7, 2], **tiny)
    assert env.action_space.n == 3
    lm = env.unwrapped.episode.scene.model.lm
    received = []
    handle = lm.model.layers[tiny["layer"] + 1].register_forward_pre_hook(lambda module, args: received.append(args[0]))
    directions = env.unwrapped.episode.scene.dictionary.directions
    for action, expected in [(0, 3 * directions[7]), (1, 3 * directions[2]), (2, torch.zeros(WIDTH))]:
        env.reset(seed=1)
        hidden = env.unwrapped.episode.hidden[0].clone()
        _, _, _, _, info = env.step(action)
        assert torch.allclose(received[-1][0, -1], hidden + expected, atol=1e-6)
        assert info["feature"] == [7, 2, -1][action]
    handle.remove()


def test_a_coefficient_in_norm_units_is_times_the_median_residual_norm(tiny):
    in_norms = gym.make("Steer-TicTacToe-v0", coefficient=2.0, **tiny).unwrapped.episode.scene.actuator.coefficient
    env = gym.make("Steer-TicTacToe-v0", coefficient=0.0, coefficient_unit="residual", observation="residual", **tiny)
    norms = []
    for item in range(64):
        observation, _ = env.reset(options={"item": item})
        ended = False
        while not ended:
            norms.append(np.linalg.norm(observation))
            observation, _, ended, _, _ = env.step(FEATURES)
    assert in_norms == pytest.approx(2.0 * np.median(norms), rel=0.1)


def test_strengths_add_up(tiny):
    env = gym.make("AutoSteer-TicTacToe-v0", features=[3, 8], coefficient=2.0, coefficient_unit="residual", **tiny)
    delta = env.unwrapped.episode.scene.actuator.delta(np.array([[0.5, -1.0]], dtype=np.float32))
    directions = env.unwrapped.episode.scene.dictionary.directions
    assert torch.allclose(delta[0], 2.0 * (0.5 * directions[3] - directions[8]), atol=1e-6)
    env.reset(seed=0)
    _, _, _, _, info = env.step(np.array([0.5, -1.0], dtype=np.float32))
    assert info["strengths"].tolist() == [0.5, -1.0]


def test_autosteers_features_are_the_most_frequent_of_unsteered_games(tiny):
    env = gym.make("AutoSteer-TicTacToe-v0", k=3, **tiny)
    plain = gym.make("Steer-TicTacToe-v0", observation="features", coefficient=0.0, **tiny)
    counts = np.zeros(FEATURES)
    items = np.random.default_rng(0).permutation(len(plain.unwrapped.task))[:64]
    for item in items.tolist():
        activations, _ = plain.reset(options={"item": item})
        ended = False
        while not ended:
            top = np.argsort(-activations, kind="stable")[:5]
            counts[top[activations[top] > 0]] += 1
            activations, _, ended, _, _ = plain.step(FEATURES)
    chosen = env.unwrapped.episode.scene.actuator.features
    # One lane and sixteen round differently, so that an activation at its threshold may count once more or less.
    assert counts[chosen].min() >= np.delete(counts, chosen).max() - 2


@pytest.mark.parametrize("env_id", IDS)
def test_actions_mean_the_same_on_every_split(tiny, env_id):
    """The features and the coefficient come from unsteered games of the train split, whatever is played."""
    actuators = [
        gym.make(env_id, k=6, split=split, **tiny).unwrapped.episode.scene.actuator
        for split in ("train", "validation", "test")
    ]
    assert len({tuple(actuator.features.tolist()) for actuator in actuators}) == 1
    assert len({actuator.coefficient for actuator in actuators}) == 1


@pytest.mark.parametrize("mask", ["current", "generation", "all"])
def test_masks_are_the_features_active_in_their_scope(tiny, mask):
    """Recomputed from the observed activations alone."""
    env = gym.make("Steer-TicTacToe-v0", mask=mask, observation="features", illegal="random_move", **tiny)
    grew = False
    for item in range(10):
        activations, _ = env.reset(options={"item": item})
        seen = activations > 0
        ended = False
        while not ended:
            legal = env.unwrapped.action_masks()
            assert legal.shape == (FEATURES + 1,)
            assert legal[-1], "the no-op is always legal"
            if mask == "current":
                assert np.array_equal(legal[:-1], activations > 0)
            elif mask == "generation":
                assert np.array_equal(legal[:-1], seen)
            else:
                assert legal[:-1][seen].all()
                grew |= bool((legal[:-1] & ~seen).any())
            activations, _, ended, _, _ = env.step(FEATURES)
            seen |= activations > 0
    assert grew == (mask == "all"), "only 'all' counts tokens of the prompt"


def test_the_opening_mask_leaves_the_first_tokens_of_each_turn_to_the_agent():
    envs = gym.make_vec("Steer-SimpleQA-v0", num_envs=4, mask="opening")
    envs.reset(seed=0)
    inner, ended, told = envs.unwrapped, np.zeros(4, dtype=bool), np.zeros(4, dtype=int)
    lengths = set()
    for _ in range(30):
        legal = inner.action_masks()
        assert legal[:, -1].all(), "the no-op is always legal"
        assert np.array_equal(legal[:, :-1].all(axis=1), told < OPENING)
        assert np.array_equal(legal[:, :-1].any(axis=1), told < OPENING)
        _, _, ended, _, _ = envs.step(np.full(4, inner.sae.width))
        told = np.where(ended, 0, told + 1)
        lengths |= set(told.tolist())
    assert max(lengths) >= OPENING, "some turns are longer"


def test_without_a_mask_everything_is_legal(tiny):
    env = gym.make("Steer-TicTacToe-v0", **tiny)
    env.reset(seed=0)
    assert env.unwrapped.action_masks().all()


def test_items_come_once_an_epoch_and_can_be_pinned(tiny):
    env = gym.make("Steer-TicTacToe-v0", split="validation", **tiny)
    env.reset(seed=3)
    order = env.unwrapped.episode.order
    dealt = [order.deal(0).item for _ in range(999)]
    assert len(set(dealt)) == 999
    _, info = env.reset(options={"item": 17})
    assert info["item"] == 17
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=4, **tiny)
    _, infos = envs.reset(seed=0, options={"items": range(10, 20)})
    played = dict(zip(infos["index"], infos["item"], strict=True))
    while len(played) < 10:
        _, _, _, _, infos = envs.step(np.full(4, FEATURES))
        played |= dict(zip(infos["index"], infos["item"], strict=True))
    assert [played[index] for index in range(10)] == list(range(10, 20))


def test_comparing_costs_one_more_pass_a_token_and_names_what_the_model_would_have_said(tiny):
    plain = gym.make("Steer-TicTacToe-v0", **tiny)
    compared = gym.make("Steer-TicTacToe-v0", compare=True, **tiny)
    for env, passes in ((plain, 1), (compared, 2)):
        env.reset(options={"item": 0})
        assert env.unwrapped.episode.scene.model.forward_passes == passes
    _, _, _, _, unsteered = plain.step(FEATURES)
    _, _, _, _, info = compared.step(3)
    assert info["unsteered_token"] == unsteered["token"]
    assert info["changed"] == (info["token"] != unsteered["token"])


def test_sampling_depends_on_the_seed_and_the_item_alone(tiny):
    env = gym.make("Steer-TicTacToe-v0", temperature=1.5, illegal="random_move", **tiny)

    def moves(seed, item):
        env.reset(seed=seed, options={"item": item})
        ended = False
        while not ended:
            _, _, ended, _, info = env.step(FEATURES)
        return info["moves"]

    assert moves(1, 5) == moves(1, 5)
    assert len({moves(seed, 5) for seed in range(20)}) > 3


def test_rendering_marks_the_steered_tokens(tiny):
    env = gym.make("Steer-TicTacToe-v0", render_mode="ansi", illegal="random_move", opponent="random", **tiny)
    env.reset(options={"item": 1})
    assert "[" not in env.render().splitlines()[-1]
    _, _, _, _, info = env.step(3)
    assert f"[{info['token_text']}]" in env.render().splitlines()[-1]


REFUSALS = [
    ({"preset": "gemini"}, "unknown preset 'gemini'"),
    ({"colour": "red"}, "unknown argument 'colour'"),
    ({"layer": 31}, r"layer must be in \[0, 3\), got 31"),
    ({"site": "middle"}, "site must be 'post' or 'pre', got 'middle'"),
    ({"features": [3, 99]}, r"feature index must be in \[0, 24\), got 99"),
    ({"features": [-1]}, r"feature index must be in \[0, 24\), got -1"),
    ({"features": []}, r"non-empty list without repeats, got \[\]"),
    ({"features": [4, 4]}, r"non-empty list without repeats, got \[4, 4\]"),
    ({"coefficient": float("nan")}, "coefficient must be finite, got nan"),
    ({"coefficient": float("inf")}, "coefficient must be finite, got inf"),
    ({"coefficient_unit": "miles"}, "coefficient_unit must be 'norm' or 'residual', got 'miles'"),
    ({"observation": "smell"}, "observation must be one of .*, got 'smell'"),
    ({"mask": "most"}, "mask must be one of .*, got 'most'"),
    ({"temperature": -1.0}, "temperature must be finite and at least 0, got -1.0"),
    ({"dtype": "int8"}, "dtype must be one of .*, got 'int8'"),
    ({"device": "abacus"}, "device 'abacus' cannot be used here"),
    ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
    ({"split": "exam"}, "split must be one of .*, got 'exam'"),
    ({"opponent": "god"}, "opponent must be one of .*, got 'god'"),
    ({"action": "words"}, "action must be 'choice' or 'strengths', got 'words'"),
    ({"action": "strengths", "k": 0}, r"k must be in \[1, 24\], got 0"),
    ({"action": "strengths", "k": 2, "bound": 0.0}, "bound must be more than 0 and finite, got 0.0"),
    ({"action": "strengths", "k": 2, "bound": float("inf")}, "bound must be more than 0 and finite, got inf"),
    ({"features": [1.5, 2.0]}, r"features must be a list of integers, got \(1.5, 2.0\)"),
    ({"features": 5}, "features must be a list or None, got 5"),
    ({"layer": "1"}, "layer must be an integer or None, got '1'"),
    ({"layer": True}, "layer must be an integer or None, got True"),
    ({"coefficient": "big"}, "coefficient must be a number or None, got 'big'"),
    ({"compare": "False"}, "compare must be True or False, got 'False'"),
    ({"max_new_tokens": 1.5}, "max_new_tokens must be an integer of at least 1, got 1.5"),
    ({"render_mode": "human"}, "render_mode"),
    ({"sae": "/no/such/folder"}, "no SAE called '/no/such/folder'"),
    ({"sae": "no-such-release:x"}, "SAELens knows no release 'no-such-release'"),
    ({"sae": "gpt2-small-res-jb:blocks.99.hook_resid_pre"}, "has no SAE 'blocks.99.hook_resid_pre'"),
    ({"model": "/no/such/model"}, "there is no folder or file '/no/such/model'"),
]


@pytest.mark.parametrize(
    ("kwargs", "message"), REFUSALS, ids=[str(next(iter(kwargs.items()))) for kwargs, _ in REFUSALS]
)
def test_bad_arguments_are_one_clear_error(tiny, kwargs, message):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*render.*")  # gym.make warns first about an unknown mode
        with pytest.raises(ValueError, match=message):
            gym.make("Steer-TicTacToe-v0", **{**tiny, **kwargs})


@pytest.mark.parametrize(("file", "content"), [("config.json", b"{}"), ("model.safetensors", b"x")])
def test_a_spoilt_model_is_named_and_nobody_is_sent_to_the_hub(tiny, tmp_path, file, content):
    folder = tmp_path / "model"
    shutil.copytree(tiny["model"], folder)
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot load the model in '.*model' \(.+\)$"):
        gym.make("Steer-TicTacToe-v0", **{**tiny, "model": str(folder)})


def test_a_norm_that_cannot_be_measured_says_on_which_split(tiny, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"question": "1 2?", "answer": "#### 3"}\n')
    given = {**tiny, "data": str(tmp_path), "split": "test", "max_new_tokens": 1}
    with pytest.raises(
        ValueError, match=r"on the train split, which failed: .* has no split 'train'.*'normalized' .*'residual'"
    ):
        gym.make("Steer-GSM8K-v0", **{**given, "coefficient_unit": "norm"})
    with pytest.raises(ValueError, match="on the train split"):
        gym.make("Steer-GSM8K-v0", **{**given, "coefficient_unit": "residual"})
    unmeasured = {"coefficient_unit": "residual", "observation": "normalized"}
    assert gym.make("Steer-GSM8K-v0", **given | unmeasured).reset(seed=0)


def test_an_sae_of_another_width_is_refused(tiny, tmp_path):
    from tests.conftest import save_sae

    save_sae(tmp_path, width=16)
    with pytest.raises(ValueError, match="reads a residual of width 16, but the model's is 32"):
        gym.make("Steer-TicTacToe-v0", **{**tiny, "sae": str(tmp_path)})


def test_the_saes_own_record_gives_the_layer(tiny):
    env = gym.make("Steer-TicTacToe-v0", model=tiny["model"], sae=tiny["sae"])
    assert env.unwrapped.episode.scene.dictionary.layer == tiny["layer"]
    explicit = gym.make("Steer-TicTacToe-v0", **tiny)
    assert np.array_equal(env.reset(seed=0)[0], explicit.reset(seed=0)[0])
    scenes = [each.unwrapped.episode.scene for each in (env, explicit)]
    assert scenes[0].actuator.coefficient == scenes[1].actuator.coefficient


def test_an_sae_steers_where_it_was_trained_or_warns(tiny, tmp_path):
    from tests.conftest import save_sae

    save_sae(tmp_path, hook="blocks.2.hook_resid_pre")
    given = {**tiny, "sae": str(tmp_path)}
    site = gym.make("Steer-TicTacToe-v0", **{**given, "layer": 2}).unwrapped.episode.scene.model.site
    assert site == "pre"
    same_place = gym.make("Steer-TicTacToe-v0", **{**given, "layer": 1, "site": "post"})
    assert same_place.unwrapped.episode.scene.model.layer == 1
    with pytest.warns(UserWarning, match="was trained at pre of block 2, but steers pre of block 1"):
        gym.make("Steer-TicTacToe-v0", **{**given, "layer": 1})


def test_overriding_the_place_of_a_preset_measures_the_norm_anew():
    """The card's norm belongs to its own block."""
    with pytest.warns(UserWarning, match="steers post of block 2"):
        moved = gym.make("Steer-TicTacToe-v0", layer=2).unwrapped.episode.scene.actuator.coefficient
    own = gym.make("Steer-TicTacToe-v0").unwrapped.episode.scene.actuator.coefficient
    assert own == pytest.approx(14.855, abs=0.01)
    assert moved > own * 1.1


def test_an_sae_of_something_else_than_the_residual_is_refused(tiny, tmp_path):
    from tests.conftest import save_sae

    save_sae(tmp_path, hook="blocks.1.hook_mlp_out")
    with pytest.raises(ValueError, match=r"trained on 'blocks.1.hook_mlp_out', which is no residual stream"):
        gym.make("Steer-TicTacToe-v0", **{**tiny, "sae": str(tmp_path)})


def test_pinned_items_without_a_seed_continue_the_stream(tiny):
    env = gym.make("Steer-TicTacToe-v0", temperature=2.0, **tiny)

    def games():
        env.reset(seed=123)
        tokens = []
        for _ in range(12):
            env.reset(options={"item": 5})
            tokens.append(int(env.step(FEATURES)[4]["token"]))
        return tokens

    assert games() == games()
    assert len(set(games())) > 1


def test_a_step_without_an_episode_says_to_reset(tiny):
    env = gym.make("Steer-TicTacToe-v0", **tiny).unwrapped
    with pytest.raises(ValueError, match="call reset first"):
        env.step(0)
    env.reset(seed=0)
    while not env.step(FEATURES)[2]:
        pass
    with pytest.raises(ValueError, match="call reset first"):
        env.step(0)


def test_what_a_lane_ended_with_is_the_users_own_copy(tiny):
    envs = gym.make_vec("Steer-TicTacToe-v0", num_envs=2, **tiny)
    observations, _ = envs.reset(seed=0)
    ended = np.zeros(2, dtype=bool)
    while not ended.any():
        before = observations
        observations, _, ended, _, infos = envs.step(np.full(2, FEATURES))
    lane = int(np.flatnonzero(ended)[0])
    assert not np.shares_memory(infos["final_obs"][lane], before)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda env: env.step(FEATURES + 1), r"action must be in \[0, 25\), got 25"),
        (lambda env: env.step(-1), r"action must be in \[0, 25\), got -1"),
        (lambda env: env.step(2.0), "actions must be 1 integers, got shape .* of float64"),
        (lambda env: env.step(True), "actions must be 1 integers, got shape .* of bool"),
        (lambda env: env.step([3]), "actions must be 1 integers, got shape"),
        (lambda env: env.reset(options={"item": 3.7}), "item must be an integer, got 3.7"),
        (lambda env: env.reset(options={"item": [3, 4]}), r"item must be an integer, got \[3, 4\]"),
        (lambda env: env.reset(options={"item": None}), "item must be an integer, got None"),
        (lambda env: env.reset(options={"item": 100_000}), r"item must be in \[0, 100000\), got 100000"),
        (lambda env: env.reset(options={"question": 1}), r"unknown reset options \['question'\]"),
    ],
)
def test_misuse_names_the_value_and_loses_nothing(tiny, use, message):
    env = gym.make("Steer-TicTacToe-v0", **tiny).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        use(env)
    env.step(0)


@pytest.mark.parametrize("strength", [1.5, float("nan")])
def test_strengths_outside_their_bound_are_refused(tiny, strength):
    env = gym.make("AutoSteer-TicTacToe-v0", k=2, **tiny).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match="strengths must be"):
        env.step(np.array([strength, 0.0], dtype=np.float32))


def test_specs_survive_a_deep_copy(make):
    env = make()
    again = gym.make(env.spec)
    assert np.array_equal(env.reset(seed=2)[0], again.reset(seed=2)[0])


def test_importing_the_package_is_light():
    """Registration loads neither torch nor SAELens nor wandb."""
    heavy = ("torch", "sae_lens", "wandb", "stable_baselines3")
    code = f"import steer_env, sys; print([name for name in {heavy} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("env_id", IDS)
def test_plain_sb3_code_trains_with_nothing_of_ours(tiny, env_id):
    model = PPO("MlpPolicy", gym.make(env_id, **tiny, **EXTRA[env_id]), n_steps=32, batch_size=32, device="cpu")
    before = model.policy.action_net.weight.clone()
    model.learn(64)
    assert not torch.equal(before, model.policy.action_net.weight)


def test_maskable_ppo_finds_the_mask_by_itself(tiny):
    env = gym.make("Steer-TicTacToe-v0", mask="current", **tiny)
    chosen = []
    step = env.unwrapped.step
    env.unwrapped.step = lambda action: (chosen.append(env.unwrapped.action_masks()[action]), step(action))[1]
    MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=32, device="cpu").learn(64)
    assert len(chosen) == 64
    assert all(chosen)
