// What the Python side wrote for a test to be held against.
import fs from "node:fs";
import path from "node:path";

const file = process.env.GOLDEN;
if (!file) throw new Error("GOLDEN must name a file: run these tests through pytest");

/** A file that lies beside the golden one. */
export const bytes = (name) => fs.readFileSync(path.join(path.dirname(file), name));
export const json = (name) => JSON.parse(bytes(name).toString("utf8"));
export const golden = json(path.basename(file));
