"""Faults to plant, each with the test that must catch it. ``tests/test_faults.py`` plants them one by one."""

from typing import NamedTuple


class Fault(NamedTuple):
    """Replace ``old`` (which stands once in ``file``) by ``new``, and ``test`` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


FAULTS = [
    Fault(
        "steering never fires",
        "steer_env/passes.py",
        "hidden[:, -1:] + delta.to(hidden)[:, None]",
        "hidden[:, -1:] + 0 * delta.to(hidden)[:, None]",
        "test_engine.py::test_the_next_block_receives_exactly_the_residual_plus_delta",
    ),
    Fault(
        "every token of a chunk is steered",
        "steer_env/passes.py",
        "return steered if hidden.shape[1] == 1 else torch.cat([hidden[:, :-1], steered], dim=1)",
        "return hidden + delta.to(hidden)[:, None]",
        "test_engine.py::test_steered_tokens_equal_a_plain_hook_over_the_whole_text",
    ),
    Fault(
        "steering one block early",
        "steer_env/passes.py",
        'if site == "post":',
        'if site == "never":',
        "test_engine.py::test_steered_tokens_equal_a_plain_hook_over_the_whole_text",
    ),
    Fault(
        "a pass of another engine is steered too",
        "steer_env/passes.py",
        "if getcurrent() is not owner:",
        "if False:",
        "test_engine.py::test_a_pass_in_another_thread_is_neither_paused_nor_steered",
    ),
    Fault(
        "the hook outlives an abandoned pass",
        "steer_env/passes.py",
        "        handle.remove()\n        return edit(hidden)",
        "        return edit(hidden)",
        "test_engine.py::test_no_hook_is_left_behind_even_by_an_abandoned_pass",
    ),
    Fault(
        "gradients are left off outside the pass",
        "steer_env/model.py",
        "            with torch.no_grad(), explained_memory():\n                yield",
        "            torch.set_grad_enabled(False)\n            with explained_memory():\n                yield",
        "test_engine.py::test_gradients_stay_on_outside_a_paused_pass",
    ),
    Fault(
        "two passes a token",
        "steer_env/model.py",
        "        self._paused = greenlet(pausing_pass)",
        "        self.lm(**inputs)\n        self._paused = greenlet(pausing_pass)",
        "test_engine.py::test_one_forward_pass_a_token_and_one_for_all_restarted_lanes",
    ),
    Fault(
        "the reset of one lane forgets them all",
        "steer_env/cache.py",
        "        self.lengths[lane] = 0",
        "        self.lengths = [0] * self.lanes",
        "test_parity.py::test_a_lane_reset_midway_leaves_the_others_alone",
    ),
    Fault(
        "the sliding window is ignored",
        "steer_env/cache.py",
        "return key <= query if window is None else (key <= query) & (key > query - window)",
        "return key <= query",
        "test_parity.py::test_the_no_op_policy_equals_generate",
    ),
    Fault(
        "no mask is thought to be needed beyond the window",
        "steer_env/cache.py",
        "return self.level and (window is None or self.extent < window)",
        "return self.level",
        "test_parity.py::test_lanes_of_one_length_grow_across_the_sliding_window",
    ),
    Fault(
        "logits that are not finite become a token",
        "steer_env/model.py",
        'dim=-1, keepdim=True).values, "logits',
        'dim=-1, keepdim=True).values.nan_to_num(), "logits',
        "test_engine.py::test_logits_that_are_not_finite_name_their_lane_and_leave_nothing_behind",
    ),
    Fault(
        "a grown cache loses its past",
        "steer_env/cache.py",
        "        grown[:, :, :slots] = buffer\n",
        "",
        "test_parity.py::test_the_no_op_policy_equals_generate",
    ),
    Fault(
        "padding overwrites the lane's first token",
        "steer_env/cache.py",
        "self.slots = torch.where(self.real, positions, scrap)",
        "self.slots = positions.clamp(min=0)",
        "test_engine.py::test_lanes_that_read_different_numbers_of_tokens_do_not_disturb_each_other",
    ),
    Fault(
        "the observation shows the steered residual",
        "steer_env/episode.py",
        "        logits = scene.model.advance(scene.actuator.delta(actions))",
        "        delta = scene.actuator.delta(actions)\n"
        "        self.hidden += delta\n"
        "        logits = scene.model.advance(delta)",
        "test_audit.py::test_autosteer_1_steering_is_applied_in_evaluation_and_is_what_the_log_says",
    ),
    Fault(
        "the no-op steers",
        "steer_env/actions.py",
        "return rows * (self.coefficient * steered)[:, None]",
        "return rows * self.coefficient",
        "test_env.py::test_an_action_adds_the_coefficient_times_its_direction",
    ),
    Fault(
        "the log names another feature than the applied one",
        "steer_env/actions.py",
        'return {"feature": np.append(self.features, NO_OP)[actions]}',
        'return {"feature": actions}',
        "test_env.py::test_an_action_adds_the_coefficient_times_its_direction",
    ),
    Fault(
        "actions mean something else on the test split",
        "steer_env/registry.py",
        'for name, value in options if name != "split")',
        "for name, value in options)",
        "test_env.py::test_actions_mean_the_same_on_every_split",
    ),
    Fault(
        "the mask forgets the episode's earlier tokens",
        "steer_env/episode.py",
        'active | self._active if self.scene.mask == "generation" else active',
        "active",
        "test_env.py::test_masks_are_the_features_active_in_their_scope",
    ),
    Fault(
        "the mask remembers the episode before",
        "steer_env/episode.py",
        "        self._active[lane] = False\n",
        "",
        "test_env.py::test_masks_are_the_features_active_in_their_scope",
    ),
    Fault(
        "lanes share one stream of chance",
        "steer_env/episode.py",
        "self._running[lane].draw.rng.random() for lane in range(self.lanes)",
        "self._running[0].draw.rng.random() for lane in range(self.lanes)",
        "test_env.py::test_lane_i_of_a_batch_is_the_single_environment",
    ),
    Fault(
        "options are compared by their first tokens alone",
        "steer_env/options.py",
        "float(logprobs.gather(1, tail).sum())",
        "0.0",
        "test_constrained.py::test_the_choice_is_that_of_a_plain_hook_over_the_whole_text",
    ),
    Fault(
        "a long option is compared by the mean of its tokens",
        "steer_env/options.py",
        ".gather(1, tail).sum())",
        ".gather(1, tail).mean())",
        "test_constrained.py::test_the_choice_is_that_of_a_plain_hook_over_the_whole_text",
    ),
    Fault(
        "an option's log-probability is over the options only",
        "steer_env/options.py",
        "logits.log_softmax(dim=-1).gather(1, first.to(logits.device))",
        "logits.gather(1, first.to(logits.device)).log_softmax(dim=-1)",
        "test_constrained.py::test_the_choice_is_that_of_a_plain_hook_over_the_whole_text",
    ),
    Fault(
        "an option has the tokens that it has by itself",
        "steer_env/decoding.py",
        "tokens = whole[len(head) :]",
        "tokens = self.encode(option)",
        "test_constrained.py::test_an_options_tokens_are_those_it_has_in_its_place",
    ),
    Fault(
        "an option is written but for its last token",
        "steer_env/episode.py",
        "running.utterance = running.unwritten = list(running.options[said.option])",
        "running.utterance = list(running.options[said.option])\n        running.unwritten = running.utterance[-1:]",
        "test_constrained.py::test_a_conversation_goes_on_behind_the_option",
    ),
    Fault(
        "options that begin alike count as the same",
        "steer_env/episode.py",
        "np.array([a[:2] != b[:2] for",
        "np.array([a[:1] != b[:1] for",
        "test_constrained.py::test_comparing_asks_the_unsteered_model_for_its_whole_option",
    ),
    Fault(
        "embedded items are called the benchmark",
        "steer_env/registry.py",
        'or options.get("data") != "hub"',
        "or False",
        "test_presets.py::test_a_real_preset_plays_the_hubs_items",
    ),
    Fault(
        "a pinned item's chance depends on the lane",
        "steer_env/ordering.py",
        "(self._pinned_seed, item)",
        "(self._pinned_seed, lane)",
        "test_evaluation.py::test_the_number_of_lanes_changes_nothing",
    ),
    Fault(
        "the terminal reward does not reach the agent",
        "agents/vec_env.py",
        "np.array(rewards, dtype=np.float32), ended, infos",
        "np.where(ended, 0, rewards).astype(np.float32), ended, infos",
        "test_audit.py::test_autosteer_4_every_terminal_reward_reaches_the_agent",
    ),
    Fault(
        "the bonus is judged after the move",
        "steer_env/tasks/tictactoe.py",
        "        optimal = replace is None and cell in optimal_moves(self.board)\n"
        "        self.optimal_moves += optimal\n"
        "        self._play(cell)\n",
        "        self._play(cell)\n"
        "        optimal = replace is None and not self.outcome and cell in optimal_moves(self.board)\n"
        "        self.optimal_moves += optimal\n",
        "test_tictactoe.py::test_shaping_is_judged_on_the_board_before_the_move",
    ),
    Fault(
        "the evaluated policy is a fresh one",
        "agents/evaluation.py",
        "    inputs, _ = policy.obs_to_tensor(obs)\n",
        "    inputs, _ = policy.obs_to_tensor(obs)\n"
        "    policy = type(policy)(**policy._get_constructor_parameters())\n",
        "test_audit.py::test_autosteer_2_the_policy_that_plays_is_the_one_that_was_saved",
    ),
    Fault(
        "the mask is ignored where actions are drawn",
        "agents/masked_policy.py",
        "legal = None if mask is None else unpack_bits(mask, self.action_dist.action_dim)",
        "legal = None",
        "test_masked_policy.py::test_illegal_actions_are_never_sampled",
    ),
    Fault(
        "the policy gradient is zero",
        "agents/masked_policy.py",
        "return self.action_dist.restrict(self.action_net(latent), legal)",
        "return self.action_dist.restrict(self.action_net(latent).detach(), legal)",
        "test_audit.py::test_the_policy_gradient_is_not_zero",
    ),
    Fault(
        "evaluation teaches the adaptive mask",
        "agents/evaluation.py",
        "        mask.frozen = True\n",
        "        mask.frozen = False\n",
        "test_audit.py::test_evaluation_teaches_the_adaptive_mask_nothing",
    ),
    Fault(
        "the self-check takes the entropy bonus for a policy gradient",
        "agents/trial.py",
        '"ent_coef": 0.0, ',
        "",
        "test_check.py::test_a_policy_without_gradient_is_caught",
    ),
    Fault(
        "every configuration of a copied data set counts",
        "steer_env/tasks/rows.py",
        "        path = path / source.config  #",
        "        pass  #",
        "test_rows.py::test_of_a_copy_of_the_repository_only_the_configuration_counts",
    ),
    Fault(
        "a blank line ends a worked sum",
        "steer_env/tasks/gsm8k.py",
        '_STOPS = {"crl": (',
        '_STOPS = {"crl": ("\\n\\n", ',
        "test_gsm8k.py::test_a_blank_line_between_steps_does_not_end_the_answer_and_the_next_question_does",
    ),
    Fault(
        "the self-check counts a push that is lost in rounding",
        "experiments/residual_probe.py",
        "exact & felt",
        "exact",
        "test_check.py::test_the_push_is_measured_wherever_it_is",
    ),
    Fault(
        "the self-check compares the last column of a log only",
        "experiments/replay.py",
        "differs |= ",
        "differs = ",
        "test_check.py::test_a_log_that_does_not_match_what_was_applied_is_caught",
    ),
    Fault(
        "the self-check does not ask what the agent received",
        "experiments/check.py",
        "np.allclose(trial.received, trial.earned, atol=1e-4)",
        "True",
        "test_check.py::test_a_reward_that_does_not_reach_the_agent_is_caught",
    ),
    Fault(
        "the command succeeds although a check fails",
        "experiments/check.py",
        "sys.exit(1)",
        "sys.exit(0)",
        "test_check.py::test_the_command_fails_when_a_check_does",
    ),
    Fault(
        "a cue that is spoken over the reply is not heard",
        "experiments/locked_training.py",
        "(batch.over[:, :-1] != PAD)[..., None] *",
        "0 *",
        "test_make_locked.py::test_the_loss_is_the_weighted_mean_over_real_tokens",
    ),
    Fault(
        "the kind oracle is scored on the items that it chose on",
        "experiments/locked_instrument.py",
        "(named == kind) & (half == part)",
        "(named == kind) & (half != part)",
        "test_make_locked.py::test_the_kind_oracle_chooses_on_one_half_and_scores_on_the_other",
    ),
    Fault(
        "two splits speak of the same people",
        "steer_env/tasks/world/knowledge.py",
        "shared_out(FAMILY, split)",
        "FAMILY",
        "test_world.py::test_no_content_is_in_two_splits",
    ),
]
