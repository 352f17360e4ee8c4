// The page of comparing: takes in what is still being computed, keeps the charts' choices in the URL.

import { upgradeAll } from "/static/js/chart.js";

const WAIT = 1200;
const PARTS = ["warnings", "scores", "shots", "answers"];

// ---- tests that are being computed -----------------------------------------------------------

async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of PARTS) {
    const [old, next] = [document.getElementById(id), fresh.getElementById(id)];
    if (!old || !next || old.contains(document.activeElement)) continue;
    if (id === "shots" && old.children.length) continue;
    old.replaceWith(document.adoptNode(next));
    upgradeAll(document.getElementById(id));
  }
}

async function watch() {
  while (document.querySelector("[data-pending]")) {
    await new Promise((done) => setTimeout(done, WAIT));
    try {
      if (!document.hidden) await refresh();
    } catch {
      // The server is away: asked again.
    }
  }
}

// ---- the charts' choices, in the URL and in what is linked -----------------------------------

const CHOICES = { smooth: "0", log: "", axis: "step" };

function set(params, detail) {
  const values = { smooth: `${detail.smooth}`, log: detail.log ? "1" : "", axis: detail.axis || "step" };
  for (const [name, usual] of Object.entries(CHOICES)) {
    if (values[name] === usual) params.delete(name);
    else params.set(name, values[name]);
  }
}

function choose(detail) {
  const here = new URL(location.href);
  set(here.searchParams, detail);
  history.replaceState(null, "", here);
  for (const link of document.querySelectorAll('main a[href^="/compare"]')) {
    const to = new URL(link.href);
    set(to.searchParams, detail);
    link.href = to;
  }
  for (const form of document.querySelectorAll('main form[action^="/compare"]')) {
    for (const name of Object.keys(CHOICES)) {
      const value = here.searchParams.get(name);
      let field = form.querySelector(`input[type="hidden"][name="${name}"]`);
      if (!value) field?.remove();
      else {
        field ??= form.appendChild(Object.assign(document.createElement("input"), { type: "hidden", name }));
        field.value = value;
      }
    }
  }
}

document.getElementById("curves")?.addEventListener("vila:chart-options", (event) => choose(event.detail));
if (document.querySelector("#curves [data-charts]")) {
  const asked = new URLSearchParams(location.search);
  choose({ smooth: asked.get("smooth") ?? "0", log: asked.get("log") === "1", axis: asked.get("axis") });
}

// ---- the rest --------------------------------------------------------------------------------

for (const field of document.querySelectorAll("[data-filter]")) {
  field.addEventListener("input", () => {
    const text = field.value.trim().toLowerCase();
    for (const row of document.getElementById(field.dataset.filter).rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(text);
  });
}

for (const button of document.querySelectorAll("[data-copy-from]")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    let told = "Copied";
    try {
      const answer = await fetch(button.dataset.copyFrom);
      if (!answer.ok) throw new Error(`${answer.status}`);
      await navigator.clipboard.writeText(await answer.text());
    } catch {
      told = "Not copied: use Export";
    }
    button.textContent = told;
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

watch();
