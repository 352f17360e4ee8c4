// On every page: times in the viewer's zone, keys, live parts, the scheme. Pages work without it.
//
//   <time datetime>              shown in the viewer's zone, UTC in its title; `.zone` says which
//   <meta name="changes">        a URL whose answer changes when the page would: asked while the page is seen
//   data-live id="…"             a part of the page that then takes what a new copy of the page has there
//   data-live="rows" id="…"      rows with data-key: known ones are renewed, new ones announced by a button
//   data-live="groups" id="…"    a table of such groups of rows, each with data-key; `:sum` is no run's row
//   data-rows                    a table whose rows j and k walk through; Enter opens, x chooses
//   data-copy="text"             a button that copies; without text, the page's address
//   data-confirm="question"      a form that asks first
//   data-script                  hidden until this has run
//   document event vila:changed  parts were renewed: charts read their curves again

const POLL_SECONDS = 5;
const SLOW_SECONDS = 30;

export function showTimes(root = document) {
  const zoned = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    const text = zoned.format(moment);
    if (time.textContent !== text) time.textContent = text;
    time.title = `${moment.toISOString().slice(0, 19).replace("T", " ")} UTC, ${ago(moment)}`;
  }
  const part = new Intl.DateTimeFormat(undefined, { timeZoneName: "short" })
    .formatToParts(new Date()).find((one) => one.type === "timeZoneName");
  for (const zone of root.querySelectorAll(".zone")) zone.textContent = part ? part.value : "local";
}

function ago(moment) {
  const seconds = (Date.now() - moment) / 1000;
  const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= size) return words.format(-Math.round(seconds / size), unit);
  }
  return words.format(-Math.round(seconds), "second");
}

// ---- live parts ------------------------------------------------------------------------------

const mine = new Set(["data-at", "open", "data-upgraded", "hidden"]);

function renew(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || keyOf(old) !== keyOf(fresh)) {
    old.replaceWith(document.importNode(fresh, true));
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE || old.dataset.upgraded) return;
  if (old.nodeName === "TIME" && old.dateTime === fresh.dateTime) return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !mine.has(name) && !(name === "title" && old.nodeName === "TIME")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (!mine.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (["INPUT", "TEXTAREA", "SELECT"].includes(old.nodeName)) return;
  renewChildren(old, fresh);
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? (node.id || node.dataset.key || "") : "";
}

function renewChildren(old, fresh) {
  const keyed = new Map([...old.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let place = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const key = keyOf(child);
    const known = key && keyed.get(key);
    if (known) {
      if (known === place) place = place.nextSibling;
      else old.insertBefore(known, place);
      renew(known, child);
    } else if (!key && place && !keyOf(place)) {
      const next = place.nextSibling;
      renew(place, child);
      place = next;
    } else {
      old.insertBefore(document.importNode(child, true), place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function renewRows(old, fresh) {
  announce({ run: renewKnown(old.children, fresh.children) }, () => renewChildren(old, fresh));
}

function renewGroups(old, fresh) {
  let run = 0;
  const group = renewKnown(old.tBodies, fresh.tBodies, (known, one) => {
    run += renewKnown(known.children, one.children);
  });
  announce({ group, run }, () => renewChildren(old, fresh));
}

// Renew what is there by its key; return how many are not. What is about others (`:sum`) is not counted.
function renewKnown(old, fresh, renewOne = renew) {
  const there = new Map([...old].map((one) => [one.dataset.key, one]));
  let unknown = 0;
  for (const one of fresh) {
    const known = there.get(one.dataset.key);
    if (known) renewOne(known, one);
    else if (!one.dataset.key.startsWith(":")) unknown += 1;
  }
  return unknown;
}

function announce(counts, show) {
  document.getElementById("new-rows")?.remove();
  const found = Object.entries(counts).filter(([, count]) => count);
  if (!found.length) return;
  const words = found.map(([word, count]) => `${count} new ${word}${count === 1 ? "" : "s"}`);
  const one = found.length === 1 && found[0][1] === 1;
  const button = document.createElement("button");
  button.id = "new-rows";
  button.className = "toast main";
  button.textContent = `${words.join(" and ")}: show ${one ? "it" : "them"}`;
  button.addEventListener("click", () => {
    show();
    showTimes();
    button.remove();
  });
  document.body.append(button);
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok && answer.status !== 503) throw new Error(`${answer.status}`);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (!other) continue;
    if (part.dataset.live === "rows") renewRows(part, other);
    else if (part.dataset.live === "groups") renewGroups(part, other);
    else renew(part, other);
  }
  showTimes();
  document.dispatchEvent(new CustomEvent("vila:changed"));
}

function watchChanges(url) {
  const light = document.createElement("span");
  light.className = "soft";
  light.setAttribute("role", "status");
  document.getElementById("tools")?.prepend(light);
  let tag = null;
  let seconds = POLL_SECONDS;
  let timer = 0;
  const say = (text, title) => {
    if (light.textContent !== text) light.textContent = text;
    light.title = title;
  };
  async function ask() {
    clearTimeout(timer);
    if (document.hidden) return; // asked again when the page is seen
    try {
      const answer = await fetch(url, { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
      if (answer.status === 401) return say("logged out", "reload the page to log in");
      if (answer.status !== 304) {
        if (!answer.ok) throw new Error(`${answer.status}`);
        if (tag !== null) await refresh();
        tag = answer.headers.get("ETag");
      }
      seconds = POLL_SECONDS;
      say("live", "this page renews itself");
    } catch {
      seconds = Math.min(SLOW_SECONDS, seconds * 2);
      say("not live", "the dashboard does not answer; what you see may be old");
    }
    timer = setTimeout(ask, seconds * 1000);
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
  ask();
}

// ---- keys ------------------------------------------------------------------------------------

const KEYS = [
  ["/", "search"], ["j, k", "next row, previous row"], ["Enter", "open the row"], ["x", "choose the row"],
  ["g r", "runs"], ["g c", "compare"], ["g g", "registry"], ["g l", "lineage"], ["?", "this help"],
];
const PLACES = { r: "/", c: "/compare", g: "/registry", l: "/lineage" };

function help() {
  let dialog = document.getElementById("keys");
  if (!dialog) {
    dialog = document.createElement("dialog");
    dialog.id = "keys";
    dialog.setAttribute("aria-labelledby", "keys-title");
    const title = document.createElement("h2");
    title.id = "keys-title";
    title.textContent = "Keys";
    const table = document.createElement("table");
    for (const [keys, what] of KEYS) {
      const row = table.insertRow();
      const first = row.insertCell();
      for (const key of keys.split(", ")) {
        const cap = document.createElement("kbd");
        cap.textContent = key;
        first.append(cap, " ");
      }
      row.insertCell().textContent = what;
    }
    const form = document.createElement("form");
    form.method = "dialog";
    const close = document.createElement("button");
    close.textContent = "Close";
    form.append(close);
    dialog.append(title, table, document.createElement("br"), form);
    document.body.append(dialog);
  }
  if (!dialog.open) dialog.showModal();
}

function rows() {
  return [...document.querySelectorAll("[data-rows] tbody tr")].filter((row) => row.querySelector("a"));
}

function walk(by) {
  const all = rows();
  if (!all.length) return;
  const at = all.findIndex((row) => row.hasAttribute("data-at"));
  const next = all[Math.min(all.length - 1, Math.max(0, at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by))];
  if (at >= 0) all[at].removeAttribute("data-at");
  next.setAttribute("data-at", "");
  next.scrollIntoView({ block: "nearest" });
  next.querySelector("a").focus({ preventScroll: true });
}

let before = "";
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const inField = event.target.closest?.("input:not([type=checkbox]):not([type=range]), textarea, select, dialog");
  if (event.key === "Escape" && inField?.matches?.("input")) event.target.blur();
  if (inField) return;
  const last = before;
  before = event.key;
  if (last === "g" && PLACES[event.key]) location.assign(PLACES[event.key]);
  else if (event.key === "g") return;
  else if (event.key === "?") help();
  else if (event.key === "/") {
    const field = document.querySelector("input[type=search], [data-search]");
    if (!field) return;
    field.focus();
    field.select?.();
  } else if (event.key === "j") walk(1);
  else if (event.key === "k") walk(-1);
  else if (event.key === "x") document.querySelector("[data-rows] tr[data-at] input[type=checkbox]")?.click();
  else return;
  before = "";
  event.preventDefault();
}

// ---- the rest --------------------------------------------------------------------------------

function themeButton() {
  const tools = document.getElementById("tools");
  if (!tools) return;
  const root = document.documentElement;
  const order = ["", "light", "dark"];
  const button = document.createElement("button");
  const say = () => {
    const name = root.dataset.theme || "system";
    button.textContent = { system: "◐", light: "☀", dark: "☾" }[name];
    button.title = `colours: ${name}`;
    button.setAttribute("aria-label", `Colours: ${name}. Change`);
  };
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(root.dataset.theme || "") + 1) % order.length];
    if (next) root.dataset.theme = next;
    else delete root.dataset.theme;
    try {
      if (next) localStorage.setItem("vila-theme", next);
      else localStorage.removeItem("vila-theme");
    } catch { /* it holds for this page */ }
    say();
    document.dispatchEvent(new CustomEvent("vila:theme"));
  });
  const keys = document.createElement("button");
  keys.textContent = "?";
  keys.title = "keys";
  keys.setAttribute("aria-label", "Keys");
  keys.addEventListener("click", help);
  say();
  tools.append(button, keys);
}

function onClick(event) {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  const text = button.dataset.copy || location.href;
  const was = button.textContent;
  const done = (said) => {
    button.textContent = said;
    setTimeout(() => { button.textContent = was; }, 1500);
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => done("Copied"), () => done("Can't copy"));
  else done("Can't copy");
}

function onSubmit(event) {
  const question = event.target.dataset?.confirm;
  if (question && !confirm(question)) event.preventDefault();
}

showTimes();
themeButton();
for (const part of document.querySelectorAll("[data-script]")) part.hidden = false;
document.addEventListener("keydown", onKey);
document.addEventListener("click", onClick);
document.addEventListener("submit", onSubmit);
const changes = document.querySelector("meta[name=changes]")?.content;
if (changes) watchChanges(changes);
if (document.querySelector("figure.chart[data-curves], [data-charts]")) {
  import("./chart.js").then((charts) => charts.upgradeAll());
}
