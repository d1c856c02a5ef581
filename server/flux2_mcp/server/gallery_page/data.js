// ---- the data ----
let alive = true, input = null, answered = false, expanded = false, current = null, looking = false, ghosts = 0;
let cards = [];                             // one a picture; in a list the newest first
let order = [];                             // those that the filters let through
let matched = {};                           // what the server says of the whole list, of which these are a part
let found = new Set();                      // ids that the server found for the words that are searched for
const filter = { words: "", state: "", variant: "", folder: "" };
const cursors = new Map();                  // a question to the server -> where its next page begins; "" after the last
let whole = "";                             // the question for all of the list, once the server says where its next page begins
const run = new Set();                      // ids of the tasks that the bar is about
const tasks = new Map();                    // task id -> the task as last told; `open` while there is something to wait for
const requests = new Map();                 // task id -> the arguments it was asked with, where known
const made = new Set();                     // ids of tasks that were asked for here
const prices = new Map();                   // "variant action resolution" -> { usd: an image's, or null; made_up: by the sandbox }

function asked(args) {
  if (tasks.size || (input && args.task_ids)) return;   // the echo of a call of ours
  input = args;
  ghosts = str(args.prompt) ? Math.min(8, Math.max(1, num(args.count) ?? 1)) : 0;
  render();
}
/** The data of a tool's result: what has a list of this name. */
function body(result, name = "tasks") {
  if (Array.isArray(obj(result.structuredContent)[name])) return result.structuredContent;
  for (const block of list(result.content)) {           // some hosts drop the structured form: the same stands in a text
    if (str(obj(block).text).startsWith("{")) try {
      const data = JSON.parse(block.text);
      if (Array.isArray(data[name])) return data;
    } catch { /* words that begin with a brace */ }
  }
  return null;
}
const said = (result) => list(result.content).map((block) => str(obj(block).text)).filter(Boolean).join(" ");

/** Takes a tool's result in. `args` are the arguments of the generate call it answers, where it answers one. Returns the ids, or null. */
function arrived(result, args, first = false) {
  ghosts = 0;
  const data = body(result);                // an error that has tasks is a generation that failed
  if (!data) { trouble(said(result) || "There is nothing to show."); render(); return null; }
  answered = true;
  const told = obj(obj(result._meta)["flux-2/requests"]);
  const unfinished = list(obj(obj(data.next_action).arguments).task_ids);   // also those that are done but not on disk yet
  const ids = [];
  for (const each of data.tasks.map(obj)) {
    const id = str(each.task_id), before = tasks.get(id), task = { ...each, sandbox: data.sandbox === true, open: OPEN.has(each.status) || unfinished.includes(id) };
    if (!id) continue;
    ids.push(id);
    if (before?.status === "completed" && OPEN.has(task.status)) continue;    // an older answer that was overtaken
    tasks.set(id, task);
    if (task.open || !listed()) run.add(id);
    if (before && list(task.images).some((image) => str(obj(image).path)) && !list(before.images).some((image) => str(obj(image).path))) {
      for (const card of cards) if (card.id === id) card.lost = "";
    }
    const known = Object.hasOwn(told, id) ? obj(told[id]) : requests.get(id) ?? (str(obj(args).prompt) ? args : null);
    if (known) requests.set(id, known);
    // The answer to a generate tells a price of now. What a list has may be of any age.
    if (num(task.quoted_usd) !== null && str(obj(args).prompt)) prices.set(priced(task.variant, task.action, resolution(id)), { usd: task.quoted_usd });
    if (before?.open && !task.open) announce(id, task);
  }
  place(ids, first);
  if (!openIds().length && run.size) { run.clear(); look_at_plan(); }
  trouble("");
  render();
  look();
  return ids;
}
/** Above the images: what was said with the host's result or a generate. A look, a page or a search does not change it. */
function noted(data) { if (data) note(str(data.notice)); }
function note(words) { $("note").textContent = words; $("note").hidden = !words; }
function place(ids, first) {
  const fresh = [];
  for (const id of ids) {
    const pictures = Math.max(1, list(tasks.get(id).images).length);
    for (let index = 0; index < pictures; index++) {
      if (!cards.some((card) => card.id === id && card.index === index)) fresh.push(card(id, index));
    }
  }
  cards = first ? [...fresh, ...cards] : [...cards, ...fresh];
  if (listed()) cards.sort((a, b) => made_at(b) - made_at(a));
  current ??= cards[0] ?? null;
}
function announce(id, task) {
  const at = cards.findIndex((card) => card.id === id) + 1;
  say(`Image ${at} of ${cards.length}: ${STATES[task.status] ?? str(task.status)}. ${str(task.error)}`);
  if (made.has(id)) tellModel();
}
function cancelled(reason) {
  ghosts = 0; render();
  if (!tasks.size) trouble(`The call was cancelled${reason ? ` (${reason})` : ""}. What was already sent runs on: ask for check_task to see it.`, false);
}
function trouble(words, again = false) {
  $("trouble").hidden = !words;
  $("trouble").firstChild.textContent = words;
  $("again").hidden = !again;
  if (words) say(words);
}
/** The tasks that led to a picture, its own last. In a list each stands by itself. */
const chain = (task) => [...list(task.steps).map(obj), task];
/** What they cost together; null while an amount is not known. */
function of_all(task, field) {
  const all = chain(task).map((one) => num(one[field]));
  return all.includes(null) ? null : all.reduce((sum, usd) => sum + usd, 0);
}
/** Whether its last task worked on a picture and not on words: it has no variant to ask again with. */
const finished = (task) => !["", "text_to_image", "remix_image"].includes(str(task.action));
const resolution = (id) => str(obj(requests.get(id)).output_resolution) || "1k";
const priced = (variant, action, size) => `${str(variant)} ${str(action)} ${size}`;
const place_of = (image) => str(image.saved) || str(image.path);   // the copy in the user's workspace, where there is one
const picture = (card) => obj(list(obj(tasks.get(card.id)).images)[card.index]);
const asked_for = (id) => str(obj(requests.get(id)).prompt);       // all of it: this can be asked for again
const prompt = (id) => asked_for(id) || str(obj(tasks.get(id)).prompt);
const folder = (id) => str(obj(requests.get(id)).workspace);
const made_at = (card) => Date.parse(str(tasks.get(card.id).created_at)) || card.born;
/** Whether these are a list of what was made, whenever that was, and not the answer to one call. */
const listed = () => cards.length !== 1 && !str(obj(input).prompt) && !list(obj(input).task_ids).length;
const formats = new Map();
/** A moment in the host's language and time zone. */
function when(ms, options, locale = host.locale) {
  const key = JSON.stringify([locale, host.zone, options]);
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(locale, { timeZone: host.zone, ...options }));
  return formats.get(key).format(ms);
}
const day = (ms) => when(ms, { dateStyle: "short" }, "en-CA");
function dayName(ms) {
  const now = Date.now(), key = day(ms);
  if (key === day(now)) return "Today";
  if (key === day(now - 864e5)) return "Yesterday";
  return when(ms, { weekday: "long", day: "numeric", month: "long", ...(key.slice(0, 4) === day(now).slice(0, 4) ? {} : { year: "numeric" }) });
}
function ratio(card) {
  const { width, height } = picture(card), [w, t] = str(obj(requests.get(card.id) ?? input).aspect_ratio).split(":").map(Number);
  if (num(width) && num(height)) return width / height;
  return w > 0 && t > 0 ? w / t : 1;
}
const odd = (image) => (image.matches_request === false ? `Not as asked. ${str(image.mismatch)}`.trim() : "");
const size = (image) => (num(image.width) && num(image.height) ? `${image.width} × ${image.height}` : "");
function describe(card) {
  const words = prompt(card.id) || "Image", px = size(picture(card));
  return `${words}${px ? `, ${px} pixels` : ""}`;
}

// ---- looking after open tasks: one check_task at a time, until they end, the page goes, or the patience does ----
const openIds = () => [...tasks].filter(([, task]) => task.open).map(([id]) => id);
async function look() {
  if (looking || !openIds().length) return;
  if (!host.can.serverTools) return trouble("This host doesn't let the gallery ask how the images stand. Ask for check_task in the chat.");
  looking = true;
  const until = Date.now() + PATIENCE;
  let failures = 0, rounds = 0;
  while (alive && openIds().length) {
    if (document.hidden) { await pause(1000); continue; }
    if (Date.now() > until || failures === 3) { trouble(failures ? "The gallery can't reach the server now." : "This takes unusually long.", true); break; }
    const began = Date.now();
    try {
      const result = await callTool("check_task", { task_ids: openIds().slice(0, MOST_IDS), wait_seconds: rounds < 12 ? 5 : 15 });
      if (!alive) break;
      failures = !result.isError && arrived(result, null) ? 0 : failures + 1;
    } catch { failures += 1; }
    rounds += 1;
    // The server waits for us; where it answers at once, we wait, longer each time.
    if (openIds().length) await pause(Date.now() - began > 3000 ? 1000 : Math.min(15e3, 1000 * 1.4 ** Math.min(rounds, 9)) * (1 + failures));
  }
  looking = false;
}
// ---- search and filters: over what is here at once, and in the server where it has more ----
const bucket = (card) => { const { open, status } = tasks.get(card.id); return open ? "running" : status === "completed" ? "ready" : status === "failed" ? "failed" : "unknown"; };
const filtered = () => Object.values(filter).some(Boolean);
function fits(card, state = filter.state) {
  const task = tasks.get(card.id), words = filter.words.toLowerCase();
  return (!state || bucket(card) === state) && (!filter.variant || task.variant === filter.variant) && (!filter.folder || folder(card.id) === filter.folder)
    && (!words || found.has(card.id) || [prompt(card.id), card.id, place_of(picture(card))].some((text) => text.toLowerCase().includes(words)));
}
function question() {
  const { status, since, workspace, query, file } = obj(input), all = { status: STATUS[filter.state] ?? status, since, workspace: filter.folder || workspace, query: filter.words || query, file };
  return { limit: PAGE, ...Object.fromEntries(Object.entries(all).filter(([, value]) => value)) };
}
function counted(data) {
  if (!Object.hasOwn(obj(data), "matched")) return;
  matched = obj(data.matched);
  if (!filtered() && !whole) { whole = JSON.stringify(question()); cursors.set(whole, str(matched.before)); }
}
const elsewhere = () => num(matched.count) > tasks.size;                  // the server has more than is here
/** How many tasks of the whole list are in a state. */
const counts_of = (state) => Object.entries(obj(matched.by_status)).reduce((all, [status, n]) => all + (!state || (OPEN.has(status) ? "running" : STATUS[state] === status ? state : "") === state ? num(n) ?? 0 : 0), 0);
/** Whether the server has images that fit and are not here. A server that says nothing of the whole list is not asked. */
const beyond = () => Boolean(whole && cursors.get(whole) && cursors.get(JSON.stringify(question())) !== "" && host.can.serverTools);
async function load() {
  const asking = question(), key = JSON.stringify(asking), before = cursors.get(key);
  $("more").disabled = true;
  try {
    const result = await callTool("check_task", { ...asking, ...(before ? { before } : {}) }), data = body(result);
    if (!data) throw new Error(said(result));
    cursors.set(key, str(obj(data.matched).before));
    const ids = arrived(result, null);
    if (asking.query === filter.words) for (const id of ids) found.add(id);
  } catch (error) { trouble(error.message || "The server can't be asked for more."); }
  $("more").disabled = false; render();
}
let typing = 0;
function choose(name, value) {
  if (name === "words") found = new Set();
  filter[name] = value; render();
  say(`${many(order.length, "image")} shown`);
  clearTimeout(typing);
  if (filtered() && beyond() && !cursors.has(JSON.stringify(question()))) typing = setTimeout(load, 300);
}
function reset() { Object.assign(filter, { words: "", state: "", variant: "", folder: "" }); $("words").value = ""; render(); }
$("words").oninput = ({ target }) => choose("words", target.value.trim());
for (const name of ["variant", "folder"]) $(name).onchange = ({ target }) => choose(name, target.value);
$("states").append(...KEPT.map(([state, name]) => h("button", { class: "chip", type: "button", onclick: () => choose("state", state) }, state && h("i", { class: state, "aria-hidden": "true" }), `${name} `, h("small"))));
$("clear").onclick = () => { reset(); $("words").focus(); };
function paintTools() {
  $("tools").hidden = !(listed() && (cards.length > 3 || filtered()));
  const others = cards.filter((card) => fits(card, "")), more = elsewhere() && !filter.words && !filter.variant && !filter.folder;
  const counts = KEPT.map(([state]) => (more ? counts_of(state) : state ? others.filter((card) => bucket(card) === state).length : others.length));
  const there = new Set(cards.map(bucket));
  $("states").hidden = !more && !filter.state && there.size < 2;
  KEPT.forEach(([state], at) => {
    const chip = $("states").children[at];
    chip.hidden = Boolean(state) && !there.has(state) && !counts[at] && filter.state !== state;
    chip.setAttribute("aria-pressed", String(filter.state === state)); chip.lastChild.textContent = counts[at];
  });
  for (const [name, every, values, label] of [
    ["variant", "All variants", cards.map((card) => str(tasks.get(card.id).variant)), (value) => value],
    ["folder", "All workspaces", cards.map((card) => folder(card.id)), (value) => value.split(/[\\/]/).filter(Boolean).at(-1) ?? value],
  ]) {
    const select = $(name), options = ["", ...[...new Set(values)].filter(Boolean).sort()], key = options.join("\n");
    select.hidden = options.length < 3 && !filter[name];
    if (select.key !== key) select.replaceChildren(...options.map((value) => h("option", { value, title: value }, value ? label(value) : every)));
    select.key = key; select.value = filter[name];
  }
}
$("again").onclick = () => { trouble(""); look(); };
setInterval(() => { for (const card of cards) clock(card); }, 1000);
function clock(card) {
  const task = tasks.get(card.id), at = Date.parse(str(task.created_at));
  if (!task.open) return;
  const seconds = Math.floor((Date.now() - (at <= Date.now() && Date.now() - at < 6 * 3600e3 ? at : card.born)) / 1000);
  card.clock.textContent = seconds < 100 ? `${seconds} s` : `${Math.floor(seconds / 60)} min`;
}
