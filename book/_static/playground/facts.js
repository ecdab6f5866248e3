/** What the page knows of the model before anything is loaded; a test holds it true. */

/** Of the model's three files, the size in bytes. */
export const FILES = {
  "config.json": 829,
  "model.safetensors": 7634888,
  "tokenizer.json": 49626,
};

/** The beginning of the SHA-256 of the three, one after the other. */
export const VERSION = "21467b8e68df";

/** The most tokens the model can see, prompt included. */
export const CONTEXT = 512;

/** How many tokens there are. */
export const VOCABULARY = 2048;

/** The tokens that end a text. */
export const EOS = [0];
