// What arrives is data: it is shown with textContent, used as an argument, or dropped. Nothing here loads anything from outside.
const PREVIEW = 768, LARGE = 1536;         // pixels of the longer side, asked of flux2://images
const FIRST = 12;                          // images shown before "Show all"
const PAGE = 50;                           // tasks asked of the server at a time
const LEAST = 520;                         // px of height that the large view wants of its frame
const GAP = 10;                            // px between the tiles of a row, as in the styles
const READS = 4;                           // reads under way at a time
const MOST_IDS = 64;                       // that check_task takes
const PATIENCE = 30 * 60e3;                // ms of looking after open tasks before the user is asked
const ANSWER_WITHIN = 120e3;               // ms until a call counts as unanswered
const ARMED_AFTER = 500;                   // ms before a second click can spend: a double click must not
const OPEN = new Set(["submitting", "pending", "processing"]);
const STATES = { submitting: "Sending", pending: "Queued", processing: "Painting", completed: "Ready", failed: "Failed", unknown: "Not known" };
const KEPT = [["", "All"], ["running", "Running"], ["ready", "Ready"], ["failed", "Failed"], ["unknown", "Not known"]];   // what the filter by state offers
const STATUS = { ready: "completed", failed: "failed", unknown: "unknown" };   // the same in the server's words, where it has one
const ICONS = {
  copy: "M6 6V3.5h6.5V11H10M3.5 6H10v6.5H3.5z", info: "M3 4h10M3 8h10M3 12h6", left: "M10 3 5 8l5 5", right: "M6 3l5 5-5 5",
  full: "M3 6.5V3h3.5M13 6.5V3H9.5M3 9.5V13h3.5M13 9.5V13H9.5",
};
const $ = (id) => document.getElementById(id);
const str = (value) => (typeof value === "string" ? value : "");
const num = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
const list = (value) => (Array.isArray(value) ? value : []);
const obj = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : {});
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const money = (usd) => "$" + usd.toFixed(4).replace(/0{1,2}$/, "");
const many = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const say = (words) => { $("said").textContent = words; };

function h(tag, props = {}, ...children) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") el.className = value;
    else if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else if (value === true) el.setAttribute(name, "");
    else if (value !== false && value != null) el.setAttribute(name, String(value));
  }
  el.append(...children.filter((child) => child != null));
  return el;
}
function icon(name) {
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg"), path = document.createElementNS(ns, "path");
  svg.setAttribute("viewBox", "0 0 16 16"); svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]); svg.append(path);
  return svg;
}

// ---- the host: JSON-RPC 2.0 over postMessage, as MCP Apps (2026-01-26) has it ----
const host = { can: {}, context: {} };
const waiting = new Map();
let lastId = 0;
const post = (message) => window.parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
const notify = (method, params = {}) => post({ method, params });
function request(method, params = {}) {
  const id = ++lastId;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => { waiting.delete(id); reject(Object.assign(new Error("The host did not answer."), { code: 0 })); }, ANSWER_WITHIN);
    waiting.set(id, { resolve, reject, timer });
    post({ id, method, params });
  });
}
const callTool = (name, args) => request("tools/call", { name, arguments: args });
const hears = {
  "ui/notifications/tool-input-partial": (params) => asked(obj(params.arguments)),
  "ui/notifications/tool-input": (params) => asked(obj(params.arguments)),
  "ui/notifications/tool-result": (params) => { counted(body(params)); arrived(params, tasks.size ? null : input, tasks.size > 0); noted(body(params)); look_at_plan(); },
  "ui/notifications/tool-cancelled": (params) => cancelled(str(params.reason)),
  "ui/notifications/host-context-changed": (params) => dress(params),
};
const answers = { ping: () => ({}), "ui/resource-teardown": () => { alive = false; return {}; } };
window.addEventListener("message", ({ source, data }) => {
  if (source !== window.parent || obj(data).jsonrpc !== "2.0") return;
  if (typeof data.method === "string") {
    if (data.id === undefined) { if (Object.hasOwn(hears, data.method)) hears[data.method](obj(data.params)); }
    else if (Object.hasOwn(answers, data.method)) post({ id: data.id, result: answers[data.method]() });
    else post({ id: data.id, error: { code: -32601, message: "Method not found" } });
    return;
  }
  const call = waiting.get(data.id);
  if (!call) return;
  waiting.delete(data.id); clearTimeout(call.timer);
  if (data.error) call.reject(Object.assign(new Error(str(data.error.message) || "The host refused."), { code: data.error.code }));
  else call.resolve(obj(data.result));
});

function dress(context) {
  Object.assign(host.context, context);
  const root = document.documentElement, { theme, styles, availableDisplayModes, displayMode, locale } = host.context;
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  root.dataset.mode = str(displayMode);
  try { if (str(locale) && new Intl.DateTimeFormat(locale)) host.locale = locale; } catch { /* no locale that is known here */ }
  try { host.zone = new Intl.DateTimeFormat(undefined, { timeZone: str(host.context.timeZone) || undefined }).resolvedOptions().timeZone; } catch { /* no zone that is known here */ }
  for (const [name, value] of Object.entries(obj(obj(styles).variables))) {
    if (/^--(color|font|border|shadow)-[a-z0-9-]+$/.test(name) && str(value)) root.style.setProperty(name, value);
  }
  const modes = list(availableDisplayModes), other = displayMode === "fullscreen" ? "inline" : "fullscreen";
  $("full").hidden = !(modes.includes("fullscreen") && modes.includes(other));
  $("full").setAttribute("aria-label", other === "fullscreen" ? "Full screen" : "Leave full screen");
  $("full").onclick = () => request("ui/request-display-mode", { mode: other }).then((done) => dress({ displayMode: done.mode }), () => {});
}
