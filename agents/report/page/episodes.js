// Episodes, token by token: what the intervention changed, and all that is known of one token.

const PER_PAGE = 30;
const PALEST = 0.12;
const STRONGEST = 0.8;
const KINDS = {
  all: () => true,
  corrected: (right, alone) => right && !alone,
  broken: (right, alone) => !right && alone,
  right: (right) => right,
  wrong: (right) => !right,
};
const ORDERS = {
  "corrected first": (log, i) => (log.unsteered_score[i] ?? log.score[i]) - log.score[i],
  "running order": () => 0,
  "most tokens changed": (log, i) => -log.changed[i],
  "highest KL": (log, i) => -(log.kl[i] ?? 0),
  longest: (log, i) => -log.length[i],
};

const episodes = { log: null, kind: "all", order: "corrected first", feature: "", page: 0, places: [], points: new Map(), asked: 0 };

views.episodes = {
  async render(panel) {
    episodes.log = await load("episodes");
    if (!episodes.log) return panel.append(await command("interventions"));
    await findPoints();
    episodes.list = make("div", {
      onclick: chooseToken, onmouseover: hintToken, onfocusin: hintToken, onmouseout: hideHint, onfocusout: hideHint,
    });
    episodes.detail = make("aside", { class: "detail", "aria-live": "polite" });
    episodes.bar = make("div", { class: "bar" });
    panel.append(episodes.bar, legend(), make("div", { class: "split" }, episodes.list, episodes.detail));
    emptyDetail();
    await listEpisodes();
  },
  key(event) {
    const token = document.activeElement.closest?.(".token");
    if (event.key === "Escape") return closeDetail();
    if (event.key === "n" || event.key === "p") return turn(event.key === "n" ? 1 : -1);
    if (!token) return event.key.startsWith("Arrow") && event.key !== "ArrowUp" && event.key !== "ArrowDown" ? focusFirst() : false;
    if (event.key === "Enter" || event.key === " ") return chooseToken({ target: token });
    return moveToken(token, event.key);
  },
};

async function findPoints() {
  const found = await load("points");
  episodes.analysed = found ? found.analysed : {};
  if (found) found.episode.forEach((episode, place) => episodes.points.set(`${episode}:${found.step[place]}`, place));
}

function legend() {
  const sample = (kind, kl, text) => make("span", {}, tinted(make("span", { class: `sample ${kind}` }, "token"), kl), text);
  return make("div", { class: "legend" },
    sample("changed", 0.5, "the written token changed"), sample("kept", 0.5, "steered, same token"),
    make("span", {}, "stronger colour: larger KL divergence"), make("span", {}, "◆ branch point"),
    make("span", {}, "keys: arrows, Enter, n and p"));
}

function tinted(node, strength) {
  node.style.setProperty("--kl", PALEST + (STRONGEST - PALEST) * strength);
  return node;
}

// Filter and order the episodes, and show the first page.
async function listEpisodes(page = 0) {
  const log = episodes.log;
  const wanted = episodes.feature === "" ? null : Number(episodes.feature);
  const right = (score) => score > log.right;
  episodes.places = log.episode.map((_, i) => i).filter((i) =>
    KINDS[episodes.kind](right(log.score[i]), right(log.unsteered_score[i])) &&
    (wanted === null || log.features[i].includes(wanted)));
  const rank = episodes.places.map((i) => [ORDERS[episodes.order](log, i), i]);
  episodes.places = rank.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, i]) => i);
  episodes.page = page;
  await showPage();
}

function episodeBar() {
  const again = (name) => (value) => { episodes[name] = value; return listEpisodes(); };
  const pages = Math.max(1, Math.ceil(episodes.places.length / PER_PAGE));
  const step = (by, text) => make("button", { onclick: () => turn(by), "aria-label": by < 0 ? "previous page" : "next page",
    disabled: episodes.page + by < 0 || episodes.page + by >= pages }, text);
  const feature = make("input", { class: "small", type: "number", min: 0, value: episodes.feature,
    onchange: () => again("feature")(feature.value) });
  episodes.bar.replaceChildren(
    choice("Show", Object.keys(KINDS).map((kind) => [kind, kind]), episodes.kind, again("kind")),
    choice("Order", Object.keys(ORDERS).map((order) => [order, order]), episodes.order, again("order")),
    make("label", {}, "Feature", feature),
    make("span", { class: "soft end", id: "episode-count" },
      `${episodes.places.length} of ${episodes.log.episode.length} episodes, page ${episodes.page + 1} of ${pages}`),
    make("span", {}, step(-1, "‹"), " ", step(1, "›")));
}

async function turn(by) {
  const pages = Math.ceil(episodes.places.length / PER_PAGE);
  if (episodes.page + by < 0 || episodes.page + by >= pages) return;
  episodes.page += by;
  await showPage();
  document.documentElement.scrollTop = 0;
  focusFirst();
}

async function showPage() {
  episodeBar();
  const shown = episodes.places.slice(episodes.page * PER_PAGE, (episodes.page + 1) * PER_PAGE);
  const asked = (episodes.asked += 1);
  const rows = await Promise.all(shown.map(episodeRow));
  if (asked !== episodes.asked) return; // another page was asked for meanwhile
  episodes.list.replaceChildren(...shown.map((place, i) => episodeNode(place, rows[i])));
  if (!shown.length) episodes.list.append(make("p", { class: "soft" }, "No such episode."));
  const first = episodes.list.querySelector(".token");
  if (first) first.tabIndex = 0;
}

async function episodeRow(place) {
  const size = episodes.log.block;
  return (await load(`tokens-${Math.floor(place / size)}`))[place % size];
}

function episodeNode(place, row) {
  const log = episodes.log;
  const alone = log.unsteered_score[place];
  return make("article", { class: "episode" },
    make("h3", {}, `Item ${log.item[place]}`, verdict(log.score[place], log.right),
      alone === null ? null : make("span", { class: "soft" }, `unsteered ${alone > log.right ? "right" : "wrong"}`),
      make("span", { class: "soft" }, `${log.changed[place]} of ${log.length[place]} tokens changed`)),
    make("p", { class: "tokens" }, row.text.map((_, step) => tokenNode(place, row, step))),
    row.unsteered === null ? null : make("div", { class: "alone" }, "unsteered:", make("span", { class: "text" }, visible(row.unsteered))),
    row.boards ? make("div", { class: "boards" }, row.boards.map((drawn, step) => boardNode(row, drawn, step))) : null);
}

function boardNode(row, drawn, step) {
  const written = quoted(episodes.log.texts[row.text[step]].trim());
  return make("figure", {}, drawn ? board(drawn) : null, make("figcaption", {}, `${written} ${drawn?.caption ?? ""}`.trim()));
}

function tokenNode(place, row, step) {
  const log = episodes.log;
  const steered = row.feature[step] >= 0;
  const kind = !steered && !row.changed[step] ? "" : row.changed[step] ? " changed" : " kept";
  const branch = episodes.points.has(`${log.episode[place]}:${step}`) ? " branch" : "";
  const node = make("span", { class: `token${kind}${branch}`, role: "button", tabindex: -1, "aria-pressed": false },
    visible(log.texts[row.text[step]]));
  node.at = { place, row, step };
  return tinted(node, log.kl_scale ? Math.sqrt(Math.min(1, (row.kl[step] ?? 0) / log.kl_scale)) : 0);
}

const labelOf = (feature) => episodes.log.labels[feature] ?? null;

function hintToken(event) {
  const token = event.target.closest(".token");
  if (!token || !token.at) return;
  const { row, step } = token.at;
  hint(token, row.feature[step] < 0 ? "not steered" : `feature ${named(row.feature[step], labelOf(row.feature[step]))}`);
}

function focusToken(token) {
  for (const other of episodes.list.querySelectorAll(".token[tabindex='0']")) other.tabIndex = -1;
  token.tabIndex = 0;
  token.focus();
  return true;
}

function focusFirst() {
  const first = episodes.list?.querySelector(".token");
  return first ? focusToken(first) : false;
}

// Left and right go through all tokens of the page, up and down from one episode to the next.
function moveToken(token, key) {
  const all = [...episodes.list.querySelectorAll(".token")];
  const at = all.indexOf(token);
  const by = { ArrowLeft: -1, ArrowRight: 1 }[key];
  if (by) return all[at + by] ? focusToken(all[at + by]) : true;
  const next = { ArrowUp: "previousElementSibling", ArrowDown: "nextElementSibling" }[key];
  if (!next) return false;
  const row = token.closest(".episode")[next]?.querySelectorAll(".token");
  return row && row.length ? focusToken(row[Math.min(token.at.step, row.length - 1)]) : true;
}

async function chooseToken(event) {
  const token = event.target.closest(".token");
  if (!token || !token.at) return;
  for (const other of episodes.list.querySelectorAll("[aria-pressed=true]")) other.setAttribute("aria-pressed", false);
  token.setAttribute("aria-pressed", true);
  focusToken(token);
  const { place, row, step } = token.at;
  const log = episodes.log;
  const other = row.other[step] < 0 ? null : quoted(log.texts[row.other[step]]);
  const logProb = row.log_prob[step];
  episodes.detail.replaceChildren(
    make("button", { class: "close", "aria-label": "close", onclick: closeDetail }, "×"),
    make("h3", {}, visible(log.texts[row.text[step]])),
    make("div", { class: "soft" }, `token ${step + 1} of ${row.text.length}, item ${log.item[place]}`),
    facts([
      ["feature", named(row.feature[step], labelOf(row.feature[step]))],
      ["strength", number(row.coefficient[step])],
      row.strengths[step] ? ["all strengths", row.strengths[step].map((strength) => number(strength, 2)).join(", ")] : ["", null],
      ["value", number(row.value[step])],
      ["log-prob", logProb === null ? "–" : `${number(logProb)} (${percent(Math.exp(logProb))})`],
      ["entropy", row.entropy[step] === null ? "–" : `${number(row.entropy[step])} nats`],
      ["reward", number(row.reward[step])],
      ["KL", row.kl[step] === null ? "–" : `${number(row.kl[step], 4)} nats`],
      ["unsteered", other === null ? "–" : make("span", { class: "written" }, other), row.changed[step] ? " (changed)" : ""],
    ]),
    activeFeatures(row, step), await alternatives(place, step));
  episodes.detail.classList.add("filled");
  episodes.detail.scrollTop = 0;
  token.scrollIntoView({ block: "nearest" }); // on narrow screens the detail lies over the lower half
}

function activeFeatures(row, step) {
  if (!row.top[step] || !row.top[step].length) return null;
  return make("div", {}, make("h4", {}, "Most active before steering"), make("ul", {}, row.top[step].map((feature, rank) =>
    make("li", {}, named(feature, labelOf(feature)), make("span", { class: "soft" }, ` ${number(row.top_activations[step][rank], 2)}`)))));
}

async function alternatives(place, step) {
  const at = episodes.points.get(`${episodes.log.episode[place]}:${step}`);
  const title = make("h4", {}, "Alternatives at this token");
  if (at === undefined) return make("div", {}, title, await noAlternatives(place));
  const { point } = await pointAt(at);
  const others = point.alternatives.map((each) => make("li", {},
    `${tried(each.arm, each.feature, each.label)} → `, make("span", { class: each.flips ? (each.score > episodes.log.right ? "good" : "bad") : "soft" },
      `score ${number(each.score)}${each.flips ? ", turns" : ""}`)));
  return make("div", {}, title, make("ul", {}, others),
    make("button", { class: "plain", onclick: () => openPoint(at) }, "Compare the completions"));
}

async function noAlternatives(place) {
  const tried = episodes.analysed[episodes.log.episode[place]];
  if (tried === undefined && (await load("missing")).branch_points) return command("branch_points");
  const why = tried === undefined ? "This episode was not analysed."
    : tried < episodes.log.length[place] ? "No branch point, or none was tried here." : "None that was tried turns the score.";
  return make("div", { class: "soft" }, why);
}

function emptyDetail() {
  episodes.detail.classList.remove("filled");
  episodes.detail.replaceChildren(make("div", { class: "soft" },
    "Choose a token, by click or Enter: its feature, value, alternatives, and the unsteered token."));
}

function closeDetail() {
  const chosen = episodes.list?.querySelector("[aria-pressed=true]");
  if (!chosen) return false;
  chosen.setAttribute("aria-pressed", false);
  emptyDetail();
  return focusToken(chosen);
}

// Open an episode at one of its tokens.
async function openEpisode(episode, step) {
  await show("episodes");
  if (!episodes.log) return;
  Object.assign(episodes, { feature: "", kind: "all" });
  await listEpisodes();
  const rank = episodes.places.indexOf(episodes.log.episode.indexOf(episode));
  if (rank < 0) return;
  episodes.page = Math.floor(rank / PER_PAGE);
  await showPage();
  const token = episodes.list.children[rank % PER_PAGE].querySelectorAll(".token")[step];
  if (token) await chooseToken({ target: token });
}

// Open the episodes that used a feature.
async function openEpisodes(feature) {
  await show("episodes");
  if (!episodes.log) return;
  Object.assign(episodes, { feature: String(feature), kind: "all" });
  await listEpisodes();
}
