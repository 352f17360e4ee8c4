// The list of runs: what is chosen for a comparison, and views that this browser remembers by name.

const MOST = 20;
const STORED = "vila-views";

// ---- chosen runs -----------------------------------------------------------------------------

const button = document.querySelector("#compare button");

function chosen() {
  return [...document.querySelectorAll("input[name=run]:checked")];
}

function count() {
  if (!button) return;
  const number = chosen().length;
  button.disabled = number < 2 || number > MOST;
  button.textContent = number ? `Compare ${number} runs` : "Compare chosen";
  button.title = number < 2 ? "choose two runs or more" : number > MOST ? `choose at most ${MOST}` : "";
  button.classList.toggle("main", !button.disabled);
}

document.addEventListener("change", (event) => { if (event.target.name === "run") count(); });
document.addEventListener("vila:changed", count);
count();

// ---- views by name ---------------------------------------------------------------------------

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(STORED) ?? "{}");
    return Object.fromEntries(Object.entries(found).filter(([, query]) => typeof query === "string" && query.startsWith("?")));
  } catch {
    return {};
  }
}

function keep(views) {
  try {
    localStorage.setItem(STORED, JSON.stringify(views));
  } catch { /* without storage a view is its link */ }
  show();
}

function show() {
  const place = document.getElementById("views");
  if (!place) return;
  place.hidden = false;
  const views = stored();
  const items = Object.entries(views).map(([name, query]) => {
    const item = document.createElement("span");
    item.className = "view";
    const link = document.createElement("a");
    link.href = query;
    link.textContent = name;
    if (query === (location.search || "?")) link.setAttribute("aria-current", "true");
    const drop = document.createElement("button");
    drop.textContent = "×";
    drop.setAttribute("aria-label", `forget the view ${name}`);
    drop.addEventListener("click", () => {
      const rest = stored();
      delete rest[name];
      keep(rest);
    });
    item.append(link, drop);
    return item;
  });
  const save = document.createElement("button");
  save.textContent = "Save view…";
  save.title = "this browser remembers the search, columns and order by a name";
  save.addEventListener("click", () => {
    const name = prompt("Name of the view")?.trim().slice(0, 40);
    if (name) keep({ ...stored(), [name]: location.search || "?" });
  });
  place.replaceChildren(...items, save);
}

show();
