// Parts of figures: scales, axes, marks. Figures are SVG; their colours are in the style sheet.

/** Width of a figure in its own units: fewer on narrow screens, so that texts stay readable. */
function figureWidth() {
  return window.matchMedia("(max-width: 700px)").matches ? 400 : 560;
}

/** Room for names of rows, and the names cut to fit into it. */
function nameRoom(names, width) {
  const letter = 7, left = Math.min(0.42 * width, 24 + letter * Math.max(...names.map((name) => name.length)));
  const most = Math.floor((left - 16) / letter);
  return { left, cut: (name) => (name.length > most ? `${name.slice(0, most - 1)}…` : name) };
}

/** A linear scale from the values low..high to the places from..to. */
function scale(low, high, from, to) {
  const factor = high === low ? 0 : (to - from) / (high - low);
  return (value) => from + (value - low) * factor;
}

/** Round numbers between low and high. */
function ticks(low, high, count = 8) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + 1e-9; value += step) {
    found.push(Math.round(value * 1e9) / 1e9);
  }
  return found;
}

/** Limits of an axis around values, within the possible values of a metric. */
function limits(values, metric) {
  const low = Math.min(...values), high = Math.max(...values);
  const margin = Math.max((high - low) * 0.06, 0.5);
  return [Math.max(low - margin, metric.lowest), Math.min(high + margin, 100)];
}

function look(label) {
  const number = LOOKS.get(label);
  return { colour: number % SHAPES, shape: (number + Math.floor(number / SHAPES)) % SHAPES,
           dash: Math.floor(number / SHAPES) % 3 };
}

const OUTLINES = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `M0,${-1.2 * r}L${1.15 * r},${r}H${-1.15 * r}z`,
  (r) => `M0,${-1.35 * r}L${1.35 * r},0L0,${1.35 * r}L${-1.35 * r},0z`,
  (r) => `M0,${1.2 * r}L${1.15 * r},${-r}H${-1.15 * r}z`,
  (r) => `M${-0.4 * r},${-1.2 * r}h${0.8 * r}v${0.8 * r}h${0.8 * r}v${0.8 * r}h${-0.8 * r}v${0.8 * r}h${-0.8 * r}v${-0.8 * r}h${-0.8 * r}v${-0.8 * r}h${0.8 * r}z`,
  (r) => `M${-1.35 * r},${-0.7 * r}L${-0.7 * r},${-1.35 * r}L0,${-0.65 * r}L${0.7 * r},${-1.35 * r}L${1.35 * r},${-0.7 * r}L${0.65 * r},0L${1.35 * r},${0.7 * r}L${0.7 * r},${1.35 * r}L0,${0.65 * r}L${-0.7 * r},${1.35 * r}L${-1.35 * r},${0.7 * r}L${-0.65 * r},0z`,
];

function mark(label, x, y, radius = 4) {
  const { colour, shape } = look(label);
  return svg("path", { class: `mark c${colour}`, d: OUTLINES[shape](radius), transform: `translate(${x},${y})` });
}

function symbol(label) {
  return svg("svg", { class: "symbol", viewBox: "-8 -8 16 16", width: 16, height: 16, "aria-hidden": "true" },
             mark(label, 0, 0, 5));
}

function label(x, y, text, properties = {}) {
  return svg("text", { x, y, text, ...properties });
}

/** A figure with a title, in which `draw(group)` adds the marks. */
function figure(width, height, title, notes = []) {
  const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title, class: "chart" });
  const box = el("figure", {}, el("figcaption", {}, el("strong", { text: title }), ...notes.map((note) => el("span", { text: note }))),
                 image);
  return { box, image };
}

/** Horizontal grid lines with numbers at the left. */
function leftAxis(image, low, high, place, from, to) {
  for (const tick of ticks(low, high)) {
    image.append(svg("line", { class: "grid", x1: from, x2: to, y1: place(tick), y2: place(tick) }),
                 label(from - 6, place(tick) + 4, String(tick).replace("-", "−"), { "text-anchor": "end" }));
  }
}

/** Vertical grid lines with numbers below. */
function bottomAxis(image, values, place, top, bottom, format = String) {
  for (const tick of values) {
    image.append(svg("line", { class: "grid", x1: place(tick), x2: place(tick), y1: top, y2: bottom }),
                 label(place(tick), bottom + 16, format(tick).replace("-", "−"), { "text-anchor": "middle" }));
  }
}

/** Let a mark open its row, by mouse and keyboard. */
function opens(element, row, text) {
  element.append(svg("title", { text }));
  const link = svg("a", { href: `#row-${row.index}`, "aria-label": text }, element);
  return link;
}
