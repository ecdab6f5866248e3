/**
 * What a step of a model costs: the equations of chapter 8, in operations, bytes, seconds.
 *
 * A model is its numbers of weights and layers and its width, a step its batch m, the
 * tokens t that each text looks at, and the bytes b of a number; a machine is the
 * operations and the bytes that it can do and read in a second.
 */

/** Operations (8.1). */
export function operationsOf({ weights, layers, width }, { m, t }) {
  return 2 * m * (weights + 2 * layers * width * t);
}

/** Bytes (8.2), those of the weights and those of the caches. */
export function bytesOf({ weights, layers, width }, { m, t, b }) {
  return { weights: b * weights, caches: b * 2 * layers * width * t * m };
}

/** Where the machine's roof turns flat, in operations a byte. */
export function ridgeOf({ operations, bandwidth }) {
  return operations / bandwidth;
}

/** The batch that reaches the ridge while caches are short (8.4). */
export function ridgeBatch(machine, b) {
  return (b * ridgeOf(machine)) / 2;
}

/** A step's account: what it does, how long that takes at best (8.3), and what limits. */
export function account(model, step, machine) {
  const operations = operationsOf(model, step);
  const { weights, caches } = bytesOf(model, step);
  const bytes = weights + caches;
  const seconds = {
    weights: weights / machine.bandwidth,
    caches: caches / machine.bandwidth,
    arithmetic: operations / machine.operations,
  };
  const reading = bytes / machine.bandwidth;
  const floor = Math.max(seconds.arithmetic, reading);
  const longer = weights >= caches ? "reading weights" : "reading caches";
  return {
    operations,
    bytes,
    intensity: operations / bytes,
    seconds,
    floor,
    tokens: step.m / floor,
    limit: seconds.arithmetic > reading ? "arithmetic" : longer,
  };
}
