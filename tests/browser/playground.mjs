// Use the playground as a reader would, and report what came of it.
//
// The order holds the links whose texts are wanted, and what Python says of them is
// compared in tests/test_playground.py. The answer is one JSON object on stdout.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import zlib from "node:zlib";
import { browser, open, order, SCREENS } from "./open.mjs";

const require = createRequire(import.meta.url);
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const PAGE = "book/playground.html";
const WRITTEN = 120_000;

const report = { errors: [], outside: [] };
const answer = { report, views: {} };

/** A browser that has never been here, and the answers it got. */
async function newcomer() {
  const context = await browser.newContext({ viewport: SCREENS.desktop });
  const responses = [];
  context.on("response", (response) => responses.push(response));
  const weights = () => responses.filter((r) => r.url().includes("model.safetensors")).length;
  return { context, responses, weights };
}

/** Do something that makes the page write, and wait for the end. */
async function written(page, act) {
  await page.evaluate(() => {
    for (const node of document.querySelectorAll(".pg-status")) node.textContent = "";
  });
  await act();
  await page.waitForFunction(
    () =>
      [...document.querySelectorAll(".pg-column:not([hidden]) .pg-status")].every((node) =>
        /^(The model ended|max_new_tokens reached|Stopped|Writing failed|Not written)/.test(
          node.textContent,
        ),
      ),
    null,
    { timeout: WRITTEN },
  );
  return texts(page);
}

const texts = (page) => page.locator(".pg-column:not([hidden]) .pg-whole").allTextContents();
const statuses = (page) => page.locator(".pg-column:not([hidden]) .pg-status").allTextContents();
const options = (page, column = 0) =>
  page.locator(".pg-tokens").nth(column).locator('[role="option"]');
const follow = (page, link) =>
  written(page, () => page.evaluate((hash) => (location.hash = hash), link));
const alertOf = (page) => page.locator(".pg-alert").innerText();
const focused = (page) => page.evaluate(() => document.activeElement.textContent);

/** Press Tab until something has the focus. */
async function tabTo(page, selector) {
  for (let presses = 1; presses < 200; presses++) {
    await page.keyboard.press("Tab");
    if (await page.evaluate((s) => document.activeElement.matches(s), selector)) return presses;
  }
  throw new Error(`Tab does not lead to ${selector}`);
}

/** Look at the page on both screens and in both colour schemes. */
async function look(page, name) {
  for (const [screen, viewport] of Object.entries(SCREENS)) {
    await page.setViewportSize(viewport);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.waitForFunction(
        (scheme) => document.documentElement.dataset.theme === scheme,
        colorScheme,
      );
      await page.evaluate(axe);
      answer.views[`${name} ${screen} ${colorScheme}`] = await page.evaluate(async () => {
        const found = await window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa"] });
        const shown = (node) => node.checkVisibility() && !node.closest(".pg-unseen");
        const controls = [...document.querySelectorAll(".pg :is(button, input, textarea)")];
        const low = controls.filter((node) => shown(node) && node.offsetHeight < 32);
        return {
          axe: found.violations.map(({ id, nodes }) => [id, nodes.map((n) => n.target.join(" "))]),
          wider: document.documentElement.scrollWidth - window.innerWidth,
          low: low.map((node) => node.outerHTML),
        };
      });
      await page.evaluate(() => window.scrollTo(0, 0));
      await page.screenshot({
        path: path.join(order.shots, `playground.${name}.${screen}.${colorScheme}.png`),
        fullPage: true,
      });
    }
  }
  await page.setViewportSize(SCREENS.desktop);
  await page.emulateMedia({ colorScheme: "light", reducedMotion: "reduce" });
}

const { context, responses, weights } = await newcomer();
const page = await open(context, PAGE, report);

/** The first visit: nothing heavy is fetched unasked; then all of it, once. */
async function first() {
  await page.waitForSelector(".pg");
  await look(page, "1-before");
  const unasked = weights();
  const [text] = await written(page, () => page.click(".pg-primary"));
  let transfer = 0;
  for (const response of responses) {
    const body = await response.body().catch(() => Buffer.alloc(0));
    const packed = /\.(safetensors|woff2)/.test(response.url());
    transfer += packed ? body.length : zlib.gzipSync(body).length;
  }
  return { unasked, fetched: weights(), text, transfer, status: (await statuses(page))[0] };
}

/** The text of each link. */
async function bank() {
  const found = [];
  for (const link of order.bank) found.push((await follow(page, link))[0]);
  return { found, alert: await alertOf(page), fetched: weights() };
}

/** A token's panel, and another choice from it. */
async function branch({ link, index, token }) {
  const [original] = await follow(page, link);
  await options(page).nth(index).click();
  const cells = await page
    .locator(".pg-stages tbody tr")
    .evaluateAll((rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
  const story = await page.locator(".pg-how").textContent();
  await look(page, "3-panel");
  const [branched] = await written(page, () =>
    page.click(`button.pg-candidate[data-token="${token}"]`),
  );
  const focus = await focused(page);
  const shared = page.url().split("#")[1];
  const ways = await page.locator(".pg-branches button").allTextContents();
  await look(page, "4-branch");
  await page.click('.pg-branches button:has-text("Original")');
  const [back] = await texts(page);
  return { original, cells, story, branched, focus, shared, ways, back };
}

/** Someone else opens the link: another browser, and the weights come anew. */
async function shared(link) {
  const other = await newcomer();
  const there = await open(other.context, `${PAGE}#${link}`, report);
  const [text] = await written(there, async () => {});
  const forced = await there.locator(".pg-forced").count();
  await other.context.close();
  return { text, forced };
}

async function comparison({ link }) {
  const both = await follow(page, link);
  const verdict = await page.locator(".pg-verdict").textContent();
  const marked = await page
    .locator(".pg-tokens")
    .evaluateAll((lists) =>
      lists.map((list) => [
        list.querySelectorAll(".pg-after").length,
        [...list.children].findIndex((node) => node.matches(".pg-first")),
      ]),
    );
  await options(page, 1).nth(2).click();
  await look(page, "5-compare");
  await page.keyboard.press("Escape");
  return { both, verdict, marked };
}

/** From the first Tab to a branch without a pointer. */
async function keyboard() {
  const there = await open(context, PAGE, report);
  const before = weights();
  await there.waitForSelector(".pg");
  await tabTo(there, "#pg-prompt");
  await there.keyboard.press("Control+a");
  await there.keyboard.type("The cat sat");
  await tabTo(there, "#pg-a-max_new_tokens");
  await there.keyboard.press("ArrowDown"); // 80 - 20
  await tabTo(there, ".pg-primary");
  const [text] = await written(there, () => there.keyboard.press("Enter"));
  await tabTo(there, '[role="option"]');
  for (let i = 0; i < 3; i++) await there.keyboard.press("ArrowRight");
  const title = await there.locator("#pg-panel-title").textContent();
  const token = await focused(there);
  await tabTo(there, "button.pg-candidate");
  const [branched] = await written(there, () => there.keyboard.press("Enter"));
  const status = await there.locator('.pg [role="status"]').textContent();
  await there.keyboard.press("Escape");
  const back = await there.evaluate(() => document.activeElement.getAttribute("role"));
  const panel = await there.locator(".pg-panel").textContent();
  await there.close();
  return { text, title, token, branched, status, back, panel, fetched: weights() - before };
}

/** Stopping keeps what is there; writing on completes it. */
async function stop({ link }) {
  await page.evaluate((hash) => (location.hash = hash), link);
  await options(page).nth(5).waitFor();
  const [stopped] = await written(page, () => page.click("button:text-is('Stop')"));
  await page.screenshot({ path: path.join(order.shots, "playground.2-stopped.png"), fullPage: true });
  const [status] = await statuses(page);
  const [whole] = await written(page, () => page.click("button:text-is('Write on')"));
  return { stopped, status, whole };
}

/** What cannot be is refused before anything is written. */
async function refusals() {
  const said = {};
  const attempt = async (field, text) => {
    const kept = await page.inputValue(field);
    await page.fill(field, text);
    await page.click(".pg-primary");
    await page.waitForFunction((s) => document.querySelector(s)?.textContent, `${field}-error`);
    said[`${field}=${text}`] = {
      message: await page.locator(`${field}-error`).textContent(),
      focus: await page.evaluate((s) => document.activeElement.matches(s), field),
    };
    await page.fill(field, kept);
  };
  await follow(page, "#max_new_tokens=5");
  await attempt("#pg-a-temperature", "hot");
  await attempt("#pg-a-top_p", "1.5");
  await attempt("#pg-a-max_new_tokens", "509");
  await attempt("#pg-a-min_new_tokens", "6");
  await attempt("#pg-seed", "-1");
  await attempt("#pg-prompt", "");
  await page.fill("#pg-prompt", "Another");
  const changed = await page.locator(".pg-changed").first().textContent();
  const bad = "#max_new_tokens=5&temperature=hot&colour=red";
  const [text] = await follow(page, bad);
  return { said, changed, text, link: await alertOf(page) };
}

/** A model that cannot be fetched, and then can; and a browser that keeps no cache. */
async function trouble() {
  const { context } = await newcomer();
  await context.addInitScript(() => delete window.caches);
  const there = await open(context, PAGE, { errors: [], outside: [] });
  await there.waitForSelector(".pg");
  let broken = true;
  await there.route("**/model.safetensors*", (route) =>
    broken ? route.fulfill({ status: 503, body: "" }) : route.continue(),
  );
  await there.fill("#pg-prompt", "A frog");
  await there.click(".pg-primary");
  await there.waitForSelector(".pg-alert button");
  const failure = await alertOf(there);
  broken = false;
  const [text] = await written(there, () => there.click(".pg-alert button"));
  const alert = await alertOf(there);
  await context.close();
  return { failure, text, alert };
}

/** Buttons pressed at the wrong moment: a comparison while files come, a way while a panel is open. */
async function hasty() {
  const errors = [];
  const { context } = await newcomer();
  const there = await open(context, PAGE, { errors, outside: [] });
  await there.waitForSelector(".pg");
  await there.route("**/model.safetensors*", async (route) => {
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await route.continue();
  });
  await there.fill("#pg-a-max_new_tokens", "40");
  await there.click(".pg-primary");
  await there.waitForSelector(".pg-loading:not([hidden])");
  await there.click("button:text-is('Compare two settings')");
  await there.waitForFunction(
    () => /^max_new_tokens|^The model ended/.test(document.querySelector(".pg-status").textContent),
    null,
    { timeout: WRITTEN },
  );
  const [whole] = await texts(there);
  const spoken = await there.locator(".pg-unseen[role=status]").textContent();
  const alert = await alertOf(there);
  await there.click("button:text-is('One setting again')");
  // A branch, and then the first way again while the panel shows a token of the branch.
  await options(there).nth(3).click();
  await written(there, () => there.locator("button.pg-candidate").first().click());
  const opened = await there.locator(".pg-open").count();
  await there.click("button:text-is('Original')");
  const after = {
    open: await there.locator(".pg-open").count(),
    focus: await focused(there),
    whole: (await texts(there))[0],
  };
  await there.keyboard.press("Escape");
  await context.close();
  return { errors, whole, spoken, alert, open: opened, after };
}

/** A widget library that does not come: nobody else is asked for it. */
async function astray() {
  const { context } = await newcomer();
  const outside = [];
  const there = await open(context, "notebooks/01_softmax.html", { errors: [], outside });
  await there.route("**/anywidget/index.js*", (route) => route.abort());
  await there.locator(".live-figure").first().scrollIntoViewIfNeeded();
  await there.waitForTimeout(4000);
  await context.close();
  return outside;
}

/** Without JavaScript the page says so. */
async function plain() {
  const context = await browser.newContext({ javaScriptEnabled: false });
  const there = await context.newPage();
  await there.goto(order.base + PAGE);
  const text = await there.locator("#the-playground").innerText();
  await context.close();
  return text;
}

answer.first = await first();
answer.bank = await bank();
answer.branch = await branch(order.branch);
answer.shared = await shared(answer.branch.shared);
answer.compare = await comparison(order.compare);
answer.stop = await stop(order.stop);
answer.refusals = await refusals();
answer.keyboard = await keyboard();
answer.trouble = await trouble();
answer.hasty = await hasty();
answer.astray = await astray();
answer.plain = await plain();

await browser.close();
console.log(JSON.stringify(answer));
