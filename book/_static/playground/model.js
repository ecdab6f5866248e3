/** The model as the page sees it: orders go to the worker, steps come back. */
import { file, json } from "./files.js";

export class Model {
  #worker;
  #runs = new Map();
  #count = 0;
  /** Whether the worker is gone. */
  broken = false;

  /** @param {Worker} worker which is ready */
  constructor(worker) {
    this.#worker = worker;
    worker.onmessage = ({ data }) => this.#take(data);
    worker.onerror = (event) => this.#fail(event.message || "the worker stopped");
  }

  /**
   * Fetch the weights and start the worker.
   * @param {(bytes: number) => void} progress
   * @returns {Promise<Model>}
   * @throws {Error} which says what failed
   */
  static async load(progress) {
    const [config, weights] = await Promise.all([
      json("config.json"),
      file("model.safetensors", progress),
    ]);
    return new Model(await startWorker(config, weights));
  }

  /**
   * Write on; an order for a lane ends its last one.
   * @param {string} lane
   * @param {import("./engine.js").Order} order
   * @param {(step: import("./engine.js").Step) => void} onstep
   * @returns {Promise<{reason: string, message?: string}>} what ended the text
   */
  write(lane, order, onstep) {
    const run = ++this.#count;
    return new Promise((resolve) => {
      this.#runs.set(run, { onstep, resolve });
      this.#worker.postMessage({ type: "write", lane, run, order });
    });
  }

  /** End what is being written. @param {string} [lane] this one alone */
  stop(lane) {
    this.#worker.postMessage({ type: "stop", lane });
  }

  #take({ type, run, step, ...end }) {
    if (type === "step") this.#runs.get(run).onstep(step);
    if (type !== "end") return;
    this.#runs.get(run).resolve(end);
    this.#runs.delete(run);
  }

  #fail(message) {
    this.broken = true;
    this.#worker.terminate();
    for (const { resolve } of this.#runs.values()) resolve({ reason: "failed", message });
    this.#runs.clear();
  }
}

/** @param {object} config @param {Uint8Array} weights which go over to the worker */
function startWorker(config, weights) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    const fail = (message) => {
      worker.terminate();
      reject(new Error(message));
    };
    worker.onmessage = ({ data }) => (data.type === "ready" ? resolve(worker) : fail(data.message));
    worker.onerror = () =>
      fail("worker.js did not start; the browser must know modules in web workers");
    worker.postMessage({ type: "load", config, weights }, [weights.buffer]);
  });
}
