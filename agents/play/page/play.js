// What the views of the play page share: asking the server, choosing a feature, what is known of a choice.

const play = { session: null, about: null };
const ASK_AGAIN = 300; // milliseconds
const SEARCH_AFTER = 120;

function post(path, asked) {
  const body = JSON.stringify({ session: play.session, ...asked });
  return fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body });
}

// Ask the server; what it refuses is thrown.
async function ask(what, asked = {}) {
  const found = await (await post(`/ask/${what}`, asked)).json();
  if (found.error) throw new Error(found.error);
  return found;
}

// Ask for a stream and hand each of its events on as it comes.
async function stream(what, asked, take) {
  const reply = await post(`/stream/${what}`, asked);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines.filter(Boolean)) {
      const event = JSON.parse(line);
      if (event.error) throw new Error(event.error);
      take(event);
    }
    if (done) return;
  }
}

// Run what a button asks for; an error is one line above the view.
async function attempt(action) {
  const box = document.getElementById("trouble");
  box.hidden = true;
  try {
    return await action();
  } catch (error) {
    box.textContent = error instanceof TypeError ? "The program does not answer: is it still running?" : error.message;
    box.hidden = false;
    return undefined;
  }
}

const button = (text, action, attributes = {}) =>
  make("button", { type: "button", class: "plain", onclick: () => attempt(action), ...attributes }, text);

const field = (title, control) => make("label", { class: "field" }, make("span", {}, title), control);

function numeric(name, value, attributes = {}) {
  return make("input", { class: "small", type: "number", name, value, ...attributes });
}

// The number in a field, null where it is empty.
const valueOf = (input) => (input.value.trim() === "" ? null : Number(input.value));

// A field that finds a feature by number or by words of its label. Its value is an index, or null.
function picker(where, first = null, name = "feature") {
  const list = make("div", { class: "found", role: "listbox", hidden: true });
  const input = make("input", { type: "search", name, autocomplete: "off", placeholder: "number, or a word of its label",
    "aria-label": "feature" });
  const own = { node: make("span", { class: "picker" }, input, list), chosen: null };
  own.set = (feature, label) => {
    own.chosen = feature;
    input.value = feature === null ? "" : feature < 0 ? "no feature" : `${feature}${label ? ` ${label}` : ""}`;
    list.hidden = true;
  };
  own.value = () => {
    const typed = input.value.trim();
    if (own.chosen === null && /^-?\d+$/.test(typed)) return Number(typed);
    if (own.chosen === null && typed) throw new Error(`choose a feature from the list: “${typed}” is a search`);
    return own.chosen;
  };
  let asked = 0;
  const search = async (mine) => {
    const { found, read, width } = await ask("search", { where: where(), query: input.value });
    if (mine !== asked) return; // something else was typed meanwhile
    const rows = found.map(({ feature, label }) => make("button", { type: "button", role: "option",
      onmousedown: (event) => { event.preventDefault(); own.set(feature, label); } }, named(feature, label)));
    const note = found.length ? null : read < width ? `${read} of ${width} labels are read so far` : "no label has these words";
    list.replaceChildren(...rows, ...(note ? [make("div", { class: "soft" }, note)] : []));
    list.hidden = false;
  };
  input.addEventListener("input", () => {
    own.chosen = null;
    const mine = (asked += 1);
    setTimeout(() => mine === asked && attempt(() => search(mine)), SEARCH_AFTER);
  });
  input.addEventListener("focus", () => { input.select(); });
  input.addEventListener("blur", () => { asked += 1; list.hidden = true; });
  input.addEventListener("keydown", (event) => {
    const options = [...list.querySelectorAll("button")];
    if (event.key === "Enter" && !list.hidden && options.length) {
      event.preventDefault();
      options[0].dispatchEvent(new MouseEvent("mousedown", { cancelable: true }));
    }
  });
  if (first) own.set(first.feature, first.label);
  return own;
}

// Who steers: the trained agent, or one feature at every token.
function steerer(where, { agent, first, coefficient }, boardbound = "") {
  const feature = picker(where, first);
  const strength = numeric("strength", "", { step: "any", placeholder: number(coefficient, 2),
    title: "in residual units; empty is the environment's own" });
  const fixed = [field("Feature", feature.node), field("Strength", strength)];
  const able = agent && !boardbound;
  const who = choice("", [["agent", "the trained agent"], ["feature", "one feature"]], able ? "agent" : "feature", (chosen) => {
    for (const node of fixed) node.hidden = chosen === "agent";
  });
  for (const node of fixed) node.hidden = able;
  const list = who.querySelector("select");
  list.name = "who";
  return {
    nodes: [agent ? field("Steered by", list) : null, ...fixed],
    asked: () => (agent && list.value === "agent" ? {} : { feature: feature.value(), strength: valueOf(strength) }),
  };
}

// How strong the colour of a token is: as in the report, by the square root of its divergence.
const KL_SCALE = 2;
const PALEST = 0.12;
const STRONGEST = 0.8;
function painted(node, token, marked = token.by_hand) {
  const strength = Math.sqrt(Math.min(1, (token.kl ?? 0) / KL_SCALE));
  node.style.setProperty("--kl", PALEST + (STRONGEST - PALEST) * strength);
  node.classList.add(token.changed ? "changed" : token.feature >= 0 ? "kept" : "plainly");
  if (marked) node.classList.add("branch");
  return node;
}

// Features with numbers, each a button where choosing it does something.
function ranked(title, rows, shown, chosen) {
  if (!rows.length) return null;
  return make("div", {}, make("h4", {}, title), make("ul", {}, rows.map((row) => make("li", {},
    chosen ? make("button", { type: "button", class: "link", onclick: () => chosen(row) }, named(row.feature, row.label))
      : named(row.feature, row.label),
    make("span", { class: "soft" }, ` ${shown(row.number)}`)))));
}

// What was done and what the policy says of it, and what else it might have done.
function done(told, ...more) {
  return facts([
    ["feature", named(told.feature, told.label)],
    ["strength", number(told.strength, 2)],
    ["chosen", told.by_hand ? "by hand" : told.alternatives.length ? "by the agent" : "at every token"],
    told.probability === null ? ["", null] : ["probability", percent(told.probability)],
    told.value === null ? ["", null] : ["value", number(told.value)],
    told.entropy === null ? ["", null] : ["entropy", `${number(told.entropy)} nats`],
    ...more,
  ]);
}

function others(told, chosen) {
  return [
    ranked(`What the agent weighs${told.weighed_by === "probability" ? "" : `: ${told.weighed_by}`}`, told.alternatives, weighed(told), chosen),
    ranked("Most active before steering", told.active, (value) => number(value, 2), chosen),
  ].filter(Boolean);
}

const weighed = (told) => (told.weighed_by === "probability" ? percent : (value) => number(value, 2));

// Ask until the models are loaded, then say what is played.
async function opened() {
  const found = await (await post("/open", {})).json();
  if (found.error) throw new Error(found.error);
  if (found.loading) {
    await new Promise((resolve) => { setTimeout(resolve, ASK_AGAIN); });
    return opened();
  }
  play.session = found.session;
  play.about = found.about;
  const { name, env, layer, width, agent } = play.about;
  document.getElementById("about").replaceChildren(...[
    name, env, `${width} features of block ${layer}`, agent ? "steered by a trained agent" : "steered by features of your choice",
  ].map((fact) => make("li", {}, fact)));
  return play.about;
}
