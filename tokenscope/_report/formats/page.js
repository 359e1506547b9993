"use strict";
// The page of a report or of a diff: draws the content of #report, always as text. It does not recurse, so trees may be deep.
//
//   nodes: [[parent or -1, kind, name, entries or status, [text of each column], [number of each column, ...], shares?], ...]
//   measures: [[a column's name, which number is a bar's width in the chart, which one is its bar in the tree], ...]
//   tables: [{kind, title, heads, rows: [[cells, numbers to sort by], ...], bar, note}, ...]
//   prompts, if they were measured: {names and kinds of parts, legend: [[kind, name], ...], note, predictors: [{name, facts, shares,
//     tables: [{title, heads, rows, note, swatches: [part of each row], bars: [[width, shares] of each row]}, ...]}, ...]}
//   shares: [[number of a part, its share], ...]
(() => {
  const PAGE = 2000; // rows drawn at a time
  const FIRST = 60; // rows unfolded at first
  const DEEPEST = 20; // levels that are indented; deeper ones show their number
  const LEVELS = 12; // levels of the chart
  const NARROWEST = 4; // pixels; narrower bars are merged
  const SHORT = 12; // rows of a table that are shown at first

  const data = JSON.parse(document.getElementById("report").textContent);
  const at = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...content) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...content);
    return element;
  };
  const nameless = (name) => (name.trim() ? [] : [make("span", { class: "nameless" }, "(no name)")]);
  const percent = (share) => (share > 0 && share < 0.01 ? "<1%" : `${Math.round(share * 100)}%`);
  const modified = (event) => event.ctrlKey || event.metaKey || event.altKey;
  const grouped = (count) => count.toLocaleString("en-US");
  const label = (name) => name[0].toUpperCase() + name.slice(1);
  const names = new Intl.Collator(undefined, { numeric: true });
  const trend = (text) => (!data.diff ? "" : /^(\+|new)/.test(text) ? "grew" : /^(-|gone)/.test(text) ? "shrank" : "");

  const nodes = data.nodes.map(([parent, kind, name, mark, cells, numbers, shares = []], index) => ({
    index, parent, kind, name, mark, cells, numbers, shares, depth: 0, children: [], kept: true, row: null,
  }));
  const parentOf = (node) => (node.parent < 0 ? null : nodes[node.parent]);
  const top = { children: [] };
  const over = (node) => (node.parent < 0 ? top : nodes[node.parent]);
  for (const node of nodes) {
    const above = over(node);
    node.depth = node.parent < 0 ? 0 : above.depth + 1;
    above.children.push(node);
  }

  const measures = data.empty ? [] : data.measures.filter(([, size], index) => !index || nodes.some((node) => node.numbers[size] > 0))
    .map(([name, size, bar]) => ({ name, size, bar, most: nodes.reduce((most, node) => Math.max(most, Math.abs(node.numbers[bar])), 0) || 1 }));
  const state = {
    sort: "", measure: measures[0], up: false, words: "", open: new Set(), unfiltered: null, limit: PAGE, current: null, zoom: null, bar: null, bars: [],
  };
  const tree = at("tree");
  const chart = at("chart");
  const body = make("div", { role: "rowgroup" });

  // -- the tree ---------------------------------------------------------------------------------------------------------------

  function unfoldCostliest() {
    let shown = top.children.length;
    const { size } = measures[0];
    const bySize = [...nodes].sort((a, b) => b.numbers[size] - a.numbers[size] || a.index - b.index);
    for (const node of bySize) { // a node comes before those below it
      const isSeen = node.parent < 0 || state.open.has(nodes[node.parent]);
      if (!isSeen || (shown + node.children.length > FIRST && shown > 1)) continue;
      state.open.add(node);
      shown += node.children.length;
    }
  }

  function sort() {
    const [sign, column] = [state.up ? 1 : -1, data.columns.indexOf(state.sort)];
    const number = (node) => node.numbers[column] ?? -Infinity; // unknown ones
    const compare = state.sort === "name"
      ? (a, b) => sign * names.compare(a.name, b.name) || a.index - b.index
      : (a, b) => (number(a) === number(b) ? 0 : sign * (number(a) - number(b))) || a.index - b.index;
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
    const head = make("span", { class: "label", role: "rowheader" }, indent, make("span", { class: "fold", "aria-hidden": "true" }));
    if (node.depth > DEEPEST) head.append(make("span", { class: "level" }, grouped(node.depth)));
    head.append(name, ...nameless(node.name));
    if (node.mark && data.diff) head.append(make("span", { class: `mark ${trend(node.mark)}` }, node.mark));
    else if (node.mark) head.append(make("span", { class: "entries", title: `entered ${node.mark} times` }, `×${node.mark}`));
    if (!["scope", "self", "none", "other"].includes(node.kind)) head.append(make("span", { class: "kind" }, node.kind));
    const row = make("div", { role: "row", class: `row ${node.kind}`, tabindex: "-1", "aria-level": node.depth + 1 }, head);
    node.cells.forEach((text, index) => {
      const column = data.columns[index];
      row.append(make("span", { role: "gridcell", class: `cell ${column} ${column === "change" || column === "cost" ? trend(text) : ""}`, title: `${label(column)}: ${text || "none"}` }, text));
    });
    const bar = make("span", { role: "gridcell", class: "share" }, make("span", { class: "bar", "aria-hidden": "true" }, make("span", { class: "fill" })), make("span", { class: "percent" }));
    row.insertBefore(bar, row.querySelector(".cost"));
    if (data.prompts) row.append(make("span", { role: "gridcell", class: "prompt" }, ...(node.shares.length ? stack(node.shares) : [])));
    row.node = node;
    Object.assign(node, { row, nameText: name, fill: bar.querySelector(".fill"), percent: bar.querySelector(".percent") });
    return row;
  }

  function update(node, position, size) {
    const row = node.row || draw(node);
    const share = node.numbers[state.measure.bar];
    node.fill.style.setProperty("--share", Math.min(1, data.diff ? Math.abs(share) / state.measure.most : Math.max(0, share)));
    if (data.diff) node.fill.className = `fill ${share > 0 ? "grew" : share < 0 ? "shrank" : ""}`;
    else node.percent.textContent = share < 0 ? "–" : percent(share);
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
      const parent = over(node);
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
    drawChart();
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

  function measureBy(name) {
    state.measure = measures.find((each) => each.name === name) || state.measure;
    tree.querySelector(".head .share").textContent = `${data.diff ? "Change in" : "Share of"} ${state.measure.name === "change" ? "tokens" : state.measure.name}`;
    for (const input of at("measures").querySelectorAll("input")) input.checked = input.value === state.measure.name;
  }

  function sortBy(name, up) {
    state.sort = name;
    state.up = up;
    measureBy(name);
    at("sort").value = name;
    for (const head of tree.querySelectorAll("[aria-sort]")) head.setAttribute("aria-sort", head.dataset.name !== name ? "none" : up ? "ascending" : "descending");
    sort();
    refresh();
  }

  function head() {
    const row = make("div", { role: "row", class: "row head" });
    const heads = ["name", ...data.columns];
    heads.splice(heads.indexOf("cost"), 0, "share");
    if (data.prompts) heads.push("prompt");
    for (const name of heads) {
      const cell = make("span", { role: "columnheader", class: name === "name" ? "label" : `cell ${name}`, "data-name": name });
      if (name === "prompt") cell.append("Input by part");
      else if (name !== "share") {
        const button = make("button", { type: "button" }, name === "name" ? "Scope" : label(name));
        button.addEventListener("click", () => sortBy(name, state.sort === name ? !state.up : name === "name"));
        cell.setAttribute("aria-sort", "none");
        cell.append(button);
      }
      row.append(cell);
    }
    const widths = data.columns.map((name, column) => nodes.reduce((widest, node) => Math.max(widest, node.cells[column].length), name.length + 1));
    data.columns.forEach((name, column) => tree.style.setProperty(`--${name}`, `${Math.min(widths[column], 22) + 1}ch`));
    tree.style.setProperty("--columns", heads.map((name) => (name === "name" ? "minmax(13rem, 1fr)" : name === "share" || name === "prompt" ? "var(--bar, 10rem)" : `var(--${name})`)).join(" "));
    return make("div", { role: "rowgroup" }, row);
  }

  // -- the chart: what is visible of the unfolded tree, in bars as wide as what was spent ---------------------------------------

  function layout() {
    const { size } = state.measure;
    const width = chart.clientWidth;
    const amount = (node) => Math.max(0, node.numbers[size]);
    const bars = [];
    const stack = [{ row: [state.zoom || top].flatMap((node) => (node === top ? top.children : [node])), left: 0, width: 1, level: 0, whole: 0, parent: null }];
    while (stack.length) {
      const { row, left, width: room, level, whole, parent } = stack.pop();
      const scale = room / (Math.max(whole, row.reduce((sum, node) => sum + amount(node), 0)) || 1);
      const rest = { node: null, parent, count: 0, level, width: 0 };
      let here = left;
      for (const node of row) {
        const wide = amount(node) * scale;
        if (wide * width < NARROWEST) {
          rest.count += wide > 0;
          rest.width += wide;
          continue;
        }
        bars.push({ node, parent, level, left: here, width: wide });
        if (node.children.length && state.open.has(node) && level + 1 < LEVELS) {
          stack.push({ row: node.children, left: here, width: wide, level: level + 1, whole: amount(node), parent: node });
        }
        here += wide;
      }
      if (rest.width * width >= 1) bars.push({ ...rest, left: here });
    }
    return bars;
  }

  function shade({ node, level }) {
    if (!node) return "rest";
    if (data.diff) {
      const [change, size] = [node.numbers[state.measure.bar], node.numbers[state.measure.size]];
      return `${change > 0 ? "grew" : change < 0 ? "shrank" : ""} ${Math.abs(change) >= size / 4 ? "much" : ""}`;
    }
    if (state.open.has(node) && node.children.length && level + 1 < LEVELS) return "";
    const share = node.numbers[state.measure.size];
    return `heat-${[0.02, 0.08, 0.2].filter((least) => share >= least).length}`;
  }

  function describe(node) {
    const cells = data.columns.map((name, column) => node.cells[column] && `${name} ${node.cells[column]}`);
    return [node.name || "(no name)", ...cells.filter(Boolean)].join("  ·  ");
  }

  function drawChart() {
    const focused = chart.contains(document.activeElement);
    state.bars = layout();
    const content = document.createDocumentFragment();
    for (const each of state.bars) {
      const { node } = each;
      const { size, bar } = state.measure;
      const text = !node ? `${grouped(each.count)} more` : data.diff ? node.cells[bar] : percent(node.numbers[size]);
      const folded = node && node.children.length && !(state.open.has(node) && each.level + 1 < LEVELS) ? "folded" : "";
      const aside = node && state.words && !node.kept ? "aside" : "";
      const wide = each.width * chart.clientWidth;
      const element = make(node ? "button" : "span", { class: `block ${shade(each)} ${folded} ${aside} ${wide < 44 ? "narrow" : wide < 120 ? "short" : ""}` });
      if (node) {
        element.type = "button";
        element.tabIndex = -1;
        element.append(make("span", { class: "name", dir: "auto" }, node.name), ...nameless(node.name), " ");
        if (folded) element.append(make("span", { class: "unseen" }, "folded "));
      } else element.title = text;
      element.append(make("span", { class: "amount" }, text));
      element.style.setProperty("left", `${each.left * 100}%`);
      element.style.setProperty("width", `${each.width * 100}%`);
      element.style.setProperty("--level", each.level);
      Object.assign(element, { bar: each });
      each.element = element;
      content.append(element);
    }
    chart.style.setProperty("--levels", state.bars.reduce((most, each) => Math.max(most, each.level + 1), 1));
    chart.replaceChildren(content);
    const current = state.bars.find((each) => each.node && each.node === state.bar) || state.bars.find((each) => each.node);
    state.bar = current ? current.node : null;
    if (current) current.element.tabIndex = 0;
    if (focused && current) current.element.focus({ preventScroll: true });
    drawCrumbs();
    note(null);
  }

  function drawCrumbs() {
    const path = [];
    for (let node = state.zoom; node; node = parentOf(node)) path.unshift(node);
    const shown = path.length > 6 ? [...path.slice(0, 2), null, ...path.slice(-3)] : path;
    const crumbs = [["Everything", null], ...shown.map((node) => (node ? [node.name || "(no name)", node] : ["…", undefined]))];
    at("crumbs").replaceChildren(...crumbs.map(([text, node], index) => {
      const last = index === crumbs.length - 1;
      const crumb = make(last || node === undefined ? "span" : "button", { dir: "auto", ...(last ? { "aria-current": "true" } : {}) }, text);
      if (!last && node !== undefined) {
        crumb.type = "button";
        crumb.addEventListener("click", () => zoom(node, true));
      }
      return make("span", { class: "crumb" }, crumb);
    }));
    at("crumbs").hidden = !path.length;
  }

  function zoom(node, focus) {
    state.zoom = node;
    if (node) {
      state.bar = node;
      for (let each = node; each; each = parentOf(each)) if (each.children.length) state.open.add(each);
    }
    refresh();
    if (node && state.drawn.includes(node)) select(node, false);
    if (focus && state.bar) focusBar(state.bars.find((each) => each.node === state.bar));
  }

  function focusBar(each) {
    if (!each) return;
    for (const other of state.bars) other.element.tabIndex = -1;
    state.bar = each.node;
    each.element.tabIndex = 0;
    each.element.focus();
  }

  function note(node) {
    const name = state.measure.name === "change" ? "tokens" : state.measure.name;
    at("chart-note").textContent = node ? describe(node) : data.diff
      ? `A bar is as wide as the larger of before and after, in ${name}. Orange grew, blue shrank. Blank is unchanged.`
      : `A bar is as wide as its share of the ${name}. The stronger its colour, the more it spent itself.`;
  }

  const steps = {
    ArrowRight: (each, row) => row[row.indexOf(each) + 1],
    ArrowLeft: (each, row) => row[row.indexOf(each) - 1],
    ArrowDown: (each) => state.bars.filter((other) => other.node && other.parent === each.node).sort((a, b) => a.left - b.left)[0],
    ArrowUp: (each) => state.bars.find((other) => other.node && other.node === each.parent),
    Home: () => state.bars.find((other) => other.node),
  };

  function listenToChart() {
    const bar = (event) => event.target.closest("button.block")?.bar;
    chart.addEventListener("click", (event) => {
      const each = bar(event);
      if (each) zoom(each.node === state.zoom ? parentOf(each.node) : each.node, true);
    });
    chart.addEventListener("keydown", (event) => {
      const each = bar(event);
      if (!each || modified(event)) return;
      if (event.key === "Escape" && state.zoom) zoom(parentOf(state.zoom), true);
      else if (Object.hasOwn(steps, event.key)) {
        const row = state.bars.filter((other) => other.node && other.level === each.level).sort((a, b) => a.left - b.left);
        focusBar(steps[event.key](each, row));
      } else return;
      event.preventDefault();
    });
    for (const kind of ["pointerover", "focusin"]) chart.addEventListener(kind, (event) => note(bar(event)?.node || null));
    for (const kind of ["pointerleave", "focusout"]) chart.addEventListener(kind, () => note(null));
    let width = chart.clientWidth;
    new ResizeObserver(() => {
      if (width !== (width = chart.clientWidth)) drawChart();
    }).observe(chart);
    for (const each of measures) {
      const input = make("input", { type: "radio", name: "measure", value: each.name });
      input.addEventListener("change", () => {
        if (data.diff) measureBy(each.name);
        else return sortBy(each.name, false);
        refresh();
      });
      at("measures").append(make("label", {}, input, make("span", {}, each.name === "change" ? "Tokens" : label(each.name))));
    }
    at("measures").hidden = measures.length < 2;
  }

  // -- the other tables -------------------------------------------------------------------------------------------------------

  function table({ kind, title, heads, rows, bar, note: text }, index) {
    const shown = { rows, column: -1, up: false, limit: rows.length > SHORT + 3 ? SHORT : rows.length };
    const content = make("tbody");
    const cells = heads.map((name, column) => {
      const button = make("button", { type: "button" }, name);
      button.addEventListener("click", () => sortRows(column));
      return make("th", { scope: "col", class: kinds(column), "aria-sort": "none" }, button);
    });
    function kinds(column) { return `${column ? heads[column].toLowerCase().replace(" ", "-") : "first"} ${rows.some(([, numbers]) => numbers[column] !== null) ? "" : "text"}`; }
    function sortRows(column) {
      const isText = rows.every(([, numbers]) => numbers[column] === null);
      shown.up = shown.column === column ? !shown.up : isText;
      shown.column = column;
      const sign = shown.up ? 1 : -1;
      const number = ([, numbers]) => numbers[column] ?? -Infinity;
      shown.rows = rows.map((row, index) => [row, index]).sort(([a, i], [b, j]) => (isText
        ? sign * names.compare(a[0][column], b[0][column])
        : number(a) === number(b) ? 0 : sign * (number(a) - number(b))) || i - j).map(([row]) => row);
      cells.forEach((cell, index) => cell.setAttribute("aria-sort", index !== column ? "none" : shown.up ? "ascending" : "descending"));
      fill();
    }
    function fill() {
      content.replaceChildren(...shown.rows.slice(0, shown.limit).map(([texts, numbers]) => make("tr", {}, ...texts.map((each, column) => {
        if (column) return make("td", { class: `${kindOf[column]} ${["Change", "Cost"].includes(heads[column]) ? trend(each) : ""}`, title: each }, each);
        const cell = make("th", { scope: "row" }, make("span", { dir: "auto", class: "name" }, ...each.split(/(?<=[./_-])/).flatMap((part) => [part, make("wbr")])), ...nameless(each));
        if (bar !== undefined) {
          const fillOf = make("span", { class: "fill" });
          fillOf.style.setProperty("--share", Math.max(0, Math.min(1, numbers[bar])));
          cell.append(make("span", { class: "bar", "aria-hidden": "true" }, fillOf));
        }
        return cell;
      }))));
    }
    const kindOf = heads.map((_, column) => kinds(column));
    fill();
    const id = `table-${index}`;
    const section = make("section", { "aria-labelledby": id, class: `table-${kind}` }, make("h2", { id }, title));
    section.append(make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...cells)), content)));
    if (shown.limit < rows.length) {
      const button = make("button", { type: "button" }, `Show all ${grouped(rows.length)}`);
      button.addEventListener("click", () => { shown.limit = rows.length; fill(); button.remove(); });
      section.append(button);
    }
    if (text) section.append(make("p", { class: "note" }, text));
    return section;
  }

  // -- prompts by part --------------------------------------------------------------------------------------------------------

  function stack(shares) {
    const { names: parts, kinds } = data.prompts;
    const text = [...shares].sort((a, b) => b[1] - a[1]).map(([part, share]) => `${parts[part]} ${percent(share)}`);
    const shown = text.length > 8 ? [...text.slice(0, 8), `${text.length - 8} more`] : text;
    const bar = make("span", { class: "stack", "aria-hidden": "true", title: shown.join("\n") });
    for (const [part, share] of shares) {
      const piece = make("span", { class: `part part-${kinds[part]}` });
      piece.style.setProperty("--share", share);
      bar.append(piece);
    }
    return [bar, make("span", { class: "unseen" }, shown.join(", "))];
  }

  const swatch = (kind) => make("span", { class: `swatch part-${kind}`, "aria-hidden": "true" });

  function legend() {
    return make("ul", { "aria-label": "Parts of prompts" }, ...data.prompts.legend.map(([kind, name]) => make("li", {}, swatch(kind), name)));
  }

  function smallTable({ title, heads, rows, note: text, swatches = [], bars = [] }) {
    const lines = rows.map((cells, index) => {
      const first = make("th", { scope: "row" }, ...(swatches[index] >= 0 ? [swatch(data.prompts.kinds[swatches[index]])] : []), make("span", { dir: "auto", class: "name" }, cells[0]), ...nameless(cells[0]));
      const line = make("tr", {}, first, ...cells.slice(1).map((cell) => make("td", {}, cell)));
      if (bars.length) {
        const room = make("td", { class: "turn" }, ...stack(bars[index][1]));
        room.firstChild.style.setProperty("width", `${bars[index][0] * 100}%`);
        line.append(room);
      }
      return line;
    });
    const names = bars.length ? [...heads, "By part"] : heads;
    const head = make("tr", {}, ...names.map((name, index) => (name ? make("th", { scope: "col", class: `${index ? "" : "text"} ${index === heads.length ? "turn" : ""}` }, name) : make("td"))));
    const content = make("table", { class: bars.length ? "turns" : "" }, make("caption", {}, title), make("thead", {}, head), make("tbody", {}, ...lines));
    return make("div", { class: "scroll", role: "group", "aria-label": title }, content, ...(text ? [make("p", { class: "note" }, text)] : []));
  }

  function reach() { // a table that scrolls can be reached with the keyboard
    for (const each of document.querySelectorAll(".inside > .scroll")) {
      if (each.scrollWidth > each.clientWidth) each.tabIndex = 0;
      else each.removeAttribute("tabindex");
    }
  }

  function predictor(each, index) {
    const summary = make("summary", {}, make("span", { class: "name", dir: "auto" }, each.name), ...nameless(each.name), make("span", { class: "facts" }, each.facts), ...stack(each.shares));
    const details = make("details", {}, summary);
    const fill = () => {
      if (details.open && !details.querySelector(".inside")) details.append(make("div", { class: "inside" }, ...each.tables.map(smallTable)));
      reach();
    };
    details.addEventListener("toggle", fill);
    details.open = index === 0;
    fill();
    return details;
  }

  function showPrompts() {
    const { predictors, note: text } = data.prompts;
    at("prompts").hidden = at("tree-legend").hidden = false;
    at("legend").append(legend());
    at("tree-legend").append(legend());
    const drawn = predictors.length > SHORT + 3 ? SHORT : predictors.length;
    at("predictors").append(...predictors.slice(0, drawn).map(predictor));
    if (drawn < predictors.length) {
      const button = make("button", { type: "button" }, `Show all ${grouped(predictors.length)}`);
      button.addEventListener("click", () => { at("predictors").append(...predictors.slice(drawn).map((each, index) => predictor(each, index + drawn))); button.remove(); });
      at("predictors").after(button);
    }
    at("prompts-note").append(text);
    reach();
    addEventListener("resize", reach);
  }

  // -- keys and buttons -------------------------------------------------------------------------------------------------------

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
      for (const beside of over(node).children) if (beside.children.length) state.open.add(beside);
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
      if (event.key !== "/" || modified(event) || event.target.matches("input[type=search], select")) return;
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

  const withNames = (sentence) => sentence.split(/[\u2068\u2069]/).map((part, index) => (index % 2 ? make("strong", { dir: "auto" }, part) : part));

  document.title = `${data.title || "(no name)"} · tokenscope`;
  at("title").append(data.title || "(no name)");
  at("when").append(data.when);
  at("made").append(data.made);
  if (data.diff) {
    document.body.className = "diff";
    at("tree-title").textContent = "Where it changed";
  }
  for (const [name, value, after, change] of data.facts) {
    const content = after === undefined ? [value] : [`${value} → ${after}`, make("span", { class: `delta ${trend(change)}` }, change)];
    at("facts").append(make("div", {}, make("dt", {}, name), make("dd", {}, ...content)));
  }
  at("findings").append(...data.findings.map((sentence) => make("li", {}, ...withNames(sentence))));
  at("more-facts").append(data.more.join("  ·  "));
  at("notes").append(data.notes);
  for (const id of ["findings", "facts", "more-facts", "notes"]) at(id).hidden = !at(id).hasChildNodes() || !at(id).textContent;
  if (data.empty) {
    document.querySelector("main").replaceChildren(make("p", { class: "empty" }, data.empty));
    return;
  }
  at("sort").append(...[...data.columns, "name"].map((name) => make("option", { value: name }, `Sort by ${name}`)));
  tree.append(head(), body);
  at("tables").append(...data.tables.map(table));
  if (data.prompts) showPrompts();
  listen();
  unfoldCostliest();
  listenToChart();
  if (data.diff) {
    at("sort").prepend(make("option", { value: "" }, "Largest change"));
    at("sort").value = "";
    measureBy("change");
    refresh();
  } else sortBy("tokens", false);
})();
