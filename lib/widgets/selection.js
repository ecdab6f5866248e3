/** Chapter 6: common luck, and which draws a setting changes. */
import { buildPipeline, process, sample, softmax, uniform } from "./decoder.js";
import {
  button, choice, frame, html, probability, rowsOf, slider, svg, temperatureSlider, visible, wordsOf,
} from "./figure.js";
import { topKSlider, topPSlider } from "./knobs.js";
import { ruler } from "./ruler.js";

const LAST_SEED = 99;
const HALF = { width: 320, height: 188, left: 6, right: 314 }; // half a ruler
const A = { says: 14, top: 20 };
const B = { top: 106, says: 146 };
const STRIP = 26;

function settingInWords({ temperature, top_k, top_p }) {
  const parts = [`T = ${temperature.toFixed(2)}`];
  if (top_k) parts.push(`top-k ${top_k}`);
  if (top_p < 1) parts.push(`top-p ${top_p.toFixed(2)}`);
  return parts.join(", ");
}

/** The logits and probabilities of a setting on a step. */
function under(setting, logits) {
  const stages = buildPipeline({ do_sample: true, ...setting });
  const z = process(stages, { input_ids: [] }, logits).at(-1);
  return { z, p: softmax(z) };
}

/** Total variation, the least share of changed draws, and the share on two rulers. */
function changes(p, q) {
  let [F, G, differ, same] = [0, 0, 0, 0];
  for (let v = 0; v < p.length; v++) {
    const start = Math.max(F, G);
    F += p[v];
    G += q[v];
    differ += Math.abs(p[v] - q[v]) / 2;
    same += Math.max(0, Math.min(F, G) - start);
  }
  return { least: differ, ruler: Math.max(0, 1 - same) };
}

/** The rulers of A and B between `from` and `from` + 1/2, and the draws across them. */
function half(from, a, b, draws, words) {
  const { left, right } = HALF;
  const to = from + 0.5;
  const x = (u) => left + ((u - from) / 0.5) * (right - left);
  const note = (attributes, text) => svg("text", { class: "ntb-small", ...attributes }, text);
  const axis = B.says + 10;
  return [
    svg("text", { x: left, y: A.says }, `A: ${settingInWords(a.setting)}`),
    ...ruler({ p: a.p, words, x, y: A.top, height: STRIP, from, to }),
    ...ruler({ p: b.p, words, x, y: B.top, height: STRIP, from, to }),
    svg("text", { x: left, y: B.says }, `B: ${settingInWords(b.setting)}`),
    ...draws.filter(({ u }) => u >= from && u < to).flatMap((draw) => line(draw, x(draw.u))),
    svg("line", { class: "ntb-axis", x1: left, x2: right, y1: axis, y2: axis }),
    ...[0, 0.1, 0.2, 0.3, 0.4, 0.5].flatMap((step, i) => [
      svg("line", { class: "ntb-axis", x1: x(from + step), x2: x(from + step), y1: axis, y2: axis + 4 }),
      note(
        { x: x(from + step), y: axis + 16, "text-anchor": i === 0 ? "start" : i === 5 ? "end" : "middle" },
        (from + step).toFixed(1),
      ),
    ]),
    note({ x: right, y: axis + 30, "text-anchor": "end" }, "luck u; shares in the order of ids"),
  ];
}

/** One draw's luck, through both rulers: a ring where it stays, a diamond where not. */
function line({ i, before, after }, x) {
  const y = 62 + (i % 4) * 10; // apart where two draws are near each other
  const changed = before !== after;
  return [
    svg("line", {
      class: changed ? "ntb-changed" : "ntb-axis",
      x1: x,
      x2: x,
      y1: A.top + STRIP - 5,
      y2: B.top + 5,
    }),
    changed
      ? svg("path", { class: "ntb-accent", d: `M${x},${y - 7}l6,7l-6,7l-6,-7z` })
      : svg("circle", { class: "ntb-ring", cx: x, cy: y, r: 4 }),
  ];
}

function item({ u, before, after }, words) {
  const changed = before !== after;
  const [one, other] = [visible(words[before]), visible(words[after])];
  return html(
    "li",
    {},
    html("span", { class: changed ? "ntb-differs" : "", "aria-hidden": "true" }, changed ? "◆ " : "○ "),
    html("span", { class: "ntb-u" }, u.toFixed(3)),
    changed ? ` ${one} → ${other}` : ` ${one} stays`,
  );
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function render({ model, el }) {
  const rows = rowsOf(model);
  const words = wordsOf(model);
  const count = model.get("draws");
  let first = { temperature: 1, top_k: 0, top_p: 1 };

  const step = choice({ label: "Step", options: model.get("names"), onchange: draw });
  const T = temperatureSlider(model.get("temperature"), draw);
  const k = topKSlider(model.get("top_k"), model.get("vocab"), draw);
  const mass = topPSlider(model.get("top_p"), draw);
  const seed = slider({
    label: "Seed",
    min: 0,
    max: LAST_SEED,
    step: 1,
    value: model.get("seed"),
    onchange: draw,
  });
  const setting = () => ({ temperature: T.value, top_k: k.value, top_p: mass.value });
  const keep = button("Make B the new A", () => {
    first = setting();
    draw();
  });
  const list = html("ol", { class: "ntb-draws", "aria-label": "the draws, A → B" });
  const figure = frame(el, {
    title: "Two settings under the same luck",
    controls: [step, T, k, mass, seed, keep],
    panels: [
      [HALF.width, HALF.height],
      [HALF.width, HALF.height],
    ],
  });
  el.querySelector(".ntb-panels").after(list);

  function draw() {
    const [a, b] = [first, setting()].map((s) => ({ setting: s, ...under(s, rows[step.value]) }));
    const draws = Array.from({ length: count }, (_, i) => {
      const u = uniform(seed.value, i, step.value);
      return { i, u, before: sample(a.z, u), after: sample(b.z, u) };
    });
    const changed = draws.filter(({ before, after }) => before !== after).length;
    const { least, ruler: often } = changes(a.p, b.p);
    draws.sort((one, other) => one.u - other.u); // the list runs along the rulers
    list.replaceChildren(...draws.map((one) => item(one, words)));
    figure.show(
      [half(0, a, b, draws, words), half(0.5, a, b, draws, words)],
      `From A (${settingInWords(a.setting)}) to B (${settingInWords(b.setting)}), ` +
        `${changed} of ${count} draws change (◆). In the long run ${percent(often)} would; ` +
        `no way of sharing luck could change less than the total variation, ${percent(least)}.`,
    );
  }
  draw();
  return figure.close;
}

export default { render };
