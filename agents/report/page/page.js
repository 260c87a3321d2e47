"use strict";
// What all views share: elements, data, numbers, tabs. Text becomes text nodes only, never markup.

// An element; attributes named on... are listeners, children that are no nodes become text.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || (value === false && !name.startsWith("aria-"))) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const held = new Map();
const HELD_BLOCKS = 64;

// The content of a data block: the same promise while it is among those used last.
function load(name) {
  const content = held.get(name) || read(name);
  held.delete(name);
  held.set(name, content);
  if (held.size > HELD_BLOCKS) held.delete(held.keys().next().value);
  return content;
}

async function read(name) {
  const node = document.getElementById(`data-${name}`);
  if (!node) throw new Error(`the page has no data named ${name}`);
  const content = JSON.parse(node.textContent);
  if (!content || typeof content.gzip !== "string") return content;
  const bytes = Uint8Array.from(atob(content.gzip), (character) => character.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(plain).json();
}

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return value !== 0 && Math.abs(value) < 10 ** -digits ? value.toExponential(1) : String(+value.toFixed(digits));
}

const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(value * 100)}%`);
const words = (name) => name.replaceAll("_", " ");
const named = (feature, label) => (feature < 0 ? "no feature" : `${feature}${label ? ` “${label}”` : ""}`);
const tried = (arm, feature, label) => (feature < 0 ? words(arm) : `${words(arm)}: ${named(feature, label)}`);
const quoted = (text) => (text === "" ? "∅" : text.replaceAll("\n", "↵"));

// Text of a model: line ends are seen, and empty text too.
function visible(text) {
  if (text === "") return [make("i", { class: "sign" }, "∅")];
  const lines = text.split("\n");
  return lines.flatMap((line, place) =>
    place + 1 < lines.length ? [line, make("i", { class: "sign" }, "↵"), "\n"] : [line]);
}

function verdict(score, right) {
  return make("span", { class: score > right ? "good" : "bad" }, score > right ? "right" : "wrong");
}

function choice(title, entries, chosen, onchange) {
  const options = entries.map(([value, text]) => make("option", { value, selected: value === chosen }, text));
  const list = make("select", { onchange: () => onchange(list.value) }, options);
  return make("label", {}, title, list);
}

function facts(pairs) {
  return make("dl", {}, pairs.filter(([, value]) => value !== null).map(([name, ...value]) =>
    [make("dt", {}, name), make("dd", {}, ...value)]).flat());
}

// A board as the task draws it.
function board({ columns, cells, own, recent, text }) {
  const nodes = cells.map((mark, place) =>
    make("span", { class: `${own.includes(place) ? "own" : ""} ${recent.includes(place) ? "new" : ""}` }, mark));
  const node = make("div", { class: "board", role: "img", "aria-label": `board: ${text}` }, nodes);
  node.style.gridTemplateColumns = `repeat(${columns}, minmax(1.15rem, max-content))`;
  return node;
}

// The line that a view shows instead of what is missing.
async function command(kind) {
  return make("p", { class: "missing" }, "Nothing here yet: ", make("code", {}, (await load("missing"))[kind]));
}

const views = {}; // name: { render(panel), key(event) }
let current = "summary";
const rendered = new Map();

// Open a view; it is rendered the first time.
async function show(name) {
  current = name;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    document.getElementById(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  hideHint();
  if (!rendered.has(name) && views[name]) rendered.set(name, views[name].render(document.getElementById(name)));
  await rendered.get(name);
}

function hint(node, text) {
  const box = document.getElementById("hint");
  box.textContent = text;
  box.hidden = false;
  const at = node.getClientRects()[0] || node.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - box.offsetWidth - 8));
  const above = at.bottom + box.offsetHeight + 10 > innerHeight;
  box.style.left = `${left + scrollX}px`;
  box.style.top = `${scrollY + (above ? at.top - box.offsetHeight - 4 : at.bottom + 6)}px`;
}

function hideHint() {
  document.getElementById("hint").hidden = true;
}
