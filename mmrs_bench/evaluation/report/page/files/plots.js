// The figures: accuracy over shots, means with intervals, ranks over scenes, accuracy against time.

/** Panels up to a number at first, and a button for the rest. */
function panels(items, draw, first = 6) {
  const box = el("div", { class: "panels" });
  const more = el("button", { type: "button", class: "more" });
  let shown = 0;
  function add() {
    const last = Math.min(shown + first, items.length);
    for (; shown < last; shown += 1) box.append(draw(items[shown]));
    more.hidden = shown >= items.length;
    more.textContent = `Show more (${items.length - shown} left)`;
  }
  more.addEventListener("click", add);
  add();
  return el("div", {}, box, more);
}

function empty(text) {
  return el("p", { class: "empty", text });
}

function legend(labels) {
  return el("ul", { class: "legend" }, ...labels.map((name) => el("li", {}, symbol(name), el("span", { text: name }))));
}

/** A legend whose entries make the other lines faint: while the pointer is over one, or until it is pressed again. */
function pickingLegend(image, lines) {
  let kept = null;
  function show(name) {
    image.classList.toggle("picked", name !== null);
    for (const [other, line] of lines) line.classList.toggle("on", other === name);
  }
  const buttons = new Map();
  for (const [name, line] of lines) {
    const over = { onmouseenter: () => show(name), onmouseleave: () => show(kept) };
    filled(line, over, []);
    buttons.set(name, el("button", { type: "button", class: "pick", "aria-pressed": "false", ...over, onclick: () => {
      kept = kept === name ? null : name;
      for (const [other, button] of buttons) button.setAttribute("aria-pressed", String(other === kept));
      show(kept);
    } }, symbol(name), el("span", { text: name })));
  }
  return el("ul", { class: "legend" }, ...[...buttons.values()].map((button) => el("li", {}, button)));
}

/** The ends of an interval; the mean where there is none. */
function ends([mean, , low, high]) {
  return [low ?? mean, high ?? mean];
}

function ranked(rows, metric) {
  return rows.filter((row) => !row.unranked && row.estimates[metric]);
}

function curvesView(rows, metric) {
  const families = [...grouped(ranked(rows, metric), (row) => row.protocol).values()]
    .filter((found) => new Set(found.map((row) => row.shots)).size > 1);
  if (!families.length) return empty("Curves need ranked results of at least two shot counts under one protocol.");
  return panels(families, (found) => curvePanel(found, metric), 4);
}

function curvePanel(rows, metric) {
  const width = figureWidth(), height = 340, left = 46, right = width - 14, top = 12, bottom = height - 44;
  const protocol = DATA.protocols[rows[0].protocol];
  const { box, image } = figure(width, height, `${protocol.title}: ${METRICS[metric].title} over shots`,
                                [`${protocol.further}; mean and 95 % interval over draws`]);
  const shots = [...new Set(rows.map((row) => row.shots))].sort((a, b) => a - b);
  const estimates = rows.map((row) => row.estimates[metric]);
  const [low, high] = limits(estimates.flatMap(ends), METRICS[metric]);
  const y = scale(low, high, bottom, top);
  const logs = scale(Math.log(shots[0]), Math.log(shots.at(-1)), left + 36, right - 36);
  leftAxis(image, low, high, y, left, right);
  bottomAxis(image, shots, (value) => logs(Math.log(value)), bottom, bottom + 4);
  image.append(label((left + right) / 2, height - 6, "shots (labels per class)", { "text-anchor": "middle" }));
  const lines = [...grouped(rows, (row) => row.label)];
  const last = (found) => found.reduce((best, row) => (row.shots > best.shots ? row : best)).estimates[metric][0];
  lines.sort((a, b) => last(b[1]) - last(a[1]));
  const drawn = new Map();
  lines.forEach(([name, found], number) => {
    const shift = (number - (lines.length - 1) / 2) * Math.min(5, 60 / lines.length);
    const { colour, dash } = look(name);
    const points = found.sort((a, b) => a.shots - b.shots).map((row) => [logs(Math.log(row.shots)) + shift, row]);
    const path = points.map(([x, row]) => `${x},${y(row.estimates[metric][0])}`).join(" ");
    const line = svg("g", { class: `line c${colour} d${dash}` }, svg("polyline", { points: path }));
    for (const [x, row] of points) {
      const [mean, , from, to] = row.estimates[metric];
      if (from !== null) line.append(svg("line", { class: "bar", x1: x, x2: x, y1: y(from), y2: y(to) }));
      line.append(opens(mark(name, x, y(mean)), row, `${name}, ${shotsText(row.shots)}: ${spread(row.estimates[metric])}, ${interval(row.estimates[metric])}`));
    }
    image.append(line);
    drawn.set(name, line);
  });
  box.append(pickingLegend(image, drawn));
  return box;
}

function dotsView(rows, metric) {
  const groups = [...grouped(rows.filter((row) => row.estimates[metric]), (row) => row.group).values()];
  if (!groups.length) return empty("No results fit these filters.");
  return panels(groups, (found) => dotPanel(found, metric));
}

function dotPanel(rows, metric) {
  const sorted = [...rows].sort((a, b) => Boolean(a.unranked) - Boolean(b.unranked) || b.estimates[metric][0] - a.estimates[metric][0]);
  const line = 22, width = figureWidth(), right = width - 14;
  const { left, cut } = nameRoom(sorted.map((row) => row.label), width);
  const top = 10, bottom = top + line * sorted.length + 6;
  const group = DATA.groups[rows[0].group];
  const { box, image } = figure(width, bottom + 40, group.title,
                                [`${METRICS[metric].title} in percent: mean, 95 % interval, and each draw (small); grey: unranked`]);
  const values = sorted.flatMap((row) => [...ends(row.estimates[metric]), ...row.records.map((record) => record[3 + metric])]);
  const [low, high] = limits(values.filter((value) => value !== null), METRICS[metric]);
  const x = scale(low, high, left, right);
  bottomAxis(image, ticks(low, high), x, top, bottom);
  sorted.forEach((row, number) => {
    const y = top + line * (number + 0.5) + 3;
    const [mean, , from, to] = row.estimates[metric];
    const marks = svg("g", { class: row.unranked ? "off" : `c${look(row.label).colour}` });
    if (from !== null) marks.append(svg("line", { class: "bar", x1: x(from), x2: x(to), y1: y, y2: y }));
    for (const record of row.records) {
      if (record[3 + metric] !== null) marks.append(svg("circle", { class: "draw", cx: x(record[3 + metric]), cy: y + 5, r: 1.8 }));
    }
    marks.append(mark(row.label, x(mean), y));
    const text = `${row.label}: ${spread(row.estimates[metric])}, ${interval(row.estimates[metric])}${row.rank ? `, group ${row.rank}` : ""}${row.unranked ? `, unranked: ${row.unranked}` : ""}`;
    image.append(opens(svg("g", {}, label(left - 10, y + 4, cut(row.label), { "text-anchor": "end" }), marks), row, text));
  });
  image.append(label((left + right) / 2, bottom + 34, `${METRICS[metric].title}, %`, { "text-anchor": "middle" }));
  return box;
}

function ranksView(filters) {
  const fits = (name, value) => !filters[name].length || filters[name].includes(String(value));
  const found = DATA.ranks.filter((ranks) => fits("split", ranks.split) && fits("shots", ranks.shots) && fits("budget", ranks.budget));
  if (!found.length) return empty("Ranks need at least two methods that are ranked on at least two scenes under one protocol.");
  return panels(found, rankPanel);
}

function rankPanel(ranks) {
  const methods = ranks.methods, count = methods.length;
  const line = 22, width = figureWidth(), right = width - 24 - 7 * ranks.connected.length;
  const { left, cut } = nameRoom(methods.map(([name]) => name), width);
  const top = 10, bottom = top + line * count + 6;
  const { box, image } = figure(width, bottom + 40, `${ranks.title}: mean rank by OA`,
                                [`${ranks.scenes.join(", ")}. Mean, 95 % interval over scenes, rank on each scene (small). ${ranks.note}`]);
  const x = scale(1, Math.max(count, 2), left, right);
  const step = Math.ceil(count / 10);
  bottomAxis(image, methods.map((_, i) => i + 1).filter((rank) => (rank - 1) % step === 0), x, top, bottom);
  methods.forEach(([name, mean, low, high, each], number) => {
    const y = top + line * (number + 0.5) + 3;
    const text = `${name}: mean rank ${fixed(mean)}, 95 % interval ${fixed(low)} to ${fixed(high)}; ${ranks.scenes.map((scene, i) => `${scene} ${each[i]}`).join(", ")}`;
    image.append(svg("g", { class: `c${look(name).colour}` },
      svg("title", { text }),
      label(left - 10, y + 4, cut(name), { "text-anchor": "end" }),
      svg("line", { class: "bar", x1: x(low), x2: x(high), y1: y, y2: y }),
      ...each.map((rank) => svg("circle", { class: "draw", cx: x(rank), cy: y + 5, r: 1.8 })),
      mark(name, x(mean), y)));
  });
  ranks.connected.forEach(([first, last], number) => {
    const place = right + 14 + 7 * number;
    image.append(svg("line", { class: "tie", x1: place, x2: place, y1: top + line * (first + 0.2) + 3, y2: top + line * (last + 0.8) + 3 },
                     svg("title", { text: "not separable by Nemenyi's test" })));
  });
  image.append(label((left + right) / 2, bottom + 34, "mean rank (1 is the best); bars at the right: not separable", { "text-anchor": "middle" }));
  if (ranks.leftOut.length) box.append(el("p", { class: "note", text: `Not on every scene, so not ranked here: ${ranks.leftOut.join(", ")}.` }));
  return box;
}

function timeView(rows, metric) {
  const groups = [...grouped(rows.filter((row) => row.estimates[metric]), (row) => row.group).values()];
  if (!groups.length) return empty("No results fit these filters.");
  return panels(groups, (found) => timePanel(found, metric), 4);
}

function timePanel(rows, metric) {
  const width = figureWidth(), height = 340, left = 46, right = width - 24, top = 12, bottom = height - 44;
  const { box, image } = figure(width, height, `${DATA.groups[rows[0].group].title}: ${METRICS[metric].title} against time`,
                                ["seconds of fitting and predicting (with the shared pretraining where there is one), mean over draws; the machine is in each record"]);
  const time = (row) => Math.max(row.seconds + (row.pretraining ?? 0), 0.001);
  const logs = rows.map((row) => Math.log10(time(row)));
  const from = Math.min(...logs) - 0.15, to = Math.max(...logs) + 0.15;
  const x = scale(from, to, left, right);
  const [low, high] = limits(rows.map((row) => row.estimates[metric][0]), METRICS[metric]);
  const y = scale(low, high, bottom, top);
  leftAxis(image, low, high, y, left, right);
  const powers = [];
  for (let power = Math.floor(from); power <= to + 1; power += 1) powers.push(...[1, 2, 5].map((n) => n * 10 ** power));
  const inside = powers.filter((value) => Math.log10(value) >= from && Math.log10(value) <= to);
  bottomAxis(image, inside, (value) => x(Math.log10(value)), top, bottom, (value) => String(Number(value.toPrecision(1))));
  image.append(label((left + right) / 2, height - 6, "seconds", { "text-anchor": "middle" }));
  for (const row of rows) {
    const name = `${row.label}: ${spread(row.estimates[metric])} in ${seconds(time(row))} s`;
    image.append(opens(svg("g", { class: row.unranked ? "off" : null }, mark(row.label, x(Math.log10(time(row))), y(row.estimates[metric][0]), 5)), row, name));
  }
  box.append(legend([...rows].sort((a, b) => b.estimates[metric][0] - a.estimates[metric][0]).map((row) => row.label)));
  return box;
}
