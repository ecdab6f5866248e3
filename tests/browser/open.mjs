// What the browser scripts share: their order, a browser, and pages that report what
// goes wrong on them.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { chromium } = require("playwright-core");

// The order comes as the first argument, one JSON object.
export const order = JSON.parse(process.argv[2]);

export const SCREENS = {
  desktop: { width: 1280, height: 900 },
  phone: { width: 390, height: 844 },
};

export const browser = await chromium.launch({
  executablePath: order.chromium,
  args: ["--no-sandbox", "--disable-gpu"],
});

/**
 * Open a page of the book. Every other host is blocked, and each attempt to reach one
 * is pushed to `report.outside`; errors of the page go to `report.errors`.
 */
export async function open(context, url, report) {
  const page = await context.newPage();
  await page.route("**/*", (route) => {
    const target = route.request().url();
    if (target.startsWith(order.base) || /^(data|blob):/.test(target)) {
      return route.continue();
    }
    report.outside.push(target);
    return route.abort();
  });
  page.on("pageerror", (error) => report.errors.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") report.errors.push(message.text());
  });
  page.on("response", (response) => {
    if (response.status() >= 400) report.errors.push(`${response.status()} ${response.url()}`);
  });
  await page.goto(order.base + url, { waitUntil: "load" });
  return page;
}
