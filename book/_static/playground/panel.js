/** The panel of a chosen token: where it came from, and where else one could go. */
import { html, probability } from "../lib/figure.js";

const INVITATION = "Press a token to write on with it instead.";

/**
 * @param {Object} what
 * @param {import("./engine.js").Step} what.step
 * @param {import("./explain.js").Explanation} what.explanation
 * @param {string} what.title names the text, where there are two
 * @param {(id: number) => string} what.word a token as one can see it
 * @param {boolean} what.sampled
 * @param {(id: number) => void} what.onbranch
 * @param {() => void} what.onclose
 * @returns {Node[]}
 */
export function panel({ step, explanation, title, word, sampled, onbranch, onclose }) {
  return [
    html(
      "div",
      { class: "pg-panel-head" },
      html("h3", { id: "pg-panel-title" }, `${title}Token ${step.index + 1}: `, token(word(step.token))),
      html("button", { type: "button", class: "pg-close", onclick: onclose }, "Close"),
    ),
    html("p", { class: "pg-how" }, ...story(step, explanation, word, sampled)),
    html("h4", { id: "pg-candidates" }, "Candidates"),
    html("p", { class: "pg-key" }, key(explanation.stages.length > 0)),
    candidates(step, explanation, word, onbranch),
    html("h4", {}, "Stages"),
    stageTable(explanation),
  ];
}

/** How the token came to be chosen, in a sentence or two. */
function story(step, { rank, raw, final, interval }, word, sampled) {
  const sentences = [
    `Rank ${rank}, counted from 0; probability ${probability(raw)} from the model, ` +
      `${probability(final)} after the stages.`,
  ];
  if (step.token !== step.chosen) {
    sentences.push(" Chosen by you; left alone, the pipeline chooses ", token(word(step.chosen)));
    sentences.push(sampled ? ` with the draw u = ${step.u.toFixed(4)}.` : ".");
  } else if (sampled) {
    const [from, to] = interval.map((edge) => edge.toFixed(4));
    sentences.push(` The draw u = ${step.u.toFixed(4)} fell into its interval, ${from} to ${to}.`);
  } else {
    sentences.push(" Nothing was drawn: the most probable token left was taken.");
  }
  return sentences;
}

function key(staged) {
  return staged
    ? "Outline: the model's probability. Bar and number: after the stages. " + INVITATION
    : "The model's probabilities; no stage is on. " + INVITATION;
}

/** @param {import("./explain.js").Explanation} explanation */
function stageTable({ stages, entropy }) {
  const row = (...cells) =>
    html("tr", {}, ...cells.map((text, i) => html(i ? "td" : "th", i ? {} : { scope: "row" }, text)));
  const heads = ["Stage", "Tokens cut", "Mass cut", "Entropy, nats"];
  return html(
    "table",
    { class: "pg-stages" },
    html("caption", { class: "pg-unseen" }, "What each stage cut away"),
    html("thead", {}, html("tr", {}, ...heads.map((text) => html("th", { scope: "col" }, text)))),
    html(
      "tbody",
      {},
      row("the model", "", "", entropy.toFixed(2)),
      ...stages.map(({ name, value, removed, mass, before, after }) =>
        row(
          `${name} = ${value}`,
          removed.toLocaleString("en"),
          probability(mass),
          `${before.toFixed(2)} → ${after.toFixed(2)}`,
        ),
      ),
    ),
  );
}

function candidates(step, { candidates }, word, onbranch) {
  const most = Math.max(...candidates.flatMap(({ raw, final }) => [raw, final]));
  const width = (p) => `${(100 * p) / most}%`;
  const row = ({ id, raw, final, removedBy }) => {
    const chosen = id === step.token;
    const attributes = chosen
      ? { class: "pg-candidate pg-chosen" }
      : { class: "pg-candidate", type: "button", "data-token": id, onclick: () => onbranch(id) };
    return html(
      "li",
      { class: removedBy ? "pg-removed" : "" },
      html(
        chosen ? "div" : "button",
        attributes,
        html("span", { class: "pg-word" }, word(id)),
        html(
          "span",
          { class: "pg-bar", "aria-hidden": "true" },
          html("span", { class: "pg-final", style: `width: ${width(final)}` }),
          html("span", { class: "pg-raw", style: `width: ${width(raw)}` }),
        ),
        html("span", { class: "pg-p" }, removedBy ? `cut: ${removedBy}` : probability(final)),
        chosen ? html("span", { class: "pg-unseen" }, "chosen") : "",
      ),
    );
  };
  return html("ol", { class: "pg-candidates", "aria-labelledby": "pg-candidates" }, ...candidates.map(row));
}

function token(text) {
  return html("span", { class: "pg-token" }, text);
}
