// Views without figures: what each modality adds, reported results, protocols, methods.

function plainTable(found) {
  const cells = found.rows.map((row) => el("tr", {}, ...row.map((text, i) => el(i ? "td" : "th", { class: found.columns[i][1] === "text" ? null : "number", text, scope: i ? null : "row" }))));
  return el("section", {}, el("h3", { text: found.title }),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...found.columns.map(([title, kind]) => (
      el("th", { scope: "col", class: kind === "text" ? null : "number", text: title }))))), el("tbody", {}, ...cells))),
    el("ul", { class: "notes" }, ...found.notes.map((text) => el("li", { text }))));
}

function tablesView(kind, filters, warning) {
  const found = DATA[kind].filter((each) => !filters.scene.length || filters.scene.includes(each.scene));
  if (!found.length) return empty("Nothing fits these filters.");
  return el("div", { class: kind }, warning ? el("p", { class: "warning", text: warning }) : null, ...found.map(plainTable));
}

function protocolsView() {
  return el("div", { class: "cards" }, ...DATA.protocols.map((protocol, number) => el("section", { class: "card", id: `protocol-${number}` },
    el("h3", { text: protocol.title }), el("p", { class: "note", text: protocol.further }),
    facts(protocol.card.map(([name, texts]) => [name, el("ul", {}, ...texts.map(([shots, text]) => el("li", { text: shots ? `${shots}: ${text}` : text })))])))));
}

function methodsView() {
  return el("div", { class: "cards" }, ...DATA.methods.map((method, number) => {
    const card = method.card === null ? null : DATA.cards[method.card];
    const box = el("section", { class: "card", id: `method-${number}` }, el("h3", { text: method.name }));
    if (!card) {
      box.append(el("p", { class: "note", text: "The card of this method is not installed where the page was made." }));
      return box;
    }
    const variant = card.variants.find(([name]) => method.name === `${card.name}:${name}`);
    box.append(el("p", { text: card.title }), facts([
      ["paper or library", card.reference],
      ["family", card.family],
      ["version", card.version],
      ["selection", card.selections.join(", ")],
      ["learns from unlabelled pixels", card.unlabelled ? "yes" : "no"],
      ["pretrained on", card.external === "none" ? null : card.external],
      ["needs weights", card.weights.join(", ")],
      ["class", card.class],
      ["variant", variant ? variant[2] : null],
      ["unranked", variant ? variant[1] : null],
      ["results", el("a", { href: `#?${new URLSearchParams({ q: method.name })}`, text: "show" })],
    ]), json("settings", card.settings), ...(Object.keys(card.budgets).length ? [json("changes by budget", card.budgets)] : []));
    return box;
  }));
}
