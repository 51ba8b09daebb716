// Runs cases in headless Chromium, on its software adapter where WebGPU is wanted: one page takes one case after the
// other, and another takes its place when a case does not answer.

import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { serve } from "../../scripts/serve.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));
const executablePath = process.env.CHROMIUM || process.env.CHROME_PATH || "/usr/bin/chromium";

/** How many cases a page takes before a fresh one does: what earlier cases left behind cannot pile up. */
const casesPerPage = 400;

/**
 * Starts a browser whose pages run cases from the files below `folder`.
 * @returns `run(case, options, limit)`, which answers with an outcome (see case.mjs), and `close()`
 */
export async function startCases(folder, { webgpu = true } = {}) {
  const bundle = fs.mkdtempSync(join(tmpdir(), "modelet-cases-"));
  fs.writeFileSync(join(bundle, "index.html"), '<!doctype html><script type="module" src="page.js"></script>');
  await build({
    entryPoints: [join(here, "page.mjs")],
    outfile: join(bundle, "page.js"),
    bundle: true,
    format: "esm",
    external: ["/pkg/index.js"],
    logLevel: "warning",
  });
  const site = await serve(0, [
    ["/cases/", folder],
    ["/run/", bundle],
  ]);
  const gpu = webgpu ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"] : ["--disable-gpu"];
  const args = ["--no-sandbox", "--headless=new", "--disable-background-networking", ...gpu];
  const browser = await chromium.launch({ executablePath, args });
  const url = (path) => `/cases/${relative(folder, path).split("/").map(encodeURIComponent).join("/")}`;
  let page;
  let taken = 0;

  async function openPage() {
    await page?.close().catch(() => {});
    page = await browser.newPage();
    taken = 0;
    await page.goto(`${site.url}run/`);
    await page.waitForFunction(() => "runCase" in globalThis);
  }

  return {
    async run(one, options, limit) {
      if (!page || taken++ >= casesPerPage) await openPage();
      const sets = one.sets.map(({ inputs, outputs }) => ({ inputs: inputs.map(url), outputs: outputs.map(url) }));
      const sent = { ...one, model: url(one.model), sets };
      let timer;
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`it has not ended after ${limit} s`)), limit * 1000);
      });
      const run = page.evaluate(([one, options]) => globalThis.runCase(one, options), [sent, options]);
      run.catch(() => {});
      try {
        return await Promise.race([run, late]);
      } catch (error) {
        await page.close().catch(() => {});
        page = undefined;
        return { failures: [error.message], onGpu: [], onCpu: [], seconds: limit };
      } finally {
        clearTimeout(timer);
      }
    },
    async close() {
      await browser.close();
      site.close();
      fs.rmSync(bundle, { recursive: true, force: true });
    },
  };
}
