// Data, elements and formats that all other scripts use. Texts of the data are only ever set as text, never as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const METRICS = DATA.metrics;
const SHAPES = 7;
const ABSENT = "–";

/** Rows as objects, with what their group, protocol and method add. */
const ROWS = DATA.rows.map((values, index) => {
  const row = Object.fromEntries(DATA.fields.map((field, i) => [field, values[i]]));
  const group = DATA.groups[row.group];
  const protocol = DATA.protocols[group.protocol];
  const method = DATA.methods[row.method];
  row.index = index;
  row.shots = group.shots;
  row.protocol = group.protocol;
  row.scene = protocol.scene;
  row.split = protocol.split;
  row.budget = protocol.budget;
  row.family = method.family;
  row.text = [row.label, method.family, group.title, protocol.further, group.signature, row.unranked]
    .join(" ").toLowerCase();
  return row;
});
const ROW_OF_RECORD = new Map(ROWS.flatMap((row) => row.records.map((record) => [record[2], row])));

/** Whether rows were imported; the others are of this folder. */
const IMPORTED = ROWS.some((row) => row.origin);
for (const row of ROWS) row.origin ||= "here";

/** A number for each label, so that a method looks the same in every figure. */
const LOOKS = new Map([...new Set(ROWS.map((row) => row.label))].map((label, i) => [label, i]));

function byId(id) {
  return document.getElementById(id);
}

/** An element with properties (`class`, `text`, `on...`, else attributes) and children. */
function el(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** An SVG element, as `el`. */
function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(byId("blank").namespaceURI, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** As `toFixed`, but an exact half goes to the even digit, as in the tables of the other formats. */
function halfToEven(value, digits) {
  const scaled = Math.abs(value) * 10 ** digits, floor = Math.floor(scaled);
  const half = scaled - floor === 0.5 && (value * 2 ** (digits + 1)) % 1 === 0;
  return (half && floor % 2 === 0 ? Math.sign(value) * floor / 10 ** digits : value).toFixed(digits);
}

function fixed(value, digits = 2) {
  if (value === null || value === undefined) return ABSENT;
  const text = halfToEven(value, digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

function spread(estimate, digits = 2) {
  if (!estimate) return ABSENT;
  return fixed(estimate[0], digits) + (estimate[1] === null ? "" : ` ± ${fixed(estimate[1], digits)}`);
}

function interval(estimate) {
  if (!estimate || estimate[2] === null) return "one draw: no interval";
  return `95 % interval ${fixed(estimate[2])} to ${fixed(estimate[3])}`;
}

function size(value) {
  if (value === null) return ABSENT;
  for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= limit) return (value / limit).toFixed(1) + unit;
  }
  return String(value);
}

function seconds(value) {
  if (value === null || value === undefined) return ABSENT;
  return value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : Math.round(value).toString();
}

function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

function shotsText(count) {
  return plural(count, "shot");
}

/** Anchors. Records and methods have names that are safe in an address. */
function recordLink(key, text) {
  return el("a", { href: `#record-${key}`, class: "record", text });
}

function methodLink(row) {
  return el("a", { href: `#method-${row.method}`, text: "card" });
}

/** The details of a row, unpacked. */
async function detailsOf(row) {
  const bytes = Uint8Array.from(atob(row.details), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function grouped(items, key) {
  const groups = new Map();
  for (const item of items) {
    const name = key(item);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(item);
  }
  return groups;
}
