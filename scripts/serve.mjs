// Serves the demo on this machine: `www/` at the root, the built package at /pkg/, the fixtures' models at /fixtures/.
//
//   node scripts/serve.mjs [--port N]
//
// Before that it runs the demo's own model on a drawn digit, so that a broken build is seen here and not in the page.

import * as fs from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { pathToFileURL } from "node:url";
import { toPixels } from "../www/digit.js";
import { samples } from "../www/samples.js";
import { root } from "./lib/toolchain.mjs";

const mounts = [
  ["/pkg/", join(root, "pkg")],
  ["/fixtures/", join(root, "tests/fixtures")],
  ["/", join(root, "www")],
];

const types = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".ico": "image/x-icon",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".mjs": "text/javascript; charset=utf-8",
  ".onnx": "application/octet-stream",
  ".png": "image/png",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
  ".woff2": "font/woff2",
};

function fileFor(url, mounts) {
  let path;
  try {
    path = decodeURIComponent(new URL(url, "http://localhost").pathname);
  } catch {
    return undefined;
  }
  const [prefix, folder] = mounts.find(([start]) => path.startsWith(start)) ?? [];
  if (!folder) return undefined;
  let file = normalize(join(folder, path.slice(prefix.length)));
  if (file !== folder && !file.startsWith(folder + sep)) return undefined;
  if (fs.existsSync(file) && fs.statSync(file).isDirectory()) file = join(file, "index.html");
  return fs.existsSync(file) && fs.statSync(file).isFile() ? file : undefined;
}

/**
 * Starts the server on this machine only.
 * @param {number} port 0 takes a free one
 * @param {[string, string][]} more further folders, each with the start of its paths
 * @returns {Promise<{ url: string, close: () => void }>}
 */
export function serve(port, more = []) {
  const server = createServer((request, response) => {
    // Cross-origin isolation gives pages exact clocks, and threads where a build has them.
    const headers = {
      "cache-control": "no-cache",
      "cross-origin-opener-policy": "same-origin",
      "cross-origin-embedder-policy": "require-corp",
      "cross-origin-resource-policy": "same-origin",
    };
    const file = fileFor(request.url ?? "/", [...more, ...mounts]);
    if (!file) {
      response.writeHead(404, { ...headers, "content-type": "text/plain" }).end("not found\n");
      return;
    }
    const type = types[extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { ...headers, "content-type": type, "content-length": fs.statSync(file).size });
    if (request.method === "HEAD") response.end();
    else fs.createReadStream(file).pipe(response);
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => {
      const close = () => {
        server.close();
        server.closeAllConnections();
      };
      resolve({ url: `http://localhost:${server.address().port}/`, close });
    });
  });
}

/** Loads the demo's model over HTTP, as the page does, and classifies a drawn seven. */
export async function classifySample(url) {
  const { Session, Tensor } = await import(pathToFileURL(join(root, "pkg/index.js")).href);
  const model = new URL("fixtures/keras/headline_mlp_784_64_10/model.onnx", url);
  const session = await Session.load(model, { device: "cpu" });
  try {
    const [input] = session.inputs;
    const [output] = session.outputs;
    const began = performance.now();
    const results = await session.run({ [input.name]: new Tensor("float32", toPixels(samples[7]), [1, 784]) });
    const milliseconds = performance.now() - began;
    const probabilities = [...results[output.name].data];
    const digit = probabilities.indexOf(Math.max(...probabilities));
    return { digit, probability: probabilities[digit], milliseconds };
  } finally {
    session.release();
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href) {
  const flag = process.argv.indexOf("--port");
  const wanted = Number(flag >= 0 ? process.argv[flag + 1] : (process.env.PORT ?? 8080));
  const { url } = await serve(wanted).catch((error) => {
    if (error.code !== "EADDRINUSE") throw error;
    console.log(`Port ${wanted} is taken; another one will do.`);
    return serve(0);
  });
  const { digit, probability, milliseconds } = await classifySample(url).catch((error) => {
    console.error(`The build cannot classify a digit: ${error.message}`, ...(error.details ?? []));
    process.exit(1);
  });
  const percent = (probability * 100).toFixed(1);
  console.log(`A drawn 7 is classified as ${digit} (${percent} %) in ${milliseconds.toFixed(2)} ms on the CPU.`);
  if (digit !== 7) {
    console.error("That is wrong: the build is broken.");
    process.exit(1);
  }
  console.log(`The demo is at ${url} (Ctrl+C ends it).`);
}
