// ---- the project's plan: what flux2.toml wants that is not there, what that costs, and a button that makes it ----
const plan = { data: null, looking: false };
const STANDINGS = { new: "New", changed: "Changed", missing: "Missing", edited: "Edited", moved: "Moved", derive: "Sizes", unnamed: "Unnamed" };
const manifest = () => str(obj(input).manifest);
const doable = () => list(obj(plan.data).images).map(obj).filter((one) => !one.kept && !one.blocked);
/** Asks the server how the project stands. Nothing is made. */
async function look_at_plan() {
  if (!manifest() || !host.can.serverTools || plan.looking) return;
  plan.looking = true;
  try {
    const result = await callTool("check_pricing", { manifest: manifest() }), data = result.isError ? null : body(result, "prices");
    if (data?.plan) plan.data = obj(data.plan);
  } catch { /* what was told before stays */ }
  plan.looking = false;
  paint_plan();
}
function about(one) {
  const files = list(one.derive).length, from = list(one.waits_for).map(str).join(", ");
  const words = [list(one.changed).map(str).join(", "), one.moved_from ? `was ${str(one.moved_from)}` : "", from && `from ${from}`, files ? `${many(files, "file")} from it` : "", one.kept ? "stays as it is" : one.blocked ? "can't be made" : ""];
  return words.filter(Boolean).join("; ");
}
function paint_plan() {
  const { counts, images, current, usd, unpriced, more } = obj(plan.data), todo = list(images).map(obj);
  $("plan").hidden = !plan.data || !todo.length;
  const stand = Object.entries(obj(counts)).map(([name, n]) => `${num(n)} ${name}`);
  const cost = num(usd) === null ? (num(unpriced) ? `${unpriced} without a published price` : "") : usd ? money(usd) : "nothing is paid";
  $("plan-sum").textContent = [stand.join(", "), num(current) ? `${current} current` : "", cost].filter(Boolean).join(" · ");
  $("plan-name").textContent = str(obj(plan.data).manifest);
  $("plan-list").replaceChildren(...todo.map((one) => h("li", {}, h("b", { class: str(one.standing) }, STANDINGS[one.standing] ?? str(one.standing)), h("span", { class: "mono" }, str(one.path)), h("span", { class: "why" }, about(one)), h("span", { class: "usd" }, num(one.usd) && !one.kept && !one.blocked ? money(one.usd) : ""))),
    ...(num(more) ? [h("li", {}, `and ${more} more`)] : []));
  $("apply").hidden = !doable().length;
}
$("apply").onclick = () => arm(null, "plan");
