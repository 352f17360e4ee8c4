// Charts by uPlot, in the place of the server's SVG.
//
//   <figure class="chart" data-curves="/api/v1/…" data-label="what it shows">
//     <svg …>…</svg>            what is there without script, or when the curves can't be read
//     <figcaption>…</figcaption>
//   </figure>
//   <div class="chart-bar" data-charts data-axes="step tokens time" data-log data-smooth="0.6"></div>
//
// A figure is upgraded when it comes near the window. The bar gets controls for all figures of the nearest
// [data-chart-group], else of the page; it tells its choices by the bubbling event `vila:chart-options`, whose
// detail is {smooth, log, axis}. An axis is asked for as `axis=` in the figure's URL. A curve that lives is read
// again on the document event `vila:changed` where the figure has data-live-curves.
//
// A URL answers columns; what is not finite is null:
//   {"x": [1, 2], "x_label": "step", "unit": "nats",
//    "series": [{"label": "a", "y": [3, null], "low": […], "high": […], "dash": false, "color": 1, "x": […]}]}
// low and high make a band. A series may have its own x: series are joined, and gaps that come of it are spanned.
// `color` (1 to 8) is that of the palette; by default series take them in turn, past eight with dashes.
//
// For scripts: `const chart = draw(figure, data, {smooth, log})`; chart.update(data), chart.options({…}),
// chart.canvas, chart.destroy(); `figure.chart` is the chart of an upgraded figure.
//
// Drag zooms, a double click (or 0) shows all again. With the plot focused: arrows move the cursor, + and - zoom.

const LIBRARY = "/static/vendor/uplot/";
const DASHES = [undefined, [7, 4], [2, 3]];
const KEPT = 12;

let loading = null;

function library() {
  loading ??= new Promise((done, failed) => {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = `${LIBRARY}uPlot.min.css`;
    const script = document.createElement("script");
    script.src = `${LIBRARY}uPlot.iife.min.js`;
    script.onload = () => done(window.uPlot);
    script.onerror = () => failed(new Error("the chart library can't be loaded"));
    document.head.append(style, script);
  });
  return loading;
}

// ---- numbers and colours ---------------------------------------------------------------------

export function short(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e15)) return value.toExponential(2).replace("e+", "e");
  for (const [limit, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= limit) return `${+(value / (unit === "k" ? 1e3 : limit)).toPrecision(4)}${unit}`;
  }
  return `${+value.toPrecision(5)}`;
}

function span(seconds) {
  if (seconds < 60) return `${+seconds.toPrecision(3)} s`;
  if (seconds < 3600) return `${+(seconds / 60).toPrecision(3)} min`;
  return seconds < 172800 ? `${+(seconds / 3600).toPrecision(3)} h` : `${+(seconds / 86400).toPrecision(3)} d`;
}

export const xText = (label, value) => (value === null || value === undefined ? "" : label === "time" ? span(value) : short(value));

function palette() {
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const read = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const found = { soft: read("soft"), line: read("line"), series: [1, 2, 3, 4, 5, 6, 7, 8].map((n) => read(`series-${n}`)) };
  probe.remove();
  return found;
}

const faint = (colour, alpha) => colour.replace(/^rgb\(/, "rgba(").replace(/\)$/, `, ${alpha})`);

// An average that forgets: `share` of it is what was before. Corrected for its beginning at nothing.
export function smoothed(values, share) {
  let held = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    held = share * held + (1 - share) * value;
    weight = share * weight + (1 - share);
    return held / weight;
  });
}

// ---- one chart -------------------------------------------------------------------------------

export async function draw(figure, data, options = {}) {
  return new Chart(await library(), figure, data, options);
}

class Chart {
  constructor(uPlot, figure, data, options) {
    this.uPlot = uPlot;
    this.figure = figure;
    this.data = data;
    this.chosen = { smooth: 0, log: false, ...options };
    this.off = new Set();
    this.zoom = null;
    this.plotAt = document.createElement("div");
    this.plotAt.className = "plot";
    this.plotAt.tabIndex = 0;
    this.plotAt.setAttribute("role", "group");
    this.plotAt.setAttribute("aria-label", `${figure.dataset.label || "chart"}. Arrows move the cursor, plus and minus zoom, 0 shows all.`);
    this.legendAt = document.createElement("ul");
    this.legendAt.className = "legend";
    this.legendAt.setAttribute("aria-label", "Curves");
    const old = figure.querySelector(":scope > svg");
    if (old) old.replaceWith(this.plotAt, this.legendAt);
    else figure.querySelector("figcaption") ? figure.querySelector("figcaption").before(this.plotAt, this.legendAt) : figure.append(this.plotAt, this.legendAt);
    figure.dataset.upgraded = "1";
    figure.chart = this;
    this.build();
    this.resizes = new ResizeObserver(() => {
      if (this.plot && this.plotAt.clientWidth) this.plot.setSize({ width: this.plotAt.clientWidth, height: this.plotAt.clientHeight });
    });
    this.resizes.observe(this.plotAt);
    this.plotAt.addEventListener("keydown", (event) => this.onKey(event));
    this.repaint = () => this.build();
    document.addEventListener("vila:theme", this.repaint);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", this.repaint);
  }

  get canvas() { return this.plot?.ctx.canvas; }

  update(data) {
    this.data = data;
    this.build();
  }

  options(chosen) {
    Object.assign(this.chosen, chosen);
    this.build();
  }

  destroy() {
    this.resizes.disconnect();
    document.removeEventListener("vila:theme", this.repaint);
    matchMedia("(prefers-color-scheme: dark)").removeEventListener("change", this.repaint);
    this.plot?.destroy();
    this.plotAt.remove();
    this.legendAt.remove();
  }

  build() {
    const { uPlot, data, chosen } = this;
    const colours = palette();
    const positive = (values) => (chosen.log ? values.map((value) => (value > 0 ? value : null)) : values);
    const columns = [];
    const series = [{ label: data.x_label }];
    const bands = [];
    this.lines = [];
    data.series.forEach((one, index) => {
      const colour = colours.series[((one.color ?? index + 1) - 1) % 8];
      const dash = one.dash ? DASHES[1] : DASHES[Math.floor(index / 8) % DASHES.length];
      const show = !this.off.has(one.label);
      const add = (values, look) => {
        columns.push({ x: one.x, y: positive(values) });
        series.push({ show, ...look });
        return series.length - 1;
      };
      if (one.low && one.high) {
        const high = add(one.high, { stroke: "transparent", width: 0, points: { show: false } });
        const low = add(one.low, { stroke: "transparent", width: 0, points: { show: false } });
        bands.push({ series: [high, low], fill: faint(colour, 0.16) });
      }
      if (chosen.smooth > 0) add(one.y, { stroke: faint(colour, 0.28), width: 1, points: { show: false } });
      const values = chosen.smooth > 0 ? smoothed(one.y, chosen.smooth) : one.y;
      const place = add(values, { label: one.label, stroke: colour, width: 1.75, dash });
      this.lines.push({ label: one.label, place, colour: one.color ?? (index % 8) + 1, dash });
    });
    const table = this.table(columns);
    const axis = { stroke: colours.soft, font: "12px system-ui, sans-serif", grid: { stroke: colours.line, width: 1 }, ticks: { stroke: colours.line, width: 1, size: 4 } };
    const limits = this.zoom;
    const setup = {
      width: Math.max(120, this.plotAt.clientWidth),
      height: Math.max(120, this.plotAt.clientHeight),
      padding: [10, 22, 0, 0],
      legend: { show: false },
      series,
      bands,
      scales: { x: { time: false, range: (plot, low, high) => spread(low, high) }, y: { distr: chosen.log ? 3 : 1, ...(chosen.log ? {} : { range: (plot, low, high) => room(low, high) }) } },
      axes: [
        { ...axis, size: 34, values: (plot, ticks) => ticks.map((value) => xText(data.x_label, value)) },
        { ...axis, size: (plot, values) => Math.max(40, 14 + 7 * Math.max(0, ...(values ?? []).map((value) => `${value ?? ""}`.length))), values: (plot, ticks) => ticks.map((value) => short(value)) },
      ],
      cursor: { drag: { x: true, y: false }, sync: { key: `vila ${data.x_label}` }, points: { size: 6 } },
      hooks: {
        setCursor: [() => this.showValues()],
        setSelect: [(plot) => { if (plot.select.width > 0) this.zoomed(); }],
        setScale: [(plot, key) => { if (key === "x") this.zoomed(); }],
      },
    };
    this.plot?.destroy();
    this.plot = new uPlot(setup, table, this.plotAt);
    if (limits) this.plot.setScale("x", limits);
    this.legend();
  }

  table(columns) {
    const { data, uPlot } = this;
    if (!columns.some((column) => column.x)) return [data.x, ...columns.map((column) => column.y)];
    return uPlot.join(columns.map((column) => [column.x ?? data.x, column.y]));
  }

  zoomed() {
    const { min, max } = this.plot.scales.x;
    const x = this.plot.data[0];
    const [low, high] = spread(x[0], x[x.length - 1]);
    this.zoom = min > low + 1e-9 || max < high - 1e-9 ? { min, max } : null;
    if (this.reset) this.reset.hidden = !this.zoom;
  }

  legend() {
    this.outputs = new Map();
    const items = this.lines.slice(0, Math.max(KEPT, 24)).map((line) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", this.off.has(line.label) ? "false" : "true");
      button.append(swatch(line), Object.assign(document.createElement("span"), { textContent: line.label }));
      const output = document.createElement("output");
      button.append(output);
      this.outputs.set(line.place, output);
      button.addEventListener("click", () => {
        if (!this.off.delete(line.label)) this.off.add(line.label);
        this.build();
        [...this.legendAt.querySelectorAll("button")].find((one) => one.textContent.startsWith(line.label))?.focus();
      });
      item.append(button);
      return item;
    });
    const at = document.createElement("li");
    this.at = document.createElement("output");
    this.at.className = "soft";
    at.append(this.at);
    const reset = document.createElement("li");
    this.reset = Object.assign(document.createElement("button"), { type: "button", textContent: "Show all" });
    this.reset.hidden = !this.zoom;
    this.reset.addEventListener("click", () => this.showAll());
    reset.append(this.reset);
    this.legendAt.replaceChildren(...items, at, reset);
    this.showValues();
  }

  showValues() {
    if (!this.outputs || !this.plot) return;
    const { plot } = this;
    const index = plot.cursor.idx ?? null;
    const last = plot.data[0].length - 1;
    for (const [place, output] of this.outputs) {
      let at = index ?? last;
      const values = plot.data[place];
      while (at > 0 && (values[at] === null || values[at] === undefined)) at -= 1;
      output.textContent = short(values[at]);
    }
    this.at.textContent = index === null ? "" : `${this.data.x_label} ${xText(this.data.x_label, plot.data[0][index])}`;
  }

  showAll() {
    this.zoom = null;
    this.build();
    this.plotAt.focus({ preventScroll: true });
  }

  onKey(event) {
    const { plot } = this;
    const x = plot.data[0];
    if (!x.length) return;
    const { min, max } = plot.scales.x;
    const at = plot.cursor.idx ?? x.length - 1;
    const move = (to) => {
      const place = Math.min(x.length - 1, Math.max(0, to));
      plot.setCursor({ left: plot.valToPos(x[place], "x"), top: plot.over.clientHeight / 2 });
    };
    const zoom = (factor) => {
      const centre = x[at];
      plot.setScale("x", { min: centre - (centre - min) * factor, max: centre + (max - centre) * factor });
    };
    const step = event.shiftKey ? 10 : 1;
    if (event.key === "ArrowLeft") move(at - step);
    else if (event.key === "ArrowRight") move(at + step);
    else if (event.key === "Home") move(0);
    else if (event.key === "End") move(x.length - 1);
    else if (event.key === "+" || event.key === "=") zoom(0.6);
    else if (event.key === "-") zoom(1 / 0.6);
    else if (event.key === "0") this.showAll();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

function swatch(line) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("viewBox", "0 0 22 8");
  made.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M0 4h22");
  path.setAttribute("stroke-width", "3");
  path.setAttribute("class", `s${((line.colour - 1) % 8) + 1}`);
  if (line.dash) path.setAttribute("stroke-dasharray", line.dash.join(" "));
  made.append(path);
  return made;
}

function spread(low, high) {
  if (low === null || low === undefined) return [0, 1];
  return low === high ? [low - 1, high + 1] : [low, high];
}

function room(low, high) {
  if (low === null || low === undefined) return [0, 1];
  const size = high - low || Math.abs(high) * 0.2 || 1;
  const floor = low - size * 0.06;
  return [low >= 0 && floor < 0 ? 0 : floor, high + size * 0.06];
}

// ---- figures and bars ------------------------------------------------------------------------

const chosenBy = new WeakMap(); // group: options

const groupOf = (element) => element.closest("[data-chart-group]") ?? document.body;

function urlOf(figure) {
  const { axis } = chosenBy.get(groupOf(figure)) ?? {};
  const url = new URL(figure.dataset.curves, location.href);
  if (axis) url.searchParams.set("axis", axis);
  return url;
}

export async function upgrade(figure) {
  let answer;
  try {
    answer = await fetch(urlOf(figure), { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error((await answer.json()).detail ?? `${answer.status}`);
    const data = await answer.json();
    const empty = !data.series.some((one) => one.y.some((value) => value !== null));
    note(figure, empty ? "There are no points on this axis." : "");
    if (empty) return;
    const chosen = chosenBy.get(groupOf(figure)) ?? {};
    if (figure.chart) {
      Object.assign(figure.chart.chosen, { smooth: chosen.smooth ?? figure.chart.chosen.smooth, log: chosen.log ?? figure.chart.chosen.log });
      figure.chart.update(data);
    } else await draw(figure, data, chosen);
  } catch (error) {
    note(figure, `The curve can't be read: ${error.message}`);
  }
}

function note(figure, text) {
  let place = figure.querySelector(".problem");
  if (!text) return place?.remove();
  if (!place) {
    place = document.createElement("p");
    place.className = "problem";
    place.setAttribute("role", "status");
    figure.append(place);
  }
  place.textContent = text;
}

function controls(bar) {
  const group = groupOf(bar);
  const chosen = { smooth: Number(bar.dataset.smooth ?? 0), log: "log" in bar.dataset, axis: "" };
  chosenBy.set(group, chosen);
  const figures = () => [...group.querySelectorAll("figure.chart[data-curves]")];
  const tell = () => bar.dispatchEvent(new CustomEvent("vila:chart-options", { bubbles: true, detail: { ...chosen } }));
  const labelled = (text, field) => {
    const label = document.createElement("label");
    label.append(text, field);
    bar.append(label);
    return field;
  };
  const range = labelled("Smoothing", Object.assign(document.createElement("input"), { type: "range", min: 0, max: 0.99, step: 0.01, value: chosen.smooth }));
  range.addEventListener("input", () => {
    chosen.smooth = Number(range.value);
    for (const figure of figures()) figure.chart?.options({ smooth: chosen.smooth });
    tell();
  });
  const log = labelled("Logarithmic", Object.assign(document.createElement("input"), { type: "checkbox", checked: chosen.log }));
  log.addEventListener("change", () => {
    chosen.log = log.checked;
    for (const figure of figures()) figure.chart?.options({ log: chosen.log });
    tell();
  });
  const axes = (bar.dataset.axes ?? "").split(" ").filter(Boolean);
  if (axes.length > 1) {
    const select = labelled("Over", document.createElement("select"));
    for (const axis of axes) select.append(new Option(axis, axis));
    select.value = bar.dataset.axis || axes[0];
    chosen.axis = bar.dataset.axis ?? "";
    select.addEventListener("change", () => {
      chosen.axis = select.value;
      for (const figure of figures()) if (figure.chart) { figure.chart.zoom = null; upgrade(figure); }
      tell();
    });
  }
}

export function upgradeAll(root = document) {
  for (const bar of root.querySelectorAll("[data-charts]")) if (!bar.children.length) controls(bar);
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      upgrade(entry.target);
    }
  }, { rootMargin: "300px" });
  for (const figure of root.querySelectorAll("figure.chart[data-curves]")) if (!figure.chart) near.observe(figure);
}

document.addEventListener("vila:changed", () => {
  for (const figure of document.querySelectorAll("figure.chart[data-live-curves]")) if (figure.chart) upgrade(figure);
  upgradeAll();
});
