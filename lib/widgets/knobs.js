/** The sliders of top-k and top-p where several settings stand together. */
import { slider } from "./figure.js";
import { ladder } from "./ranked.js";

/** A slider of k, from 1 to the vocabulary; at its right end top-k is off. */
export function topKSlider(value, vocab, onchange) {
  const rungs = [...ladder(vocab - 1, ...(value && value < vocab ? [value] : [])), 0];
  return slider({
    label: "top_k",
    min: 0,
    max: rungs.length - 1,
    step: 1,
    value: rungs.indexOf(value < vocab ? value : 0),
    at: (position) => rungs[position],
    format: (k) => (k ? String(k) : "off"),
    onchange,
  });
}

/** A slider of the mass of top-p; at its right end, 1, top-p is off. */
export function topPSlider(value, onchange) {
  return slider({
    label: "top_p",
    min: 0.01,
    max: 1,
    step: 0.01,
    value,
    format: (mass) => (mass < 1 ? mass.toFixed(2) : "off"),
    onchange,
  });
}
