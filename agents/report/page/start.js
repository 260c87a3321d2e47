// Tabs by click and by key, and the keys of the view that is open.

const tabs = [...document.querySelectorAll("[role=tab]")];
const viewOf = (tab) => tab.getAttribute("aria-controls");

for (const tab of tabs) tab.addEventListener("click", () => show(viewOf(tab)));

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (/^[1-4]$/.test(event.key)) {
    const tab = tabs[event.key - 1];
    tab.focus();
    show(viewOf(tab));
    return;
  }
  const at = tabs.indexOf(event.target);
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (at >= 0 && by) {
    const next = tabs[(at + by + tabs.length) % tabs.length];
    next.focus();
    show(viewOf(next));
    return;
  }
  if (event.target.matches?.("button") && ["Enter", " "].includes(event.key)) return;
  if (views[current]?.key(event)) event.preventDefault();
});

document.documentElement.dataset.ready = "yes";
