// The demo: a drawing goes through the network on every move of the pen, and the page shows what comes out, how long
// it took, and what ran where.

import { ModeletError, Session, Tensor } from "../pkg/index.js";
import { toPixels } from "./digit.js";
import { Pad } from "./pad.js";
import { samples } from "./samples.js";

const modelUrl = new URL("../fixtures/keras/headline_mlp_784_64_10/model.onnx", import.meta.url);

const find = (id) => document.getElementById(id);
const status = find("status");
/** What loading waits for, and how much of each is done at the start. */
const phases = {
  download: "Downloading the model …",
  prepare: "Preparing the model …",
  upload: "Uploading weights to the GPU …",
  compile: "Compiling GPU pipelines …",
};
const parts = { download: 0, prepare: 0, upload: 0, compile: 0 };
const bars = Array.from({ length: 10 }, (_, digit) => makeBar(digit));
const times = [];

let session;
let running = false;
let dirty = false;
/** Counts loads, so that a slow one that was overtaken is dropped. */
let loads = 0;

const pad = new Pad(find("pad"), () => {
  document.querySelector(".paper").classList.toggle("drawn", !pad.empty);
  update();
});

find("clear").addEventListener("click", () => pad.clear());
find("device").addEventListener("change", (event) => load(event.target.value));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" || event.key === "Delete" || event.key === "Backspace") pad.clear();
  if (/^[0-9]$/.test(event.key)) pad.write(samples[Number(event.key)]);
});

await load("auto");

/** Loads the model for a device; when that fails, says why and goes back to the CPU. */
async function load(device) {
  const mine = ++loads;
  say("Loading the model …");
  const bar = find("progress");
  bar.hidden = false;
  bar.removeAttribute("value");
  const done = { ...parts };
  const onProgress = ({ phase, loaded, total }) => {
    if (mine !== loads) return;
    say(phases[phase]);
    done[phase] = Math.max(done[phase], total > 0 ? loaded / total : 0);
    bar.value = Object.values(done).reduce((sum, part) => sum + part, 0) / Object.keys(done).length;
  };
  let remark = "";
  let next;
  try {
    // The first run is part of loading: it makes the program.
    next = await Session.load(modelUrl, { device, onProgress, warmup: true });
  } catch (error) {
    if (device !== "webgpu" || !(error instanceof ModeletError) || error.code !== "device") {
      if (mine === loads) fail(error);
      return;
    }
    remark = "WebGPU is not available here, so the CPU does the work.";
    console.info(error.describe());
    document.querySelector("#device [value=cpu]").checked = true;
    next = await Session.load(modelUrl, { device: "cpu", onProgress, warmup: true });
  }
  if (mine !== loads) {
    next.release();
    return;
  }
  bar.hidden = true;
  session?.release();
  session = next;
  times.length = 0;
  const { device: used, adapter } = session.report();
  if (used === "webgpu") say(`Running on WebGPU${adapter ? `: ${adapter}` : ""}.`);
  else if (remark || device === "cpu") say(remark || "Running on the CPU, with WebAssembly SIMD.", remark !== "");
  else if (navigator.gpu) say("No hardware WebGPU adapter was found, so the CPU does the work.", true);
  else say("This browser has no WebGPU, so the CPU does the work.", true);
  document.documentElement.dataset.device = used;
  showReport();
  update();
}

/** Runs the network on the drawing, and again when the drawing changed meanwhile. */
async function update() {
  dirty = true;
  if (running || !session) return;
  running = true;
  while (dirty) {
    dirty = false;
    const pixels = toPixels(pad.strokes);
    showSeen(pixels);
    if (pad.empty) {
      showProbabilities(undefined);
      continue;
    }
    const current = session;
    try {
      const start = performance.now();
      const outputs = await current.run({ [current.inputs[0].name]: new Tensor("float32", pixels, [1, 784]) });
      times.push(performance.now() - start);
      showProbabilities(Object.values(outputs)[0].data);
      showTimes();
    } catch (error) {
      if (current === session) fail(error);
      else dirty = true;
    }
  }
  running = false;
}

function makeBar(digit) {
  const item = document.createElement("li");
  item.innerHTML = `<b>${digit}</b><i></i><span>–</span>`;
  find("bars").append(item);
  return item;
}

function showProbabilities(probabilities) {
  const best = probabilities?.indexOf(Math.max(...probabilities));
  bars.forEach((bar, digit) => {
    const p = probabilities?.[digit] ?? 0;
    bar.style.setProperty("--p", p.toFixed(4));
    bar.classList.toggle("best", digit === best);
    bar.querySelector("span").textContent = probabilities ? `${(p * 100).toFixed(1)} %` : "–";
  });
  const top = find("top");
  top.classList.toggle("empty", best === undefined);
  if (top.textContent !== String(best ?? "–")) top.textContent = String(best ?? "–");
}

function showSeen(pixels) {
  const context = find("seen").getContext("2d");
  const image = context.createImageData(28, 28);
  for (let i = 0; i < pixels.length; i++) {
    image.data.set([pixels[i] * 255, pixels[i] * 255, pixels[i] * 255, 255], i * 4);
  }
  context.putImageData(image, 0, 0);
}

function showTimes() {
  const shown = times.slice(-120);
  const sorted = shown.toSorted((a, b) => a - b);
  const median = sorted[sorted.length >> 1];
  const small = median < 1;
  find("median").textContent = small ? (median * 1000).toFixed(0) : median.toFixed(median < 10 ? 2 : 1);
  find("median-unit").textContent = small ? "µs, median" : "ms, median";
  find("runs").textContent = `${times.length} ${times.length === 1 ? "run" : "runs"}, fastest ${format(sorted[0])}`;
  // The 95th percentile is the top of the plot: one slow run would flatten all others.
  const most = sorted[Math.floor((sorted.length - 1) * 0.95)] * 1.25;
  const place = (ms, i) =>
    `${((i / Math.max(1, shown.length - 1)) * 240).toFixed(1)},${(54 - Math.min(1, ms / most) * 50).toFixed(1)}`;
  const line = shown.length > 1 ? `M${shown.map(place).join("L")}` : "";
  const spark = find("spark");
  spark.querySelector(".line").setAttribute("d", line);
  spark.querySelector(".area").setAttribute("d", line && `${line}L240,56L0,56Z`);
}

function format(ms) {
  return ms < 1 ? `${(ms * 1000).toFixed(0)} µs` : `${ms.toFixed(2)} ms`;
}

function showReport() {
  const { device, adapter, wasm, nodes, fusedGroups, timings, memory, warnings } = session.report();
  const why = warnings.find((warning) => warning.startsWith("running on the CPU: "))?.replace(/^.*?: /, "");
  const facts = {
    Device: device === "webgpu" ? `WebGPU${adapter ? `, ${adapter}` : ""}` : `CPU${why ? `: ${why}` : ""}`,
    WebAssembly: wasm,
    Compiled: `in ${format(timings.parseMs + timings.optimizeMs + timings.planMs + timings.compileMs)}, ${fusedGroups} fused groups`,
    Memory: `${(memory.weightsBytes / 1e3).toFixed(0)} kB of weights, ${(memory.wasmBytes / 1e6).toFixed(1)} MB in all`,
  };
  find("facts").replaceChildren(
    ...Object.entries(facts).flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
  );
  find("nodes").replaceChildren(
    ...nodes
      .filter((node) => node.device !== "folded")
      .map(({ node, operator, device: where, reason, fused }) => {
        const row = document.createElement("tr");
        const name = element("td", shorten(node));
        name.title = node;
        const chip = element("span", where === "gpu" ? "GPU" : "CPU");
        chip.className = `chip ${where}`;
        const cell = document.createElement("td");
        cell.append(chip);
        const remark = fused?.length ? `with ${fused.map(shorten).join(", ")}` : (reason ?? "");
        row.append(name, element("td", operator), cell, element("td", remark));
        return row;
      }),
  );
}

/** The last part of a name that is written like a path. */
function shorten(name) {
  return name.split("/").slice(-2).join("/");
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function say(text, warn = false) {
  status.textContent = text;
  status.classList.toggle("warn", warn);
}

function fail(error) {
  find("progress").hidden = true;
  say(error instanceof ModeletError ? error.describe() : String(error), true);
}
