"use strict";
// Everything that a node or a program said goes into the page as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const report = data.report;
  const NS = "http://www.w3.org/2000/svg";
  const HUES = [214, 28, 150, 330, 262, 190, 50, 0, 100, 300];
  const MANY = 12;

  // ---- making elements

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  }
  const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const s = (tag, attributes, ...children) => fill(document.createElementNS(NS, tag), attributes, children);
  const title = (text) => s("title", {}, text);

  // ---- words

  const round = (value, digits) => Number(value.toFixed(digits));
  function span(ms) {
    if (ms === null || ms === undefined) return "–";
    const size = Math.abs(ms);
    if (size < 1000) return `${Math.round(ms)} ms`;
    if (size < 120000) return `${round(ms / 1000, size < 10000 ? 2 : 1)} s`;
    return `${Math.floor(size / 60000) * Math.sign(ms)} min ${Math.round((size % 60000) / 1000)} s`;
  }
  function moment(ms, step) {
    if (ms === null || ms === undefined) return "–";
    const digits = step && step < 1000 ? (step < 100 ? 2 : 1) : step ? 0 : 1;
    const size = Math.abs(ms);
    const sign = ms < 0 ? "−" : "";
    if (size < 100000) return `${sign}${(size / 1000).toFixed(digits)} s`;
    const minutes = Math.floor(size / 60000);
    return `${sign}${minutes}:${((size % 60000) / 1000).toFixed(digits).padStart(digits ? 3 + digits : 2, "0")}`;
  }
  const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
  const spaced = (word) => word.replaceAll("-", " ");
  function names(list) {
    return list.length > 6 ? `${list.slice(0, 5).join(", ")} and ${list.length - 5} more` : list.join(", ");
  }
  const clock = (ms) => new Date(data.wall + ms).toISOString().replace("T", " ").slice(0, 23) + " UTC";
  const shade = (verdict) => verdict === "passed" ? "good" : ["infrastructure", "interrupted", "inconclusive"].includes(verdict) ? "warn" : "bad";

  // ---- series: flat lists of time and value in turn

  function valueAt(flat, time) {
    let low = 0, high = flat.length / 2 - 1, found = null;
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (flat[2 * middle] <= time) { found = flat[2 * middle + 1]; low = middle + 1; } else high = middle - 1;
    }
    return found;
  }
  function heightAt(node, time) {
    for (const piece of node.heights) {
      const last = piece[piece.length - 2];
      if (time >= piece[0] && time <= last + 1500) return valueAt(piece, time);
    }
    return null;
  }
  function quantile(sorted, share) {
    if (!sorted.length) return null;
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  }

  // The highest height that any node had reached, by time.
  const highest = (() => {
    const points = [];
    for (const node of data.nodes) for (const piece of node.heights)
      for (let i = 0; i < piece.length; i += 2) points.push([piece[i], piece[i + 1]]);
    points.sort((a, b) => a[0] - b[0]);
    const flat = [];
    let most = -1;
    for (const [time, height] of points) if (height > most) { most = height; flat.push(time, height); }
    return flat;
  })();

  const faults = report.faults.filter((fault) => fault.planned_ms !== null);
  // The batches of upgrades have a table of their own.
  const struck = faults.filter((fault) => fault.kind !== "upgrade");
  const onset = (fault) => fault.verified_ms ?? fault.injected_ms ?? fault.planned_ms;
  const over = (fault) => fault.reverted_ms ?? fault.revert_verified_ms ?? data.removal ?? data.end;
  const recovered = (fault) => fault.recovery_ms === null || fault.revert_verified_ms === null ? null : fault.revert_verified_ms + fault.recovery_ms;

  // ---- the head

  function head() {
    const longest = stall();
    const last = data.quorum.length ? data.quorum[data.quorum.length - 1] : 0;
    const { compared, of } = report.coverage;
    const cards = [
      [String(last), "height of the quorum"],
      [longest === null ? "–" : span(longest), "longest time without a block"],
      [of ? `${Math.min(100, Math.floor(100 * compared / of))} %` : "–", `heights compared between nodes (${compared} of ${of})`],
      [String(struck.length), struck.length === 1 ? "fault" : "faults"],
      [String(report.findings.length), report.findings.length === 1 ? "finding" : "findings"],
      [span((data.removal ?? data.end) - (data.ready ? 0 : data.start)), data.ready ? "from ready to the end" : "until the end; never ready"],
    ];
    document.getElementById("head").append(
      h("div", { class: "top" },
        h("span", { class: `badge ${data.whole ? shade(report.verdict) : "warn"}` }, data.whole ? spaced(report.verdict) : `cut off; so far ${spaced(report.verdict)}`),
        h("h1", {}, data.scenario)),
      data.about && h("p", {}, data.about),
      h("p", { class: "soft" }, `${data.backend} · seed ${report.seed} · ${count(data.nodes.length, "node")} · ready ${clock(0)} · run ${data.run} · trialnet ${data.trialnet}`),
      h("div", { class: "cards" }, cards.map(([value, name]) => h("div", { class: "card" }, h("b", {}, value), h("span", {}, name)))),
    );
  }
  function stall() {
    let most = null;
    for (let i = 0; i < data.blocks.length; i += 2) if (data.blocks[i] >= 0 && (most === null || data.blocks[i + 1] > most)) most = data.blocks[i + 1];
    return most;
  }

  // ---- findings

  function findings() {
    const list = report.findings.map((finding, at) => {
      const where = [finding.node && `on ${finding.node}`, finding.height !== null && `at height ${finding.height}`].filter(Boolean).join(" ");
      const rows = [
        ["expected", finding.expected], ["seen", finding.seen],
        ["since", `${moment(finding.since_ms)} from ready`],
        ["faults on", finding.faults.length ? finding.faults.join(", ") : "none"],
        finding.step !== undefined && finding.step !== null && ["step", `${finding.step + 1}. ${report.steps[finding.step]?.title ?? ""}`],
      ].filter(Boolean);
      return h("div", { class: `card finding ${shade(finding.class) === "warn" ? "warn" : ""}`, id: `finding-${at}`, tabindex: -1 },
        h("h3", {}, `${finding.code} `, h("span", { class: "soft" }, where)),
        h("p", {}, `${data.titles[finding.code] ?? ""} `, h("span", { class: "soft" }, `(${spaced(finding.class)})`)),
        h("dl", {}, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
        h("div", { class: "tools" }, h("button", { type: "button", onclick: () => around(finding.since_ms) }, "Show this moment")),
        (data.excerpts[at] ?? []).map((log) => h("details", { open: at === 0 },
          h("summary", {}, log.file, h("span", { class: "soft" }, log.timed ? ", around it" : ", its last lines")),
          h("pre", { tabindex: 0 }, log.lines.join("\n")))),
      );
    });
    return section("findings", "Findings", list.length ? list : h("p", { class: "good" }, "None."));
  }
  const section = (id, name, ...rest) => h("section", { id, "aria-label": name }, h("h2", {}, name), rest);

  // ---- the chart

  const whole = [data.start, Math.max(data.end, data.start + 1)];
  const begin = data.ready ? [Math.max(data.start, -Math.max(1000, (data.end) * 0.03)), whole[1]] : whole;
  const view = { from: begin[0], to: begin[1], lag: false, chosen: new Set() };
  let chart, drawing, tip, width = 900, scale, plot;

  const colour = (at) => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches && !matchMedia("print").matches;
    return `hsl(${HUES[at % HUES.length]} 65% ${dark ? 66 : 42}%)`;
  };

  function ticks(from, to, room) {
    const raw = (to - from) / Math.max(2, room);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
    const list = [];
    for (let at = Math.ceil(from / step) * step; at <= to && list.length < 100; at += step) list.push(Math.round(at));
    return { list, step };
  }

  function figure() {
    drawing = s("svg", { role: "group", "aria-label": "Heights, faults, steps and findings over time" });
    tip = h("div", { class: "tip", "aria-hidden": "true" });
    chart = h("div", { class: "chart", tabindex: 0, role: "application", "aria-label": "Chart over time. Arrow keys move, plus and minus zoom, 0 shows everything." }, drawing, tip);
    const lagging = h("button", { type: "button", "aria-pressed": "false", onclick: () => { view.lag = !view.lag; lagging.setAttribute("aria-pressed", view.lag); draw(); } }, "Behind the highest");
    const tools = h("div", { class: "tools" },
      h("button", { type: "button", onclick: () => zoom(0.5) }, "Zoom in"),
      h("button", { type: "button", onclick: () => zoom(2) }, "Zoom out"),
      h("button", { type: "button", onclick: reset }, "Everything"), lagging);
    chart.addEventListener("keydown", (event) => {
      const step = (view.to - view.from) / 8;
      const act = { ArrowLeft: () => pan(-step), ArrowRight: () => pan(step), "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: reset, Home: reset }[event.key];
      if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
    });
    let held = null;
    chart.addEventListener("pointerdown", (event) => { if (event.button === 0) held = place(event); });
    chart.addEventListener("pointermove", (event) => hover(event, held));
    chart.addEventListener("pointerleave", () => { tip.style.display = "none"; drawing.querySelectorAll(".cross,.select").forEach((element) => element.remove()); });
    window.addEventListener("pointerup", (event) => {
      if (held === null) return;
      const [from, to] = [held, place(event)].sort((a, b) => a - b);
      held = null;
      if (scale && (to - from) > (view.to - view.from) * 0.015) show(from, to);
    });
    chart.addEventListener("dblclick", reset);
    const legend = h("div", { class: "legend", role: "group", "aria-label": "Nodes to set off" }, data.nodes.map((node, at) => {
      const button = h("button", { type: "button", "aria-pressed": "false", onclick: () => {
        if (view.chosen.has(at)) view.chosen.delete(at); else view.chosen.add(at);
        button.setAttribute("aria-pressed", view.chosen.has(at));
        draw();
      } }, h("span", { class: "swatch", style: `background:${colour(at)}` }), node.name);
      return button;
    }));
    new ResizeObserver(() => { const now = chart.clientWidth; if (now && now !== width) { width = now; draw(); } }).observe(chart);
    window.addEventListener("beforeprint", () => { document.querySelectorAll("details").forEach((element) => { element.open = true; }); draw(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
    return section("time", "What happened", tools, chart, legend,
      h("p", { class: "keys" }, "Drag over a stretch to look closer, double click for everything. A broken curve: nothing was observed. Of a fault: dotted planned, light injected or ending, full verified; the green line is the time to recovery, ± how often nodes are asked."));
  }

  const place = (event) => {
    const box = drawing.getBoundingClientRect();
    const share = (event.clientX - box.left - plot.left) / (plot.right - plot.left);
    return view.from + Math.min(1, Math.max(0, share)) * (view.to - view.from);
  };
  function show(from, to) {
    const least = 200;
    if (to - from < least) { const middle = (from + to) / 2; from = middle - least / 2; to = middle + least / 2; }
    view.from = Math.max(whole[0], from);
    view.to = Math.min(whole[1], to);
    if (view.to - view.from < least) view.to = view.from + least;
    draw();
  }
  function zoom(by) {
    const middle = (view.from + view.to) / 2, half = (view.to - view.from) / 2 * by;
    show(middle - half, middle + half);
  }
  function pan(by) {
    const length = view.to - view.from;
    const from = Math.min(Math.max(whole[0], view.from + by), Math.max(whole[0], whole[1] - length));
    show(from, from + length);
  }
  const reset = () => show(begin[0], begin[1]);
  function around(time) {
    const half = Math.max(3000, (whole[1] - whole[0]) * 0.05);
    show(time - half, time + half);
    chart.scrollIntoView({ block: "center" });
    chart.focus({ preventScroll: true });
  }

  function hover(event, held) {
    if (!scale) return;
    drawing.querySelectorAll(".cross,.select").forEach((element) => element.remove());
    const time = place(event);
    const x = scale(time);
    drawing.append(s("line", { class: "cross", x1: x, x2: x, y1: plot.top, y2: plot.bottom }));
    if (held !== null) {
      const [a, b] = [scale(held), x].sort((one, other) => one - other);
      drawing.append(s("rect", { class: "select", x: a, width: b - a, y: plot.top, height: plot.bottom - plot.top }));
    }
    const seen = data.nodes.map((node) => [node.name, heightAt(node, time)]);
    const known = seen.filter(([, height]) => height !== null).map(([, height]) => height).sort((a, b) => a - b);
    const lines = [h("b", {}, moment(time, (view.to - view.from) / 40)), `quorum at ${valueAt(data.quorum, time) ?? "–"}`];
    if (seen.length <= MANY) lines.push(...seen.map(([name, height]) => `${name}: ${height ?? "not observed"}`));
    else lines.push(`${known.length} of ${seen.length} nodes: ${known[0] ?? "–"} to ${known[known.length - 1] ?? "–"}`);
    for (const fault of faults) if (time >= fault.planned_ms && time <= (fault.revert_verified_ms ?? over(fault))) lines.push(`${fault.id}: ${fault.kind} on ${names(fault.targets)}`);
    tip.replaceChildren(...lines.map((line) => h("div", {}, line)));
    tip.style.display = "block";
    const right = event.clientX - drawing.getBoundingClientRect().left > width / 2;
    tip.style.left = right ? "8px" : "auto";
    tip.style.right = right ? "auto" : "8px";
  }

  // Intervals in as few rows as do.
  function stack(list, from, to) {
    const ends = [];
    return list.map((item) => {
      let row = ends.findIndex((end) => end <= from(item));
      if (row < 0) row = ends.length;
      ends[row] = to(item);
      return row;
    });
  }

  function draw() {
    if (!chart) return;
    const named = width >= 640;
    const left = named ? 132 : 40, right = width - 10;
    scale = (time) => left + (time - view.from) / (view.to - view.from) * (right - left);
    const inside = (from, to) => to >= view.from && from <= view.to;
    const clip = (from, to) => [Math.max(scale(from), left), Math.min(scale(to), right)];
    const parts = [], lanes = [];
    let y = 8;
    const label = (text, at) => parts.push(named
      ? s("text", { class: "name", x: left - 8, y: at, "text-anchor": "end" }, text.length > 20 ? `${text.slice(0, 19)}…` : text, title(text))
      : s("text", { class: "name", x: left, y: at - 9 }, text, title(text)));
    const row = (height, gap) => { const at = y + (named ? 0 : 12); y = at + height + gap; return at; };

    // Findings.
    if (report.findings.length) {
      const at = row(12, 6);
      label("findings", at + 10);
      report.findings.forEach((finding, index) => {
        if (!inside(finding.since_ms, finding.since_ms)) return;
        const x = scale(finding.since_ms);
        const words = `${finding.code}${finding.node ? ` on ${finding.node}` : ""} at ${moment(finding.since_ms)}`;
        lanes.push(s("path", { class: `mark ${shade(finding.class) === "warn" ? "warn" : ""}`, d: `M${x} ${at + 12}l-6 -11h12z`, tabindex: 0, role: "link", "aria-label": words, style: "cursor:pointer",
          onclick: () => go(index), onkeydown: (event) => { if (event.key === "Enter") go(index); } }, title(words)));
      });
    }

    // Heights.
    const top = row(0, 0), tall = named ? 260 : 220, bottom = top + tall;
    y = bottom + 8;
    const lag = (time, height) => Math.max(0, (valueAt(highest, time) ?? height) - height);
    const curves = data.nodes.map((node) => node.heights.map((piece) => {
      const points = [];
      let before = null;
      for (let i = 0; i < piece.length; i += 2) {
        const point = [piece[i], view.lag ? lag(piece[i], piece[i + 1]) : piece[i + 1]];
        if (point[0] < view.from) { before = [view.from, point[1]]; continue; }
        if (before) { points.push(before); before = null; }
        if (point[0] > view.to) { if (points.length) points.push([view.to, points[points.length - 1][1]]); break; }
        points.push(point);
      }
      if (before && piece[piece.length - 2] >= view.from) points.push(before);
      return points;
    }));
    let low = Infinity, high = -Infinity;
    for (const curve of curves) for (const piece of curve) for (const [, value] of piece) { low = Math.min(low, value); high = Math.max(high, value); }
    if (low === Infinity) { low = 0; high = 1; }
    if (view.lag) low = 0;
    if (high - low < 4) high = low + 4;
    const up = (value) => bottom - 4 - (value - low) / (high - low) * (tall - 12);
    for (const value of ticks(low, high, tall / 45).list) {
      parts.push(s("line", { class: "axis", x1: left, x2: right, y1: up(value), y2: up(value), opacity: 0.5 }));
      parts.push(s("text", { x: left - 5, y: up(value) + 4, "text-anchor": "end" }, String(value)));
    }
    if (named) parts.push(s("text", { class: "name", x: 8, y: top + 10 }, view.lag ? "blocks behind" : "height"));
    for (const fault of faults) {
      if (!inside(onset(fault), over(fault))) continue;
      const [a, b] = clip(onset(fault), over(fault));
      parts.push(s("rect", { class: "shade", x: a, width: Math.max(1, b - a), y: top, height: tall }));
    }
    for (const [name, time] of [["ready", data.ready ? 0 : null], ["settling", data.settling], ["removal", data.removal]]) {
      if (time === null || !inside(time, time)) continue;
      parts.push(s("line", { class: "cross", x1: scale(time), x2: scale(time), y1: top, y2: bottom, "stroke-dasharray": "2 3" }));
      const late = scale(time) > right - 50;
      parts.push(s("text", { x: scale(time) + (late ? -3 : 3), y: top + (name === "removal" ? 22 : 10), "text-anchor": late ? "end" : "start" }, name));
    }
    curves.forEach((curve, at) => {
      const state = view.chosen.size ? (view.chosen.has(at) ? "chosen" : "dim") : "";
      for (const piece of curve) {
        if (!piece.length) continue;
        const path = piece.map(([time, value], i) => i ? `H${round(scale(time), 1)}V${round(up(value), 1)}` : `M${round(scale(time), 1)} ${round(up(value), 1)}`).join("");
        parts.push(s("path", { class: `curve ${state}`, d: piece.length === 1 ? `${path}h2` : path, stroke: colour(at) }));
      }
    });
    if (!view.lag && data.quorum.length) {
      let path = "";
      let last = valueAt(data.quorum, view.from);
      if (last !== null && last >= low) path = `M${left} ${round(up(last), 1)}`;
      for (let i = 0; i < data.quorum.length; i += 2) {
        const [time, value] = [data.quorum[i], data.quorum[i + 1]];
        if (time < view.from || time > view.to) continue;
        path += path ? `H${round(scale(time), 1)}V${round(up(value), 1)}` : `M${round(scale(time), 1)} ${round(up(value), 1)}`;
      }
      if (path) parts.push(s("path", { class: "quorum", d: `${path}H${Math.min(right, round(scale(data.removal ?? data.end), 1))}` }, title("height of the quorum")));
    }
    parts.push(s("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));

    // Faults: one lane each, few enough rows where there are many.
    const shown = faults.filter((fault) => inside(fault.planned_ms, Math.max(over(fault), recovered(fault) ?? 0)));
    const many = shown.length > 24;
    const rows = many ? stack(shown, (fault) => fault.planned_ms, (fault) => Math.max(over(fault), recovered(fault) ?? 0) + 1) : shown.map((_, at) => at);
    const first = y;
    const pitch = named ? 17 : 27;
    shown.forEach((fault, at) => {
      const middle = first + rows[at] * pitch + (named ? 7 : 18);
      if (!many) label(fault.id, middle + 4);
      lanes.push(lane(fault, middle, clip, inside));
    });
    if (shown.length) {
      if (many) label("faults", first + 11);
      y = first + (Math.max(...rows) + 1) * pitch + 6;
    }

    // Which versions ran side by side.
    const mixed = (report.mixed ?? []).filter((one) => inside(one.from_ms, one.to_ms ?? data.end));
    if (mixed.length) {
      const at = row(12, 8);
      label("mixed versions", at + 10);
      for (const one of mixed) {
        const [a, b] = clip(one.from_ms, one.to_ms ?? data.end);
        const words = `${one.versions.join(" beside ")}: ${moment(one.from_ms)} to ${one.to_ms === null ? "the end" : moment(one.to_ms)}`;
        lanes.push(s("rect", { class: "mixed", x: a, width: Math.max(1.5, b - a), y: at, height: 12, tabindex: 0, role: "img", "aria-label": words }, title(words)));
      }
    }

    // Steps.
    const steps = report.steps.filter((step) => step.began_ms !== null && inside(step.began_ms, step.ended_ms ?? data.end));
    if (steps.length) {
      const placed = stack(steps, (step) => step.began_ms, (step) => step.ended_ms ?? data.end);
      const at = row(14 * (Math.max(...placed) + 1), 8);
      label("steps", at + 11);
      steps.forEach((step, index) => {
        const [a, b] = clip(step.began_ms, step.ended_ms ?? data.end);
        const words = `${step.index + 1}. ${step.title}: ${spaced(step.state)}, ${moment(step.began_ms)} to ${moment(step.ended_ms)}${step.seen ? `; ${step.seen}` : ""}`;
        lanes.push(s("rect", { class: `step ${step.state} ${step.index % 2 ? "odd" : ""}`, x: a, width: Math.max(1.5, b - a), y: at + placed[index] * 14, height: 12, tabindex: 0, role: "img", "aria-label": words }, title(words)));
        if (b - a > 16) lanes.push(s("text", { x: a + 3, y: at + placed[index] * 14 + 10, "pointer-events": "none" }, String(step.index + 1)));
      });
    }

    // Load: what was accepted in each second.
    if (data.load.length > 1) {
      const deltas = [];
      for (let i = 1; i < data.load.length; i++) {
        const [one, next] = [data.load[i - 1], data.load[i]];
        if (next.id === one.id && next.at > one.at) deltas.push([one.at, next.at, next.accepted - one.accepted, next.refused - one.refused]);
      }
      const most = Math.max(1, ...deltas.map(([from, to, taken, refused]) => (taken + refused) / (to - from)));
      const at = row(30, 8);
      label("load", at + 18);
      for (const [from, to, taken, refused] of deltas) {
        if (!inside(from, to)) continue;
        const [a, b] = clip(from, to);
        const size = (number) => number / (to - from) / most * 28;
        const words = `${round(taken * 1000 / (to - from), 1)} accepted, ${round(refused * 1000 / (to - from), 1)} refused a second`;
        lanes.push(s("rect", { class: "accepted", x: a, width: Math.max(0.5, b - a - 0.5), y: at + 30 - size(taken), height: size(taken) }, title(words)));
        if (refused) lanes.push(s("rect", { class: "rejected", x: a, width: Math.max(0.5, b - a - 0.5), y: at + 30 - size(taken) - size(refused), height: size(refused) }, title(words)));
      }
    }

    // The axis.
    plot = { left, right, top: 8, bottom: y };
    const axis = ticks(view.from, view.to, (right - left) / 90);
    for (const time of axis.list) {
      parts.unshift(s("line", { class: "axis", x1: scale(time), x2: scale(time), y1: top, y2: y, opacity: 0.35 }));
      parts.push(s("text", { x: Math.min(scale(time), right - 16), y: y + 14, "text-anchor": "middle" }, moment(time, axis.step)));
    }
    y += 22;
    drawing.setAttribute("viewBox", `0 0 ${width} ${y}`);
    drawing.setAttribute("height", y);
    drawing.replaceChildren(...parts, ...lanes);
    if (bands) bands();
  }

  function go(index) {
    const card = document.getElementById(`finding-${index}`);
    card?.scrollIntoView({ block: "center" });
    card?.focus({ preventScroll: true });
  }

  // The five states of a fault, and its recovery.
  function lane(fault, middle, clip, inside) {
    const times = [fault.planned_ms, fault.injected_ms, fault.verified_ms, fault.reverted_ms, fault.revert_verified_ms];
    const useless = fault.injected_ms !== null && fault.verified_ms === null;
    const words = [`${fault.id}: ${fault.kind} on ${names(fault.targets)}`, ...["planned", "injected", "verified", "reverted", "revert verified"].map((name, i) => `${name} ${moment(times[i])}`),
      ...Object.entries(fault.dropped ?? {}).map(([node, time]) => `dropped on ${node} ${moment(time)}: another pod or container took its place`),
      fault.recovery_ms !== null && `recovered after ${span(fault.recovery_ms)} ± ${span(data.poll)}`, fault.skipped && `left out: ${fault.skipped}`].filter(Boolean).join("\n");
    const group = s("g", { tabindex: 0, role: "img", "aria-label": words.replaceAll("\n", ", ") }, title(words));
    const bar = (kind, from, to, height) => {
      if (from === null || to === null || !inside(from, to)) return;
      const [a, b] = clip(from, to);
      group.append(s("rect", { class: kind, x: a, width: Math.max(1.5, b - a), y: middle - height / 2, height }));
    };
    const end = over(fault);
    bar("planned", fault.planned_ms, fault.injected_ms ?? end, 8);
    if (fault.injected_ms !== null) bar("injected", fault.injected_ms, fault.verified_ms ?? end, 10);
    if (fault.verified_ms !== null) bar("verified", fault.verified_ms, end, 10);
    if (fault.reverted_ms !== null && fault.revert_verified_ms !== null) bar("reverting", fault.reverted_ms, fault.revert_verified_ms, 10);
    const back = recovered(fault);
    if (back !== null && inside(fault.revert_verified_ms, back + data.poll)) {
      const [a, b] = clip(fault.revert_verified_ms, back);
      const [c, d] = clip(Math.max(fault.revert_verified_ms, back - data.poll), back + data.poll);
      group.append(s("path", { class: "recovering", d: `M${a} ${middle}H${b}M${c} ${middle - 3}V${middle + 3}M${d} ${middle - 3}V${middle + 3}M${b} ${middle - 5}V${middle + 5}` }));
    }
    for (const time of Object.values(fault.dropped ?? {})) {
      if (!inside(time, time)) continue;
      const [a] = clip(time, time);
      group.append(s("path", { class: "useless", d: `M${a} ${middle - 7}v14` }));
    }
    if (useless) {
      const [a] = clip(fault.injected_ms, fault.injected_ms);
      group.append(s("path", { class: "useless", d: `M${a} ${middle - 5}l10 10m0 -10l-10 10` }));
    }
    return group;
  }

  // ---- what each node did

  let bands = null;
  function nodes() {
    const picture = s("svg", { role: "group", "aria-label": "What each node did" });
    const frame = h("div", { class: "chart" }, picture);
    bands = () => {
      if (!frame.clientWidth) return;
      const wide = frame.clientWidth, named = wide >= 640;
      const left = named ? 132 : 8, right = wide - 10, pitch = named ? 16 : 26;
      const x = (time) => left + (Math.min(Math.max(time, view.from), view.to) - view.from) / (view.to - view.from) * (right - left);
      const parts = [];
      data.nodes.forEach((node, at) => {
        const top = 6 + at * pitch + (named ? 0 : 12);
        parts.push(s("text", { class: "name", x: named ? left - 8 : left, y: named ? top + 9 : top - 2, "text-anchor": named ? "end" : "start" }, node.name.length > 20 && named ? `${node.name.slice(0, 19)}…` : node.name, title(node.name)));
        const band = (kind, from, to, words) => {
          if (to < view.from || from > view.to) return;
          parts.push(s("rect", { class: kind, x: x(from), width: Math.max(1, x(to) - x(from)), y: top, height: 10 }, title(`${node.name}: ${words}`)));
        };
        band("unseen", data.start, data.end, "not observed");
        for (const [from, to, why] of node.silent) band(why === "refused" ? "refused" : why === "tunnel" ? "tunnel" : "timeout", from, to, `no answer (${why}), ${moment(from)} to ${moment(to)}`);
        for (const piece of node.heights) band("seen", piece[0], piece[piece.length - 2], `answers, height ${piece[1]} to ${piece[piece.length - 1]}, ${moment(piece[0])} to ${moment(piece[piece.length - 2])}`);
        for (const [time, words] of node.events) {
          if (time < view.from || time > view.to) continue;
          parts.push(words.includes("started")
            ? s("path", { class: "start", d: `M${x(time)} ${top + 12}l-4 -7h8z` }, title(`${node.name}, ${moment(time)}: ${words}`))
            : s("path", { class: "exit", d: `M${x(time) - 3} ${top + 2}l6 6m0 -6l-6 6` }, title(`${node.name}, ${moment(time)}: ${words}`)));
        }
        node.versions.slice(1).forEach(([time, version]) => {
          if (time >= view.from && time <= view.to) parts.push(s("text", { x: x(time) + 4, y: top + 9 }, version, title(`${node.name} says ${version} from ${moment(time)} on`)));
        });
      });
      const height = 12 + data.nodes.length * pitch;
      const axis = ticks(view.from, view.to, (right - left) / 90);
      for (const time of axis.list) parts.push(s("text", { x: Math.min(x(time), right - 16), y: height + 12, "text-anchor": "middle" }, moment(time, axis.step)));
      picture.setAttribute("viewBox", `0 0 ${wide} ${height + 20}`);
      picture.setAttribute("height", height + 20);
      picture.replaceChildren(...parts);
    };
    const open = h("details", { open: data.nodes.length <= 30, ontoggle: () => bands() }, h("summary", {}, "Answers and processes over time"), frame,
      h("p", { class: "keys" }, "Green: it answers. Dark: nobody listens. Amber: no answer in time, or a broken one. Violet: trialnet lost its way to it. Pale: not observed. Triangle: started. Cross: ended. Text: what it calls itself from then on."));
    const powered = data.nodes.some((node) => node.powers.length);
    const rows = data.nodes.map((node) => {
      const versions = node.versions.map(([, version]) => version);
      const peers = node.peers.map(([, number]) => number);
      const reached = Math.max(0, ...node.heights.map((piece) => piece[piece.length - 1]));
      return [
        node.name, `${node.role}`, versions.length ? [...new Set(versions)].join(" → ") : node.version, String(reached || "–"),
        powered ? node.powers.map(([, power]) => power).join(" → ") || "–" : null,
        peers.length ? `${peers[peers.length - 1]} (${Math.min(...peers)} to ${Math.max(...peers)})` : "–",
        node.latency ? `${node.latency[0]} / ${node.latency[1]} / ${node.latency[2]}` : "–", String(node.restarts), String(node.answers),
      ].filter((cell) => cell !== null);
    });
    const heads = ["node", "role", "says it is", "height", powered ? "power" : null, "peers (from to)", "RPC ms (median / p99 / most)", "restarts", "answers"].filter((cell) => cell !== null);
    return section("nodes", "Nodes", open, h("p"), table(heads, rows, [3, 5, 6, 7, 8].filter((at) => at < heads.length)));
  }

  function table(heads, rows, numbers) {
    const kind = (at) => numbers.includes(at) ? "number" : null;
    return h("div", { class: "scroll", tabindex: 0 }, h("table", {},
      h("thead", {}, h("tr", {}, heads.map((name, at) => h("th", { scope: "col", class: kind(at) }, name)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, at) => h("td", { class: kind(at) ?? (String(cell).length > 40 ? "wide" : null) }, cell)))))));
  }

  function faultTable() {
    const listed = report.faults.filter((fault) => fault.kind !== "upgrade");
    if (!listed.length) return null;
    const rows = listed.map((fault) => {
      const after = (from, to) => from === null || to === null ? "–" : span(to - from);
      return [fault.id, fault.kind, names(fault.targets) || "–", moment(fault.planned_ms), after(fault.planned_ms, fault.injected_ms), after(fault.injected_ms, fault.verified_ms),
        after(fault.verified_ms, fault.reverted_ms), after(fault.reverted_ms, fault.revert_verified_ms),
        fault.skipped ? `left out: ${fault.skipped}` : Object.keys(fault.dropped ?? {}).length ? `dropped on ${names(Object.keys(fault.dropped))}` : fault.recovery_ms === null ? "–" : `${span(fault.recovery_ms)} ± ${span(data.poll)}`];
    });
    return section("faults", "Faults", table(["fault", "kind", "on", "asked at", "→ injected", "→ verified", "was on for", "revert → verified", "recovery"], rows, [3, 4, 5, 6, 7, 8]));
  }

  function upgradeTable() {
    const rows = (report.upgrades ?? []).flatMap((upgrade) => upgrade.nodes.map((one) => {
      const after = (from, to) => from === null || to === null || from === undefined || to === undefined ? "–" : span(to - from);
      const end = one.failed_ms !== null ? h("span", { class: "bad" }, `failed at ${moment(one.failed_ms)}`) : one.gated_ms !== null ? h("span", { class: "good" }, one.back ? "is back" : "passed its gate") : "–";
      return [upgrade.id, one.node, `${one.from} → ${one.to}${one.back ? " (back)" : ""}`, moment(one.begun_ms), after(one.begun_ms, one.replaced_ms), after(one.replaced_ms, one.verified_ms), one.reports ?? "–", after(one.verified_ms, one.gated_ms), end];
    }));
    if (!rows.length) return null;
    const mixed = (report.mixed ?? []).map((one) => h("p", {}, `${one.versions.join(" beside ")}: ${moment(one.from_ms)} to ${one.to_ms === null ? "the end" : moment(one.to_ms)}`));
    return section("upgrades", "Upgrades", table(["upgrade", "node", "versions", "began", "→ replaced", "→ answers", "says it is", "→ gate", ""], rows, [3, 4, 5, 7]), mixed);
  }

  function stepTable() {
    const rows = report.steps.map((step) => [String(step.index + 1), step.title,
      h("span", { class: step.state === "ok" ? "good" : step.state === "failed" ? "bad" : "warn" }, spaced(step.state)),
      moment(step.began_ms), step.began_ms === null || step.ended_ms === null ? "–" : span(step.ended_ms - step.began_ms), step.seen || "–"]);
    return rows.length ? section("steps", "Steps", table(["", "step", "", "began", "took", "seen"], rows, [0, 3, 4])) : null;
  }

  // ---- block intervals

  function intervals(from, to) {
    const list = [];
    for (let i = 0; i < data.blocks.length; i += 2) if (data.blocks[i] >= from && data.blocks[i] < to) list.push(data.blocks[i + 1]);
    return list.sort((a, b) => a - b);
  }
  function histogram(series) {
    const all = series.flatMap(({ list }) => list);
    const least = Math.max(1, Math.min(...all)), most = Math.max(least * 2, ...all);
    const bins = 24, ratio = Math.log(most / least) || 1;
    const bin = (value) => Math.min(bins - 1, Math.floor(Math.log(Math.max(value, least) / least) / ratio * bins));
    const wide = 330, tall = 34, parts = [];
    series.forEach(({ name, kind, list }, at) => {
      const base = (at + 1) * (tall + 16);
      const counts = new Array(bins).fill(0);
      list.forEach((value) => { counts[bin(value)]++; });
      const top = Math.max(1, ...counts);
      counts.forEach((number, i) => {
        if (!number) return;
        const from = least * Math.exp(ratio * i / bins), to = least * Math.exp(ratio * (i + 1) / bins);
        parts.push(s("rect", { class: `bar ${kind}`, x: i * wide / bins, width: wide / bins - 1, y: base - number / top * tall, height: number / top * tall }, title(`${number} of ${list.length}: ${span(from)} to ${span(to)}`)));
      });
      parts.push(s("line", { class: "axis", x1: 0, x2: wide, y1: base, y2: base }));
      const words = list.length ? `${name} ${list.length} · median ${span(quantile(list, 0.5))} · p95 ${span(quantile(list, 0.95))} · most ${span(list[list.length - 1])}` : `${name}: no block`;
      parts.push(s("text", { class: "small", x: 0, y: base - tall - 3 }, words));
    });
    const high = series.length * (tall + 16);
    parts.push(s("text", { x: 0, y: high + 13 }, span(least)), s("text", { x: wide, y: high + 13, "text-anchor": "end" }, span(most)));
    const words = series.map(({ name, list }) => `${name}: ${list.length} blocks, median ${span(quantile(list, 0.5))}`).join("; ");
    return s("svg", { viewBox: `0 0 ${wide} ${high + 18}`, role: "img", "aria-label": words }, parts);
  }
  function blocks() {
    const end = data.removal ?? data.end;
    const all = intervals(0, end);
    if (!all.length) return null;
    const cards = [h("div", { class: "card chart" }, h("h3", {}, "The whole run"), histogram([{ name: "blocks", kind: "", list: all }]))];
    for (const fault of struck.slice(0, 30)) {
      if (fault.verified_ms === null) continue;
      const on = [fault.verified_ms, over(fault)];
      const length = Math.max(10000, on[1] - on[0]);
      const calm = fault.revert_verified_ms ?? on[1];
      const series = [
        { name: "before", kind: "", list: intervals(Math.max(0, fault.planned_ms - length), fault.planned_ms) },
        { name: "under it", kind: "under", list: intervals(...on) },
        { name: "after", kind: "after", list: intervals(calm, Math.min(end, calm + length)) },
      ];
      if (series.every(({ list }) => !list.length)) continue;
      cards.push(h("div", { class: "card chart" }, h("h3", {}, `${fault.id} `, h("span", { class: "soft" }, `${fault.kind} on ${names(fault.targets)}`)), histogram(series)));
    }
    return section("blocks", "Time between blocks", h("p", { class: "soft" }, `As the quorum's height grew, seen every ${span(data.poll)}${data.thinned > 1 ? `; of ${data.thinned} blocks one is counted` : ""}. Before and after: as long as the fault was on, and at least ten seconds.`), h("div", { class: "grid" }, cards));
  }

  function foot() {
    const timings = Object.entries(report.timings).map(([name, ms]) => `${name} ${span(ms)}`).join(" · ");
    const late = data.late.length ? `Trialnet itself was late ${count(data.late.length / 2, "time")}, at most by ${span(Math.max(...data.late.filter((_, i) => i % 2)))}. ` : "";
    const off = report.off.length ? `Switched off by the file: ${report.off.map(spaced).join(", ")}. ` : "";
    return h("footer", {}, late, off, timings && `Timings: ${timings}. `, `Application states compared at ${count(report.coverage.app_states, "height")}.`);
  }

  head();
  document.getElementById("main").append(...[findings(), figure(), faultTable(), upgradeTable(), blocks(), stepTable(), nodes(), foot()].filter(Boolean));
  width = chart.clientWidth || width;
  draw();
})();
