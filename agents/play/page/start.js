// Tabs by click and by key, and the keys of the view that is open. The views are made once the models are loaded.

const tabs = [...document.querySelectorAll("[role=tab]")];
const viewOf = (tab) => tab.getAttribute("aria-controls");

for (const tab of tabs) tab.addEventListener("click", () => play.about && show(viewOf(tab)));

document.addEventListener("keydown", (event) => {
  if (event.target.matches?.("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const at = tabs.indexOf(event.target);
  if (at >= 0 && by && play.about) {
    const next = tabs[(at + by + tabs.length) % tabs.length];
    next.focus();
    show(viewOf(next));
  } else if (!event.target.matches?.("button") && views[current]?.key(event)) event.preventDefault();
});

attempt(async () => {
  await opened();
  await show("text");
  document.documentElement.dataset.ready = "yes";
  if (play.about.embedded) await write(false); // something to see at once; of a large model, only what is asked for
});
