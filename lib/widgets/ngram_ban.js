/** Chapter 5: the n-gram ban walks through a text. */
import { applyNoRepeatNgram, bannedTokens, softmax } from "./decoder.js";
import { best, frame, html, probability, rowsOf, slider, svg, visible, wordsOf } from "./figure.js";

const LONGEST = 6;
const SHOWN = 5;
const COURSE = { width: 320, height: 172, left: 28, right: 314, top: 26, bottom: 128 };
const BARS = { width: 320, line: 22, left: 112, longest: 150 };
BARS.height = (2 * SHOWN + 2.7) * BARS.line + 4;

/** Where the suffix of the history stands in it, the last time first. */
function occurrences(history, n) {
  const start = history.length - n + 1;
  const places = [];
  for (let i = start - 1; i >= 0; i--) {
    if (history.slice(i, i + n - 1).every((token, j) => token === history[start + j])) places.push(i);
  }
  return places;
}

/** What the ban does at position t: the banned, most probable first, and their mass. */
function banAt(text, row, t, n) {
  const history = text.slice(0, t);
  const p = softmax(row);
  const banned = [...bannedTokens(history, n)].sort((a, b) => p[b] - p[a] || a - b);
  const mass = Math.min(1, banned.reduce((sum, v) => sum + p[v], 0));
  const [wish] = best(row.subarray(0, -1), 1); // the last column stands for many tokens
  return { history, p, banned, mass, wish, hit: banned.includes(wish) };
}

function course(bans, t) {
  const { left, right, top, bottom } = COURSE;
  const L = bans.length;
  const x = (position) => left + ((position - 0.5) / L) * (right - left);
  const y = (mass) => bottom - mass * (bottom - top);
  const wide = Math.max(1, (right - left) / L - 0.4);
  const note = (attributes, text) => svg("text", { class: "ntb-small", ...attributes }, text);
  const tick = Math.max(1, Math.ceil(L / 50) * 10);
  const ticks = Array.from({ length: Math.floor(L / tick) }, (_, i) => (i + 1) * tick);
  return [
    note({ x: 2, y: 14 }, "p(banned) at each position; ▼ best token banned"),
    svg("line", { class: "ntb-axis", x1: left, x2: right, y1: bottom, y2: bottom }),
    ...[0, 0.5, 1].map((m) => note({ x: left - 5, y: y(m) + 4, "text-anchor": "end" }, `${m}`)),
    ...bans.flatMap(({ mass, hit }, i) => [
      svg("rect", {
        class: hit ? "ntb-accent" : "ntb-bar",
        x: x(i + 1) - wide / 2,
        y: y(mass),
        width: wide,
        height: bottom - y(mass),
      }),
      ...(hit ? [svg("path", { class: "ntb-accent", d: `M${x(i + 1) - 3},${y(mass) - 6}h6l-3,5z` })] : []),
    ]),
    svg("line", { class: "ntb-axis", x1: x(t), x2: x(t), y1: top - 6, y2: bottom + 4 }),
    svg("path", { class: "ntb-ink", d: `M${x(t) - 5},${bottom + 11}h10l-5,-8z` }),
    ...ticks.map((i) => note({ x: x(i), y: bottom + 25, "text-anchor": "middle" }, `${i}`)),
    note({ x: right, y: bottom + 41, "text-anchor": "end" }, "position t in the text"),
  ];
}

function bars({ p, banned, mass, history }, row, n, words) {
  const { line, left, longest } = BARS;
  const after = applyNoRepeatNgram(history, row, n);
  const some = after.some((z) => z > -Infinity);
  const q = some ? softmax(after) : p.map(() => 0);
  const kept = best(after.subarray(0, -1), SHOWN).filter((v) => after[v] > -Infinity);
  const heading = (rank, text) => svg("text", { x: 2, y: rank * line + 16 }, text);
  const bar = (rank, mark, v, length, ghost, kind) => {
    const y = rank * line + 3;
    return [
      svg("text", { x: left - 6, y: y + 13, "text-anchor": "end" }, `${mark}${visible(words[v])}`),
      svg("rect", { class: kind, x: left, y, width: length * longest, height: line - 7 }),
      svg("rect", { class: "ntb-ghost", x: left, y, width: ghost * longest, height: line - 7 }),
      svg(
        "text",
        { x: left + Math.max(length, ghost) * longest + 6, y: y + 12, class: "ntb-number" },
        probability(length),
      ),
    ];
  };
  const more = banned.length - SHOWN;
  const below = Math.min(banned.length, SHOWN) + (more > 0 ? 1.7 : 1.3);
  return [
    heading(0, banned.length ? `✕ banned, probability ${probability(mass)}` : "nothing is banned here"),
    ...banned.slice(0, SHOWN).flatMap((v, i) => bar(i + 1, "✕ ", v, p[v], p[v], "ntb-removed")),
    ...(more > 0
      ? [svg("text", { x: left, y: (SHOWN + 1) * line + 10, class: "ntb-small" }, `and ${more} more`)]
      : []),
    heading(below, some ? "left after the ban (dashed: before)" : "nothing is left"),
    ...kept.flatMap((v, i) => bar(below + 1 + i, "", v, q[v], p[v], "ntb-bar")),
  ];
}

/** The text with the suffix, its earlier occurrences, and what followed them. */
function marked(text, t, n, words) {
  const marks = text.map(() => new Set());
  const places = t >= n ? occurrences(text.slice(0, t), n) : [];
  for (const i of places) {
    for (let j = i; j < i + n - 1; j++) marks[j].add("ntb-earlier");
    marks[i + n - 1].add("ntb-banned");
  }
  for (let j = Math.max(0, t - n + 1); j < t; j++) marks[j].add("ntb-suffix");
  for (let j = t; j < text.length; j++) marks[j].add("ntb-ahead");
  const spans = text.map((v, i) =>
    html("span", { class: [...marks[i]].join(" "), "data-i": i }, words[v].replaceAll("\n", "↵\n")),
  );
  spans.splice(t, 0, html("span", { class: "ntb-slot" }, "?"));
  return { spans, places };
}

const quoted = (tokens, words) => `“${tokens.map((v) => visible(words[v])).join("")}”`;
const times = (count) => (count === 1 ? "once" : `${count} times`);

function sentence({ banned, mass, wish, hit, p, history }, places, n, words) {
  const t = history.length;
  const start = `Position ${t}, order ${n}: `;
  if (t < n) return `${start}the history is too short to hold an n-gram; nothing is banned.`;
  const suffix = quoted(history.slice(t - n + 1), words);
  const seen = n === 1 ? "the suffix is empty, every token of the history is banned" : `the suffix ${suffix}`;
  if (!places.length) return `${start}${seen} has not occurred before; nothing is banned.`;
  const first = banned.slice(0, 3).map((v) => `${visible(words[v])} (${probability(p[v])})`);
  const more = banned.length > 3 ? ` and ${banned.length - 3} more` : "";
  const price = mass < 1 ? `, price ${(-Math.log(1 - mass)).toFixed(2)} nats` : "";
  return (
    `${start}${seen}${n === 1 ? "" : ` has occurred ${times(places.length)} before`}. ` +
    `Banned: ${first.join(", ")}${more}; in all ${probability(mass)} of the probability${price}. ` +
    `The model's best token, ${visible(words[wish])}, is ${hit ? "banned" : "allowed"}.`
  );
}

function render({ model, el }) {
  const rows = rowsOf(model);
  const words = wordsOf(model);
  const text = model.get("text");
  const L = text.length;
  const walks = new Map(); // the course of the ban, by its order
  const walk = (n) => {
    if (!walks.has(n)) walks.set(n, rows.map((row, i) => banAt(text, row, i + 1, n)));
    return walks.get(n);
  };

  const order = slider({
    label: "Order n",
    min: 1,
    max: LONGEST,
    step: 1,
    value: model.get("no_repeat_ngram_size"),
    onchange: draw,
  });
  const place = slider({
    label: "Position t",
    min: 1,
    max: L,
    step: 1,
    value: model.get("position"),
    onchange: draw,
  });
  const go = (t) => {
    place.position = Math.min(L, Math.max(1, t));
    draw();
  };
  const nextHit = () => {
    const bans = walk(order.value);
    const ahead = bans.findIndex((ban, i) => i >= place.value && ban.hit);
    go((ahead < 0 ? bans.findIndex((ban) => ban.hit) : ahead) + 1 || place.value);
  };
  const key = (label, name, onclick) =>
    html("button", { type: "button", "aria-label": name, onclick }, label);
  const steps = html(
    "div",
    { class: "ntb-row" },
    key("◀", "one position back", () => go(place.value - 1)),
    key("▶", "one position on", () => go(place.value + 1)),
    key("▼ next hit", "▼ next hit: on to where the best token is banned", nextHit),
  );
  const page = html("p", {
    class: "ntb-text",
    onclick: (event) => {
      const i = event.target.dataset.i;
      if (i !== undefined) go(Number(i));
    },
  });
  const legend = html(
    "p",
    { class: "ntb-legend" },
    ...[
      ["ntb-suffix", "suffix"],
      ["ntb-earlier", "earlier occurrence"],
      ["ntb-banned", "banned"],
      ["ntb-slot", "?"],
    ].flatMap(([kind, name]) => [html("span", { class: kind }, name), " "]),
    "place to fill",
  );
  const figure = frame(el, {
    title: "The n-gram ban on a text of the model",
    controls: [order, place, { node: steps }, { node: page }, { node: legend }],
    panels: [
      [COURSE.width, COURSE.height],
      [BARS.width, BARS.height],
    ],
  });

  function draw() {
    const [n, t] = [order.value, place.value];
    const bans = walk(n);
    const ban = bans[t - 1];
    const { spans, places } = marked(text, t, n, words);
    page.replaceChildren(...spans);
    figure.show([course(bans, t), bars(ban, rows[t - 1], n, words)], sentence(ban, places, n, words));
  }
  draw();
  return figure.close;
}

export default { render };
