/** Chapter 8: the roof of a machine, and the steps of a model at their best under it. */
import { choice, frame, slider, svg } from "./figure.js";
import { account, ridgeBatch, ridgeOf } from "./ledger.js";

const ROOF = { width: 320, height: 280, left: 36, right: 312, top: 26, bottom: 238 };
const TIMES = { width: 310, height: 280, right: 306, thick: 16, rows: 132, line: 23 };
const BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const TOKENS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
const SIZES = [4, 2, 1]; // bytes

const digits = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });
const ms = (seconds) => `${digits(1e3 * seconds)} ms`;
const raised = (n) => [...`${n}`].map((sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]).join("");

/** A number in the largest of the units, each a thousand of the last, that it reaches. */
const scaled = (units) => (value) => {
  const reached = Math.floor(Math.log10(value.toPrecision(3)) / 3);
  const i = Math.min(Math.max(reached, 0), units.length - 1);
  return `${digits(value / 1000 ** i)} ${units[i]}`.trim();
};
const count = scaled(["", "thousand", "million", "billion", "trillion"]);
const size = scaled(["bytes", "kB", "MB", "GB", "TB"]);
const texts = (m) => (m === 1 ? "1 text" : `${m} texts`);

/** A slider that stands on rungs, its value at first among them. */
function rungSlider(label, values, value, onchange) {
  const rungs = [...new Set([...values, value])].sort((a, b) => a - b);
  return slider({
    label,
    min: 0,
    max: rungs.length - 1,
    step: 1,
    value: rungs.indexOf(value),
    at: (position) => rungs[position],
    format: digits,
    onchange,
  });
}

/** A logarithmic axis: where a value stands, and the exponents of its powers of ten. */
function logAxis(low, high, from, to) {
  const place = (value) => from + (Math.log(value / low) / Math.log(high / low)) * (to - from);
  const first = Math.ceil(Math.log10(low));
  const powers = Array.from({ length: Math.floor(Math.log10(high)) - first + 1 }, (_, i) => first + i);
  return { place, powers };
}

/** The roof of a machine over operations a byte, and the points of some batches on it. */
function roof(machine, ridges, points, m) {
  const { left, right, top, bottom } = ROOF;
  const { operations, bandwidth } = machine;
  const ridge = ridgeOf(machine);
  // Axes of the same length for every machine: its slope keeps its angle.
  const low = Math.min(0.3, ...ridges.map((one) => one / 2));
  const highest = Math.max(...ridges);
  const { place: x, powers: across } = logAxis(low, Math.max(600, 2 * highest), left, right);
  const ceiling = 3 * operations;
  const { place: y, powers: up } = logAxis(ceiling / ((6 * highest) / low), ceiling, bottom, top);
  const text = (at, height, anchor, content, type = "ntb-small ntb-halo") =>
    svg("text", { x: at, y: height, "text-anchor": anchor, class: type }, content);

  const middle = [x(Math.sqrt(low * ridge)), y(bandwidth * Math.sqrt(low * ridge)) - 12];
  const angle = Math.atan2(y(operations) - y(bandwidth * low), x(ridge) - x(low)) * (180 / Math.PI);
  const along = text(...middle, "middle", `reads ${size(bandwidth)}/s`);
  along.setAttribute("transform", `rotate(${angle} ${middle})`);

  const here = points.find((point) => point.m === m);
  const last = points.at(-1);
  const [px, py] = [x(here.intensity), y(here.operations / here.floor)];
  const crowded = (point) => point.m === m || Math.abs(x(point.intensity) - px) < (point === last ? 76 : 1);
  const small = (point) =>
    text(x(point.intensity) + 5, y(point.operations / point.floor) + 17, "start", `${point.m}`);
  const roomy = px < right - 66;
  return [
    svg("line", { class: "ntb-axis", x1: left, x2: right, y1: bottom, y2: bottom }),
    svg("line", { class: "ntb-axis", x1: left, x2: left, y1: top, y2: bottom }),
    ...across.map((n) => text(x(10 ** n), bottom + 16, "middle", digits(10 ** n))),
    ...up.map((n) => text(left - 5, y(10 ** n) + 4, "end", `10${raised(n)}`)),
    text(right, bottom + 34, "end", "operations a byte"),
    text(2, 12, "start", "operations a second"),
    svg("line", { class: "ntb-rule", x1: x(ridge), x2: x(ridge), y1: y(operations), y2: bottom }),
    svg("path", { class: "ntb-line", d: `M${left},${y(bandwidth * low)}L${x(ridge)},${y(operations)}H${right}` }),
    along,
    text(right, y(operations) - 27, "end", `${count(operations)} a second`),
    text(x(ridge) - 4, bottom - 7, "end", `ridge ${digits(ridge)}`),
    ...points.map((point) =>
      svg("circle", { class: "ntb-ring", cx: x(point.intensity), cy: y(point.operations / point.floor), r: 3.5 }),
    ),
    ...[points[0], last].filter((point) => !crowded(point)).map(small),
    svg("circle", { class: "ntb-dot", cx: px, cy: py, r: 6 }),
    roomy
      ? text(px + 9, py + 20, "start", `m = ${m}`, "ntb-halo")
      : text(px - 7, py - 9, "end", `m = ${m}`, "ntb-halo"),
  ];
}

/** Reading and arithmetic as bars, the longer of which is the floor, and the account. */
function times(now, machine, b) {
  const { right, thick, rows, line } = TIMES;
  const { weights, caches, arithmetic } = now.seconds;
  const length = (seconds) => (seconds / now.floor) * right;
  const bar = (type, x, y, seconds) =>
    svg("rect", { class: type, x, y, width: length(seconds), height: thick });
  const note = (x, y, anchor, text) => svg("text", { x, y, "text-anchor": anchor, class: "ntb-small" }, text);
  const entries = [
    ["operations a step", count(now.operations)],
    ["bytes a step", size(now.bytes)],
    ["operations a byte", digits(now.intensity)],
    ["batch at the ridge, m*", digits(ridgeBatch(machine, b))],
    ["floor of a step", ms(now.floor)],
    ["tokens a second, at best", digits(now.tokens)],
    ["what limits", now.limit],
  ];
  return [
    note(0, 15, "start", `reading weights ${ms(weights)}`),
    note(right - 5, 15, "end", `caches ${ms(caches)}`),
    bar("ntb-bar", 0, 22, weights),
    bar("ntb-share ntb-odd", length(weights), 22, caches),
    note(0, 66, "start", `arithmetic ${ms(arithmetic)}`),
    bar("ntb-ink", 0, 73, arithmetic),
    svg("line", { class: "ntb-cut", x1: right, x2: right, y1: 18, y2: 73 + thick + 4 }),
    ...entries.flatMap(([name, value], i) => [
      note(0, rows + i * line, "start", name),
      svg("text", { x: right, y: rows + i * line, "text-anchor": "end" }, value),
    ]),
  ];
}

function render({ model, el }) {
  const shape = Object.fromEntries(["weights", "layers", "width"].map((name) => [name, model.get(name)]));
  const machines = model
    .get("machines")
    .map(([name, operations, bandwidth]) => ({ name, operations, bandwidth }));
  const limits = ({ operations, bandwidth }) => `${size(bandwidth)}/s, ${count(operations)} op/s`;
  const which = choice({
    label: "Machine",
    options: machines.map((machine) => `${machine.name}: ${limits(machine)}`),
    onchange: draw,
  });
  const batch = rungSlider("Batch m", BATCHES, model.get("batch"), draw);
  const tokens = rungSlider("Tokens t", TOKENS, model.get("tokens"), draw);
  const bytes = choice({
    label: "Bytes b",
    options: SIZES.map((b) => `${b}, as in ${8 * b}-bit numbers`),
    value: SIZES.indexOf(model.get("bytes_per_number")),
    onchange: draw,
  });
  const figure = frame(el, {
    title: "The roof of a machine, and a model under it",
    controls: [which, batch, tokens, bytes],
    panels: [
      [ROOF.width, ROOF.height],
      [TIMES.width, TIMES.height],
    ],
  });

  function draw() {
    const machine = machines[which.value];
    const [m, t, b] = [batch.value, tokens.value, SIZES[bytes.value]];
    const of = (m) => ({ m, ...account(shape, { m, t, b }, machine) });
    const now = of(m);
    const points = [...new Set([...BATCHES, m])].sort((one, other) => one - other).map(of);
    figure.show(
      [roof(machine, machines.map(ridgeOf), points, m), times(now, machine, b)],
      `On ${machine.name}, a step of ${texts(m)} does ${count(now.operations)} operations ` +
        `and reads ${size(now.bytes)}: ${digits(now.intensity)} operations a byte; the ridge lies at ` +
        `${digits(ridgeOf(machine))}, m* = ${digits(ridgeBatch(machine, b))}. It takes at least ` +
        `${ms(now.floor)}, so ${digits(now.tokens)} tokens a second at best. What limits: ${now.limit}.`,
    );
  }
  draw();
  return figure.close;
}

export default { render };
