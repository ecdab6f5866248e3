// Use each live figure of the built book with the keyboard alone, and report what it
// says after every move.
//
//   node figures.mjs '{"base": …, "chromium": …, "shots": …,
//                      "orders": [{"page": …, "moves": [["label", "key", 3], …]}]}'
//
// A move puts the focus on the control of that label and presses the key so often.
import path from "node:path";
import { browser, open, order, SCREENS } from "./open.mjs";

const SETTLED = 20_000; // the widget libraries are 4 MB of script

/** What a reader sees and hears: the sentence, and each control with its value. */
function readings(figure) {
  return figure.evaluate((node) => ({
    says: node.querySelector(".ntb-says").textContent,
    heard: node.querySelector(".ntb-spoken").textContent,
    picture: node.querySelector("[role=img]").getAttribute("aria-label"),
    drawn: node.querySelector(".ntb-panels").innerHTML,
    controls: Object.fromEntries(
      [...node.querySelectorAll("label")].map((label) => {
        const control = node.querySelector(`#${label.htmlFor}`);
        const value =
          control.tagName === "SELECT"
            ? control.selectedOptions[0].textContent
            : control.getAttribute("aria-valuetext");
        return [label.textContent, value];
      }),
    ),
  }));
}

async function use({ page: url, moves }, report) {
  const context = await browser.newContext({ viewport: SCREENS.phone });
  const libraries = [];
  context.on("request", (request) => {
    if (request.url().includes("html-manager")) libraries.push(request.url());
  });
  const page = await open(context, url, report);
  await page.waitForTimeout(300);
  report.early = libraries.length;
  await page.locator(".live-figure").first().scrollIntoViewIfNeeded();
  const figure = page.locator(".ntb-figure").first();
  await figure.waitFor({ timeout: SETTLED });
  report.readings = [await readings(figure)];
  for (const [label, key, times] of moves) {
    const control = figure.getByLabel(label, { exact: true }).first();
    await control.focus();
    for (let i = 0; i < times; i++) await page.keyboard.press(key);
    await page.waitForTimeout(700); // the sentence is spoken after a pause
    report.readings.push(await readings(figure));
  }
  // In JupyterLab the keys of a control go elsewhere unless it says that they are its own.
  report.unguarded = await figure.evaluate(
    (node) =>
      node.querySelectorAll(
        ":is(a, button, input, select, [tabindex]):not([data-lm-suppress-shortcuts])",
      ).length,
  );
  report.wider = await page.evaluate(
    () => document.documentElement.scrollWidth - window.innerWidth,
  );
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.waitForTimeout(200);
    const name = `figure_${path.basename(url, ".html")}.${colorScheme}.png`;
    await figure.screenshot({ path: path.join(order.shots, name) });
  }
  await context.close();
}

const answer = {};
for (const one of order.orders) {
  const report = (answer[one.page] = { outside: [], errors: [], readings: [] });
  try {
    await use(one, report);
  } catch (error) {
    report.errors.push(`figure: ${error.message}`);
  }
}
await browser.close();
console.log(JSON.stringify(answer));
