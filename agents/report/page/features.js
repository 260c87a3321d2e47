// Features: a table to search and sort, and what is known of each.

const COLUMNS = [ // title, what it sorts by, what it shows, only on wide screens
  ["feature", (row) => row.feature, (row) => row.feature],
  ["label", (row) => row.label ?? "", (row) => row.label ?? "–"],
  ["tokens", (row) => row.tokens, (row) => row.tokens],
  ["episodes", (row) => row.episodes, (row) => row.episodes, true],
  ["effect", (row) => row.effect, (row) => number(row.effect)],
  ["causal rank", (row) => row.causal_rank, (row) => row.causal_rank ?? "–"],
  ["correlation rank", (row) => row.correlation_rank, (row) => row.correlation_rank ?? "–", true],
  ["kind", (row) => row.kind ?? "", (row) => row.kind ?? "–", true],
  ["promoted", (row) => (row.promoted ?? []).join(""), (row) => pieces(row.promoted, 5), true],
];
const RISING = new Set(["feature", "label", "kind", "causal rank", "correlation rank", "promoted"]);
const table = { rows: [], query: "", by: "tokens", rising: false, shown: ROWS_AT_ONCE, open: null };

views.features = {
  async render(panel) {
    const record = await load("features");
    if (!record) return panel.append(await command("features"));
    table.rows = record.features;
    table.body = make("tbody");
    table.head = make("tr");
    table.count = make("span", { class: "soft end", id: "feature-count" });
    table.search = make("input", { type: "search", placeholder: "number, label or token", "aria-label": "search features",
      oninput: () => { table.query = table.search.value; listFeatures(); } });
    panel.append(spread(record), make("div", { class: "bar" }, table.search, make("span", { class: "soft" }, "/ to search"), table.count),
      make("table", { class: "features-table" }, make("thead", {}, table.head), table.body));
    listFeatures();
  },
  key(event) {
    if (!table.body) return false;
    if (event.key === "/") { table.search.focus(); return true; }
    const rows = [...table.body.querySelectorAll(".feature")];
    const at = rows.indexOf(document.activeElement);
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by) { rows[Math.max(0, Math.min(rows.length - 1, at + by))]?.focus(); return true; }
    if (at >= 0 && (event.key === "Enter" || event.key === " ")) { toggle(rows[at]); return true; }
    return false;
  },
};

function spread(record) {
  const { diversity, ranks, alone } = record;
  const told = [`${diversity.distinct} of ${diversity.choices} features used, as if ${number(diversity.effective, 1)} equally often`,
    `Gini ${number(diversity.gini, 2)}`, `${percent(diversity.no_op)} of ${diversity.tokens} tokens left alone`];
  if (ranks && ranks.spearman !== null && ranks.spearman !== undefined) told.push(`causal against correlation rank: Spearman ${number(ranks.spearman, 2)}`);
  if (alone) told.push(`the best single feature of each episode makes ${percent(alone.oracle)} right`);
  return make("p", { class: "soft" }, `${told.join("; ")}.`);
}

const pieces = (tokens, count) => make("span", { class: "pieces" }, (tokens ?? []).slice(0, count).map((text) => make("code", {}, quoted(text))));
const matches = (row, query) => [row.feature, row.label, ...(row.promoted ?? [])].join("\n").toLowerCase().includes(query);

function compare(a, b) {
  if (a === null || a === undefined || b === null || b === undefined) return (a ?? null) === (b ?? null) ? 0 : (a ?? null) === null ? 1 : -1;
  const order = typeof a === "string" ? a.localeCompare(b) : a - b;
  return table.rising ? order : -order;
}

function listFeatures() {
  const key = COLUMNS.find(([title]) => title === table.by)[1];
  const found = table.rows.filter((row) => matches(row, table.query.toLowerCase())).sort((a, b) => compare(key(a), key(b)) || a.feature - b.feature);
  table.head.replaceChildren(...COLUMNS.map(([title, , , wide]) => make("th", { scope: "col", class: wide && "wide",
    "aria-sort": title === table.by ? (table.rising ? "ascending" : "descending") : "none" },
    make("button", { onclick: () => sortBy(title) }, title))));
  table.body.replaceChildren(...found.slice(0, table.shown).map(featureRow));
  if (found.length > table.shown) {
    const more = () => { table.shown += ROWS_AT_ONCE; listFeatures(); };
    table.body.append(make("tr", {}, make("td", { colspan: COLUMNS.length }, make("button", { class: "plain more", onclick: more }, `${found.length - table.shown} more`))));
  }
  table.count.textContent = `${found.length} of ${table.rows.length} features`;
}

function sortBy(title) {
  table.rising = title === table.by ? !table.rising : RISING.has(title);
  table.by = title;
  listFeatures();
  [...table.head.querySelectorAll("button")].find((button) => button.textContent === title).focus();
}

function featureRow(row) {
  const node = make("tr", { class: "feature", tabindex: 0, "aria-expanded": false, onclick: () => toggle(node) },
    COLUMNS.map(([, , show, wide], place) => make("td", { class: [wide && "wide", place !== 1 && "number"].filter(Boolean).join(" ") }, show(row))));
  node.row = row;
  return node;
}

function toggle(node) {
  const open = node.getAttribute("aria-expanded") === "true";
  node.setAttribute("aria-expanded", !open);
  if (open) node.nextElementSibling.remove();
  else node.after(make("tr", { class: "more-of" }, make("td", { colspan: COLUMNS.length }, featureDetail(node.row))));
}

function featureDetail(row) {
  const effects = Object.entries(row.impact ?? {}).map(([name, impact]) => [`without it, ${words(name)}`,
    `mean score falls by ${number(impact.effect)}; where used by ${number(impact.where_used)} (95 %: ${impact.ci95.map((x) => number(x)).join(" to ")}), ` +
    `breaks ${impact.broken}, corrects ${impact.corrected}, p ${number(impact.p, 4)}`]);
  return [
    facts([
      ["label from", row.label_source ?? "–"], ["score where used", `${number(row.score_where_used)} (gain ${number(row.gain_where_used)})`],
      ["correlation", `${number(row.correlation)}, rank ${row.correlation_rank ?? "–"}`], ...effects,
      ["by itself", row.reach === null || row.reach === undefined ? "–" : `makes ${percent(row.reach)} right, rank ${row.reach_rank}`],
      ["promoted", pieces(row.promoted)], ["suppressed", pieces(row.suppressed)], ...kindFacts(row),
    ]),
    make("h4", {}, "Where it was most active"),
    row.examples.length ? make("ul", { class: "examples" }, row.examples.map(example)) : make("div", { class: "soft" }, "Never among the strongest of a logged token."),
    make("p", {}, make("button", { class: "plain", onclick: () => openEpisodes(row.feature) }, "Episodes steered with it")),
  ];
}

function kindFacts(row) {
  const shares = Object.entries(row.kind_shares ?? {}).filter(([, share]) => share > 0).sort((a, b) => b[1] - a[1]);
  const told = Object.entries(row.information ?? {}).map(([name, of]) => `${words(name)} ${number(of.bits)} of ${number(of.entropy)} (p ${number(of.p, 2)})`);
  return [["strongest tokens", shares.length && shares.map(([kind, share]) => `${kind} ${percent(share)}`).join(", ")],
    ["tells, in bits", told.join("; ")]].filter(([, text]) => text);
}

function example(each) {
  return make("li", {}, make("span", { class: "soft" }, `${number(each.activation, 2)}, item ${each.item}, token ${each.step + 1}`),
    make("div", { class: "text" }, make("span", { class: "same" }, each.prompt ?? "", each.before), make("mark", {}, visible(each.token_text))));
}
