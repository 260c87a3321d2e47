// Branch points: where another choice turns the score, and the two completions side by side.

const ROWS_AT_ONCE = 100;
const points = { index: null, arm: "any", kind: "any", places: [], shown: ROWS_AT_ONCE, at: null };

views.points = {
  async render(panel) {
    points.index = await load("points");
    if (!points.index) return panel.append(await command("branch_points"));
    points.bar = make("div", { class: "bar" });
    points.rows = make("div", { class: "rows", "aria-label": "branch points" });
    points.compare = make("div", { id: "compare", "aria-live": "polite" });
    panel.append(found(), points.bar, make("div", { class: "split points" }, points.rows, points.compare));
    await listPoints();
  },
  key(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by || !points.places.length) return false;
    const at = points.places.indexOf(points.at) + by;
    if (at < 0 || at >= points.places.length) return true;
    if (at >= points.shown) { points.shown += ROWS_AT_ONCE; listRows(); }
    comparePoint(points.places[at]);
    points.rows.querySelector("[aria-current=true]").focus();
    return true;
  },
};

function found() {
  const arms = Object.entries(points.index.arms).map(([name, row]) =>
    `${words(name)}: ${row.branch_points} of ${row.tried} tokens decide`);
  const random = points.index.random;
  const rate = random ? ` A random alternative turns ${percent(random.flip_rate.mean)} (95 %: ${random.flip_rate.ci95.map(percent).join(" to ")}).` : "";
  const lost = points.index.not_reproduced ? ` ${points.index.not_reproduced} episodes came out otherwise than in the evaluation.` : "";
  return make("p", { class: "soft" }, `${arms.join("; ")}.${rate}${lost}`);
}

const fits = ([arm, kind]) => (points.arm === "any" || arm === points.arm) && (points.kind === "any" || kind === points.kind);

async function listPoints() {
  const index = points.index;
  const again = (name) => (value) => { points[name] = value; return listPoints(); };
  points.places = index.flips.map((_, i) => i).filter((i) => index.flips[i].some(fits));
  points.shown = ROWS_AT_ONCE;
  const arms = ["any", ...Object.keys(index.arms)].map((name) => [name, words(name)]);
  points.bar.replaceChildren(
    choice("Alternative", arms, points.arm, again("arm")),
    choice("Effect", ["any", "corrected", "broken"].map((kind) => [kind, kind]), points.kind, again("kind")),
    make("span", { class: "soft end", id: "point-count" }, `${points.places.length} of ${index.flips.length} branch points`));
  points.at = null;
  listRows();
  if (points.places.length) await comparePoint(points.places[0]);
  else points.compare.replaceChildren(make("p", { class: "soft" }, "No such branch point."));
}

function listRows() {
  const { index, places, shown } = points;
  points.rows.replaceChildren(...places.slice(0, shown).map(pointRow));
  if (places.length > shown) {
    const more = () => { points.shown += ROWS_AT_ONCE; listRows(); };
    points.rows.append(make("button", { class: "more", onclick: more }, `${places.length - shown} more`));
  }
}

function pointRow(place) {
  const index = points.index;
  const effects = [...new Set(index.flips[place].filter(fits).map(([, kind]) => kind))];
  const row = make("button", { onclick: () => comparePoint(place), "aria-current": place === points.at },
    `Item ${index.item[place]}, token ${index.step[place] + 1} `, make("span", { class: "written" }, quoted(index.token[place])),
    effects.map((kind) => [" ", make("span", { class: kind === "corrected" ? "good" : "bad" }, kind)]).flat(),
    make("div", { class: "soft" }, named(index.feature[place], index.label[place])));
  row.place = place;
  return row;
}

async function pointAt(place) {
  const index = await load("points");
  const point = (await load(`points-${Math.floor(place / index.block)}`))[place % index.block];
  return { index, point };
}

async function comparePoint(place, chosen = null) {
  points.at = place;
  for (const row of points.rows.children) if ("place" in row) row.setAttribute("aria-current", row.place === place);
  const { index, point } = await pointAt(place);
  if (points.at !== place) return;
  const effect = (score) => (score > index.right ? "corrected" : "broken");
  const turning = point.alternatives.filter((each) => each.flips);
  const shown = chosen ?? turning.find((each) => fits([each.arm, effect(each.score)])) ?? turning[0];
  const chips = turning.map((each) => make("button", { "aria-pressed": each === shown, onclick: () => comparePoint(place, each) },
    tried(each.arm, each.feature, each.label)));
  points.compare.replaceChildren(
    make("h3", {}, `Item ${index.item[place]}, token ${index.step[place] + 1}: `, make("span", { class: "written" }, quoted(index.token[place]))),
    make("div", { class: "soft" }, "Alternatives that turn the score:"), make("div", { class: "chips" }, chips),
    make("div", { class: "pair" },
      side("As it was", named(index.feature[place], index.label[place]), point.factual, shown.completion),
      side(words(shown.arm), named(shown.feature, shown.label), shown, point.factual.completion)),
    triedTable(point.alternatives),
    make("button", { class: "plain", onclick: () => openEpisode(index.episode[place], index.step[place]) }, "Show the token in its episode"));
}

// One of the two completions, marked from where it differs from the other.
function side(title, feature, outcome, other) {
  return make("div", {},
    make("h3", {}, title, " ", verdict(outcome.score, points.index.right)), make("div", { class: "soft" }, feature),
    make("p", { class: "text" }, differing(outcome.completion, other)),
    outcome.board ? board(outcome.board) : null,
    facts(Object.entries(outcome.info ?? {}).map(([name, value]) => [words(name), typeof value === "object" ? JSON.stringify(value) : String(value)])));
}

const blank = (character) => !/\S/.test(character);

// What both have, then the first word that differs, then the rest.
function differing(text, other) {
  const [own, its] = [[...text], [...other]];
  let same = 0;
  while (same < own.length && own[same] === its[same]) same += 1;
  let end = same;
  while (end < own.length && blank(own[end])) end += 1;
  while (end < own.length && !blank(own[end])) end += 1;
  const part = (from, to) => own.slice(from, to).join("");
  return [make("span", { class: "same" }, part(0, same)),
    make("mark", { class: "first" }, same < own.length ? visible(part(same, end)) : "∎"),
    end < own.length ? make("mark", {}, part(end)) : null];
}

function triedTable(alternatives) {
  return make("table", {}, make("thead", {}, make("tr", {}, ["tried", "feature", "score"].map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, alternatives.map((each) => make("tr", {}, make("td", {}, words(each.arm)), make("td", {}, named(each.feature, each.label)),
      make("td", { class: each.flips ? (each.score > points.index.right ? "number good" : "number bad") : "number" }, `${number(each.score)}${each.flips ? " turns" : ""}`)))));
}

// Open one branch point from another view.
async function openPoint(place) {
  await show("points");
  Object.assign(points, { arm: "any", kind: "any" });
  await listPoints();
  while (points.places.indexOf(place) >= points.shown) points.shown += ROWS_AT_ONCE;
  listRows();
  await comparePoint(place);
  points.rows.querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest" });
}
