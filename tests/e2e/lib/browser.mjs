// A headless Chromium on the demo, as the end-to-end tests use it.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { serve } from "../../../scripts/serve.mjs";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const artifacts = process.env.MODELET_ARTIFACTS ?? join(root, "artifacts");
const executablePath = process.env.CHROMIUM || process.env.CHROME_PATH || "/usr/bin/chromium";

/** Starts the server and a browser; `webgpu` gives it Chromium's software adapter. */
export async function startDemo({ webgpu = false } = {}) {
  const site = await serve(0);
  const gpu = webgpu ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"] : ["--disable-gpu"];
  const args = ["--no-sandbox", "--headless=new", "--disable-background-networking", ...gpu];
  const browser = await chromium.launch({ executablePath, args });
  return {
    url: site.url,
    browser,
    async open(path = "", options = {}) {
      const { prepare, ...context } = options;
      const page = await (await browser.newContext({ viewport: { width: 1240, height: 860 }, ...context })).newPage();
      page.problems = [];
      page.on("pageerror", (error) => page.problems.push(error.message));
      page.on("console", (message) => message.type() === "error" && page.problems.push(message.text()));
      await prepare?.(page);
      await page.goto(site.url + path);
      return page;
    },
    async close() {
      await browser.close();
      site.close();
    },
  };
}

/** Waits until the model is loaded for a device, choosing it first. */
export async function chooseDevice(page, device) {
  await page.waitForFunction(() => document.documentElement.dataset.device);
  await page.evaluate(() => delete document.documentElement.dataset.device);
  await page.locator(`#device input[value=${device}]`).locator("..").click();
  await page.waitForFunction(() => document.documentElement.dataset.device, undefined, { timeout: 60_000 });
}

/** Draws strokes, given in hundredths of the pad, with the mouse. */
export async function drawWithMouse(page, strokes) {
  const box = await page.locator("#pad").boundingBox();
  const at = ({ x, y }) => [box.x + (x / 100) * box.width, box.y + (y / 100) * box.height];
  for (const stroke of strokes) {
    await page.mouse.move(...at(stroke[0]));
    await page.mouse.down();
    for (const point of stroke.slice(1)) await page.mouse.move(...at(point), { steps: 8 });
    await page.mouse.up();
  }
}

/** What the page shows: the digit it reads and the ten percentages. */
export async function answer(page) {
  return {
    top: await page.locator("#top").textContent(),
    percent: (await page.locator("#bars span").allTextContents()).map((text) => Number.parseFloat(text)),
  };
}

/** Waits for a digit to be read. */
export async function waitForDigit(page, digit) {
  await page.waitForFunction((wanted) => document.querySelector("#top").textContent === wanted, String(digit), {
    timeout: 30_000,
  });
}

/** Keeps a picture of the page among the build's artefacts. */
export async function keepPicture(page, name) {
  mkdirSync(artifacts, { recursive: true });
  await page.screenshot({ path: join(artifacts, `${name}.png`), fullPage: true });
}
