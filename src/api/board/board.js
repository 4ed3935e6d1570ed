"use strict";

// The board. One stream of snapshots, each complete; what is drawn is always the newest.

const OBJECTIVE_S = 10;
const STALE_AFTER_MS = 3000;
const WAIT_MS = [500, 1000, 2000, 5000, 10000];
const TOKEN = "patient-notify-token";

const at = (id) => document.getElementById(id);

/** An element: attributes, then children (elements or texts, never markup). */
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "width") element.style.width = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** Texts change only when they differ: readers of screens are not told the same again. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const count = (value) => (value === null || value === undefined ? "–" : whole.format(value));
const rate = (value) =>
  value === null || value === undefined ? "–" : `${value < 10 ? value.toFixed(1) : whole.format(value)}/s`;

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

/** Time to drain. A lag that does not fall is bad news only when its topic is late or stands. */
const drain = (seconds, late) => (seconds !== -1 ? duration(seconds) : late ? "never" : "not falling");
const words = (name) => name.replaceAll("_", " ");

// One slow call of a provider looks like a stall, for a while.
const LEVEL_OF_STATE = { ok: "ok", lagging: "look", rewound: "look", stalled: "look", stopped: "late" };
const SIGN = { ok: "✓", look: "!", late: "✕" };

function levelOf(state, oldest_s) {
  const level = LEVEL_OF_STATE[state] ?? "look";
  return level === "late" || (oldest_s ?? 0) > OBJECTIVE_S ? "late" : level;
}

// --- Talking to the server ---------------------------------------------------

const token = () => sessionStorage.getItem(TOKEN) ?? "";
const headers = (more) => ({ ...(token() && { authorization: `Bearer ${token()}` }), ...more });

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers), cache: "no-store" });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ?? `the server answered ${answer.status}`);
  return body;
}

let newest_ms = 0;
let failures = 0;
let stop = new AbortController();

function live(text, level) {
  say(at("live"), text);
  at("live").className = `chip ${level}`;
}

/** Reads events until the stream ends. */
async function follow(signal) {
  const answer = await fetch("/board/events", { headers: headers(), signal, cache: "no-store" });
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    const error = new Error(body.error ?? `the server answered ${answer.status}`);
    error.status = answer.status;
    throw error;
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    let snapshot;
    for (const part of parts) {
      const lines = part.split("\n");
      const event = lines.find((line) => line.startsWith("event:"))?.slice(6).trim();
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (event === "you") greet(JSON.parse(data));
      if (event === "snapshot") snapshot = data;
    }
    if (snapshot) {
      failures = 0;
      newest_ms = Date.now();
      live("live", "ok");
      draw(JSON.parse(snapshot));
    }
  }
}

async function run() {
  for (;;) {
    const { signal } = stop;
    try {
      if (!document.hidden) await follow(signal);
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        live("not allowed", "late");
        say(at("token-problem"), token() ? error.message : "");
        if (!at("token-dialog").open) at("token-dialog").showModal();
        await new Promise((resolve) => at("token-dialog").addEventListener("close", resolve, { once: true }));
        continue;
      }
      if (!signal.aborted) live(`cut: ${error.message}`, "late");
    }
    const wait = signal.aborted || document.hidden ? 100 : WAIT_MS[Math.min(failures++, WAIT_MS.length - 1)];
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** Ends the stream; `run` begins another. */
function again() {
  stop.abort();
  stop = new AbortController();
}

setInterval(() => {
  if (!newest_ms) return;
  const age_ms = Date.now() - newest_ms;
  if (age_ms > STALE_AFTER_MS) live(`no news for ${duration(age_ms / 1000)}`, "late");
  else live("live", "ok");
}, 500);

document.addEventListener("visibilitychange", again);

let may = { may_replay: false, may_read_stories: false };
function greet(you) {
  may = you;
  say(at("you"), `${you.name}, ${you.may_replay ? "may replay" : "may look"}`);
}

at("token-open").addEventListener("click", () => at("token-dialog").showModal());
at("token-form").addEventListener("submit", () => {
  sessionStorage.setItem(TOKEN, at("token").value.trim());
  at("token").value = "";
  again();
});

// --- Drawing -----------------------------------------------------------------

function draw(snapshot) {
  drawVerdict(snapshot.verdict);
  const wanted = snapshot.wanted.data ?? [];
  for (const [name, panel] of Object.entries(snapshot.groups)) {
    drawGroup(name, panel, wanted.find((one) => name.endsWith(one.deployment)));
  }
  drawPanel("funnel", snapshot.funnel, funnelOf);
  drawPanel("providers", snapshot.providers, providersOf);
  drawPanel("queues", snapshot.queues, queuesOf);
  drawPanel("batches", snapshot.batches, batchesOf);
  drawPanel("cron", snapshot.cron, cronOf);
  drawPanel("letters", snapshot.letters, lettersOf);
}

const drawn = new Map();
function drawVerdict(verdict) {
  const text = JSON.stringify(verdict);
  if (drawn.get("verdict") === text) return;
  drawn.set("verdict", text);
  at("verdict").className = verdict.level;
  say(at("verdict-title"), `${SIGN[verdict.level]} ${verdict.title}`);
  at("verdict-lines").replaceChildren(
    ...verdict.lines.map((line) =>
      h("li", {}, h("span", { class: line.level }, `${SIGN[line.level]} `), line.text, " ",
        h("span", { class: "runbook" }, `docs/runbooks/${line.runbook}.md`))));
  document.title = `${SIGN[verdict.level]} patient-notify`;
}

function drawPanel(id, panel, make) {
  const text = JSON.stringify([panel.data, panel.error]);
  if (drawn.get(id) === text) return;
  drawn.set(id, text);
  const parts = [];
  if (panel.error) parts.push(h("p", { class: "late" }, `${SIGN.late} Cannot be read: ${panel.error}`));
  if (panel.data) parts.push(make(panel.data));
  else if (!panel.error) parts.push(h("p", { class: "note" }, "Reading…"));
  at(id).replaceChildren(...parts);
}

/** Rows of cells; a cell is a text, or [text, class], or an element. */
function table(titles, rows, none) {
  if (rows.length === 0) return h("p", { class: "note" }, none);
  const cell = (tag, one) => {
    if (one instanceof Node) return h(tag, {}, one);
    const [text, kind] = Array.isArray(one) ? one : [one];
    return h(tag, { class: kind, scope: tag === "th" ? "col" : undefined }, text);
  };
  return h("table", {},
    h("thead", {}, h("tr", {}, ...titles.map((title) => cell("th", title)))),
    h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((one) => cell("td", one))))));
}

const number = (value) => [count(value), "number"];
const chip = (level, text) => h("span", { class: `chip ${level}` }, `${SIGN[level]} ${text}`);

// --- Consumers ---------------------------------------------------------------

const groups = new Map();

function facts(names) {
  const values = {};
  const list = h("dl", { class: "facts" }, ...names.map((name) => {
    values[name] = h("dd", { "data-fact": name }, "–");
    return h("div", {}, h("dt", {}, name), values[name]);
  }));
  return { list, values };
}

function newGroup(name) {
  const it = {
    state: h("span", { class: "chip" }, "–"),
    error: h("p", { class: "late" }),
    pods: facts(["pods", "wanted", "capacity"]),
    whyText: h("p", { class: "note" }),
    topics: h("div", {}),
    maps: new Map(),
  };
  it.why = h("details", {}, h("summary", {}, "Why so many?"), it.whyText);
  it.card = h("article", { class: "card", "data-group": name },
    h("div", { class: "head" }, h("h3", {}, name), it.state), it.error, it.pods.list, it.why, it.topics);
  at("groups").append(it.card);
  groups.set(name, it);
  return it;
}

function drawGroup(name, panel, wanted) {
  const it = groups.get(name) ?? newGroup(name);
  say(it.error, panel.error ? `${SIGN.late} Cannot be read: ${panel.error}` : "");
  const data = panel.data;
  if (!data) return;
  const oldest = Math.max(0, ...data.topics.map((topic) => topic.oldest_s ?? 0));
  const level = panel.error ? "late" : levelOf(data.state, oldest);
  it.state.className = `chip ${level}`;
  say(it.state, `${SIGN[level]} ${panel.error ? `as of ${duration(panel.read_ago_s)} ago` : data.state}`);
  say(it.pods.values.pods, count(data.members));
  say(it.pods.values.wanted, count(wanted?.replicas));
  const each = wanted?.rate_per_s;
  say(it.pods.values.capacity, each ? `${rate(each * data.members)}` : "–");
  say(it.whyText, wanted?.stale ? "The scaler's reading is stale: replicas stay as they are." : (wanted?.why ?? ""));
  it.why.hidden = !wanted;
  for (const topic of data.topics) drawTopic(it, topic);
}

function newTopic(it, topic) {
  const one = {
    facts: facts(["lag", "oldest", "in", "out", "drained in"]),
    heat: h("div", { class: "heat", tabindex: "0", role: "group", "aria-label": `Partitions of ${topic.topic}` }),
    readout: h("p", { class: "readout", "aria-live": "polite" }),
    cells: [],
    chosen: -1,
    partitions: [],
  };
  one.heat.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(one, Math.max(0, Math.min(one.cells.length - 1, one.chosen + (one.chosen < 0 ? 1 : step))));
  });
  it.topics.append(h("div", { class: "topic", "data-topic": topic.topic },
    h("code", {}, topic.topic), one.facts.list, one.heat, one.readout));
  it.maps.set(topic.topic, one);
  return one;
}

function drawTopic(it, topic) {
  const one = it.maps.get(topic.topic) ?? newTopic(it, topic);
  const values = one.facts.values;
  say(values.lag, count(topic.lag));
  say(values.oldest, `${duration(topic.oldest_s ?? 0)} of ${OBJECTIVE_S} s`);
  values.oldest.className = (topic.oldest_s ?? 0) > OBJECTIVE_S ? "late" : "";
  say(values.in, rate(topic.arrival_per_s));
  say(values.out, rate(topic.done_per_s));
  const late = levelOf(topic.state, topic.oldest_s) === "late";
  say(values["drained in"], drain(topic.drain_s, late));
  values["drained in"].className = late && topic.drain_s === -1 ? "late" : "";
  one.partitions = topic.partitions;
  while (one.cells.length < topic.partitions.length) {
    const index = one.cells.length;
    const cell = h("span", { class: "cell", onclick: () => choose(one, index) });
    one.cells.push(cell);
    one.heat.append(cell);
  }
  while (one.cells.length > topic.partitions.length) one.cells.pop().remove();
  topic.partitions.forEach((partition, index) => {
    const cell = one.cells[index];
    const level = levelOf(partition.state, partition.oldest_s);
    const kind = `cell ${level === "ok" ? "" : level}${index === one.chosen ? " chosen" : ""}`;
    if (cell.className !== kind) cell.className = kind;
    if (cell.dataset.lag !== String(partition.lag)) cell.dataset.lag = partition.lag;
    cell.dataset.state = partition.state;
    say(cell, `${level === "ok" ? "" : SIGN[level]}${partition.number}`);
    const title = about(partition);
    if (cell.title !== title) cell.title = title;
  });
  if (one.chosen >= 0 && one.partitions[one.chosen]) say(one.readout, about(one.partitions[one.chosen]));
}

const about = (one) =>
  `Partition ${one.number}: ${one.state}, ${count(one.lag)} behind` +
  (one.oldest_s === null ? "" : `, the oldest for ${duration(one.oldest_s)}`);

function choose(one, index) {
  one.cells[one.chosen]?.classList.remove("chosen");
  one.chosen = index;
  one.cells[index].classList.add("chosen");
  say(one.readout, about(one.partitions[index]));
}

// --- The other panels --------------------------------------------------------

function share(part, all) {
  const percent = all > 0 ? (100 * part) / all : 0;
  return h("span", { class: "of", role: "img", "aria-label": `${percent.toFixed(0)} %` },
    h("span", { class: "bar", width: `${percent}%` }));
}

function funnelOf(steps) {
  say(at("funnel-note"),
    `Of the last ${steps.hours === 1 ? "hour" : `${steps.hours} hours`}, the newest ${count(steps.looked_max)} of each purpose at most.`);
  const reasons = (of) => {
    const all = Object.entries(of).sort((a, b) => b[1] - a[1]);
    return all.map(([reason, many]) => `${words(reason)} ${count(many)}`).join(", ") || "–";
  };
  const purposes = table(
    ["purpose", ["accepted", "number"], ["sent", "number"], "", ["delivered", "number"], "", ["read", "number"],
      ["waiting", "number"], ["failed", "number"], "never sent, because"],
    steps.purposes.map((one) => [words(one.purpose), number(one.accepted), number(one.sent),
      share(one.sent, one.accepted), number(one.delivered), share(one.delivered, one.accepted), number(one.read),
      number(one.waiting), [count(one.failed), one.failed ? "number late" : "number"],
      [reasons(one.suppressed), "words"]]),
    "Nothing was accepted.");
  const channels = table(["channel", "provider", "deliveries by state"],
    steps.channels.map((one) => [one.channel, one.provider || "not called yet", [reasons(one.states), "words"]]),
    "Nothing was sent.");
  return h("div", { class: "card" }, purposes, h("p", {}), channels);
}

function providersOf(providers) {
  const state = (one) => {
    if (!one.enabled) return ["off", "note"];
    if (one.open_at > 0) return chip("late", `circuit open at ${one.open_at} of ${one.senders}`);
    if (one.paused) return chip("look", `paused ${one.paused}`);
    if (one.senders === 0) return chip("look", "nobody sends");
    return chip("ok", `${one.senders} send`);
  };
  return table(["channel", "provider", "state", ["held", "number"]],
    providers.map((one) => [one.channel, one.provider, state(one), number(one.held_by_pause)]), "None.");
}

function queuesOf(queues) {
  const rows = queues.filter((one) => one.due > 0);
  return table(["queue", "urgency", ["due", "number"], ["oldest", "number"]],
    rows.map((one) => [one.queue, one.urgency, number(one.due), [duration(one.oldest_s), "number"]]),
    "Nothing is due.");
}

function batchesOf(batches) {
  return table(["batch", "of", "state", ["published", "number"], "", ["rate", "number"]],
    batches.map((one) => [h("code", {}, one.id), one.caller, words(one.state),
      [`${count(one.published)} of ${count(one.stored)}`, "number"], share(one.published, one.stored),
      [rate(one.per_s), "number"]]),
    "There is none.");
}

function cronOf(ticks) {
  return table(["job", "due at", "state", ["took", "number"], "fault"],
    ticks.map((one) => [words(one.job), one.due_at.replace("T", " ").replace("Z", ""), words(one.state),
      [duration(one.took_s), "number"], [one.fault ?? "", "words"]]),
    "No tick yet.");
}

function lettersOf(letters) {
  const rows = letters.filter((one) => one.kept > 0);
  return table(["topic", ["kept", "number"]], rows.map((one) => [h("code", {}, one.topic), number(one.kept)]),
    "No topic has any.");
}

// --- What a viewer asks for --------------------------------------------------

async function loadLetters() {
  say(at("letters-problem"), "");
  try {
    const { letters, more } = await ask("/board/dead-letters");
    const rows = letters.map((letter) => {
      const result = h("span", {});
      const button = h("button", { type: "button", disabled: !may.may_replay,
        title: may.may_replay ? undefined : "needs the scope operations:admin" }, "Replay");
      button.addEventListener("click", () => replay(letter.name, button, result));
      return [h("code", {}, letter.name), words(letter.reason), [letter.detail, "words"],
        (letter.buried_at ?? "").slice(0, 19).replace("T", " "), h("span", {}, button, " ", result)];
    });
    at("letters-list").replaceChildren(
      table(["name", "reason", "detail", "since", ""], rows, "Nobody has to handle any."),
      ...(more ? [h("p", { class: "note" }, "There are more: patient-notify dlq list")] : []));
  } catch (error) {
    say(at("letters-problem"), error.message);
  }
}

async function replay(name, button, result) {
  button.disabled = true;
  try {
    const answer = await ask("/board/dead-letters/replay",
      { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ name }) });
    say(result, answer.problem || `went to ${answer.replayed_to}`);
  } catch (error) {
    say(result, error.message);
    button.disabled = false;
  }
}

async function tell(event) {
  event.preventDefault();
  say(at("story-problem"), "");
  at("story").replaceChildren();
  try {
    const one = await ask(`/board/story/${encodeURIComponent(at("story-id").value.trim())}`);
    at("story").replaceChildren(h("div", { class: "card" },
      h("p", {}, h("strong", {}, one.summary)),
      h("p", { class: "note" }, `${one.purpose}, ${one.urgency}, ${one.state}${one.reason ? `: ${words(one.reason)}` : ""}`),
      table(["channel", "provider", "state", "reason", ["attempts", "number"]],
        one.deliveries.map((of) => [of.channel, of.provider, of.state, words(of.reason), number(of.attempts)]),
        "No delivery was made."),
      h("ol", { class: "steps" }, ...one.entries.map((entry) =>
        h("li", {}, h("code", {}, (entry.at ?? "").slice(0, 23).replace("T", " ")), " ", entry.sentence))),
      ...(one.more ? [h("p", { class: "note" }, "There is more: NotificationService/Explain")] : [])));
  } catch (error) {
    say(at("story-problem"), error.message);
  }
}

at("letters-load").addEventListener("click", loadLetters);
at("story-form").addEventListener("submit", tell);
run();
