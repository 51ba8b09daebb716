// Runs models in a headless Chromium: a small local server hands out the package, the models and the feeds, and a page
// of it (page.ts) does the work.

import { createReadStream, existsSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { basename, delimiter, dirname, extname, join, normalize, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import type { Browser, Page } from "playwright-core";
import type { Device } from "../core.js";
import { type ErrorCode, type ErrorPlace, ModeletError, messageOf } from "../errors.js";
import { importAtRunTime } from "../platform.js";
import type { Values } from "../value.js";
import { packValues, unpackValues } from "./pack.js";
import type { PageApi, PageResult } from "./page.js";
import type { OpenModel, Runner } from "./runner.js";
import { note, UsageError } from "./terminal.js";

/** A browser with a page per request, and the server behind it. */
export interface BrowserHost {
  /** A fresh page, with the module of page.ts loaded. */
  newPage(): Promise<PageHandle>;
  /**
   * Opens a page in a browser context of its own, and gives what it sets `coldMs` to.
   * @param page the page's text, given the URL of the model
   * @param gzip whether scripts and WebAssembly are sent gzipped
   */
  cold(page: (model: string) => string, model: string, gzip: boolean): Promise<number>;
  close(): Promise<void>;
}

export interface PageHandle {
  /** Calls a function of the page's API. */
  call<K extends keyof PageApi>(method: K, ...args: Parameters<PageApi[K]>): Promise<Awaited<ReturnType<PageApi[K]>>>;
  /** The URL under which the page gets a file. */
  file(path: string): string;
  /** The URL under which the page gets tensors, and the same for what it sends back. */
  put(tensors: Values): string;
  take(url: string): Values;
  close(): Promise<void>;
}

/** Starts a browser for a device. WebGPU without hardware runs on Chromium's software adapter. */
export async function startBrowser(device: Device): Promise<BrowserHost> {
  const playwright = await importAtRunTime<typeof import("playwright-core")>("playwright-core").catch(() => {
    throw new UsageError("--browser needs the playwright-core package: npm install playwright-core");
  });
  const executablePath = findChromium(playwright.chromium.executablePath());
  const site = await startServer();
  try {
    let browser: Browser;
    if (device === "cpu") {
      browser = await playwright.chromium.launch({ executablePath, args: common });
    } else {
      const hardware = ["--enable-unsafe-webgpu", "--enable-features=Vulkan"];
      browser = await playwright.chromium.launch({ executablePath, args: [...common, ...hardware] });
      let adapter = await adapterOf(browser, site.origin);
      if (device === "webgpu" && !adapter) {
        await browser.close();
        const software = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];
        browser = await playwright.chromium.launch({ executablePath, args: [...common, ...software] });
        adapter = (await adapterOf(browser, site.origin)) ?? "none";
        note(`WebGPU adapter: ${adapter} (in software; no hardware adapter was found)`);
      } else if (adapter) {
        note(`WebGPU adapter: ${adapter}`);
      }
    }
    return {
      newPage: async () => handle(await openPage(browser, site.origin), site),
      async cold(page, model, gzip) {
        const url = site.put(new TextEncoder().encode(page(site.share(model)))).replace("block", "cold");
        const context = await browser.newContext();
        try {
          site.gzip(gzip);
          const opened = await context.newPage();
          await opened.goto(`${site.origin}${url}`);
          const done = await opened.waitForFunction(
            () => {
              const { coldMs, coldFailed } = globalThis as { coldMs?: number; coldFailed?: string };
              return coldMs ?? coldFailed;
            },
            undefined,
            { timeout: 120_000 },
          );
          const value = await done.jsonValue();
          if (typeof value !== "number") throw new Error(`the page failed: ${value}`);
          return value;
        } finally {
          site.gzip(false);
          await context.close();
        }
      },
      async close() {
        await browser.close();
        site.server.closeAllConnections();
        site.server.close();
      },
    };
  } catch (error) {
    site.server.close();
    throw error;
  }
}

/** Runs models in a page of a browser. */
export async function browserRunner(device: Device): Promise<Runner> {
  const host = await startBrowser(device);
  return {
    async open(model, options): Promise<OpenModel> {
      const page = await host.newPage();
      try {
        const { inputs, outputs } = await page.call("open", page.file(model), options);
        return {
          inputs,
          outputs,
          run: async (feeds) => page.take(await page.call("run", page.put(feeds))),
          profile: (feeds, runs) => page.call("profile", page.put(feeds), runs),
          report: () => page.call("report"),
          inspect: (stage, json) => page.call("inspect", stage, json),
          release: () => page.close(),
        };
      } catch (error) {
        await page.close();
        throw error;
      }
    },
    close: () => host.close(),
  };
}

const common = [
  "--no-sandbox",
  "--headless=new",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-default-apps",
  "--disable-sync",
  "--no-first-run",
  "--enable-precise-memory-info",
];

function findChromium(bundled: string): string {
  const { CHROME_PATH, PATH = "" } = process.env;
  if (CHROME_PATH) {
    if (existsSync(CHROME_PATH)) return CHROME_PATH;
    throw new UsageError(`CHROME_PATH names ${CHROME_PATH}, which does not exist`);
  }
  const names = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "microsoft-edge"];
  const places = [
    ...PATH.split(delimiter).flatMap((folder) => names.map((name) => join(folder, name))),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
    "C:\\Program Files (x86)\\Microsoft\\Edge\\Application\\msedge.exe",
    bundled,
  ];
  const found = places.find((path) => path && existsSync(path));
  if (found) return found;
  throw new UsageError("no Chromium was found: install one, or set CHROME_PATH to its executable");
}

async function adapterOf(browser: Browser, origin: string): Promise<string | undefined> {
  const page = await browser.newPage();
  try {
    await page.goto(`${origin}/blank`);
    return await page.evaluate(async () => {
      const adapter = await navigator.gpu?.requestAdapter();
      if (!adapter) return undefined;
      const { vendor, architecture, description } = adapter.info;
      return description || [vendor, architecture].filter(Boolean).join(" ") || "unnamed";
    });
  } finally {
    await page.close();
  }
}

async function openPage(browser: Browser, origin: string): Promise<Page> {
  const page = await browser.newPage();
  page.on("pageerror", (error) => note(`page: ${error.message}`));
  await page.goto(`${origin}/page`);
  await page.waitForFunction(() => "modeletPage" in globalThis);
  return page;
}

function handle(page: Page, site: Site): PageHandle {
  return {
    async call(method, ...args) {
      const result = (await page.evaluate(
        ([name, values]) => {
          const api = (globalThis as unknown as { modeletPage: Record<string, (...a: unknown[]) => unknown> })
            .modeletPage;
          return api.call?.(name, values);
        },
        [method, args as unknown[]] as const,
      )) as PageResult;
      if ("value" in result) return result.value as never;
      const { code, message } = result.error;
      if (code === undefined) throw new Error(message);
      throw new ModeletError(code as ErrorCode, message, result.error as ErrorPlace);
    },
    file: (path) => site.share(path),
    put: (tensors) => site.put(packValues(tensors)),
    take: (url) => unpackValues(site.take(url)),
    close: () => page.close(),
  };
}

interface Site {
  readonly origin: string;
  readonly server: Server;
  share(path: string): string;
  put(block: Uint8Array): string;
  take(url: string): ArrayBuffer;
  /** Whether scripts and WebAssembly are sent gzipped from now on. */
  gzip(on: boolean): void;
}

/**
 * Serves, on a free port of this machine only: the package, onnxruntime-web where it is installed, the files that were
 * shared, and blocks of tensors both ways. Pages are cross-origin isolated, as threads and exact clocks need.
 */
async function startServer(): Promise<Site> {
  const folders: Record<string, string | undefined> = {
    pkg: fileURLToPath(new URL(".", import.meta.url)),
    ort: ortFolder(),
    litert: liteRtFolder(),
  };
  const shared: string[] = [];
  const zipped = new Map<string, Buffer>();
  let gzip = false;
  const blocks = new Map<string, Uint8Array>();
  let blocksMade = 0;
  const server = createServer((request, response) => {
    answer(request, response).catch((error) => send(response, 500, "text/plain", messageOf(error)));
  });

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const [, kind = "", ...rest] = new URL(request.url ?? "/", "http://localhost").pathname.split("/");
    const path = rest.join("/");
    if (kind === "blank") return send(response, 200, "text/html", "<!doctype html><title>modelet</title>");
    if (kind === "page") return send(response, 200, "text/html", pageHtml);
    if (kind === "block" && request.method === "POST") {
      const pieces: Buffer[] = [];
      for await (const piece of request) pieces.push(piece as Buffer);
      blocks.set(path, Buffer.concat(pieces));
      return send(response, 200, "text/plain", "");
    }
    if (kind === "cold") {
      const page = blocks.get(path);
      blocks.delete(path);
      return send(response, page ? 200 : 404, "text/html", page ?? "");
    }
    if (kind === "block") {
      const block = blocks.get(path);
      return block ? send(response, 200, "application/octet-stream", block) : send(response, 404, "text/plain", "");
    }
    const folder = folders[kind];
    // Next to a model lie the files that it refers to.
    const root = kind === "file" ? shared[Number(rest.shift())] : folder;
    const file = root && join(root, normalize(rest.map(decodeURIComponent).join("/")));
    const inside = root && file?.startsWith(root + (root.endsWith(sep) ? "" : sep));
    if (!file || !inside || !existsSync(file) || !statSync(file).isFile()) {
      return send(response, 404, "text/plain", `there is no ${request.url}`);
    }
    if (kind === "file") return sendFile(request, response, file);
    const type = types[extname(file)] ?? "application/octet-stream";
    if (!gzip) return send(response, 200, type, await readFile(file));
    const bytes = zipped.get(file) ?? gzipSync(await readFile(file), { level: 9 });
    zipped.set(file, bytes);
    send(response, 200, type, bytes, { "content-encoding": "gzip" });
  }

  await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    server,
    share(path) {
      const file = resolve(path);
      const known = shared.indexOf(dirname(file));
      return `/file/${known >= 0 ? known : shared.push(dirname(file)) - 1}/${encodeURIComponent(basename(file))}`;
    },
    gzip(on) {
      gzip = on;
    },
    put(block) {
      const name = `in${blocksMade++}`;
      blocks.set(name, block);
      return `/block/${name}`;
    },
    take(url) {
      const name = url.split("/").pop() ?? "";
      const block = blocks.get(name);
      if (!block) throw new Error(`the page sent no ${url}`);
      blocks.delete(name);
      return new Uint8Array(block).buffer;
    },
  };
}

const pageHtml = `<!doctype html><meta charset="utf-8"><title>modelet</title>
<link rel="icon" href="data:,">
<script type="importmap">{ "imports": { "@litertjs/wasm-utils": "/litert/wasm-utils/dist/index.js" } }</script>
<script type="module" src="/pkg/cli-page.js"></script>`;

const types: Readonly<Record<string, string>> = {
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
  ".json": "application/json",
};

const headers: Readonly<Record<string, string>> = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
  "cross-origin-resource-policy": "same-origin",
  "cache-control": "no-store",
};

function send(
  response: ServerResponse,
  status: number,
  type: string,
  body: string | Uint8Array,
  more: Readonly<Record<string, string>> = {},
): void {
  response.writeHead(status, {
    "content-type": type,
    "content-length": Buffer.byteLength(body),
    ...headers,
    ...more,
  });
  response.end(body);
}

/** Sends a file that may be larger than memory, or the range of it that is asked for. */
function sendFile(request: IncomingMessage, response: ServerResponse, file: string): void {
  const { size } = statSync(file);
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
  const start = Number(first ?? 0);
  const end = Math.min(last ? Number(last) + 1 : size, size);
  if (first !== undefined && start >= end) {
    send(response, 416, "text/plain", "");
    return;
  }
  response.writeHead(first === undefined ? 200 : 206, {
    ...headers,
    "content-type": "application/octet-stream",
    "content-length": end - start,
    ...(first !== undefined && { "content-range": `bytes ${start}-${end - 1}/${size}` }),
  });
  if (start >= end) response.end();
  else createReadStream(file, { start, end: end - 1 }).pipe(response);
}

/** The folder of onnxruntime-web's browser files, when the package is installed. */
export function ortFolder(): string | undefined {
  return installed("onnxruntime-web", "dist");
}

/** The folder of LiteRT.js's packages, when they are installed. */
export function liteRtFolder(): string | undefined {
  return installed("@litertjs");
}

function installed(...names: string[]): string | undefined {
  for (const start of [process.cwd(), dirname(fileURLToPath(import.meta.url))]) {
    for (let folder = start; ; folder = dirname(folder)) {
      const path = join(folder, "node_modules", ...names);
      if (existsSync(path)) return path;
      if (dirname(folder) === folder) break;
    }
  }
  return undefined;
}
