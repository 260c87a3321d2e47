// Tic-tac-toe against the steered and against the unsteered model, one board each.

const game = { arms: {} };

views.game = {
  render(panel) {
    const { name, agent, first, coefficient } = play.about.game;
    game.by = steerer(() => "game", { agent, first, coefficient });
    const about = agent ? `The trained agent of the run ${name} chooses a feature for each of its moves.`
      : "One feature at every move makes no good player. A trained agent chooses anew each time: steer play --run runs/first.";
    panel.append(make("p", {}, "You are X and begin, unless you let the model begin. The model writes its moves as text, a digit each."),
      make("p", { class: "soft" }, about),
      make("div", { class: "controls" }, game.by.nodes.filter(Boolean)),
      make("div", { class: "pair" }, gameNode("unsteered", "Against the unsteered model"), gameNode("steered", "Against the steered model")));
  },
  key: () => false,
};

function gameNode(arm, title) {
  const cells = [...Array(9).keys()].map((cell) => make("button", { type: "button", "data-cell": cell,
    "aria-label": `cell ${cell + 1}`, onclick: () => attempt(() => move(arm, cell)) }));
  const own = { cells, status: make("p", { class: "status", role: "status" }), moves: make("ol", { class: "moves" }), begun: false };
  game.arms[arm] = own;
  const node = make("div", { id: `game-${arm}` }, make("h3", {}, title), make("div", { class: "big board" }, cells), own.status,
    make("div", { class: "chips" }, button("New game", () => clear(arm)), button("Let the model begin", () => begin(arm, null))), own.moves);
  clear(arm);
  return node;
}

function clear(arm) {
  const own = game.arms[arm];
  own.begun = false;
  for (const [place, cell] of own.cells.entries()) Object.assign(cell, { textContent: place + 1, className: "free", disabled: false });
  own.status.textContent = "Your move.";
  own.moves.replaceChildren();
}

async function begin(arm, cell) {
  draw(await ask("begin", { arm, cell, ...(arm === "steered" ? game.by.asked() : {}) }));
}

const move = async (arm, cell) => (game.arms[arm].begun ? draw(await ask("play", { arm, cell })) : begin(arm, cell));

function draw({ arm, board: { cells, own, recent }, over, result, moves }) {
  const shown = game.arms[arm];
  shown.begun = true;
  for (const [place, cell] of shown.cells.entries()) {
    const mark = cells[place];
    cell.textContent = mark || place + 1;
    cell.className = [mark ? "" : "free", own.includes(place) ? "own" : "", recent.includes(place) ? "new" : ""].join(" ");
    cell.disabled = over || mark !== "";
  }
  shown.status.textContent = over ? `Over: ${result}.` : "Your move.";
  shown.moves.replaceChildren(...moves.map((said) => make("li", {}, make("details", {},
    make("summary", {}, make("span", { class: "written" }, quoted(said.text.trim())), " ",
      make("span", { class: "soft" }, arm === "steered" ? named(said.feature, said.label) : "")),
    arm === "steered" ? done(said) : "", ...others(said)))));
}
