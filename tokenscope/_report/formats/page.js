"use strict";
// The page of a report: draws the content of #report, always as text. It does not recurse, so trees may be deep.
(() => {
  const MEASURES = ["tokens", "cost", "calls", "time"]; // the order of a node's shares
  const COLUMNS = ["calls", "input", "output", "tokens", "cost", "time"]; // the order of a node's cells
  const SORTS = ["tokens", "cost", "calls", "time", "name"];
  const LABELS = { name: "Scope", calls: "Calls", input: "Input", output: "Output", tokens: "Tokens", cost: "Cost", time: "Time" };
  const PAGE = 2000; // rows drawn at a time
  const FIRST = 60; // rows unfolded at first
  const DEEPEST = 20; // levels that are indented; deeper ones show their number

  const data = JSON.parse(document.getElementById("report").textContent);
  const at = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...content) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...content);
    return element;
  };
  const percent = (share) => (share > 0 && share < 0.01 ? "<1%" : `${Math.round(share * 100)}%`);
  const modified = (event) => event.ctrlKey || event.metaKey || event.altKey;
  const grouped = (count) => count.toLocaleString("en-US");

  const nodes = data.nodes.map(([parent, kind, name, entries, cells, shares], index) => ({
    index, parent, kind, name, entries, cells, shares, depth: 0, children: [], kept: true, row: null,
  }));
  const top = { children: [] };
  for (const node of nodes) {
    const above = node.parent < 0 ? top : nodes[node.parent];
    node.depth = node.parent < 0 ? 0 : above.depth + 1;
    above.children.push(node);
  }

  const state = { sort: "tokens", measure: 0, up: false, words: "", open: new Set(), unfiltered: null, limit: PAGE, current: null };
  const tree = at("tree");
  const body = make("div", { role: "rowgroup" });

  function unfoldCostliest() {
    let shown = top.children.length;
    const byShare = [...nodes].sort((a, b) => b.shares[0] - a.shares[0] || a.index - b.index);
    for (const node of byShare) {
      if (shown + node.children.length > FIRST) break;
      state.open.add(node);
      shown += node.children.length;
    }
  }

  function sort() {
    const [names, sign] = [new Intl.Collator(undefined, { numeric: true }), state.up ? 1 : -1];
    const compare = state.sort === "name"
      ? (a, b) => sign * names.compare(a.name, b.name) || a.index - b.index
      : (a, b) => sign * (a.shares[state.measure] - b.shares[state.measure]) || a.index - b.index;
    top.children.sort(compare);
    for (const node of nodes) node.children.sort(compare);
  }

  function filter(words) {
    const wanted = words.trim().toLowerCase();
    if (wanted && !state.words) state.unfiltered = state.open;
    state.words = wanted;
    state.limit = PAGE;
    if (!wanted) {
      for (const node of nodes) node.kept = true;
      [state.open, state.unfiltered] = [state.unfiltered || state.open, null];
      return;
    }
    state.open = new Set();
    let matches = 0;
    for (const node of nodes) { // parents come first: nodes below a match are kept
      node.match = node.name.toLowerCase().includes(wanted);
      node.below = node.parent >= 0 && (nodes[node.parent].match || nodes[node.parent].below);
      node.kept = node.match || node.below;
      matches += node.match;
    }
    for (let index = nodes.length - 1; index >= 0; index--) { // children come last: nodes above a match are kept and open
      const node = nodes[index];
      if (node.parent >= 0 && (node.match || node.leads)) {
        nodes[node.parent].leads = nodes[node.parent].kept = true;
        state.open.add(nodes[node.parent]);
      }
      node.leads = false;
    }
    return matches;
  }

  function visible() {
    const rows = [];
    const stack = [...top.children].reverse();
    while (stack.length) {
      const node = stack.pop();
      if (!node.kept) continue;
      rows.push(node);
      if (state.open.has(node)) for (let i = node.children.length - 1; i >= 0; i--) stack.push(node.children[i]);
    }
    return rows;
  }

  function draw(node) {
    const name = make("span", { class: "name", title: node.name, dir: "auto" });
    const indent = make("span", { class: "indent", "aria-hidden": "true" });
    indent.style.setProperty("--depth", Math.min(node.depth, DEEPEST));
    const label = make("span", { class: "label", role: "rowheader" }, indent, make("span", { class: "fold", "aria-hidden": "true" }));
    if (node.depth > DEEPEST) label.append(make("span", { class: "level" }, grouped(node.depth)));
    label.append(name);
    if (node.entries) label.append(make("span", { class: "entries", title: `entered ${node.entries} times` }, `×${node.entries}`));
    if (node.kind !== "scope" && node.kind !== "self") label.append(make("span", { class: `kind ${node.kind}` }, node.kind));
    const row = make("div", { role: "row", class: `row ${node.kind}`, tabindex: "-1", "aria-level": node.depth + 1 }, label);
    node.cells.forEach((text, column) => {
      row.append(make("span", { role: "gridcell", class: `cell ${COLUMNS[column]}`, title: `${LABELS[COLUMNS[column]]}: ${text || "none"}` }, text));
    });
    const bar = make("span", { role: "gridcell", class: "share" }, make("span", { class: "bar", "aria-hidden": "true" }, make("span", { class: "fill" })), make("span", { class: "percent" }));
    row.insertBefore(bar, row.querySelector(".cost"));
    row.node = node;
    Object.assign(node, { row, nameText: name, fill: bar.querySelector(".fill"), percent: bar.querySelector(".percent") });
    return row;
  }

  function update(node, position, size) {
    const row = node.row || draw(node);
    const share = node.shares[state.measure];
    node.fill.style.setProperty("--share", Math.max(0, Math.min(1, share)));
    node.percent.textContent = share < 0 ? "–" : percent(share);
    if (node.children.some((child) => child.kept)) row.setAttribute("aria-expanded", state.open.has(node));
    else row.removeAttribute("aria-expanded");
    row.setAttribute("aria-posinset", position);
    row.setAttribute("aria-setsize", size);
    const start = state.words ? node.name.toLowerCase().indexOf(state.words) : -1;
    const end = start + state.words.length;
    if (start < 0) node.nameText.replaceChildren(node.name);
    else node.nameText.replaceChildren(node.name.slice(0, start), make("mark", {}, node.name.slice(start, end)), node.name.slice(end));
    row.classList.toggle("aside", Boolean(state.words) && start < 0);
    return row;
  }

  function refresh() {
    const focused = tree.contains(document.activeElement) && document.activeElement.node;
    const rows = visible();
    const drawn = rows.slice(0, state.limit);
    const content = document.createDocumentFragment();
    const [seen, sizes] = [new Map(), new Map()];
    for (const node of drawn) {
      const parent = node.parent < 0 ? top : nodes[node.parent];
      if (!sizes.has(parent)) sizes.set(parent, parent.children.filter((child) => child.kept).length);
      seen.set(parent, (seen.get(parent) || 0) + 1);
      content.append(update(node, seen.get(parent), sizes.get(parent)));
    }
    body.replaceChildren(content);
    at("more").hidden = rows.length <= drawn.length;
    at("more").textContent = `${grouped(drawn.length)} of ${grouped(rows.length)} rows are drawn: show more`;
    if (!drawn.includes(state.current)) state.current = drawn[0] || null;
    for (const node of drawn) node.row.tabIndex = node === state.current ? 0 : -1;
    if (focused && state.current) state.current.row.focus({ preventScroll: true });
    state.drawn = drawn;
  }

  function select(node, focus = true) {
    if (!node) return;
    state.current.row.tabIndex = -1;
    state.current = node;
    node.row.tabIndex = 0;
    if (focus) node.row.focus();
  }

  function fold(node, open) {
    if (node.children.length) state.open[open ? "add" : "delete"](node);
    refresh();
  }

  function sortBy(name, up) {
    state.sort = name;
    state.up = up;
    if (name !== "name") state.measure = MEASURES.indexOf(name);
    at("sort").value = name;
    for (const head of tree.querySelectorAll("[role=columnheader]")) {
      const sorted = head.dataset.name === name ? (up ? "ascending" : "descending") : "none";
      if (SORTS.includes(head.dataset.name)) head.setAttribute("aria-sort", sorted);
    }
    tree.querySelector(".head .share").textContent = `Share of ${MEASURES[state.measure]}`;
    sort();
    refresh();
  }

  function head() {
    const row = make("div", { role: "row", class: "row head" });
    for (const name of ["name", "calls", "input", "output", "tokens", "share", "cost", "time"]) {
      const cell = make("span", { role: "columnheader", class: name === "name" ? "label" : `cell ${name}`, "data-name": name });
      if (SORTS.includes(name)) {
        const button = make("button", { type: "button" }, LABELS[name]);
        button.addEventListener("click", () => sortBy(name, state.sort === name ? !state.up : name === "name"));
        cell.append(button);
      } else cell.append(LABELS[name] || "");
      row.append(cell);
    }
    COLUMNS.forEach((name, column) => {
      const width = nodes.reduce((widest, node) => Math.max(widest, node.cells[column].length), LABELS[name].length + 1);
      tree.style.setProperty(`--${name}`, `${Math.min(width, 22) + 1}ch`);
    });
    return make("div", { role: "rowgroup" }, row);
  }

  function breakdown(id, what, rows) {
    const table = make("table", {}, make("thead", {}, make("tr", {},
      ...[what, "Calls", "Tokens", "Share", "Cost"].map((head) => make("th", { scope: "col", class: head.toLowerCase() }, head)))));
    const content = make("tbody");
    const show = (some) => {
      for (const [name, cells, shares] of some) {
        const fill = make("span", { class: "fill" });
        fill.style.setProperty("--share", Math.min(1, shares[0]));
        const head = make("th", { scope: "row" }, make("span", { dir: "auto" }, name), make("span", { class: "bar", "aria-hidden": "true" }, fill));
        const numbers = [["calls", cells[0]], ["tokens", cells[3]], ["share", percent(shares[0])], ["cost", cells[4]]];
        content.append(make("tr", {}, head, ...numbers.map(([name, text]) => make("td", { class: name, title: text }, text))));
      }
    };
    show(rows.slice(0, 15));
    table.append(content);
    at(id).append(table);
    if (rows.length > 15) {
      const button = make("button", { type: "button" }, `Show all ${grouped(rows.length)}`);
      button.addEventListener("click", () => { show(rows.slice(15)); button.remove(); });
      at(id).append(button);
    }
  }

  function prices([heads, ...rows]) {
    const cells = (kind, row) => make("tr", {}, ...row.map((text) => make(kind, kind === "th" ? { scope: "col" } : { title: text }, text)));
    const table = make("table", {}, make("thead", {}, cells("th", heads)), make("tbody", {}, ...rows.map((row) => cells("td", row))));
    at("prices").append(table, make("p", {}, data.priceNote));
    at("prices").hidden = false;
  }

  const KEYS = {
    ArrowDown: (node, place) => select(state.drawn[place + 1]),
    ArrowUp: (node, place) => select(state.drawn[place - 1]),
    Home: () => select(state.drawn[0]),
    End: () => select(state.drawn[state.drawn.length - 1]),
    ArrowRight: (node, place) => {
      if (!state.open.has(node)) fold(node, true);
      else if (state.drawn[place + 1] && state.drawn[place + 1].parent === node.index) select(state.drawn[place + 1]);
    },
    ArrowLeft: (node) => {
      if (state.open.has(node) && node.children.length) fold(node, false);
      else if (node.parent >= 0) select(nodes[node.parent]);
    },
    Enter: (node) => fold(node, !state.open.has(node)),
    " ": (node) => fold(node, !state.open.has(node)),
    "*": (node) => {
      for (const beside of (node.parent < 0 ? top : nodes[node.parent]).children) if (beside.children.length) state.open.add(beside);
      refresh();
    },
  };

  function listen() {
    tree.addEventListener("keydown", (event) => {
      const node = event.target.node;
      if (!node || modified(event) || !Object.hasOwn(KEYS, event.key)) return;
      event.preventDefault();
      KEYS[event.key](node, state.drawn.indexOf(node));
    });
    body.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (!row || String(getSelection())) return; // selecting a name does not fold it
      select(row.node);
      fold(row.node, !state.open.has(row.node));
    });
    body.addEventListener("focusin", (event) => { if (event.target.node) select(event.target.node, false); });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || modified(event) || event.target.matches("input, select")) return;
      event.preventDefault();
      at("filter").select();
    });
    at("filter").addEventListener("input", () => {
      const matches = filter(at("filter").value);
      at("status").textContent = matches === undefined ? "" : matches === 1 ? "1 scope matches." : `${grouped(matches)} scopes match.`;
      refresh();
    });
    at("filter").addEventListener("keydown", (event) => {
      if (!["Escape", "ArrowDown", "Enter"].includes(event.key)) return;
      event.preventDefault();
      if (event.key === "Escape") {
        at("filter").value = "";
        at("filter").dispatchEvent(new Event("input"));
      } else select(state.current);
    });
    at("sort").addEventListener("change", () => sortBy(at("sort").value, at("sort").value === "name"));
    at("unfold").addEventListener("click", () => { for (const node of nodes) if (node.children.length) state.open.add(node); refresh(); });
    at("fold").addEventListener("click", () => { state.open.clear(); refresh(); });
    at("more").addEventListener("click", () => { state.limit += PAGE; refresh(); });
  }

  document.title = `${data.title} · tokenscope`;
  at("title").append(data.title);
  for (const [label, value] of data.facts) at("facts").append(make("div", {}, make("dt", {}, label), make("dd", { title: value }, value)));
  at("more-facts").append(data.more.join(" · "));
  at("notes").append(data.notes);
  if (data.empty) {
    document.querySelector("main").replaceChildren(make("p", { class: "empty" }, data.empty));
    return;
  }
  at("sort").append(...SORTS.map((name) => make("option", { value: name }, `Sort by ${name}`)));
  tree.append(head(), body);
  breakdown("modules", "Module", data.modules);
  breakdown("models", "Model", data.models);
  if (data.prices) prices(data.prices);
  listen();
  unfoldCostliest();
  sortBy("tokens", false);
})();
