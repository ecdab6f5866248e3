/** A step's mass along its ranking, and a cut in it: what top-k and top-p are drawn on. */
import { softmax } from "./decoder.js";
import { best, probability, svg, visible } from "./figure.js";

export const PANEL = [320, 304];
const PLOT = { left: 38, right: 312, top: 54, bottom: 206 };

/** Whole numbers from 1 to `most`, in steps of 4 % or of 1, and `wanted` among them. */
export function ladder(most, wanted = 1) {
  const rungs = new Set([most, wanted]);
  for (let k = 1; k < most; k = Math.max(k + 1, Math.round(k * 1.04))) rungs.add(k);
  return [...rungs].sort((a, b) => a - b);
}

/** The tokens of a step best first, their probabilities, the mass down to each place. */
export function ranking(logits) {
  const p = softmax(logits);
  const order = best(logits, logits.length);
  let sum = 0;
  return { p, order, mass: order.map((v) => (sum += p[v])) };
}

/** What a truncation left of a step: how many, the last of them, and the mass lost. */
export function cutOf({ p, order, mass }, truncated) {
  const kept = truncated.reduce((count, z) => count + (z > -Infinity), 0);
  const removed = order.length - kept;
  const token = order[kept - 1];
  const held = removed ? mass[kept - 1] : 1;
  return { kept, removed, token, chance: p[token], mass: held, lost: Math.max(0, 1 - held) };
}

/** A count with its thousands apart. */
export const whole = (count) => count.toLocaleString("en");

/** A cut as part of a sentence. */
export function cutInWords({ kept, removed, mass, lost }) {
  return (
    `${whole(kept)} kept (mass ${probability(mass)}), ` +
    `${whole(removed)} removed (total variation ${probability(lost)})`
  );
}

/**
 * The shapes of one panel.
 * @param {string} name of the step
 * @param {string[]} words
 * @param {ReturnType<typeof ranking>} ranks
 * @param {ReturnType<typeof cutOf>} cut
 * @param {{ level: number, levelName: string, foot: string, report: string }} notes a
 *   horizontal line, what stands at the foot of the cut, the last line below the plot
 */
export function rankedPanel(name, words, ranks, cut, { level, levelName, foot, report }) {
  const V = ranks.order.length;
  const { bottom } = PLOT;
  const [first] = ranks.order;
  return [
    svg("text", { x: 2, y: 15 }, name),
    small(2, 33, `best: ${visible(words[first])}, p ${chance(ranks.p[first])}`),
    ...axes(V),
    ...curve(ranks.mass, cut.kept),
    ...horizontal(level, levelName),
    ...vertical(scales(V).x(cut.kept), cut, foot),
    svg(
      "text",
      { x: 2, y: bottom + 58 },
      `keeps ${whole(cut.kept)}: mass ${probability(cut.mass)}, last p ${chance(cut.chance)}`,
    ),
    svg(
      "text",
      { x: 2, y: bottom + 76 },
      `removes ${whole(cut.removed)}: total variation ${probability(cut.lost)}`,
    ),
    svg("text", { x: 2, y: bottom + 94 }, report),
  ];
}

/** A hollow mark on the curve where the mass reaches a level. */
export function mark({ mass }, place) {
  const { x, y } = scales(mass.length);
  const [left, top] = [x(place), y(mass[place - 1])];
  return svg("path", {
    class: "ntb-mark",
    d: `M${left - 6},${top}l6,-6l6,6l-6,6z`,
  });
}

/** A probability after “p”: = 0.213, or < 0.0001. */
function chance(p) {
  const written = probability(p);
  return written.startsWith("<") ? written : `= ${written}`;
}

/** Where a place, on a logarithmic axis, and a mass lie in the plot of V tokens. */
function scales(V) {
  const { left, right, top, bottom } = PLOT;
  return {
    x: (place) => left + (Math.log(place) / Math.log(Math.max(V, 2))) * (right - left),
    y: (mass) => bottom - mass * (bottom - top),
  };
}

function small(x, y, text, anchor = "start", more = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: `ntb-small ${more}` }, text);
}

function axes(V) {
  const { left, right, top, bottom } = PLOT;
  const { x, y } = scales(V);
  const powers = [1, 10, 100, 1000, 10_000, 100_000].filter((place) => place <= V);
  return [
    svg("line", { class: "ntb-axis", x1: left, x2: right, y1: bottom, y2: bottom }),
    svg("line", { class: "ntb-axis", x1: left, x2: left, y1: top, y2: bottom }),
    ...[0, 0.5, 1].map((mass) => small(left - 9, y(mass) + 4, `${mass}`, "end")),
    ...powers.map((place) => small(x(place), bottom + 15, whole(place), "middle")),
    small(right, bottom + 32, "mass of the best 1, 2, 3 … tokens", "end"),
  ];
}

/** The mass curve, filled as far as the kept tokens reach. */
function curve(mass, kept) {
  const { x, y } = scales(mass.length);
  const through = (places) => places.map((k) => `L${x(k)},${y(mass[k - 1])}`).join("");
  const places = ladder(mass.length, kept);
  const inside = places.filter((k) => k <= kept);
  const start = `M${x(1)},${y(0)}`;
  return [
    svg("path", { class: "ntb-area", d: `${start}${through(inside)}L${x(kept)},${y(0)}z` }),
    svg("path", { class: "ntb-line", d: start + through(places) }),
  ];
}

function horizontal(level, name) {
  const { left, right } = PLOT;
  const at = scales(2).y(level);
  const below = level > 0.5 ? 15 : -6; // the curve is above both at the right end
  return [
    svg("line", { class: "ntb-rule", x1: left, x2: right, y1: at, y2: at }),
    small(right, at + below, name, "end", "ntb-halo"),
  ];
}

/** The cut: what it keeps below the dot, what it loses above, and its last token. */
function vertical(x, { mass, lost }, foot) {
  const { left, right, top, bottom } = PLOT;
  const dot = scales(2).y(mass);
  const aside = (y, text, before) =>
    small(x + (before ? -8 : 8), y, text, before ? "end" : "start", "ntb-halo");
  return [
    svg("line", { class: "ntb-cut", x1: x, x2: x, y1: dot, y2: bottom }),
    svg("line", { class: "ntb-lost", x1: x, x2: x, y1: top, y2: dot }),
    svg("circle", { class: "ntb-dot", cx: x, cy: dot, r: 5 }),
    aside(bottom - 8, foot, x > (left + right) / 2),
    // The curve leaves the upper left free.
    ...(dot - top > 18
      ? [aside((top + dot) / 2 + 4, `lost ${probability(lost)}`, x > left + 80)]
      : []),
  ];
}
