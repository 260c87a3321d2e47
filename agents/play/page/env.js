// An environment stepped by hand: what is seen, what may be done, what it pays.

const env = { shown: null };

views.env = {
  async render(panel) {
    env.id = choice("", play.about.envs.map((id) => [id, id]), play.about.env, () => {}).querySelector("select");
    env.id.name = "env";
    env.split = choice("", ["test", "validation", "train"].map((split) => [split, split]), "test", () => {}).querySelector("select");
    env.item = numeric("item", "", { min: 0, placeholder: "any" });
    env.seed = numeric("env-seed", 0, { min: 0 });
    env.episode = make("div", { id: "episode" });
    env.side = make("aside", { class: "detail", id: "state" });
    panel.append(make("div", { class: "controls" }, field("Environment", env.id), field("Split", env.split), field("Item", env.item),
      field("Seed", env.seed), make("span", { class: "go" }, button("Reset", reset, { class: "primary", id: "reset" }))),
      make("div", { class: "split steps" }, env.episode, env.side));
    await attempt(reset);
  },
  key: () => false,
};

async function reset() {
  showEpisode(await ask("reset", { env: env.id.value, split: env.split.value, item: valueOf(env.item), seed: valueOf(env.seed) ?? 0 }));
}

async function take(asked) {
  showEpisode(await ask("step", asked));
}

function showEpisode(state) {
  env.shown = state;
  env.episode.replaceChildren(...[
    make("h3", {}, `Item ${state.item} of ${state.dealt}, ${state.split}`,
      make("span", { class: "soft" }, `  step ${state.steps.length}, return ${number(state.total)}${state.over ? ", over" : ""}`)),
    make("p", { class: "tokens", id: "transcript" }, spoken(state)),
    make("h4", {}, "As the task shows it"), make("pre", { class: "text picture" }, state.picture),
    state.steps.length ? stepTable(state) : null,
    state.final ? make("div", {}, make("h4", {}, "The final info"), facts(Object.entries(state.final).map(([name, value]) =>
      [name, typeof value === "string" ? make("span", { class: "written" }, quoted(value)) : JSON.stringify(value)]))) : null,
  ].filter(Boolean));
  env.side.replaceChildren(...stateNodes(state).filter(Boolean));
  env.side.classList.add("filled");
}

// The transcript: what the model said is coloured, all else is the task's.
function spoken(state) {
  let said = 0;
  return state.transcript.map(([piece]) => {
    const step = state.steps[said];
    if (!step || step.text !== piece) return make("span", {}, piece);
    said += 1;
    return painted(make("span", { class: "token", title: named(step.feature, step.label) }, visible(piece)), step, state.choice !== null && step.by_hand);
  });
}

function stepTable(state) {
  const head = ["step", "said", "feature", "unsteered", "reward"].map((name) => make("th", { class: name }, name));
  const rows = state.steps.map((step, place) => make("tr", {}, make("td", { class: "number" }, place + 1),
    make("td", { class: "written" }, quoted(step.text.trimStart())), make("td", {}, named(step.feature, step.label)),
    make("td", { class: `written unsteered ${step.changed ? "" : "soft"}` }, quoted(step.unsteered.trimStart())), make("td", { class: "number" }, number(step.reward))));
  return make("table", { class: "taken" }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows));
}

function stateNodes(state) {
  const seen = state.seen.map(({ name, shape, numbers: [low, mean, high, norm], values }) => facts([
    ["observation", `${name ? `${name} ` : ""}[${shape.join(", ")}]`],
    values.length ? ["values", values.join(" ")] : ["values", `${number(low, 2)} to ${number(high, 2)}, mean ${number(mean, 2)}`],
    values.length ? ["", null] : ["norm", number(norm, 2)],
  ]));
  const observed = [make("h3", {}, state.over ? "The last state" : "The state"), ...seen];
  if (state.over) return [...observed, make("p", { class: "soft" }, "The episode is over. Reset begins another.")];
  const feature = picker(() => "env");
  const strength = state.bound === null ? null : numeric("step-strength", state.bound, { step: "any", min: -state.bound, max: state.bound });
  const asked = (index) => ({ feature: index, ...(strength ? { strength: valueOf(strength) } : {}) });
  const stepped = () => {
    const chosen = feature.value();
    if (chosen === null) throw new Error("choose a feature to step with, or step without one");
    return take(asked(chosen));
  };
  const { legal } = state;
  return [...observed, facts([["legal", `${legal.count} of ${legal.of} features${state.bound === null ? ", and none at all" : ""}`]]),
    make("h4", {}, "Take a step"), field("Feature", feature.node), strength ? field("Strength", strength) : null,
    make("div", { class: "chips" }, button("Step", stepped, { class: "primary", id: "step" }),
      button("No feature", () => take(asked(-1)), { id: "step-none" }),
      state.choice ? button("As the agent would", () => take({}), { id: "step-agent" }) : null),
    state.choice ? ranked("What the agent weighs", state.choice.alternatives, weighed(state.choice), (row) => attempt(() => take(asked(row.feature)))) : null,
    state.choice && state.choice.value !== null ? facts([["value", number(state.choice.value)]]) : null,
    ranked("Legal features by activation: a click steps", legal.listed, (value) => number(value, 2), (row) => attempt(() => take(asked(row.feature))))];
}
