// Visit every page of the built book and report what a reader would meet.
//
//   node visit.mjs '{"base": "http://127.0.0.1:8000/", "pages": ["index.html"],
//                    "chromium": "/usr/bin/chromium", "shots": "folder"}'
//
// Every host but the book's own is blocked, and each attempt to reach one is
// reported. The answer is one JSON object on stdout.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import zlib from "node:zlib";
import { browser, open, order, SCREENS } from "./open.mjs";

const require = createRequire(import.meta.url);
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const { pages, shots } = order;
const SETTLED = 20_000; // the libraries of the live figures are 4 MB of script

async function mathIsSet(page) {
  const has = await page.evaluate(() => document.querySelector(".math") !== null);
  if (!has) return;
  await page.waitForFunction(
    () => window.MathJax?.startup?.promise !== undefined,
    null,
    { timeout: SETTLED },
  );
  await page.evaluate(() => window.MathJax.startup.promise);
}

async function widgetsAreAlive(page) {
  const places = page.locator(".live-figure");
  const wanted = await places.count();
  if (wanted) {
    await places.first().scrollIntoViewIfNeeded();
    await page.waitForFunction(
      (n) => document.querySelectorAll(".ntb-figure").length >= n,
      wanted,
      { timeout: SETTLED },
    );
    await page.evaluate(() => window.scrollTo(0, 0));
  }
  return wanted;
}

/** Bytes over the wire, compressed; those of the widget libraries apart. */
async function weigh(responses) {
  const weight = { page: 0, libraries: 0 };
  for (const response of responses) {
    if (!response.url().startsWith(order.base)) continue; // made in the page itself
    const body = await response.body().catch(() => Buffer.alloc(0)); // a redirect has none
    const bytes = /\.woff2?$/.test(response.url()) ? body.length : zlib.gzipSync(body).length;
    const library = /vendor\/(requirejs|html-manager|anywidget)\//.test(response.url());
    weight[library ? "libraries" : "page"] += bytes;
  }
  return weight;
}

// A chapter is tens of thousands of pixels high: its beginning is picture enough.
async function height(page) {
  return Math.min(8000, await page.evaluate(() => document.documentElement.scrollHeight));
}

const answer = {};
for (const url of pages) {
  const load = { outside: [], errors: [] };
  const context = await browser.newContext({ viewport: SCREENS.desktop });
  const responses = [];
  context.on("response", (response) => responses.push(response));
  try {
    const page = await open(context, url, load);
    await mathIsSet(page);
    const widgets = await widgetsAreAlive(page);
    load.weight = await weigh(responses);
    for (const [screen, viewport] of Object.entries(SCREENS)) {
      for (const colorScheme of ["light", "dark"]) {
        const report = (answer[`${url} ${screen} ${colorScheme}`] = { ...load, widgets, axe: [] });
        await page.setViewportSize(viewport);
        await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
        await page
          .waitForFunction(
            (scheme) => document.documentElement.dataset.theme === scheme,
            colorScheme,
            { timeout: SETTLED },
          )
          .catch(() => {}); // the test reads what the theme is
        report.page = await page.evaluate(() => ({
          theme: document.documentElement.dataset.theme,
          math: document.querySelectorAll(".math").length,
          set: document.querySelectorAll("mjx-container").length,
          badMath: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(
            (node) => node.getAttribute("title") ?? node.textContent,
          ),
          wider: document.documentElement.scrollWidth - window.innerWidth,
          cutOff: [...document.querySelectorAll("div.math")]
            .filter((box) => box.scrollWidth > box.clientWidth + 1)
            .map((box) => box.querySelector("mjx-assistive-mml")?.textContent),
          brokenImages: [...document.images]
            .filter((image) => image.complete && image.naturalWidth === 0)
            .map((image) => image.src),
        }));
        await page.screenshot({
          path: path.join(shots, `${url.replaceAll("/", "_")}.${screen}.${colorScheme}.png`),
          fullPage: true,
          clip: { x: 0, y: 0, width: viewport.width, height: await height(page) },
        });
        if (screen === "phone") continue;
        await page.evaluate(axe);
        const found = await page.evaluate(() =>
          window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa"] }),
        );
        report.axe = found.violations.map((violation) => ({
          id: violation.id,
          impact: violation.impact,
          nodes: violation.nodes.map((node) => node.target.join(" ")),
        }));
      }
    }
  } catch (error) {
    load.errors.push(`visit: ${error.message}`);
    answer[`${url} broken`] = load;
  }
  await context.close();
}

// Search has to find the word on the page that defines it.
{
  const report = (answer["search"] = { outside: [], errors: [] });
  const context = await browser.newContext({ viewport: SCREENS.desktop });
  try {
    const page = await open(context, "search.html?q=entropy", report);
    await page.waitForSelector("#search-results li a", { timeout: SETTLED });
    await page.waitForTimeout(500);
    report.hits = await page.$$eval("#search-results li a", (links) =>
      links.map((link) => link.getAttribute("href")),
    );
  } catch (error) {
    report.errors.push(`search: ${error.message}`);
  }
  await context.close();
}

await browser.close();
console.log(JSON.stringify(answer));
