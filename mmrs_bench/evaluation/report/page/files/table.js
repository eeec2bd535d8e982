// The table of results: sorted within each protocol, or as one list.

const PAGE = 300;
const COLUMNS = [
  { key: "label", title: "Method", value: (row) => row.label, cell: methodCell },
  { key: "scene", title: "Scene", flat: true, value: (row) => row.scene, text: (row) => row.scene },
  { key: "split", title: "Protocol", flat: true, value: (row) => `${row.split} ${row.protocol}`, cell: protocolCell },
  { key: "shots", title: "Shots", flat: true, number: true, value: (row) => row.shots, text: (row) => String(row.shots) },
  { key: "budget", title: "Budget", flat: true, value: (row) => row.budget, text: (row) => row.budget },
  { key: "rank", title: "Group", number: true, value: (row) => row.rank, text: (row) => (row.rank === null ? ABSENT : String(row.rank)),
    hint: "methods of a group do not differ significantly from the best of the group" },
  { key: "family", title: "Family", value: (row) => row.family, text: (row) => row.family },
  ...(IMPORTED ? [{ key: "origin", title: "Origin", value: (row) => row.origin, text: (row) => row.origin,
    hint: "who computed the records; others than those of here were imported" }] : []),
  ...METRICS.map((metric, i) => ({ key: metric.name, title: `${metric.title} %`, number: true, down: true,
    value: (row) => row.estimates[i]?.[0] ?? null, cell: (row) => estimateCell(row, i) })),
  { key: "interval", title: "95 % interval", plain: true, cell: intervalCell,
    hint: "of OA; from the lowest to the highest interval of the rows that stand together" },
  { key: "draws", title: "Draws", number: true, value: (row) => row.draws, text: (row) => String(row.draws) },
  { key: "labels", title: "Labels", number: true, value: (row) => row.labels, text: (row) => String(row.labels) },
  { key: "leakage", title: "Leakage %", number: true, value: (row) => row.leakage[0], text: (row) => fixed(row.leakage[0], 1),
    hint: "query windows that share a pixel with a support window" },
  { key: "parameters", title: "Params", number: true, value: (row) => row.parameters[0], text: (row) => size(row.parameters[0]) },
  { key: "seconds", title: "Seconds", number: true, value: (row) => row.seconds, text: (row) => seconds(row.seconds) },
  { key: "pretraining", title: "Pretrain", number: true, value: (row) => row.pretraining, text: (row) => seconds(row.pretraining),
    hint: "seconds of the pretraining that cells share" },
];
const SHOWN = COLUMNS.filter((column) => column.key !== "pretraining" || ROWS.some((row) => row.pretraining !== null));

function protocolCell(row) {
  return el("td", {}, el("a", { href: `#protocol-${row.protocol}`, text: row.split }));
}

function methodCell(row) {
  const button = el("button", { type: "button", class: "open", "aria-expanded": "false", title: "Show draws, classes and records" },
                    symbol(row.label), el("span", { text: row.label }));
  const marked = row.unranked ? el("span", { class: "badge", text: "unranked", title: row.unranked }) : null;
  return el("th", { scope: "row" }, button, marked);
}

function estimateCell(row, i) {
  const estimate = row.estimates[i];
  return el("td", { class: "number", title: interval(estimate) }, el("a", { href: `#row-${row.index}`, text: spread(estimate) }));
}

/** A small picture of mean and interval; `x` is the scale of the rows that stand together. */
function intervalCell(row, x) {
  const estimate = row.estimates[0];
  if (!estimate) return el("td", { text: ABSENT });
  const [mean, , low, high] = estimate;
  const picture = svg("svg", { class: `strip ${row.unranked ? "off" : `c${look(row.label).colour}`}`, viewBox: "0 0 104 14", width: 88, height: 12, role: "img",
                               "aria-label": interval(estimate) },
                      svg("title", { text: interval(estimate) }), svg("line", { class: "grid", x1: 2, x2: 102, y1: 7, y2: 7 }));
  if (low !== null) picture.append(svg("line", { class: "bar", x1: x(low), x2: x(high), y1: 7, y2: 7 }));
  picture.append(svg("circle", { class: "dot", cx: x(mean), cy: 7, r: 3 }));
  return el("td", {}, picture);
}

/** The scale of a row's small picture: from the lowest to the highest interval of its group, or of all rows in one list. */
function intervalScales(rows, apart) {
  const groupOf = (row) => (apart ? row.group : null);
  const found = new Map([...grouped(rows, groupOf)].map(([group, members]) => {
    const values = members.flatMap(({ estimates: [estimate] }) => (estimate ? ends(estimate) : []));
    const low = Math.min(...values), high = Math.max(...values);
    return [group, low < high ? scale(low, high, 4, 100) : () => 52];
  }));
  return (row) => found.get(groupOf(row));
}

/** Numbers stand at the right; the family is left out on narrow screens. */
function classOf(column) {
  return column.number ? "number" : column.key;
}

function compare(column, direction) {
  return (a, b) => {
    const one = column.value(a), other = column.value(b);
    if (one === null || other === null) return (one === null) - (other === null);
    const order = typeof one === "string" ? one.localeCompare(other, "en", { numeric: true }) : one - other;
    return direction * order;
  };
}

/** The rows in the order of the table: unranked ones last within their protocol. */
function sorted(rows, sort, apart) {
  const column = SHOWN.find((found) => found.key === sort.key);
  const order = column ? compare(column, sort.down ? -1 : 1) : () => 0;
  return [...rows].sort((a, b) => (apart ? a.group - b.group || Boolean(a.unranked) - Boolean(b.unranked) : 0) || order(a, b) || a.index - b.index);
}

function tableView(rows, sort, apart, onSort) {
  if (!rows.length) return empty("No results fit these filters.");
  const columns = SHOWN.filter((column) => !(apart && column.flat));
  const grid = el("table", { class: "results", id: "results" }, tableHead(columns, sort, onSort));
  const more = el("button", { type: "button", class: "more" });
  const ordered = sorted(rows, sort, apart);
  const scaleOf = intervalScales(rows, apart);
  let shown = 0, group = -1, body = null;
  function add(until = shown + PAGE) {
    for (; shown < Math.min(until, ordered.length); shown += 1) {
      const row = ordered[shown];
      if (!body || (apart && row.group !== group)) {
        body = el("tbody", {}, apart ? groupHead(row.group, columns.length) : null);
        grid.append(body);
        group = row.group;
      }
      body.append(tableRow(row, columns, scaleOf(row)));
    }
    more.hidden = shown >= ordered.length;
    more.textContent = `Show more rows (${(ordered.length - shown).toLocaleString("en")} left)`;
  }
  more.addEventListener("click", () => add());
  add();
  grid.reveal = (index) => add(Math.max(shown, ordered.findIndex((row) => row.index === index) + 1));
  return el("div", {}, el("div", { class: "scroll wide", tabindex: 0, role: "region", "aria-label": "Results" }, grid), more);
}

function tableHead(columns, sort, onSort) {
  return el("thead", {}, el("tr", {}, ...columns.map((column) => {
    if (column.plain) return el("th", { scope: "col", text: column.title, title: column.hint });
    const active = sort.key === column.key;
    return el("th", { scope: "col", class: classOf(column), "aria-sort": active ? (sort.down ? "descending" : "ascending") : "none" },
      el("button", { type: "button", title: column.hint, "data-sort": column.key,
                     onclick: () => onSort({ key: column.key, down: active ? !sort.down : Boolean(column.down) }) },
         el("span", { text: column.title }), el("span", { class: "arrow", "aria-hidden": "true", text: active ? (sort.down ? "▼" : "▲") : "" })));
  })));
}

function groupHead(number, span) {
  const group = DATA.groups[number];
  const notes = group.notes.length
    ? el("details", {}, el("summary", { text: plural(group.notes.length, "note") }), el("ul", {}, ...group.notes.map((text) => el("li", { text }))))
    : null;
  return el("tr", { class: "group" }, el("th", { colspan: span, scope: "rowgroup" }, el("div", { class: "sticky" },
    el("span", { text: group.title }), " ", el("a", { href: `#protocol-${group.protocol}`, text: "protocol" }), notes)));
}

function tableRow(row, columns, x) {
  const line = el("tr", { id: `row-${row.index}`, class: row.unranked ? "unranked" : null }, ...columns.map((column) => (
    column.cell ? column.cell(row, x) : el("td", { class: classOf(column), text: column.text(row) }))));
  line.querySelector(".open").addEventListener("click", () => toggleRow(row, line, columns.length));
  return line;
}

async function toggleRow(row, line, span, open = line.querySelector(".open").getAttribute("aria-expanded") !== "true") {
  const button = line.querySelector(".open"), next = line.nextElementSibling;
  const present = next && next.classList.contains("opened");
  button.setAttribute("aria-expanded", String(open));
  if (!open && present) next.remove();
  if (open && !present) {
    const cell = el("td", { colspan: span }, el("p", { class: "note", text: "…" }));
    line.after(el("tr", { class: "opened" }, cell));
    cell.replaceChildren(await rowDetails(row));
  }
}
