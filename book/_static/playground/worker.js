/**
 * The model at work, away from the page so that the page stays at hand.
 *
 * In:  { type: "load", config, weights }
 *      { type: "write", lane, run, order }   a new order for a lane ends its last one
 *      { type: "stop", lane? }               one lane, or every one
 * Out: { type: "ready" }
 *      { type: "step", run, step }
 *      { type: "end", run, reason: "eos" | "length" | "stopped" | "failed", message? }
 *      { type: "failed", message }           the model could not be loaded
 */
import { GPT2 } from "../lib/gpt2.js";
import { parseSafetensors } from "../lib/safetensors.js";
import { Lane, write } from "./engine.js";

/** @type {GPT2} */
let model;
/** @type {Map<string, Lane>} */
const lanes = new Map();
/** @type {Map<string, number>} the run that each lane is at */
const runs = new Map();

const tasks = {
  load({ config, weights }) {
    try {
      model = new GPT2(config, parseSafetensors(weights));
      postMessage({ type: "ready" });
    } catch (error) {
      postMessage({ type: "failed", message: error.message });
    }
  },

  async write({ lane, run, order }) {
    runs.set(lane, run);
    try {
      if (!lanes.has(lane)) lanes.set(lane, new Lane(model));
      postMessage({ type: "end", run, reason: await carryOut(lane, run, order) });
    } catch (error) {
      postMessage({ type: "end", run, reason: "failed", message: error.message });
    }
  },

  stop({ lane }) {
    if (lane === undefined) runs.clear();
    else runs.delete(lane);
  },
};

/** Post step after step, for as long as the lane is at this run. */
async function carryOut(lane, run, order) {
  const writing = write(lanes.get(lane), order);
  for (;;) {
    await otherMessages();
    if (runs.get(lane) !== run) return "stopped";
    const { value, done } = writing.next();
    if (done) return value;
    postMessage({ type: "step", run, step: value }, { transfer: [value.logits.buffer] });
  }
}

/** Let messages that have arrived be handled. A timer would wait 4 ms each time. */
function otherMessages() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

addEventListener("message", ({ data }) => tasks[data.type](data));
