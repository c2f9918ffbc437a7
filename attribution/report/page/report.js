"use strict";
// The page of a report. Data come as scripts, `icnSummary({...})` and `icnMaps(n, {...})`, since a page that is opened from disk
// may not fetch files. Names of classes and files are only ever set as text.

const PAGE = 60, ROWS = 300, CONTRAST_OF = "none";
let data = null, thisView = null;
const maps = new Map(), waiting = new Map();

function h(name, attributes = {}, ...children) {
  const svg = ["svg", "polyline", "line", "rect", "text", "title"].includes(name) && attributes.svg !== false;
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false || key === "svg") continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const name = (index) => h("bdi", {}, short(data.classes[index]));
const short = (text) => (text.length > 120 ? text.slice(0, 119) + "…" : text);
const percent = (value) => (100 * value).toFixed(1) + " %";
const address = (n) => "pictures/" + String(n).padStart(7, "0") + ".jpg";
const say = (text) => { document.getElementById("status").textContent = text; };

function hash(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return "#" + pairs.map(([key, value]) => key + "=" + encodeURIComponent(value)).join("&");
}

function route() {
  const state = {};
  for (const part of location.hash.slice(1).split("&")) {
    const [key, value = ""] = part.split("=");
    try { if (key) state[key] = decodeURIComponent(value); } catch { /* a link that was cut */ }
  }
  return state;
}

function classIndex(text) {
  const index = data.classes.indexOf(text);
  if (index >= 0) return index;
  return /^\d+$/.test(text) && Number(text) < data.classes.length ? Number(text) : null;
}

// ---------------------------------------------------------------------------------------------------------------- tables and charts

function table(caption, columns, rows, { sort = 0, down = false, search = false } = {}) {
  // columns: {title, value: row -> what is sorted by, cell: row -> node, number, head}
  const body = h("tbody"), more = h("p");
  let order = { column: sort, down }, filter = "", all = false;
  const heads = columns.map((column, place) => h("th", { scope: "col", class: column.number ? "number" : null },
    h("button", { type: "button", onclick: () => { order = { column: place, down: order.column === place ? !order.down : !!column.number }; draw(); } },
      column.title)));
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  function draw() {
    const shown = rows.filter((row) => !filter || columns.some((column) => String(column.value(row)).toLowerCase().includes(filter)));
    const { value } = columns[order.column];
    shown.sort((a, b) => (order.down ? -1 : 1) * compare(value(a), value(b)));
    heads.forEach((head, place) => {
      if (place === order.column) head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const part = all ? shown : shown.slice(0, ROWS);
    body.replaceChildren(...part.map((row) => h("tr", {}, columns.map((column) =>
      h(column.head ? "th" : "td", { scope: column.head ? "row" : null, class: column.number ? "number" : "name" }, (column.cell || column.value)(row))))));
    more.replaceChildren(part.length < shown.length
      ? h("button", { type: "button", class: "plain", onclick: () => { all = true; draw(); } }, `show all ${shown.length} rows`)
      : `${shown.length} of ${rows.length} rows`);
  }
  draw();
  const field = h("input", { type: "search", placeholder: "filter", "aria-label": `filter: ${caption}`,
    oninput: (event) => { filter = event.target.value.toLowerCase(); draw(); } });
  return h("div", {}, search ? field : null,
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
      h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, h("tr", {}, heads)), body)), more);
}

function chart(title, { lines = [], bars = [], x, y, low = 0, high = 1 }) {
  const W = 460, H = 250, left = 48, bottom = 30, top = 8, right = 8;
  const [x0, x1] = x, px = (v) => left + (W - left - right) * (x1 > x0 ? (v - x0) / (x1 - x0) : 0.5);
  const py = (v) => H - bottom - (H - bottom - top) * (high > low ? (v - low) / (high - low) : 0.5);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((t) => low + t * (high - low));
  return h("figure", {}, h("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title },
    ticks.flatMap((t) => [h("line", { class: "grid", x1: left, x2: W - right, y1: py(t), y2: py(t) }),
      h("text", { x: left - 6, y: py(t) + 4, "text-anchor": "end" }, y(t))]),
    [x0, x1].map((v, i) => h("text", { x: px(v), y: H - 8, "text-anchor": i ? "end" : "start" }, Number(v.toPrecision(3)))),
    bars.map((bar) => h("rect", { x: px(bar.from) + 1, width: Math.max(1, px(bar.to) - px(bar.from) - 2), y: py(bar.value), height: Math.max(0, py(low) - py(bar.value)) },
      h("title", {}, bar.title))),
    lines.map((line) => h("polyline", { class: line.class, points: line.points.map(([a, b]) => `${px(a).toFixed(1)},${py(b).toFixed(1)}`).join(" ") }))),
    h("figcaption", {}, title));
}

function curves() {
  const log = data.curves;
  if (!log || log.epoch.length < 2) return [];
  const x = [1, log.epoch.length], points = (values) => values.map((v, i) => [i + 1, v]).filter(([, v]) => Number.isFinite(v));
  const losses = [...log.train_loss, ...log.test_loss].filter(Number.isFinite);
  return [h("h2", {}, "Training"), h("div", { class: "columns" },
    chart("Accuracy (%) after each epoch", { x, low: 0, high: 100, y: (v) => v.toFixed(0), lines: [{ class: "first", points: points(log.test_acc1) }] }),
    chart("Loss after each epoch: training (dashed), scored split", { x, low: 0, high: Math.max(...losses), y: (v) => v.toFixed(2),
      lines: [{ class: "second", points: points(log.train_loss) }, { class: "first", points: points(log.test_loss) }] }))];
}

function calibration() {
  const { bins, ece } = data.calibration;
  return [h("h2", {}, "Calibration"), h("p", {}, `Expected calibration error: ${percent(ece)} (${bins.length} bins of equal width). `,
    "A bar is the accuracy of the images whose predicted class has that probability; on the dashed line the two are equal."),
  chart("Reliability diagram: accuracy over the probability of the predicted class", { x: [0, 1], y: (v) => v.toFixed(2),
    bars: bins.filter((bin) => bin.count).map((bin) => ({ from: bin.low, to: bin.high, value: bin.accuracy,
      title: `${bin.count} images, probability ${percent(bin.confidence)}, accuracy ${percent(bin.accuracy)}` })),
    lines: [{ class: "second", points: [[0, 0], [1, 1]] }] })];
}

function verdict() {
  const content = data.attribution;
  if (!content) return h("p", {}, "How good the maps are was not measured: run python -m tools.evaluate_attribution on this checkpoint and then this report again.");
  if (!content.verdict) return null;
  const colour = (answer) => (answer === "yes" ? "right" : answer === "no" ? "wrong" : null);
  return [h("h2", {}, "Verdict on the maps"), h("p", {}, "The model's own map, ", h("b", {}, content.verdict.label), ":"),
    h("ol", {}, content.verdict.sentences.map(({ question, answer, meaning, figures }) =>
      h("li", {}, `${question} `, h("b", { class: colour(answer) }, answer.charAt(0).toUpperCase() + answer.slice(1) + "."), ` ${meaning}. `,
        figures ? h("span", { class: "faint" }, `${figures.charAt(0).toUpperCase() + figures.slice(1)}.`) : null))),
    h("p", { class: "faint" }, content.verdict.about)];
}

function mapTable(caption, { columns, rows }) {
  return table(caption, [{ title: "map", value: (row) => row.name, cell: (row) => (row.ours ? h("b", {}, row.name) : row.name), head: true },
    { title: "kind", value: (row) => row.kind },
    ...columns.map((title, place) => ({ title, number: true, value: (row) => row.values[place] ?? -Infinity,
      cell: (row) => (row.values[place] === null ? "–" : row.values[place].toFixed(3)) }))], rows, { sort: 2, down: true });
}

function attribution() {
  const content = data.attribution;
  if (!content) return [];
  if (!content.main.columns.length && !content.all.columns.length && !content.parts) return [];
  const { about, rows } = content.audit;
  return [h("h2", {}, "Measured maps"), h("p", {}, `${content.about}. The model's own map is in bold.`),
    content.main.columns.length ? mapTable("Measured maps", content.main) : null,
    content.all.columns.length ? h("details", {}, h("summary", {}, `all ${content.all.columns.length} columns`), mapTable("All columns", content.all)) : null,
    rows.length ? h("details", {}, h("summary", {}, `audit of the metrics: ${rows.filter((row) => row.outcome.startsWith("a dummy wins")).length} of ${rows.length} are won by a dummy`),
      h("p", {}, about), table("Audit of the metrics", [{ title: "metric", value: (row) => row.metric, head: true }, { title: "best real map", value: (row) => row.best },
        { title: "best dummy", value: (row) => row.dummy }, { title: "real less dummy", number: true, value: (row) => row.difference, cell: (row) => row.difference.toFixed(3) },
        { title: "outcome", value: (row) => row.outcome }], rows, { sort: 3 })) : null, partTable(content.parts)];
}

function partTable(parts) {
  if (!parts) return null;
  return [h("h3", {}, parts.title), h("p", {}, parts.about), table(parts.title, [{ title: "regions", value: (row) => row.name, head: true },
    ...parts.columns.map(({ title }, place) => ({ title, number: true, value: (row) => row.values[place] ?? -Infinity,
      cell: (row) => (row.values[place] === null ? "–" : row.values[place].toFixed(3)) }))], parts.rows, { sort: 1, down: true }),
  h("ul", {}, parts.columns.map(({ label, meaning }) => h("li", {}, `${label}: ${meaning}`)))];
}

function shortcuts() {
  const content = data.shortcuts, rows = content.alarms;
  const of = (row) => (row.label === null ? "all classes" : data.classes[row.label]);
  return [h("h2", {}, "Possible shortcuts"), h("p", {}, content.about), rows.length ? table("Possible shortcuts", [
    { title: "class", head: true, value: of, cell: (row) => (row.label === null ? of(row) : h("a", { href: hash({ class: row.label }) }, name(row.label))) },
    { title: "why", value: (row) => row.why },
    { title: "mean image, mean map, images", value: (row) => row.place,
      cell: (row) => h("img", { src: row.picture, class: "alarm", loading: "lazy", alt: `place: left, top, right, bottom ${row.place}` }) },
    { title: "share of the evidence", number: true, value: (row) => row.share, cell: (row) => percent(row.share) },
    { title: "expected", number: true, value: (row) => row.expected, cell: (row) => percent(row.expected) },
    { title: "p", number: true, value: (row) => row.p ?? 0, cell: (row) => (row.p === null ? "–" : row.p.toFixed(3)) },
    { title: "images", number: true, value: (row) => row.images },
  ], rows, { sort: 3, down: true }) : h("p", {}, content.classes ? "No class." : "")];
}

// ------------------------------------------------------------------------------------------------------------------------- views

function perClass() {
  const rows = data.classes.map((_, index) => ({ index, images: 0, right: 0, claimed: 0, confused: new Map() }));
  data.images.label.forEach((label, n) => {
    const predicted = data.images.predicted[n];
    rows[label].images += 1;
    rows[predicted].claimed += 1;
    if (label === predicted) rows[label].right += 1;
    else rows[label].confused.set(predicted, (rows[label].confused.get(predicted) || 0) + 1);
  });
  return rows;
}

function classTable() {
  const rows = perClass(), most = (row) => [...row.confused].sort((a, b) => b[1] - a[1])[0];
  return table("Accuracy per class", [
    { title: "class", head: true, value: (row) => data.classes[row.index], cell: (row) => h("a", { href: hash({ class: row.index }) }, name(row.index)) },
    { title: "images", number: true, value: (row) => row.images },
    { title: "accuracy", number: true, value: (row) => (row.images ? row.right / row.images : -1), cell: (row) => (row.images ? percent(row.right / row.images) : "–") },
    { title: "predicted", number: true, value: (row) => row.claimed },
    { title: "precision", number: true, value: (row) => (row.claimed ? row.right / row.claimed : -1), cell: (row) => (row.claimed ? percent(row.right / row.claimed) : "–") },
    { title: "most often taken for", value: (row) => (most(row) ? data.classes[most(row)[0]] : ""),
      cell: (row) => (most(row) ? h("a", { href: hash({ view: "images", true: row.index, predicted: most(row)[0] }) }, name(most(row)[0]), ` (${most(row)[1]})`) : "") },
  ], rows, { sort: 2, search: true });
}

function confusionTable(limit = Infinity) {
  const counts = new Map();
  data.images.label.forEach((label, n) => {
    const key = label + "," + data.images.predicted[n];
    if (label !== data.images.predicted[n]) counts.set(key, (counts.get(key) || 0) + 1);
  });
  const rows = [...counts].map(([key, count]) => ({ pair: key.split(",").map(Number), count }));
  if (!rows.length) return h("p", {}, "No image is classified wrongly.");
  rows.sort((a, b) => b.count - a.count);
  return table("Confusions", [
    { title: "true class", head: true, value: (row) => data.classes[row.pair[0]], cell: (row) => name(row.pair[0]) },
    { title: "predicted", value: (row) => data.classes[row.pair[1]], cell: (row) => name(row.pair[1]) },
    { title: "images", number: true, value: (row) => row.count,
      cell: (row) => h("a", { href: hash({ view: "images", true: row.pair[0], predicted: row.pair[1] }) }, `${row.count}`, h("span", { class: "hidden" }, " images")) },
  ], rows.slice(0, limit), { sort: 2, down: true, search: limit === Infinity });
}

function overview() {
  const n = data.images.label.length, right = data.images.label.filter((label, i) => label === data.images.predicted[i]).length;
  const cards = [["top-1 accuracy", percent(right / n)], ...(data.acc5 === null ? [] : [["top-5 accuracy", data.acc5.toFixed(1) + " %"]]),
    ["images", n], ["classes", data.classes.length], ["errors", n - right]];
  return ["Overview", verdict(), h("ul", { class: "cards" }, cards.map(([label, value]) => h("li", {}, h("b", {}, value), label))),
    curves(), calibration(), attribution(), shortcuts(), h("h2", {}, "Classes, the least accurate first"), classTable(),
    h("h2", {}, "Most frequent confusions"), confusionTable(10), h("p", {}, h("a", { href: "#view=confusions" }, "all confusions"))];
}

function selection(state) {
  const { label, predicted } = data.images, all = [...label.keys()];
  if (state.class !== undefined) {
    const index = classIndex(state.class);
    return all.filter((n) => label[n] === index || predicted[n] === index);
  }
  return all.filter((n) => (state.true === undefined || label[n] === Number(state.true))
    && (state.predicted === undefined || predicted[n] === Number(state.predicted))
    && (state.show !== "wrong" || label[n] !== predicted[n]));
}

function gallery(list, state, key = "page") {
  // `key` names the part of the address that says which page of the list is shown.
  const pages = Math.max(1, Math.ceil(list.length / PAGE)), page = Math.min(pages, Math.max(1, Math.floor(Number(state[key])) || 1));
  const go = (to) => hash({ ...state, [key]: to });
  const bar = (where) => (pages < 2 ? null : h("nav", { class: "pages", "aria-label": `Pages, ${where}` },
    page > 1 ? h("a", { href: go(page - 1) }, "previous") : null, `page ${page} of ${pages}`, page < pages ? h("a", { href: go(page + 1) }, "next") : null));
  return [bar("above"), h("ul", { class: "gallery" }, list.slice((page - 1) * PAGE, page * PAGE).map((n) => {
    const { label, predicted, p } = data.images, right = label[n] === predicted[n];
    return h("li", {}, h("a", { href: hash({ ...state, image: n }) }, h("img", { src: address(n), loading: "lazy", alt: "" }),
      h("span", {}, h("bdi", {}, short(data.images.file[n].split("/").pop()))),
      h("span", { class: right ? "right" : "wrong" }, right ? "right" : ["predicted ", name(predicted[n])], ` ${percent(p[n])}`)));
  })), bar("below")];
}

function classView(state) {
  const index = classIndex(state.class);
  if (index === null) return ["No such class", h("p", {}, "There is no class of that name or index. ", h("a", { href: "#view=classes" }, "All classes"))];
  const list = selection(state), { label, predicted } = data.images;
  const groups = [["Wrong: images of this class taken for another", list.filter((n) => label[n] === index && predicted[n] !== index)],
    ["Wrong: images of other classes taken for this one", list.filter((n) => label[n] !== index)],
    ["Right", list.filter((n) => label[n] === index && predicted[n] === index)]];
  return [data.classes[index], groups.flatMap(([title, images], place) => [h("h2", {}, `${title} (${images.length})`),
    images.length ? gallery(images, state, "page" + place) : h("p", { class: "faint" }, "none")])];
}

function imagesView(state) {
  const list = selection(state);
  const title = state.true !== undefined && state.predicted !== undefined ? "Images of one class taken for another" : state.show === "wrong" ? "Errors" : "Images";
  const words = state.true !== undefined && state.predicted !== undefined && data.classes[state.true] !== undefined && data.classes[state.predicted] !== undefined
    ? h("p", {}, name(Number(state.true)), " taken for ", name(Number(state.predicted))) : null;
  return [title, words, h("p", {}, `${list.length} images`), gallery(list, state)];
}

// -------------------------------------------------------------------------------------------------------------------- one picture

window.icnMaps = (n, content) => { maps.set(n, content); waiting.get(n)?.(); waiting.delete(n); };

function loadMaps(n, then) {
  if (maps.has(n)) return then();
  waiting.set(n, then);
  const script = h("script", { src: `data/maps/${String(n).padStart(7, "0")}.js` });
  script.onload = () => script.remove();
  script.onerror = () => say("the maps of this image are missing from the folder of the report");
  document.head.append(script);
  if (maps.size > 40) maps.delete(maps.keys().next().value);
}

function decode(content, method, row, head) {
  // One map as {rows, columns, extent, values}; head null is the mean of all heads.
  const { size: [rows, columns], extent, heads, low, high, bytes } = content.maps[method];
  const raw = typeof bytes === "string" ? (content.maps[method].bytes = Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))) : bytes;
  const cells = rows * columns, values = new Float32Array(cells), wanted = head === null ? [...Array(heads).keys()] : [head];
  for (const one of wanted) {
    const place = row * heads + one, step = (high[place] - low[place]) / 255;
    for (let i = 0; i < cells; i++) values[i] += (low[place] + step * raw[place * cells + i]) / wanted.length;
  }
  return { rows, columns, extent, values };
}

function scaleOf(list, signed, own) {
  const all = list.flatMap((map) => [...map.values]), high = Math.max(...all), low = Math.min(...all);
  if (signed) { const most = Math.max(high, -low, 0); return [-most, most]; }
  return own ? [low, high] : [0, Math.max(high, 0)];
}

function colour(t, signed, opacity) {
  const at = 6 * Math.round(255 * t), hex = (signed ? data.colours.signed : data.colours.plain);
  const strength = signed ? Math.abs(2 * t - 1) : t, [weakest, strongest] = signed ? data.colours.signedWeight : data.colours.weight;
  return [0, 2, 4].map((k) => parseInt(hex.slice(at + k, at + k + 2), 16)).concat(255 * Math.min(1, opacity * (weakest + (strongest - weakest) * strength)));
}

function paint(canvas, map, [low, high], signed, cellsOnly, opacity, width, height) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const table = [...Array(256).keys()].map((i) => colour(i / 255, signed, opacity)), empty = high <= low;
  for (let y = 0; y < height; y++) {
    const v = ((y + 0.5) / height) * map.extent[0];
    for (let x = 0; x < width; x++) {
      const u = ((x + 0.5) / width) * map.extent[1];
      const value = cellsOnly ? at(map, Math.floor(v), Math.floor(u)) : smooth(map, v - 0.5, u - 0.5);
      const t = empty ? (signed ? 0.5 : 0) : Math.min(1, Math.max(0, (value - low) / (high - low)));
      image.data.set(table[Math.round(255 * t)], 4 * (y * width + x));
    }
  }
  context.putImageData(image, 0, 0);
}

function at(map, row, column) {
  const r = Math.min(map.rows - 1, Math.max(0, row)), c = Math.min(map.columns - 1, Math.max(0, column));
  return map.values[r * map.columns + c];
}

function smooth(map, y, x) {
  const r = Math.floor(y), c = Math.floor(x), b = y - r, a = x - c;
  return (1 - b) * ((1 - a) * at(map, r, c) + a * at(map, r, c + 1)) + b * ((1 - a) * at(map, r + 1, c) + a * at(map, r + 1, c + 1));
}

function pictureView(state) {
  const n = Number(state.image), { label, predicted, file } = data.images;
  if (!(n in label)) return ["No such image", h("p", {}, "There is no image of that number. ", h("a", { href: "#view=images" }, "All images"))];
  const { image: _, method: __, head: ___, of: ____, against: _____, ...rest } = state, list = selection(rest), place = list.indexOf(n);
  const neighbour = (step) => (list[place + step] === undefined ? null : hash({ ...state, image: list[place + step], of: null, against: null }));
  const right = label[n] === predicted[n], holder = h("div", {}, h("p", { class: "faint" }, "loading the maps …"));
  const photo = h("img", { src: address(n), alt: `image ${file[n].slice(0, 200)}` }), canvas = h("canvas", { "aria-hidden": "true" });
  thisView = { previous: neighbour(-1), next: neighbour(1), back: hash(rest) };
  loadMaps(n, () => { if (route().image === state.image) holder.replaceChildren(controls(n, state, photo, canvas)); });
  return [file[n], h("p", {}, h("span", { class: right ? "right" : "wrong" }, right ? "right: " : "wrong: predicted "), name(predicted[n]), ` (${percent(data.images.p[n])})`,
    right ? null : [", true class ", h("a", { href: hash({ class: label[n] }) }, name(label[n]))]),
  h("nav", { class: "pages", "aria-label": "Images" }, h("a", { href: thisView.back }, "back"), thisView.previous ? h("a", { href: thisView.previous }, "previous image") : null,
    thisView.next ? h("a", { href: thisView.next }, "next image") : null, `${place + 1} of ${list.length}`),
  h("div", { class: "picture" }, h("div", { class: "stage" }, photo, canvas), holder)];
}

function controls(n, state, photo, canvas) {
  const content = maps.get(n), methods = Object.keys(content.maps);
  const find = (text, fallback) => { const place = text === undefined ? -1 : content.classes.indexOf(classIndex(text)); return place < 0 ? fallback : place; };
  const now = { of: find(state.of, content.classes.indexOf(data.images.predicted[n])), against: find(state.against, null),
    method: methods.includes(state.method) ? state.method : methods[0], head: /^\d+$/.test(state.head ?? "") ? Number(state.head) : null, own: false, cells: false, opacity: 1 };
  const option = (value, text, chosen) => h("option", { value, selected: chosen }, text);
  const classes = content.classes.map((index, place) => [place, `${short(data.classes[index])} (${percent(content.p[place])})`]);
  const select = (id, text, options, change) => [h("label", { for: id }, text), h("select", { id, onchange: (event) => { change(event.target.value); update(); } }, options)];
  const heads = h("select", { id: "head", onchange: (event) => { now.head = event.target.value === "" ? null : Number(event.target.value); update(); } });
  const low = h("span"), high = h("span"), ramp = h("canvas", { width: 256, height: 8, "aria-hidden": "true" }), words = h("p", { class: "faint" });
  const box = (id, text, key) => h("label", { class: "wide" }, h("input", { type: "checkbox", id, onchange: (event) => { now[key] = event.target.checked; update(); } }), " " + text);

  function update(remember = true) {
    const entry = content.maps[now.method], pair = now.against !== null && now.against !== now.of, signed = entry.signed || pair;
    if (now.head !== null && now.head >= entry.heads) now.head = null;
    const read = (head) => {
      const map = decode(content, now.method, now.of, head);
      if (pair) decode(content, now.method, now.against, head).values.forEach((value, i) => { map.values[i] -= value; });
      return map;
    };
    heads.replaceChildren(option("", entry.heads > 1 ? `mean of ${entry.heads} heads` : "one map", now.head === null),
      ...(entry.heads > 1 ? [...Array(entry.heads).keys()].map((head) => option(head, `head ${head}`, head === now.head)) : []));
    const map = read(now.head), range = scaleOf(now.own ? [map] : [...(entry.heads > 1 ? [...Array(entry.heads).keys()].map(read) : []), map], signed, now.own);
    const width = Math.min(512, photo.naturalWidth || 256), height = Math.max(1, Math.round(width * (photo.naturalHeight || 256) / (photo.naturalWidth || 256)));
    paint(canvas, map, range, signed, now.cells, now.opacity, width, height);
    const steps = { rows: 1, columns: 256, extent: [1, 256], values: Float32Array.from({ length: 256 }, (_, i) => range[0] + ((range[1] - range[0]) * i) / 255) };
    paint(ramp, steps, range, signed, true, 1.4, 256, 8);
    low.textContent = Number(range[0].toPrecision(3));
    high.textContent = Number(range[1].toPrecision(3));
    const peak = map.values.indexOf(Math.max(...map.values)), of = short(data.classes[content.classes[now.of]]);
    words.textContent = `${data.methods[now.method]}${now.head === null ? "" : ", head " + now.head}: ${pair ? `for ${of} and not ${short(data.classes[content.classes[now.against]])}` : of}. `
      + `Strongest cell: row ${Math.floor(peak / map.columns) + 1} of ${map.rows}, column ${(peak % map.columns) + 1} of ${map.columns}.`;
    say(words.textContent);
    canvas.dataset.peak = `${Math.floor(peak / map.columns)},${peak % map.columns}`;
    if (remember) history.replaceState(null, "", hash({ ...state, of: content.classes[now.of], against: pair ? content.classes[now.against] : null, method: now.method, head: now.head }));
  }
  thisView.head = (head) => { now.head = head; update(); };
  thisView.cells = () => { const input = document.getElementById("cells"); input.checked = now.cells = !now.cells; update(); };
  if (photo.complete) update(false); else photo.addEventListener("load", () => update(false));
  photo.addEventListener("error", () => say("the picture is missing from the folder of the report"));
  return h("div", {}, h("div", { class: "controls" },
    select("of", "class", classes.map(([place, text]) => option(place, text, place === now.of)), (value) => { now.of = Number(value); }),
    select("against", "and not", [option(CONTRAST_OF, "– (no contrast)", now.against === null), ...classes.map(([place, text]) => option(place, text, place === now.against))],
      (value) => { now.against = value === CONTRAST_OF ? null : Number(value); }),
    select("method", "map", methods.map((method) => option(method, data.methods[method], method === now.method)), (value) => { now.method = value; }),
    h("label", { for: "head" }, "head"), heads,
    h("label", { for: "opacity" }, "opacity"), h("input", { type: "range", id: "opacity", min: 0, max: 1.4, step: 0.1, value: 1, oninput: (event) => { now.opacity = Number(event.target.value); update(); } }),
    box("cells", "cells, without interpolation", "cells"), box("own", "scale of its own", "own")),
  h("div", { class: "scale" }, low, ramp, high), words,
  h("h2", {}, "Classes with maps"), table("Classes with maps", [
    { title: "class", head: true, value: (place) => data.classes[content.classes[place]], cell: (place) => h("a", { href: hash({ class: content.classes[place] }) }, name(content.classes[place])) },
    { title: "probability", number: true, value: (place) => content.p[place], cell: (place) => percent(content.p[place]) },
    { title: "logit", number: true, value: (place) => content.logits[place], cell: (place) => content.logits[place].toFixed(2) }],
  [...content.classes.keys()], { sort: 1, down: true }));
}

// --------------------------------------------------------------------------------------------------------------------------- page

function draw() {
  const state = route(), main = document.getElementById("main");
  thisView = null;
  const view = state.image !== undefined ? pictureView : state.class !== undefined ? classView : { classes: () => ["Classes", classTable()],
    confusions: () => ["Confusions", confusionTable()], images: imagesView }[state.view] || overview;
  const [title, ...content] = view(state);
  main.replaceChildren(h("h1", {}, h("bdi", {}, short(title))), ...content.flat(3).filter((node) => node !== null && node !== undefined));
  document.title = `${short(title)} · ${data.title}`;
  scrollTo(0, 0);
}

addEventListener("hashchange", draw);
addEventListener("keydown", (event) => {
  if (!thisView || event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (event.key === "ArrowLeft" && thisView.previous) location.hash = thisView.previous;
  else if (event.key === "ArrowRight" && thisView.next) location.hash = thisView.next;
  else if (event.key === "Escape") location.hash = thisView.back;
  else if (event.key === "g" && thisView.cells) thisView.cells();
  else if (/^[0-9]$/.test(event.key) && thisView.head) thisView.head(event.key === "0" ? null : Number(event.key) - 1);
});

const theme = document.getElementById("theme");
function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  theme.setAttribute("aria-pressed", String(dark));
}
setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
theme.addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));

window.icnSummary = (content) => { data = content; draw(); };
