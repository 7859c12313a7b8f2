// Draws one document: live, as it comes each second, or the one that a report carries. It computes nothing that the
// document can say.
"use strict";

const COLOUR = { sponge: "#0b7a75", fill: "rgba(11,122,117,.13)", soft: "#9aa5b1", blue: "#3b6fb6", amber: "#c98a1b", bad: "#c8372d" };
const FONT = { family: 'system-ui, "Segoe UI", "DejaVu Sans", sans-serif', size: 12, color: "#1d2733" };
const CONFIG = { displayModeBar: false, responsive: true };
let chosen = null; // index of the run that the user asked for; null follows the newest

const byId = (id) => document.getElementById(id);
const seconds = (values) => values.map((_, index) => index + 0.5);
const shown = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));

function text(tag, content, attributes = {}) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.textContent = content;
  return element;
}

function layout(title, unit, doc, more = {}) {
  const { yaxis, ...rest } = more;
  return {
    title: { text: `${title} <span style="color:#66717f;font-size:12px">${unit}</span>`, font: { ...FONT, size: 14 }, x: 0.008, xanchor: "left", y: 1, yref: "container", yanchor: "top", pad: { t: 10, l: 8 } },
    font: FONT,
    margin: { l: 46, r: 14, t: 60, b: 34 },
    xaxis: { range: [0, doc.scenario.duration_s], title: { text: "s", standoff: 2 }, gridcolor: "#eef1f4", zeroline: false },
    yaxis: { rangemode: "tozero", gridcolor: "#eef1f4", zeroline: false, ...yaxis },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.0, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)", font: { size: 11 } },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hovermode: "x unified",
    showlegend: true,
    ...rest,
  };
}

function level(y, label, colour) {
  return {
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: colour, width: 1.2, dash: "dash" } }],
    annotations: [{ xref: "paper", x: 1, xanchor: "right", y, yanchor: "bottom", text: label, showarrow: false, font: { size: 11, color: colour } }],
  };
}

const line = (x, y, name, colour, more = {}) => ({ x, y, name, mode: "lines", line: { color: colour, width: 2 }, ...more });

// The other runs, behind the one that is shown.
const DASHES = ["dot", "dash", "dashdot", "longdash"];
function others(doc, run, pick) {
  return doc.runs.filter((other) => other !== run).map((other, index) => {
    const [x, y, shape] = pick(other.series);
    const thin = { color: COLOUR.soft, width: 1.5, dash: DASHES[index % DASHES.length], shape };
    return line(x, y, other.name, COLOUR.soft, { line: thin, hovertemplate: `%{y} <extra>${other.name}</extra>` });
  });
}

const counts = (values) => ({ yaxis: { tickformat: "d", dtick: Math.max(1, Math.ceil(Math.max(...values.filter((v) => v !== null), 0) / 5)) } });

// A line at the present second of a run that goes on.
function passed(doc, run) {
  if (run.figures || !run.series.cores_t.length) return [];
  const now = run.series.cores_t.at(-1);
  return [line([now, now], [0, Math.max(...doc.arrivals.sent, 1)], "now", COLOUR.amber, { hoverinfo: "skip" })];
}

function draw(doc, run) {
  const s = run.series;
  const own = { line: { color: COLOUR.sponge, width: 2, shape: "hv" }, fill: "tozeroy", fillcolor: COLOUR.fill };
  const put = (id, traces, shape) => Plotly.react(id, traces, shape, CONFIG);

  const a = doc.arrivals;
  put("rate", [
    { x: seconds(a.sent), y: a.sent, name: "sent in each second", type: "bar", marker: { color: COLOUR.blue }, opacity: 0.45 },
    line(seconds(a.rate), a.rate, "the rate behind them, bursts aside", COLOUR.blue),
    ...passed(doc, run),
  ], layout("Requests per second", "the same schedule for every size", doc));

  put("cores", [...others(doc, run, (o) => [o.cores_t, o.cores, "hv"]), line(s.cores_t, s.cores, run.name, COLOUR.sponge, own)],
    layout("CPU in force", "cores, read from the kernel", doc, { yaxis: { range: [0, doc.scenario.max_cores * 1.18] }, ...level(doc.scenario.max_cores, "largest size", COLOUR.soft) }));

  // The first seconds hold so few requests that one miss would stretch the axis.
  const steady = doc.runs.flatMap((other) => other.series.attained.slice(10));
  const percents = [...s.attained_10s, ...steady, doc.scenario.target_percent].filter((value) => value !== null);
  const floor = Math.max(0, Math.min(...percents) - 2);
  put("attained", [
    ...others(doc, run, (o) => [seconds(o.attained), o.attained]),
    line(seconds(s.attained_10s), s.attained_10s, "last 10 s", COLOUR.amber, { line: { color: COLOUR.amber, width: 1.5 } }),
    line(seconds(s.attained), s.attained, "since the start", COLOUR.sponge),
  ], layout("Requests in time", "% of the requests that have ended", doc, {
    yaxis: { range: [floor, 100 + (100 - floor) * 0.14], rangemode: "normal" },
    ...level(doc.scenario.target_percent, `${doc.scenario.target_percent} %`, COLOUR.bad),
  }));

  put("uplink", [line(seconds(s.uplink_mbit), s.uplink_mbit, "uplink", COLOUR.blue, { fill: "tozeroy", fillcolor: "rgba(59,111,182,.13)" })],
    layout("Each client's uplink", "Mbit/s, the replayed 4G trace", doc, { showlegend: false, yaxis: { range: [0, doc.scenario.max_uplink_mbit * 1.08] } }));

  const missed = s.refused.map((count, index) => [index + 0.5, count]).filter(([, count]) => count > 0);
  put("slack", [
    line(seconds(s.left_after_upload_ms), s.left_after_upload_ms, "after the upload", COLOUR.blue),
    line(seconds(s.left_at_answer_ms), s.left_at_answer_ms, "at the answer", COLOUR.sponge),
    { x: missed.map(([at]) => at), y: missed.map(() => 0), text: missed.map(([, count]) => `${count} refused`), name: "refused", mode: "markers", marker: { symbol: "x", color: COLOUR.bad, size: 7 }, hoverinfo: "text" },
  ], layout("Slack", `ms left of ${doc.scenario.slo_ms}, the least of any request`, doc, { ...level(0, "deadline", COLOUR.bad), yaxis: { rangemode: "normal" } }));

  put("queue", [
    line(seconds(s.uploading), s.uploading, "uploading", COLOUR.blue, { line: { color: COLOUR.blue, width: 1.5, shape: "hvh" } }),
    line(seconds(s.queued), s.queued, "waiting", COLOUR.sponge, { fill: "tozeroy", fillcolor: COLOUR.fill, line: { color: COLOUR.sponge, width: 2, shape: "hvh" } }),
  ], layout("Queue", "requests, the most seen in a second", doc, counts([...s.uploading, ...s.queued])));

  put("batch", [
    { x: seconds(s.batch), y: s.batch, name: "running", type: "bar", marker: { color: COLOUR.sponge }, width: 0.8 },
    line(seconds(s.batch_cap), s.batch_cap, "cap", COLOUR.soft, { line: { color: COLOUR.soft, width: 1.5, dash: "dash" } }),
  ], layout("Batch", "requests, the largest seen in a second", doc, counts([...s.batch, ...s.batch_cap])));
}

function tiles(doc, run) {
  const now = run.now;
  const missed = now.in_time_percent !== null && now.in_time_percent < doc.scenario.target_percent;
  const entries = [
    run.figures ? [String(run.figures.resizes), "resizes in place"] : [shown(now.cores, 3), "cores now"],
    [shown(now.mean_cores, 2), "cores on average"],
    [now.in_time_percent === null ? "–" : `${now.in_time_percent.toFixed(2)} %`, "in time", missed],
    [shown(now.p99_ms, 0), "ms, p99 of answers"], [String(now.ended), `of ${now.scheduled} requests`],
    run.figures ? [String(run.figures.restarts), "restarts"] : [shown(now.uplink_mbit, 1), "Mbit/s uplink"],
  ];
  byId("tiles").replaceChildren(...entries.map(([value, label, bad]) => {
    const tile = text("div", "", { className: bad ? "tile bad" : "tile" });
    tile.append(text("b", value), text("span", label));
    return tile;
  }));
}

function table(doc, report) {
  const ended = doc.runs.filter((run) => run.figures);
  byId("comparison").hidden = ended.length === 0;
  byId("verdict").textContent = doc.verdict;
  byId("table").replaceChildren(...ended.map((run) => {
    const f = run.figures;
    const missed = f.in_time_percent < doc.scenario.target_percent;
    const row = text("tr", "", { className: (run.static ? "" : "sponge ") + (missed ? "missed" : "") });
    const cells = [run.name, shown(f.mean_cores, 2), `${f.in_time_percent.toFixed(2)} %`, f.p99_ms === null ? "–" : `${f.p99_ms.toFixed(0)} ms`, f.late, f.refused, f.resizes, f.restarts];
    row.append(...cells.map((cell) => text("td", String(cell))));
    return row;
  }));
  if (doc.report && !report) {
    byId("links").replaceChildren(text("a", "Open the report", { href: "/report" }), document.createTextNode(` (kept in ${doc.report})`));
  }
}

function reproduce(doc) {
  byId("reproduce").hidden = false;
  byId("details").replaceChildren(...doc.details.flatMap(([name, value]) => [text("dt", name), text("dd", value)]));
}

function show(doc, report) {
  document.body.dataset.state = doc.state;
  byId("scenario").textContent = doc.headline;
  byId("phase").textContent = doc.phase;
  byId("left").textContent = doc.left;
  byId("bar").style.width = `${100 * doc.progress}%`;
  const index = chosen !== null && chosen < doc.runs.length ? chosen : doc.state === "done" ? 0 : doc.runs.length - 1;
  byId("runs").replaceChildren(...doc.runs.map((run, number) => {
    const button = text("button", run.name, { onclick: () => { chosen = number; show(doc, report); } });
    button.setAttribute("aria-pressed", String(number === index));
    return button;
  }));
  table(doc, report);
  if (report) reproduce(doc);
  const run = doc.runs[index];
  if (!run) return;
  tiles(doc, run);
  draw(doc, run);
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
}

if (window.SPONGE_DOCUMENT) {
  show(window.SPONGE_DOCUMENT, true);
} else {
  const events = new EventSource("/events");
  events.onmessage = (event) => {
    const doc = JSON.parse(event.data);
    show(doc, false);
    if (doc.state === "done" || doc.state === "failed") events.close();
  };
  events.onerror = () => { byId("phase").textContent = "The demo has ended, or cannot be reached"; };
}
