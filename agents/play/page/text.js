// A prompt, and what the model writes behind it: by itself, and steered.

const text = { busy: false, chosen: null, tokens: { steered: [], unsteered: [] } };

views.text = {
  render(panel) {
    const { openings, agent, boardbound, embedded, first, coefficient, max_new_tokens: longest } = play.about;
    text.prompt = make("textarea", { name: "prompt", rows: 3, spellcheck: "false", "aria-label": "prompt" });
    text.prompt.value = openings[0] ?? "";
    text.by = steerer(() => "text", { agent, first, coefficient }, boardbound);
    text.length = numeric("max_new_tokens", longest, { min: 1 });
    text.temperature = numeric("temperature", 0, { min: 0, step: 0.1 });
    text.seed = numeric("seed", 0, { min: 0 });
    text.go = button("Go", () => write(), { class: "primary", id: "go", title: "Ctrl-Enter" });
    text.stop = button("Stop", () => ask("stop"), { id: "stop", disabled: true });
    text.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) attempt(() => write());
    });
    const examples = openings.map((opening) => make("button", { type: "button", title: opening,
      onclick: () => { text.prompt.value = opening; } }, opening.trim().split("\n")[0]));
    text.detail = make("aside", { class: "detail", "aria-live": "polite" });
    text.arms = { unsteered: armNode("unsteered", "Unsteered"), steered: armNode("steered", "Steered") };
    panel.append(
      embedded ? make("p", {}, "A tiny model of a made-up world, made for steering. By itself it helps with harm; one feature makes it refuse. ",
        make("span", { class: "soft" }, "Choose a token below to see why, or to steer otherwise from there.")) : "",
      boardbound ? make("p", { class: "missing" }, `The agent writes no texts (${boardbound}); one feature can.`) : "",
      text.prompt, make("div", { class: "chips examples" }, examples),
      make("div", { class: "controls" }, text.by.nodes.filter(Boolean), field("Tokens", text.length),
        field("Temperature", text.temperature), field("Seed", text.seed), make("span", { class: "go" }, text.go, text.stop)),
      textLegend(),
      make("div", { class: "split" }, make("div", { class: "pair", onclick: chooseText }, Object.values(text.arms).map((arm) => arm.node)),
        text.detail));
    emptyText();
  },
  key(event) {
    if (event.key === "Escape") return closeText();
    const token = document.activeElement.closest?.(".token");
    if (!token) return false;
    if (event.key === "Enter" || event.key === " ") return attempt(() => openToken(token)) && true;
    const all = [...token.parentElement.querySelectorAll(".token")];
    const next = all[all.indexOf(token) + ({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0)];
    next?.focus();
    return event.key.startsWith("Arrow") && Boolean(next);
  },
};

function armNode(arm, title) {
  const tokens = make("p", { class: "tokens", "data-arm": arm, "aria-label": title });
  const end = make("span", { class: "soft" });
  return { tokens, end, node: make("div", {}, make("h3", {}, title), tokens, end) };
}

function textLegend() {
  const sample = (kl, changed, meaning) => make("span", {}, painted(make("span", { class: "sample" }, "token"),
    { kl, changed, feature: 0 }), meaning);
  return make("div", { class: "legend" }, sample(0.7, true, "steering changed it"), sample(0.7, false, "steered, same token"),
    make("span", {}, "stronger colour: larger KL divergence"), make("span", {}, "◆ chosen by hand"));
}

async function write(shown = true) {
  const asked = { prompt: text.prompt.value, max_new_tokens: valueOf(text.length), temperature: valueOf(text.temperature) ?? 0,
    seed: valueOf(text.seed) ?? 0, ...text.by.asked() };
  for (const arm of ["steered", "unsteered"]) forget(arm, 0);
  closeText();
  if (shown) text.arms.steered.node.scrollIntoView({ block: "nearest" });
  await written("write", asked);
}

// Do otherwise at a token, and go on from there.
async function change(step, asked) {
  forget("steered", step);
  closeText();
  await written("change", { step, ...asked });
}

function forget(arm, from) {
  text.tokens[arm].length = from;
  const { tokens, end } = text.arms[arm];
  [...tokens.querySelectorAll(".token")].slice(from).forEach((node) => node.remove());
  end.textContent = "";
}

async function written(what, asked) {
  busyText(true);
  try {
    await stream(what, asked, (event) => (event.ends ? ended(event.ends) : add(event)));
  } finally {
    busyText(false);
  }
}

function busyText(busy) {
  text.busy = busy;
  text.go.disabled = busy;
  text.stop.disabled = !busy;
}

const ENDS = { end: "", length: "as long as was asked for", context: "the model can read no more", stopped: "stopped" };
function ended(ends) {
  for (const [arm, end] of Object.entries(ends)) text.arms[arm].end.textContent = ENDS[end];
}

function add(token) {
  text.tokens[token.arm].push(token);
  const written = token.text === "" ? make("i", { class: "sign" }, " end") : visible(token.text);
  const node = make("span", { class: "token", role: "button", tabindex: 0, "aria-pressed": false }, written);
  node.at = token;
  node.addEventListener("mouseenter", () => hint(node, named(token.feature, token.label)));
  node.addEventListener("mouseleave", hideHint);
  text.arms[token.arm].tokens.append(painted(node, token));
}

function chooseText(event) {
  const token = event.target.closest(".token");
  if (token) attempt(() => openToken(token));
}

async function openToken(node) {
  const { arm, step } = node.at;
  const told = await ask("token", { arm, step });
  closeText();
  node.setAttribute("aria-pressed", true);
  const feature = picker(() => "text", told.feature < 0 ? null : told, "other");
  const strength = numeric("other-strength", number(told.feature < 0 ? play.about.coefficient : told.strength, 2), { step: "any" });
  const instead = (asked) => change(step, asked);
  const again = () => {
    const chosen = feature.value();
    if (chosen === null) throw new Error("choose a feature to go on with");
    return instead({ feature: chosen, strength: valueOf(strength) });
  };
  const byHand = arm !== "steered" || text.busy ? null : make("div", { class: "byhand" }, make("h4", {}, "Steer otherwise here"),
    make("div", { class: "two" }, field("Feature", feature.node), field("Strength", strength)),
    make("div", { class: "chips" }, button("Go on from here", again, { class: "primary", id: "go-on" }),
      button("No feature here", () => instead({ feature: -1, strength: 0 })),
      told.by_hand ? button("As before", () => instead({ back: true })) : null));
  text.detail.replaceChildren(
    make("button", { class: "close", "aria-label": "close", onclick: closeText }, "×"),
    make("h3", {}, quoted(told.text.trimStart())), make("div", { class: "soft" }, `token ${step + 1}, ${arm}`),
    ...(arm === "unsteered" ? [] : [done(told, ["KL", `${number(told.kl, 4)} nats`],
      ["unsteered", make("span", { class: "written" }, quoted(told.unsteered.trimStart())), told.changed ? " (changed)" : ""])]),
    byHand ?? "", ...others(told, byHand && ((row) => feature.set(row.feature, row.label))),
    likely(told.continuations));
  text.detail.classList.add("filled");
  text.detail.scrollTop = 0;
  node.focus({ preventScroll: true });
  node.scrollIntoView({ block: "nearest" });
}

function likely(continuations) {
  const steered = continuations.some((row) => row.unsteered !== null);
  const head = make("tr", {}, ["token", steered ? "steered" : "probability", steered ? "unsteered" : null]
    .filter(Boolean).map((name) => make("th", {}, name)));
  const rows = continuations.map((row) => make("tr", {}, make("td", { class: "written" }, quoted(row.text)),
    make("td", { class: "number" }, percent(row.steered)),
    row.unsteered === null ? null : make("td", { class: "number" }, percent(row.unsteered))));
  return make("div", {}, make("h4", {}, "What could be written"), make("table", {}, make("thead", {}, head), make("tbody", {}, rows)));
}

function emptyText() {
  text.detail.classList.remove("filled");
  text.detail.replaceChildren(make("div", { class: "soft" },
    "Choose a token, by click or Enter: its feature, the alternatives, and a way to steer otherwise from there on."));
}

function closeText() {
  const chosen = document.querySelector("#text [aria-pressed=true]");
  chosen?.setAttribute("aria-pressed", false);
  hideHint();
  emptyText();
  return Boolean(chosen);
}
