// ---- pictures: read through the host, a few at a time, when they come into sight; data: is what every host's policy allows ----
const queue = [];
let reading = 0;
const sight = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) { target.card.seen = isIntersecting; if (isIntersecting) want(target.card); }
}, { rootMargin: "400px" });
async function read(id, index, max) {
  if (!host.can.serverResources) throw new Error("This host shows no pictures here.");
  const { contents } = await request("resources/read", { uri: `flux2://images/${encodeURIComponent(id)}?max=${max}` });
  const { blob, mimeType } = obj(list(contents)[index]);
  if (!/^image\/(png|jpeg|webp)$/.test(mimeType) || !/^[A-Za-z0-9+/]+={0,2}$/.test(blob)) throw new Error("That was no picture.");
  return `data:${mimeType};base64,${blob}`;
}
function want(card) {
  if (card.url || card.wanted || card.lost || !card.seen || tasks.get(card.id).open || tasks.get(card.id).status !== "completed") return;
  card.wanted = true; queue.push(card); pump();
}
function pump() {
  while (alive && reading < READS && queue.length) {
    const card = queue.shift();
    if (!card.seen) { card.wanted = false; continue; }   // scrolled past: its turn comes when it is seen again
    reading += 1;
    read(card.id, card.index, PREVIEW)
      .then(async (url) => { card.img.src = url; await card.img.decode(); card.url = url; })
      .catch((error) => { card.lost = error.message || "The picture can't be read."; card.img.removeAttribute("src"); })
      .finally(() => { reading -= 1; card.wanted = false; paint(card); pump(); });
  }
}

// ---- what a button asks for. Sources are task ids: they outlive the URL ----
const KINDS = {
  remix: { label: "Remix", verb: "Remix", title: "Remix this image", why: "A new image from this one. It stays as it is.", ask: "What should change?" },
  vary: { label: "Vary", verb: "Vary", title: "One more like this", why: "The same request once more: another picture of the same words." },
  large: { label: "Upscale to 2k", verb: "Upscale", title: "Upscale to 2k", why: "Draws this image again at 2k with it as the source: a new image of about 2048 pixels. Small details may differ." },
  first: { verb: "Make it", title: "Make an image", why: "What it shows, in which light, in which style.", ask: "What should it show?" },
  plan: { verb: "Make them", title: "Make the project's pictures", why: "What flux2.toml wants and is not there. A file that was edited by hand stays as it is." },
  again: { label: "Try again", verb: "Try again", title: "Ask once more", why: "The same request once more." },
};
function argsFor(kind, card, change) {
  if (kind === "plan") return { manifest: manifest() };
  if (kind === "first") return { prompt: change, variant: "pro" };
  const task = tasks.get(card.id), was = obj(requests.get(card.id)), same = {};
  for (const name of ["source_images", "aspect_ratio", "output_resolution", "enable_safety_checker"]) if (was[name] != null && was[name].length !== 0) same[name] = was[name];
  const variant = (!finished(task) && str(task.variant)) || "pro", source_images = [`task:${card.id}`];
  if (kind === "vary" || kind === "again") return { prompt: asked_for(card.id), variant, ...same };
  const safety = same.enable_safety_checker == null ? {} : { enable_safety_checker: same.enable_safety_checker };
  if (kind === "remix") {
    if (variant === "max") return { prompt: change, variant, source_images, aspect_ratio: nearest(ratio(card)) };
    return { prompt: change, variant, source_images, aspect_ratio: "auto", output_resolution: resolution(card.id), ...safety };
  }
  const words = "The same image again at a higher resolution, with finer detail. Keep composition, colours, lettering and every element as they are.";
  const shows = prompt(card.id) ? ` It shows: ${prompt(card.id)}` : "";
  return { prompt: (words + shows).slice(0, 5000), variant: variant === "max" ? "pro" : variant, source_images, aspect_ratio: "auto", output_resolution: "2k", ...safety };
}
function nearest(wanted) {
  const off = (name) => { const [w, t] = name.split(":").map(Number); return Math.abs(Math.log(w / t / wanted)); };
  return ["1:1", "4:3", "3:4", "16:9", "9:16", "3:2", "2:3"].reduce((best, name) => (off(name) < off(best) ? name : best));
}
const keyOf = (args) => priced(args.variant, args.source_images ? "remix_image" : "text_to_image", args.output_resolution || "1k");
/** What it costs now. Where nobody can be asked: what the last answer said; null, where there was none. */
async function priceOf(args) {
  if (args.manifest) { await look_at_plan(); return plan.data && { usd: num(plan.data.usd) }; }
  const key = keyOf(args), [variant, action, output_resolution] = key.split(" ");
  if (host.can.serverTools) try {
    const result = await callTool("check_pricing", { variant, action, output_resolution }), data = result.isError ? null : body(result, "prices"), { usd, model } = obj(obj(data).estimate);
    if (data) prices.set(key, { usd: num(usd), made_up: data.prices.map(obj).some((one) => one.model === model && one.source === "invented") });
  } catch { /* then it is not known, and said so */ }
  return prices.get(key) ?? null;
}
function offers(card) {
  const task = tasks.get(card.id), image = picture(card);
  if (task.status !== "completed") return task.status === "failed" && asked_for(card.id) && !finished(task) ? ["again"] : [];
  if (finished(task)) return ["remix"];
  const longest = Math.max(num(image.width) ?? 0, num(image.height) ?? 0);
  return ["remix", asked_for(card.id) ? "vary" : null, longest < 1600 && resolution(card.id) !== "2k" ? "large" : null].filter(Boolean);
}

/** What the buttons cost that need no words is asked once for each kind of image, when they come into sight. */
const looked = new Set();
async function price_labels(card) {
  for (const kind of offers(card)) {
    const args = argsFor(kind, card, ""), key = keyOf(args);
    if (KINDS[kind].ask || looked.has(key) || prices.has(key)) continue;
    looked.add(key);
    if (await priceOf(args)) for (const one of cards) paint(one);
  }
}

/** The second step of a button that spends: says what, for how much, and waits for its own click. No form: hosts' sandboxes stop them. */
function arm(card, kind) {
  const { title, verb, why, ask } = KINDS[kind];
  const words = ask && h("textarea", { rows: 3, maxlength: 5000, "aria-label": ask, placeholder: ask });
  const most = h("input", { type: "number", min: 0.01, max: 1000, step: 0.01, "aria-label": "The most it may cost, in USD", hidden: true });
  const cost = h("p", { class: "cost", role: "status" }, "Asking for the price …"), wrong = h("p", { class: "warn", role: "alert", hidden: true });
  const go = h("button", { class: "btn go", type: "button", disabled: true, onclick: () => spend() }, verb);
  const chat = h("button", { class: "btn", type: "button", hidden: true, onclick: () => inChat(args(), false) }, "Ask in the chat instead");
  const cancel = h("button", { class: "btn", type: "button", onclick: () => $("panel").close() }, "Cancel");
  const head = h("div", {}, h("h2", { id: "panel-title" }, title), h("p", {}, why));
  const sheet = h("div", { class: "sheet", tabindex: -1 },
    card?.url ? h("div", { class: "from" }, h("img", { src: card.url, alt: "" }), head) : head, words, cost, most, wrong, h("div", { class: "row" }, chat, cancel, go));
  let usd = null, ready = false, minted = {};
  const cap = () => usd ?? (most.validity.valid && most.value ? most.valueAsNumber : null);
  function ripe() {
    go.disabled = !ready || cap() === null || Boolean(words && words.value.trim().length < 3);
    if (ready) go.textContent = !cap() ? verb : `${verb} for ${usd === null ? "at most " : ""}${money(cap())}`;
  }
  function args() {
    const plain = argsFor(kind, card, words && words.value.trim());
    if (plain.manifest) return { ...plain, wait_seconds: 0, max_cost_usd: cap() };   // its pictures have their keys
    const all = { ...plain, count: 1, wait_seconds: 0, max_cost_usd: cap() };
    // One key for one wish: pressed again after a lost answer, or asked again in the chat, it is paid once.
    const wish = JSON.stringify(all);
    if (minted.wish !== wish) minted = { wish, key: "gallery-" + [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("") };
    return { ...all, idempotency_key: minted.key };
  }
  function fail(message, elsewhere) {
    wrong.textContent = message; wrong.hidden = false; chat.hidden = !(elsewhere && host.can.message);
    ready = true; ripe();
  }
  async function inChat(wanted) {
    chat.disabled = true;
    try {
      const text = `Please call generate of the server flux-2 with exactly these arguments; I have agreed to pay ${usd === null ? "at most " : ""}${money(cap())}: ${JSON.stringify(wanted)}`;
      const { isError } = await request("ui/message", { role: "user", content: [{ type: "text", text }] });
      if (isError) throw new Error("The host did not take the message.");
      $("panel").close(); say("Asked in the chat.");
      if (card) { card.hint = "Asked in the chat"; paint(card); } else note("Asked in the chat.");
    } catch (error) { chat.disabled = false; fail(error.message, true); }
  }
  async function spend() {
    const wanted = args();
    ready = false; ripe(); wrong.hidden = true; go.textContent = "Sending …";
    if (!host.can.serverTools) return host.can.message ? inChat(wanted) : fail("This host lets the gallery neither call tools nor write in the chat.", false);
    let result;
    try { result = await callTool("generate", wanted); } catch (error) {
      if (error.code === -32601 && host.can.message) return inChat(wanted);
      return fail(`${error.message} Pressing again is safe: it is paid once.`, true);
    }
    if (!body(result)) return fail(said(result) || "The server refused.", false);
    for (const task of body(result).tasks) made.add(str(obj(task).task_id));
    $("panel").close(); $("box").close();
    arrived(result, wanted, true); noted(body(result));
    const fresh = cards.find((one) => made.has(one.id));
    if (fresh && !fits(fresh)) reset();
    if (fresh) step(fresh);
    say(`${title}: under way, for ${usd === null ? "at most " : ""}${money(wanted.max_cost_usd)}.`);
    tellModel();
    if (wanted.manifest) look_at_plan();
  }
  for (const field of [words, most]) field?.addEventListener("input", ripe);
  over(sheet, words ?? sheet);
  Promise.all([priceOf(argsFor(kind, card, "")), pause(ARMED_AFTER)]).then(([found]) => {
    usd = found?.usd ?? null; ready = true; most.hidden = usd !== null;
    cost.textContent = usd === null ? "Its price is not known here. The most it may cost, in USD:" : usd === 0 ? "Nothing is paid." : `Costs ${money(usd)}, and never more.${found.made_up ? " The sandbox made this price up." : ""}`;
    ripe(); render();
  });
}
/** Opens the panel with what it holds, over the page: no row of it moves. */
function over(sheet, first) {
  const panel = $("panel");
  panel.replaceChildren(sheet);
  if (!panel.open) panel.showModal();
  first.focus();
  panel.style.opacity = 0;
  lay().then(() => { panel.style.opacity = ""; });
}
/** Puts what is open where the user sees it. A frame that is lower than that grows. */
async function lay() {
  const box = $("box"), panel = $("panel");
  document.body.style.minHeight = `${Math.max(box.open ? LEAST : 0, panel.open ? panel.scrollHeight + 32 : 0)}px`;
  if (!box.open && !panel.open) return;
  const { top, tall } = await inSight();
  box.style.top = `${top}px`; box.style.height = `${tall}px`;
  panel.style.maxHeight = `${tall - 16}px`; panel.style.top = `${top + Math.max(8, (tall - panel.offsetHeight) / 3)}px`;
}
addEventListener("resize", lay);
$("panel").addEventListener("close", () => { lay(); $("panel").replaceChildren(); if (document.activeElement === document.body && current) step(current); });
function tellRequest(card) {
  const close = h("button", { class: "btn", type: "button", onclick: () => $("panel").close() }, "Close");
  over(h("div", { class: "sheet" }, h("h2", { id: "panel-title" }, `Request of image ${order.indexOf(card) + 1}`), story(card), h("div", { class: "row" }, close)), close);
}
const story = (card) => h("dl", { class: "req" }, ...facts(card).flatMap(([name, value, mono]) => [h("dt", {}, name), h("dd", mono ? { class: "mono", tabindex: 0 } : {}, value)]));
function tellModel() {
  if (!host.can.updateModelContext) return;
  const lines = [...made].map((id) => {
    const task = obj(tasks.get(id)), image = obj(list(task.images)[0]);
    return `${id}: ${str(task.status)}${place_of(image) ? `, ${place_of(image)}` : ""}`;
  });
  request("ui/update-model-context", { content: [{ type: "text", text: `In the gallery the user had these made, already paid for; don't generate them again:\n${lines.join("\n")}` }] }).catch(() => {});
}
async function copy(card, words, what) {
  let done = false;
  try { await navigator.clipboard.writeText(words); done = true; } catch {
    const field = h("textarea", { class: "said", readonly: true });
    const focused = document.activeElement;
    field.value = words; (document.querySelector("dialog[open]") ?? document.body).append(field); field.select();
    done = document.execCommand("copy"); field.remove(); focused.focus();
  }
  if (!done) tellRequest(card);             // there it can be copied by hand
  card.hint = done ? `${what} copied` : ""; say(card.hint);
  paint(card);
  setTimeout(() => { card.hint = ""; paint(card); }, 2500);
}
