/** Chapter 7: one step through the stages, in an order that the reader chooses. */
import {
  EmptySupportError, entropy, process, sample, softmax, stage,
} from "./decoder.js";
import {
  best, choice, frame, html, probability, rowsOf, slider, svg, temperatureSlider, visible, wordsOf,
} from "./figure.js";
import { topKSlider, topPSlider } from "./knobs.js";
import { ruler } from "./ruler.js";

const STANDARD = ["no_repeat_ngram", "temperature", "top_k", "top_p"];
const TITLES = {
  no_repeat_ngram: "n-gram ban",
  temperature: "temperature",
  top_k: "top-k",
  top_p: "top-p",
};
const BEST = 4;
const BARS = { width: 300, line: 19, left: 100, longest: 118 };
const DRAW = { width: 320, height: 152, left: 6, right: 314 };
const RANKS = { width: 320, height: 152, left: 6, right: 314 };

/** What each stage makes of a step; after an empty support, nothing is reached. */
function courseOf(order, values, step, logits) {
  const course = [];
  let z = logits;
  for (const name of order) {
    const before = z;
    try {
      z = z && process([stage(name, values[name])], step, z)[1];
      course.push({ name, before, after: z });
    } catch (error) {
      if (!(error instanceof EmptySupportError)) throw error;
      z = null;
      course.push({ name, before, after: null });
    }
  }
  return { course, left: z };
}

const isKept = (z) => z > -Infinity;
const countOf = (logits) => logits.reduce((count, z) => count + isKept(z), 0);
const keptOf = (logits) => best(logits, countOf(logits));
const tokens = (count) => `${count.toLocaleString("en")} ${count === 1 ? "token" : "tokens"}`;

function report({ before, after }) {
  if (!before) return "not reached: nothing was left";
  if (!after) return "✕ nothing left: this stage would remove every token that was left";
  const p = softmax(before);
  const removed = p.reduce((sum, mass, v) => sum + (isKept(after[v]) ? 0 : mass), 0);
  return (
    `${countOf(after).toLocaleString("en")} left · mass removed ${probability(removed)} · ` +
    `entropy ${Math.max(0, entropy(after)).toFixed(2)}`
  );
}

/** The best tokens that reached a stage: with what they have after it, or crossed out. */
function bars({ before, after }, words) {
  if (!before) return [];
  const { line, left, longest } = BARS;
  const [p, q] = [softmax(before), after && softmax(after)];
  return best(before, BEST)
    .filter((v) => isKept(before[v]))
    .flatMap((v, rank) => {
      const y = rank * line + 2;
      const gone = !after || !isKept(after[v]);
      const now = gone ? 0 : q[v];
      return [
        svg("text", { x: left - 6, y: y + 12, "text-anchor": "end", class: "ntb-label" }, visible(words[v])),
        svg("rect", { class: "ntb-bar", x: left, y, width: now * longest, height: line - 5 }),
        svg("rect", { class: "ntb-ghost", x: left, y, width: p[v] * longest, height: line - 5 }),
        svg(
          "text",
          { x: left + Math.max(now, p[v]) * longest + 6, y: y + 12, class: "ntb-number" },
          gone ? "✕ removed" : probability(now),
        ),
      ];
    });
}

/** A list item with a title, buttons for earlier and later, a slider, a report and bars. */
function card(name, title, { handle, keys, knob }) {
  const heading = html("span", { class: "ntb-stage-name" }, title);
  const says = html("p", { class: "ntb-report" });
  const drawing = svg("svg", {
    viewBox: `0 0 ${BARS.width} ${BEST * BARS.line + 2}`,
    "aria-hidden": "true",
  });
  const node = html(
    "li",
    { class: "ntb-stage", "data-stage": name },
    html(
      "div",
      { class: "ntb-stage-side" },
      html("div", { class: "ntb-stage-head" }, handle, heading, ...keys),
      knob,
      says,
    ),
    drawing,
  );
  return {
    node,
    /** Say where the card stands of how many, and which of its buttons move it. */
    place(number, count) {
      heading.textContent = `${number} · ${title}`;
      keys.forEach((key, down) => key.setAttribute("aria-disabled", number === (down ? count : 1)));
    },
    show(course, words) {
      says.textContent = report(course);
      node.classList.toggle("ntb-empty", !course.after);
      drawing.replaceChildren(...bars(course, words));
    },
  };
}

/**
 * Cards that the reader puts into order, by dragging or by buttons. The neighbours move
 * around the card in hand, which stays where it is in the document: so it keeps the
 * focus, and a finger keeps its hold.
 */
function sortable(list, onmove) {
  const cards = () => [...list.querySelectorAll("[data-stage]")];
  const move = (node, down) => {
    const neighbour = cards()[cards().indexOf(node) + (down ? 1 : -1)];
    if (!neighbour) return;
    if (down) node.before(neighbour);
    else node.after(neighbour);
    onmove(node.dataset.stage);
  };
  const height = (node, share) => {
    const box = node.getBoundingClientRect();
    return box.top + box.height * share;
  };
  const drag = (node) => (event) => {
    event.preventDefault();
    event.target.setPointerCapture(event.pointerId);
    node.classList.add("ntb-held");
    const follow = ({ clientY }) => {
      const place = cards().indexOf(node);
      const [above, below] = [cards()[place - 1], cards()[place + 1]];
      if (above && clientY < height(above, 0.75)) move(node, false);
      else if (below && clientY > height(below, 0.25)) move(node, true);
    };
    const end = () => {
      node.classList.remove("ntb-held");
      event.target.removeEventListener("pointermove", follow);
    };
    event.target.addEventListener("pointermove", follow);
    event.target.addEventListener("lostpointercapture", end, { once: true });
  };
  return { move, drag, order: () => cards().map((node) => node.dataset.stage) };
}

/** The rulers of both orders, and where the luck u falls on them. */
function drawn(here, standard, u, words) {
  const { left, right } = DRAW;
  const x = (mass) => left + mass * (right - left);
  const note = (attributes, text) => svg("text", { class: "ntb-small", ...attributes }, text);
  const draws = ({ left: z }) => (z ? ` draws ${visible(words[sample(z, u)])}` : "");
  const strip = ({ left: z }, y) =>
    z ? ruler({ p: softmax(z), words, x, y, height: 26 }) : [svg("text", { x: left, y: y + 18 }, "✕ nothing left")];
  return [
    svg("text", { x: left, y: 14 }, `this order${draws(here)}`),
    ...strip(here, 20),
    ...strip(standard, 66),
    svg("text", { x: left, y: 113 }, `standard order${draws(standard)}`),
    svg("line", { class: "ntb-changed", x1: x(u), x2: x(u), y1: 18, y2: 94 }),
    svg("path", { class: "ntb-accent", d: `M${x(u)},93l5,7h-10z` }),
    note({ x: left, y: 134 }, "0"),
    note({ x: right, y: 134, "text-anchor": "end" }, "1"),
    note({ x: right, y: 149, "text-anchor": "end" }, "luck u; shares in the order of ids"),
  ];
}

/** Which ranks of the model's logits are left in either order. */
function ranks(here, standard, logits) {
  const { left, right } = RANKS;
  const order = best(logits, logits.length);
  const kept = [here, standard].map(({ left: z }) => order.map((v) => z !== null && isKept(z[v])));
  const last = Math.max(10, ...kept.map((row) => row.lastIndexOf(true) + 1));
  const wide = (right - left) / last;
  const row = (flags, y) =>
    flags.slice(0, last).flatMap((flag, rank) => {
      const x = left + rank * wide;
      const box = { x, y, width: Math.max(0.5, wide - (wide > 3 ? 1 : 0)), height: 26 };
      return [svg("rect", { ...box, class: flag ? "ntb-bar" : "ntb-removed" })].concat(
        !flag && wide > 11
          ? [svg("text", { x: x + wide / 2, y: y + 18, "text-anchor": "middle", class: "ntb-label" }, "✕")]
          : [],
      );
    });
  const note = (attributes, text) => svg("text", { class: "ntb-small", ...attributes }, text);
  const count = (flags) => tokens(flags.filter(Boolean).length);
  return [
    svg("text", { x: left, y: 14 }, `this order: ${count(kept[0])} left`),
    ...row(kept[0], 20),
    ...row(kept[1], 66),
    svg("text", { x: left, y: 113 }, `standard order: ${count(kept[1])} left`),
    note({ x: left, y: 134 }, "1"),
    note({ x: right, y: 134, "text-anchor": "end" }, last.toLocaleString("en")),
    note({ x: right, y: 149, "text-anchor": "end" }, "place in the model's ranking"),
  ];
}

const list3 = (ids, words) =>
  ids.slice(0, 3).map((v) => visible(words[v])).join(", ") +
  (ids.length > 3 ? ` and ${ids.length - 3} more` : "");

/** The order, what is left, which token is drawn, and how the standard order differs. */
function sentence(order, here, standard, u, words) {
  const usual = order.join() === STANDARD.join();
  const start = `Order: ${order.map((name) => TITLES[name]).join(", ")}${usual ? " (the standard)" : ""}. `;
  const token = (z) => visible(words[sample(z, u)]);
  const luck = `u = ${u.toFixed(3)}`;
  if (!here.left) {
    const guilty = here.course.find(({ after }) => !after).name;
    const other = standard.left
      ? `The standard order leaves ${tokens(countOf(standard.left))} and draws ${token(standard.left)}.`
      : "So it is in the standard order.";
    return `${start}Nothing is left after the ${TITLES[guilty]}, and there is no token to draw. ${other}`;
  }
  const found = `${tokens(countOf(here.left))} left; ${luck} draws ${token(here.left)}.`;
  if (usual) return `${start}${found}`;
  if (!standard.left) return `${start}${found} The standard order leaves nothing.`;
  const [mine, theirs] = [keptOf(here.left), keptOf(standard.left)];
  const only = {
    here: mine.filter((v) => !isKept(standard.left[v])),
    there: theirs.filter((v) => !isKept(here.left[v])),
  };
  if (!only.here.length && !only.there.length) {
    return `${start}${found} The standard order keeps the same tokens: on this step the order does not matter.`;
  }
  const differences = [
    only.here.length && `only here ${list3(only.here, words)}`,
    only.there.length && `only there ${list3(only.there, words)}`,
  ].filter(Boolean);
  return (
    `${start}${found} The order matters: the standard order keeps ${theirs.length.toLocaleString("en")} ` +
    `(${differences.join("; ")}) and draws ${token(standard.left)}.`
  );
}

function render({ model, el }) {
  const rows = rowsOf(model);
  const words = wordsOf(model);
  const histories = model.get("histories");
  const redraw = () => draw();
  const knobs = {
    no_repeat_ngram: slider({
      label: "Order n",
      min: 0,
      max: 6,
      step: 1,
      value: model.get("no_repeat_ngram_size"),
      format: (n) => (n ? String(n) : "off"),
      onchange: redraw,
    }),
    temperature: temperatureSlider(model.get("temperature"), redraw),
    top_k: topKSlider(model.get("top_k"), model.get("vocab"), redraw),
    top_p: topPSlider(model.get("top_p"), redraw),
  };
  const luck = slider({
    label: "Luck u",
    min: 0,
    max: 0.999,
    step: 0.001,
    value: model.get("u"),
    format: (u) => u.toFixed(3),
    onchange: redraw,
  });
  const step = choice({ label: "Step", options: model.get("names"), onchange: redraw });

  const stages = html("ol", { class: "ntb-stages", "aria-label": "the stages, first to last" });
  const sorting = sortable(stages, (name) => {
    const order = sorting.order();
    draw(`${TITLES[name]} is now stage ${order.indexOf(name) + 1} of ${order.length}. `);
  });
  const key = (label, name, onclick) =>
    html("button", { type: "button", "aria-label": name, onclick }, label);
  const cards = {};
  for (const name of STANDARD) {
    const handle = html("span", { class: "ntb-handle", "aria-hidden": "true", title: "drag" }, "⠿");
    cards[name] = card(name, TITLES[name], {
      handle,
      keys: [
        key("▲", `${TITLES[name]}: earlier`, () => sorting.move(cards[name].node, false)),
        key("▼", `${TITLES[name]}: later`, () => sorting.move(cards[name].node, true)),
      ],
      knob: knobs[name].node,
    });
    handle.addEventListener("pointerdown", sorting.drag(cards[name].node));
    stages.append(cards[name].node);
  }
  const source = html("p", { class: "ntb-report" });
  const standardOrder = html(
    "div",
    { class: "ntb-row" },
    key("standard order", "back to the standard order", () => {
      for (const name of STANDARD) stages.append(cards[name].node);
      draw();
    }),
  );
  const figure = frame(el, {
    title: "One step of the model through the stages",
    controls: [step, { node: source }, { node: stages }, luck, { node: standardOrder }],
    panels: [
      [RANKS.width, RANKS.height],
      [DRAW.width, DRAW.height],
    ],
  });

  function draw(news = "") {
    const logits = rows[step.value];
    const values = Object.fromEntries(STANDARD.map((name) => [name, knobs[name].value]));
    const given = { input_ids: histories[step.value] };
    const order = sorting.order();
    const here = courseOf(order, values, given, logits);
    const standard = courseOf(STANDARD, values, given, logits);
    source.textContent =
      `The model's logits: ${tokens(countOf(logits))}, entropy ${entropy(logits).toFixed(2)} nats, ` +
      `best ${list3(best(logits, 3), words)}`;
    here.course.forEach((course, place) => {
      cards[course.name].place(place + 1, order.length);
      cards[course.name].show(course, words);
    });
    figure.show(
      [ranks(here, standard, logits), drawn(here, standard, luck.value, words)],
      news + sentence(order, here, standard, luck.value, words),
    );
  }
  draw();
  return figure.close;
}

export default { render };
