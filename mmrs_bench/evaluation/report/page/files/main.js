// Filters, views, addresses and the theme.

const FILTERS = [
  { key: "scene", title: "Scene" },
  { key: "split", title: "Protocol" },
  { key: "shots", title: "Shots" },
  { key: "budget", title: "Budget" },
  { key: "family", title: "Family" },
  ...(IMPORTED ? [{ key: "origin", title: "Origin" }] : []),
];
const VIEWS = {
  table: { title: "Table", show: (rows) => tableView(rows, state.sort, state.apart, sortBy) },
  curves: { title: "Over shots", metric: true, show: (rows) => curvesView(rows, state.metric) },
  dots: { title: "Intervals", metric: true, show: (rows) => dotsView(rows, state.metric) },
  ranks: { title: "Ranks over scenes", show: () => ranksView(state.filters) },
  time: { title: "Time", metric: true, show: (rows) => timeView(rows, state.metric) },
  modalities: { title: "Modalities", present: DATA.modalities.length, show: () => tablesView("modalities", state.filters) },
  reported: { title: "Reported in papers", present: DATA.reported.length, show: () => tablesView("reported", state.filters,
    "Printed by papers and released codes under other protocols: not measured here, and not comparable with the other views.") },
  protocols: { title: "Protocols", show: protocolsView },
  methods: { title: "Methods", show: methodsView },
};
const state = { view: "table", metric: 0, q: "", ranked: false, apart: true, sort: { key: "", down: false },
                filters: Object.fromEntries(FILTERS.map(({ key }) => [key, []])) };

function announce(text) {
  byId("status").textContent = text;
}

function filteredRows() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  return ROWS.filter((row) => FILTERS.every(({ key }) => !state.filters[key].length || state.filters[key].includes(String(row[key])))
    && words.every((word) => row.text.includes(word)) && !(state.ranked && row.unranked));
}

function show() {
  const view = VIEWS[state.view], rows = filteredRows();
  byId("main").replaceChildren(view.show(rows));
  for (const button of byId("views").querySelectorAll("button")) {
    if (button.dataset.view === state.view) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  byId("metric").hidden = !view.metric;
  byId("apart-box").hidden = state.view !== "table";
  byId("count").textContent = `${rows.length.toLocaleString("en")} of ${plural(ROWS.length, "row")}`;
  announce(`${view.title}: ${plural(rows.length, "row")}`);
}

function changed() {
  const texts = new URLSearchParams();
  for (const { key } of FILTERS) if (state.filters[key].length) texts.set(key, state.filters[key].join(","));
  if (state.q) texts.set("q", state.q);
  if (state.ranked) texts.set("ranked", "1");
  if (!state.apart) texts.set("list", "1");
  if (state.metric) texts.set("metric", METRICS[state.metric].name);
  if (state.sort.key) texts.set("sort", (state.sort.down ? "-" : "") + state.sort.key);
  if (state.view !== "table") texts.set("view", state.view);
  history.replaceState(null, "", `#?${texts}`);
  show();
}

function sortBy(sort) {
  state.sort = sort;
  changed();
  byId("main").querySelector(`[data-sort="${sort.key}"]`)?.focus();
}

function select(view) {
  state.view = view;
  changed();
}

/** Set the filters from the address. */
function fromAddress(text) {
  const texts = new URLSearchParams(text);
  for (const { key } of FILTERS) state.filters[key] = (texts.get(key) ?? "").split(",").filter(Boolean);
  state.q = texts.get("q") ?? "";
  state.ranked = texts.has("ranked");
  state.apart = !texts.has("list");
  state.metric = Math.max(METRICS.findIndex((metric) => metric.name === texts.get("metric")), 0);
  const sort = texts.get("sort") ?? "";
  state.sort = { key: sort.replace(/^-/, ""), down: sort.startsWith("-") };
  state.view = VIEWS[texts.get("view")] ? texts.get("view") : "table";
  fillFilters();
  show();
}

/** Follow the part of the address after "#". */
function follow() {
  const [, kind, name] = location.hash.match(/^#(\?|row-|record-|method-|protocol-)(.*)$/) ?? [];
  if (kind !== "record-" && byId("record").open) byId("record").close();
  if (kind === "?") return fromAddress(name);
  if (kind === "record-") return openRecord(name);
  if (kind === "row-") return revealRow(Number(name));
  if (kind) {
    state.view = `${kind.slice(0, -1)}s`;
    show();
    const target = byId(`${kind}${name}`);
    target?.scrollIntoView();
    target?.classList.add("target");
  }
}

async function revealRow(index) {
  const row = ROWS[index];
  if (!row) return;
  if (state.view !== "table" || !filteredRows().includes(row)) {
    if (!filteredRows().includes(row)) fromAddress("");
    state.view = "table";
    show();
  }
  byId("results").reveal(index);
  const line = byId(`row-${index}`);
  await toggleRow(row, line, line.children.length, true);
  line.scrollIntoView({ block: "start" });
  line.querySelector(".open").focus({ preventScroll: true });
}

function choices({ key, title }) {
  const values = [...new Set(ROWS.map((row) => row[key]))];
  values.sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en")));
  const names = key === "scene" ? new Map(DATA.scenes.map((scene) => [scene.id, scene.label])) : new Map();
  return el("fieldset", { "data-filter": key }, el("legend", { text: title }), ...values.map((value) => el("label", { title: names.get(value) },
    el("input", { type: "checkbox", name: key, value: String(value), onchange: () => {
      state.filters[key] = [...byId("filters").querySelectorAll(`input[name="${key}"]:checked`)].map((input) => input.value);
      changed();
    } }), el("span", { text: String(value) }))));
}

function toggle(id, text, set) {
  return el("label", { id: `${id}-box` }, el("input", { type: "checkbox", id, onchange: (event) => { set(event.target.checked); changed(); } }), el("span", { text }));
}

function buildFilters() {
  const form = byId("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  const search = el("input", { type: "search", id: "search", placeholder: "Search methods, scenes, protocols", "aria-label": "Search",
                               oninput: (event) => { state.q = event.target.value; changed(); } });
  const metric = el("select", { id: "metric", "aria-label": "Metric of figures", onchange: (event) => { state.metric = Number(event.target.value); changed(); } },
                    ...METRICS.map(({ title }, i) => el("option", { value: i, text: title })));
  const box = el("details", { id: "choices" }, el("summary", { text: "Filters" }), el("div", { class: "sets" }, ...FILTERS.map(choices)));
  box.open = !window.matchMedia("(max-width: 700px)").matches;
  form.append(el("div", { class: "line" }, search, metric, toggle("ranked", "ranked only", (on) => { state.ranked = on; }),
                 toggle("apart", "keep protocols apart", (on) => { state.apart = on; }),
                 el("button", { type: "button", id: "reset", text: "Reset", onclick: () => { location.hash = "#?"; if (location.hash === "#?") fromAddress(""); } }),
                 el("output", { id: "count" })), box);
}

function fillFilters() {
  byId("search").value = state.q;
  byId("ranked").checked = state.ranked;
  byId("apart").checked = state.apart;
  byId("metric").value = String(state.metric);
  for (const input of byId("filters").querySelectorAll("fieldset input")) input.checked = state.filters[input.name].includes(input.value);
}

function buildViews() {
  const found = Object.entries(VIEWS).filter(([, view]) => view.present !== 0);
  byId("views").append(...found.map(([name, view]) => el("button", { type: "button", "data-view": name, text: view.title, onclick: () => select(name) })));
}

/** The theme: that of the system, light or dark; remembered where the browser allows it. */
function buildTheme() {
  const button = byId("theme"), names = ["system", "light", "dark"];
  let stored = null;
  try { stored = localStorage.getItem("mmrs-bench-theme"); } catch { /* pages from a file may not store anything */ }
  function set(name) {
    if (name === "system") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.setAttribute("data-theme", name);
    button.textContent = `Theme: ${name}`;
    button.dataset.theme = name;
    try { localStorage.setItem("mmrs-bench-theme", name); } catch { /* as above */ }
  }
  button.addEventListener("click", () => set(names[(names.indexOf(button.dataset.theme) + 1) % names.length]));
  set(names.includes(stored) ? stored : "system");
}

function start() {
  const records = ROWS.reduce((sum, row) => sum + row.records.length, 0);
  byId("summary").textContent = `${plural(records, "record")}, ${plural(DATA.methods.length, "method")}, ${plural(DATA.scenes.length, "scene")}`
    + `${DATA.scenes.some((scene) => scene.simulated) ? " (simulated ones are marked)" : ""}; mmrs-bench ${DATA.version}`;
  buildTheme();
  buildFilters();
  buildViews();
  fromAddress("");
  follow();
  window.addEventListener("hashchange", follow);
  byId("record").addEventListener("close", () => { if (location.hash.startsWith("#record-")) history.replaceState(null, "", "#"); });
}

start();
