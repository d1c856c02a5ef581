// ---- the page ----
function card(id, index) {
  const me = { id, index, born: Date.now(), hint: "", url: "", lost: "" };
  me.img = h("img", { alt: "", draggable: "false" });
  me.name = h("span", { class: "said" }); me.state = h("b"); me.detail = h("span", { class: "why" }); me.clock = h("span", { class: "clock", "aria-hidden": "true" });
  me.pic = h("button", { class: "pic", type: "button", onclick: () => show(me) }, me.name, h("span", { class: "wait" }, me.state, me.clock, me.detail), me.img);
  me.what = h("p", { class: "what" }); me.left = h("span"); me.right = h("span"); me.warn = h("p", { class: "warn" });
  me.acts = h("div", { class: "acts", role: "group" });
  me.story = h("div");
  me.el = h("li", { class: "card", onfocusin: () => { current = me; rove(); price_labels(me); }, onpointerenter: () => price_labels(me) },
    me.pic, h("div", { class: "under" }, me.what, h("div", { class: "meta" }, me.left, me.right), me.warn, me.story), me.acts);
  me.el.card = me;
  sight.observe(me.el);
  return me;
}
function paint(card) {
  const task = tasks.get(card.id), image = picture(card), open = task.open, failed = task.status === "failed" || task.status === "unknown";
  const at = order.indexOf(card) + 1, alone = cards.length === 1, shape = ratio(card), words = prompt(card.id), tall = shape < 1.25;
  const loads = !open && !failed && !card.url && !card.lost;
  card.el.shape = shape;
  card.el.classList.toggle("tall", tall);
  card.el.classList.toggle("still", failed || Boolean(card.lost));       // it has no large view: its buttons are always seen
  card.el.style.setProperty("--ratio", shape);
  for (const [name, is] of Object.entries({ has: card.url, busy: open, bad: failed, load: loads })) card.pic.classList.toggle(name, Boolean(is));
  card.pic.setAttribute("aria-disabled", String(!ready(card) && !card.lost));
  const state = open && task.status === "completed" ? "Fetching" : STATES[task.status] ?? (str(task.status) || "Not known");
  card.name.textContent = `Image ${at} of ${order.length}: ${card.url ? "" : `${words} `}`;
  card.img.alt = card.url ? describe(card) : "";
  card.state.textContent = card.lost ? "No preview" : loads ? "Loading" : card.url ? "" : state;
  card.detail.textContent = card.lost ? (place_of(image) ? "The file is on disk." : card.lost) : failed || open ? str(task.error) + (task.status !== "failed" || list(task.steps).length ? "" : task.sandbox ? " Would not be charged." : " Not charged.") : "";
  card.detail.hidden = !card.detail.textContent;
  card.clock.hidden = !open; clock(card);
  card.what.textContent = words; card.what.title = words; card.what.hidden = !words || (!listed() && common());
  const charged = of_all(task, "charged_usd"), usd = charged ?? (failed ? null : of_all(task, "quoted_usd"));
  card.left.textContent = card.hint || [listed() ? when(made_at(card), { timeStyle: "short" }) : size(image), str(task.variant)].filter(Boolean).join(" · ");
  card.right.textContent = usd === null ? "" : (charged === null ? "quoted " : "") + money(usd);
  card.warn.textContent = card.warn.title = odd(image); card.warn.hidden = !card.warn.textContent;
  card.told = alone && tall && Boolean(words);                  // there is room beside it for all that is known of it
  card.story.replaceChildren(...(card.told ? [story(card)] : []));
  card.acts.setAttribute("aria-label", `Image ${at}: actions`);
  paintActs(card.acts, card);
  if (alone) price_labels(card);
  if (shown === card) paintLarge();
  want(card);
}
/** The buttons of an image, in its tile or in the large view: made again only when they change, so that the focus stays where it is. */
function paintActs(place, card) {
  const image = picture(card), path = place_of(image), url = str(image.url), kinds = offers(card), button = (kind, props, ...inside) => h("button", { type: "button", "data-kind": kind, ...props }, ...inside);
  const shape = JSON.stringify([card.id, card.index, kinds, path, url, card.lost, card.told, Boolean(host.can.openLinks)]);
  if (place.shape !== shape) {
    place.shape = shape;
    const focused = place.contains(document.activeElement) && document.activeElement.dataset.kind;
    place.replaceChildren(
      ...kinds.map((kind) => button(kind, { class: "btn", title: KINDS[kind].why, onclick: () => arm(card, kind) }, `${KINDS[kind].label} `, h("small"))),
      ...(card.lost && url.startsWith("https:") && host.can.openLinks ? [button("open", { class: "btn", onclick: () => request("ui/open-link", { url }).catch((e) => say(e.message)) }, "Open")] : []),
      h("span", { class: "corner" },
        path || url ? button("copy", { class: "btn icon", title: path ? "Copy path" : "Copy URL", onclick: () => copy(card, path || url, path ? "Path" : "URL") }, icon("copy"), h("span", { class: "word" }, path ? "Copy path" : "Copy URL")) : null,
        card.told && place === card.acts ? null : button("info", { class: "btn icon", title: "Request", "aria-haspopup": "dialog", onclick: () => tellRequest(card) }, icon("info"), h("span", { class: "word" }, "Request"))));
    if (focused) place.querySelector(`[data-kind="${focused}"]`)?.focus();
  }
  for (const kind of kinds) {                          // in its place: a button that is pressed while its price comes still does what it says
    const usd = prices.get(keyOf(argsFor(kind, card, "")))?.usd ?? null, cost = place.querySelector(`[data-kind="${kind}"]`).lastChild;
    cost.textContent = usd === null ? "" : money(usd); cost.hidden = usd === null;
  }
}
function facts(card) {
  const task = tasks.get(card.id), was = obj(requests.get(card.id)), image = picture(card), quoted = of_all(task, "quoted_usd"), charged = of_all(task, "charged_usd"), clear = num(image.transparent_share);
  const sources = list(task.sources).length ? task.sources : list(was.source_images), bytes = num(image.size_bytes);
  const at = (stamp) => (Date.parse(str(stamp)) ? when(Date.parse(stamp), { dateStyle: "medium", timeStyle: "short" }) : "");
  return [
    ["Asked", card.told && prompt(card.id).length < 160 ? "" : prompt(card.id)], ["Model", chain(task).map((one) => str(one.model)).join(", then ")],
    ["Shape", [str(was.aspect_ratio), str(was.output_resolution)].filter(Boolean).join(", ")],
    ["Sources", sources.map((one) => str(one) || [str(obj(one).source), str(obj(one).sent)].filter(Boolean).join(": ")).join("\n"), true],
    ["Size", [size(image), bytes === null ? "" : bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`, clear === null ? "" : `${Math.round(100 * clear)} % transparent`].filter(Boolean).join(", ")], ["Made", at(task.completed_at ?? task.created_at)],
    ["Price", [quoted === null ? "" : `quoted ${money(quoted)}`, charged === null ? "" : `${task.sandbox ? "would charge" : "charged"} ${money(charged)}`].filter(Boolean).join(", ")],
    ["Task", card.id, true], ["Workspace", folder(card.id), true], ["Saved", str(image.saved), true], ["Note", str(image.note)], ["File", str(image.path), true], ["URL until", image.url ? at(image.expires_at) : ""],
  ].filter(([, value]) => value);
}
const common = () => { const first = prompt(cards[0].id); return Boolean(first) && cards.every((card) => prompt(card.id) === first); };
function rove() {
  for (const card of cards) {
    const mine = card === current;
    card.pic.tabIndex = mine ? 0 : -1;
    for (const button of card.acts.querySelectorAll("button")) button.tabIndex = mine ? 0 : -1;
  }
}
/** Makes the children of an element these, and moves only what is not in its place. */
function fill(parent, all) {
  all.forEach((el, at) => { if (parent.children[at] !== el) parent.insertBefore(el, parent.children[at] ?? null); });
  while (parent.children.length > all.length) parent.lastChild.remove();
}
const days = new Map();                     // a day -> its section
function section(key, name, all) {
  if (!days.has(key)) days.set(key, h("section", { class: "day" }, h("h2", {}, h("span"), h("small")), h("ul", { class: "grid" })));
  const el = days.get(key), [head, grid] = el.children;
  head.hidden = !name; head.firstChild.textContent = name; head.lastChild.textContent = many(all.length, "image");
  grid.setAttribute("aria-label", name ? `Images, ${name}` : "Images");
  fill(grid, all);
  return el;
}
function ghost() {
  const shape = ratio({ id: "", index: 0 }), el = h("li", { class: `card${shape < 1.25 ? " tall" : ""}` }, h("div", { class: "pic busy" }, h("span", { class: "wait" }, h("b", {}, "Asked"))));
  el.shape = shape; el.style.setProperty("--ratio", shape);
  return el;
}
function render() {
  const full = host.context.displayMode === "fullscreen", limit = expanded || full ? Infinity : FIRST, lists = listed();
  order = lists ? cards.filter((card) => fits(card)) : cards;
  if (ghosts) fill($("days"), [section("", "", Array.from({ length: ghosts }, ghost))]);
  else {
    const groups = new Map();
    for (const card of order.slice(0, limit)) {
      const name = lists ? dayName(made_at(card)) : "";
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(card.el);
    }
    fill($("days"), [...groups].map(([name, all]) => section(name, name, all)));
    for (const card of cards) paint(card);
  }
  const count = ghosts || cards.length;
  const none = answered && !count, some = ["status", "since", "workspace", "query", "file", "task_ids"].some((name) => obj(input)[name]);
  for (const [name, is] of Object.entries({ none, one: count === 1, many: count > 1 })) $("main").classList.toggle(name, is);
  $("start").hidden = !none; $("make").hidden = none;
  const words = cards.length ? (!lists && common() ? prompt(cards[0].id) : "") : str(obj(input).prompt);
  $("title").textContent = words || (none ? (some ? "No such images" : "No images yet") : "Images"); $("title").title = words;
  const rest = order.length > limit;
  $("more").hidden = !rest && !(lists && beyond()); $("more").textContent = rest ? `Show all ${order.length}` : "Show older ones";
  $("lone").hidden = !(lists && cards.length && !order.length);
  const charged = sum("charged_usd"), open = openIds().length, are = (state) => cards.filter((card) => bucket(card) === state).length;
  const whole_list = lists && elsewhere(), price = whole_list && num(matched.charged_usd) ? (num(matched.uncharged) ? "at least " : "") + money(matched.charged_usd) : charged ? money(charged) : open && sum("quoted_usd") ? `quoted ${money(sum("quoted_usd"))}` : "";
  const states = lists && !$("tools").hidden ? [] : [open && cards.length ? `${are("ready")} ready` : "", are("failed") ? `${are("failed")} failed` : "", are("unknown") ? `${are("unknown")} not known` : ""];
  $("sum").textContent = count < 2 ? "" : [whole_list ? `${count} of ${many(matched.count, "image")}` : many(count, "image"), ...states, price].filter(Boolean).join(" · ");
  const ended = [...run].filter((id) => !tasks.get(id).open).length;
  $("bar").hidden = !open;
  $("bar").setAttribute("aria-valuemax", run.size); $("bar").setAttribute("aria-valuenow", ended); $("bar").firstChild.style.width = `${(100 * ended) / (run.size || 1)}%`;
  paintTools(); settle(); rove();
}
/** Gives the tiles their sizes: rows as wide as the page, each of one height that is near to what is aimed at. The last is not stretched. */
function settle() {
  const room = Math.floor($("days").getBoundingClientRect().width), count = ghosts || order.length;
  if (!room || !$("main").classList.contains("many")) return;
  const aim = listed() || count > 4 ? 130 + room * 0.085 : Math.min(400, room * (count === 3 ? 0.31 : 0.46));
  for (const grid of $("days").querySelectorAll(".grid")) {
    let row = [], shapes = 0;
    const high = (more, wide) => (room - GAP * (row.length + more - 1)) / (shapes + wide);
    const end = (height) => {
      for (const el of row) { el.style.setProperty("--h", `${height.toFixed(1)}px`); el.style.setProperty("--w", `${Math.floor(height * el.shape * 10) / 10}px`); }
      row = []; shapes = 0;
    };
    for (const el of grid.children) {
      const now = high(0, 0), next = high(1, el.shape);
      if (row.length && next < aim && now / aim < aim / next) end(now);
      row.push(el); shapes += el.shape;
      if (high(0, 0) <= aim) end(high(0, 0));
    }
    if (row.length) end(Math.min(high(0, 0), high(0, 0) < aim * 1.25 ? Infinity : aim));
  }
}
new ResizeObserver(settle).observe($("days"));
$("begin").onclick = $("make").onclick = () => arm(null, "first");
const sum = (field) => [...tasks.values()].flatMap(chain).reduce((all, task) => all + (num(task[field]) ?? 0), 0);
$("more").onclick = async () => {
  const next = order.length;
  if (order.length > FIRST && !expanded && host.context.displayMode !== "fullscreen") { expanded = true; render(); return step(order[FIRST]); }
  await load(); step(order[next]);
};

// ---- keyboard: one stop for the grid, arrows inside ----
function step(card) { if (card) { current = card; rove(); card.pic.focus(); } }
function beside(key) {
  const here = order.filter((card) => card.el.isConnected), at = here.indexOf(current);
  if (key === "ArrowRight") return here[at + 1];
  if (key === "ArrowLeft") return here[at - 1];
  if (key === "Home") return here[0];
  if (key === "End") return here.at(-1);
  const x = current.el.offsetLeft, y = current.el.offsetTop, down = key === "ArrowDown";
  const rows = here.filter((card) => (down ? card.el.offsetTop > y : card.el.offsetTop < y));
  const row = rows.length && rows.at(down ? 0 : -1).el.offsetTop;
  const middle = ({ el }) => Math.abs(el.offsetLeft + el.offsetWidth / 2 - x - current.el.offsetWidth / 2);
  return rows.filter((card) => card.el.offsetTop === row).sort((a, b) => middle(a) - middle(b))[0];
}
$("days").addEventListener("keydown", (event) => {
  if (!event.target.matches(".pic") || event.altKey || event.ctrlKey || event.metaKey || !/^(Arrow|Home|End)/.test(event.key)) return;
  event.preventDefault(); step(beside(event.key));
});

// ---- the large view: laid over what the user sees of this frame, which may be much taller than the window ----
let shown = null;
/** What the user sees of this frame: it may be much taller than the window. */
async function inSight() {
  const seen = await new Promise((resolve) => { const eye = new IntersectionObserver(([entry]) => { eye.disconnect(); resolve(entry.intersectionRect); }); eye.observe(document.documentElement); });
  const fits = seen.height >= 260;
  return { top: fits ? Math.max(0, seen.top) : 0, tall: fits ? seen.height : Math.min(innerHeight, 640) };
}
async function show(card) {
  if (card.lost) { card.lost = ""; card.seen = true; return paint(card); }
  if (!ready(card)) return;
  if (!$("box").open) { $("box").showModal(); $("close").focus(); lay(); }
  shown = card; current = card;
  $("large").alt = describe(card);
  if (card.big || card.url) $("large").src = card.big || card.url; else $("large").removeAttribute("src");
  paintLarge(); price_labels(card);
  if (!card.big) try { card.big = await read(card.id, card.index, LARGE); if (shown === card) $("large").src = card.big; } catch { card.big = card.url; }
}
function paintLarge() {
  const usd = of_all(obj(tasks.get(shown.id)), "charged_usd");
  $("what").textContent = prompt(shown.id);
  $("facts").textContent = [shown.hint || `${order.indexOf(shown) + 1} of ${order.length}`, size(picture(shown)), usd === null ? "" : money(usd), listed() ? when(made_at(shown), { dateStyle: "medium", timeStyle: "short" }) : ""].filter(Boolean).join(" · ");
  $("odd").textContent = odd(picture(shown)); $("odd").hidden = !odd(picture(shown));
  $("prev").hidden = $("next").hidden = order.filter(ready).length < 2;
  paintActs($("deeds"), shown);
}
const ready = (card) => bucket(card) === "ready" && !card.lost;
function turn(by) {
  const all = order.filter(ready), at = all.indexOf(shown);
  if (all.length > 1) { show(all[(at + by + all.length) % all.length]); say(describe(shown)); }
}
$("prev").append(icon("left")); $("prev").setAttribute("aria-label", "Previous image"); $("prev").onclick = () => turn(-1);
$("next").append(icon("right")); $("next").setAttribute("aria-label", "Next image"); $("next").onclick = () => turn(1);
$("full").append(icon("full"));
$("close").onclick = () => $("box").close();
$("box").addEventListener("keydown", (event) => { if (event.key === "ArrowLeft") turn(-1); if (event.key === "ArrowRight") turn(1); });
$("box").addEventListener("close", () => { lay(); const card = shown; shown = null; if (card) { if (!card.el.isConnected) { expanded = true; render(); } step(card); } });

// ---- hello ----
let told = 0;
new ResizeObserver(() => {
  const height = Math.ceil(document.body.getBoundingClientRect().height);
  if (host.ready && height !== told) { told = height; notify("ui/notifications/size-changed", { height }); }
}).observe(document.body);
request("ui/initialize", {
  appInfo: { name: "flux-2-gallery", version: "1.0.0" }, appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] }, protocolVersion: "2026-01-26",
}).then(({ hostCapabilities, hostContext }) => {
  host.can = obj(hostCapabilities); host.ready = true;
  dress(obj(hostContext));
  notify("ui/notifications/initialized");
  told = Math.ceil(document.body.getBoundingClientRect().height);
  notify("ui/notifications/size-changed", { height: told });
}, () => trouble("This host did not answer."));
