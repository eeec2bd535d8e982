// What an opened row shows, and the window with one record.

function table(heads, rows, properties = {}) {
  const cell = (tag, value, extra = {}) => (value instanceof Node ? el(tag, extra, value) : el(tag, { ...extra, text: value }));
  return el("div", { class: "scroll" }, el("table", properties,
    el("thead", {}, el("tr", {}, ...heads.map((head) => cell("th", head, { scope: "col" })))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((value, i) => cell(i ? "td" : "th", value, i ? {} : { scope: "row" })))))));
}

function facts(pairs) {
  return el("dl", {}, ...pairs.filter(([, value]) => value !== null && value !== "" && value !== undefined).flatMap(([name, value]) => [
    el("dt", { text: name }), value instanceof Node ? el("dd", {}, value) : el("dd", { text: String(value) })]));
}

function part(title, ...children) {
  return el("section", { class: "part" }, el("h4", { text: title }), ...children);
}

function leakageText(shares) {
  const names = { shared_window: "window shared with a support window", centre_inside: "window contains a support pixel",
                  same_component: "in a polygon of a support pixel" };
  return DATA.leakage.map((name, i) => `${names[name] ?? name} ${fixed(shares[i], 1)} %`).join("; ");
}

function secondsText(stages) {
  return Object.entries(stages).map(([stage, value]) => `${stage} ${seconds(value)} s`).join(", ");
}

/** A bar of a share in percent, with its number. */
function meter(value, text, hint) {
  const bar = el("span", { class: "fill" });
  bar.style.setProperty("width", `${value ?? 0}%`);
  return el("span", { class: "meter", title: hint }, el("span", { class: "track" }, bar), el("span", { text }));
}

/** Recall, F1 and IoU by class; `scores` of a class are a number, or mean, lowest and highest. */
function classTable(names, query, scores) {
  const shown = (value) => {
    if (value === null || value === undefined) return ABSENT;
    if (!Array.isArray(value)) return meter(value, fixed(value, 1));
    return meter(value[0], fixed(value[0], 1), `${fixed(value[1], 1)} to ${fixed(value[2], 1)} over records`);
  };
  return table(["class", "query pixels", "recall %", "F1 %", "IoU %"],
               names.map((name, i) => [name, Math.round(query[i]).toLocaleString("en"), ...scores.map((all) => shown(all[i]))]), { class: "classes" });
}

/** The confusion matrix in percent of the true class, with counts as hints. */
function confusionTable(names, counts) {
  const head = el("tr", {}, el("th", { text: "true \\ predicted" }), ...names.map((name) => el("th", { scope: "col" }, el("span", { text: name }))));
  const rows = counts.map((row, i) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return el("tr", {}, el("th", { scope: "row", text: names[i] }), ...row.map((count, j) => {
      const share = total ? (100 * count) / total : 0;
      const cell = el("td", { text: count ? (share < 0.5 ? "<1" : Math.round(share)) : "", class: i === j ? "right" : null,
                              title: `${names[i]} as ${names[j]}: ${count.toLocaleString("en")} pixels, ${share.toFixed(1)} %` });
      cell.style.setProperty("--share", `${share}%`);
      if (share > 55) cell.classList.add("strong");
      return cell;
    }));
  });
  return el("div", { class: "scroll" }, el("table", { class: "confusion" }, el("thead", {}, head), el("tbody", {}, ...rows)));
}

function json(title, value) {
  return el("details", {}, el("summary", { text: title }), el("pre", { text: typeof value === "string" ? value : JSON.stringify(value, null, 1) }));
}

function drawsTable(details) {
  return table(["draw", "seed", ...METRICS.map((m) => `${m.title} %`), "labels", "seconds", "record"], details.records.map((record) => [
    String(record.draw), String(record.seed), ...METRICS.map((m) => recordLink(record.key, fixed(record.scores[m.name]))),
    String(record.labels), seconds(record.own), recordLink(record.key, record.key.slice(0, 8))]), { class: "draws" });
}

/** The content of an opened row. */
async function rowDetails(row) {
  const details = await detailsOf(row);
  const names = details.classes.map((entry) => entry[0]);
  const group = DATA.groups[row.group];
  return el("div", { class: "details" },
    part(`${plural(row.draws, "draw")}${row.seeds > 1 ? `, ${row.seeds} seeds each` : ""}`, drawsTable(details)),
    part("Classes, mean over records", classTable(names, details.classes.map((entry) => entry[1]), [2, 3, 4].map((i) => details.classes.map((entry) => entry[i])))),
    part("Confusion matrix, sum over records, % of the true class", confusionTable(names, details.confusion)),
    part("Facts", facts([
      ["leakage", leakageText(row.leakage)],
      ["labels used", row.labels],
      ["parameters", row.parameters[0] === null ? null : `${size(row.parameters[0])} in total, ${size(row.parameters[1])} trainable`],
      ["seconds", `${seconds(row.seconds)} of fitting and predicting; by stage: ${secondsText(details.stages)}`],
      ["shared pretraining", row.pretraining === null ? null : `${seconds(row.pretraining)} s`],
      ["peak memory", `${Math.round(row.memory)} MiB`],
      ["pretrained on", row.external === "none" ? null : row.external],
      ["input", Object.entries(details.modalities).map(([name, channels]) => `${name} (${channels})`).join(" + ")],
      ["origin", details.origin ? `${details.origin}; imported, not computed here` : null],
      ["unranked", row.unranked],
      ["notes", details.notes.join("; ")],
      ["signature", group.signature],
      ["method", el("a", { href: `#method-${row.method}`, text: "card and paper" })],
      ["protocol", el("a", { href: `#protocol-${row.protocol}`, text: "protocol card" })],
    ]), json("settings", details.protocol)));
}

/** Show one record in the window. */
async function openRecord(key) {
  const row = ROW_OF_RECORD.get(key), dialog = byId("record");
  if (!row) return announce(`There is no record ${key} on this page.`);
  const details = await detailsOf(row);
  const record = details.records.find((found) => found.key === key);
  const names = details.classes.map((entry) => entry[0]);
  const query = record.confusion.map((counts) => counts.reduce((sum, count) => sum + count, 0));
  dialog.replaceChildren(
    el("form", { method: "dialog" }, el("button", { class: "close", "aria-label": "Close the record", text: "Close" })),
    el("h3", { id: "record-title", text: `${row.label}, draw ${record.draw}, seed ${record.seed}` }),
    el("p", { class: "note", text: DATA.groups[row.group].title }),
    facts([
      ...METRICS.map((metric) => [metric.title, `${fixed(record.scores[metric.name])} %`]),
      ["disagreement", `quantity ${fixed(record.quantity)} %, allocation ${fixed(record.allocation)} %`],
      ["query pixels", record.query.toLocaleString("en")],
      ["labels used", record.labels],
      ["leakage", leakageText(record.leakage)],
      ["seconds", secondsText(record.seconds)],
      ["shared pretraining", record.pretraining === null ? null : `${seconds(record.pretraining)} s`],
      ["peak memory", `${Math.round(record.memory)} MiB`],
      ["machine", `${record.host}, finished ${record.finished}`],
      ["origin", details.origin],
      ["key", record.key],
      ["file", record.file],
      ["split", `SHA-256 ${record.split}`],
      ["signature", record.signature],
    ]),
    part("Classes", classTable(names, query, record.classes)),
    part("Confusion matrix, % of the true class", confusionTable(names, record.confusion)),
    json("protocol", { ...details.protocol, seed: record.seed, data: { ...details.protocol.data, draw: record.draw } }),
    json("execution", record.execution), json("provenance", record.provenance));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}
