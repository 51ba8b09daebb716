// A page of the conformance run: `runCase(case, options)` answers with the outcome of a case whose files the server has.
// browser.mjs bundles it; the package itself comes from the server, as pages load it.

import * as modelet from "/pkg/index.js";
import { compareTensors } from "../../ts/cli/compare.ts";
import { failedCase, runCase } from "./case.mjs";

async function read(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} answered ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

let kept;

/** Sessions share a device while one of them lives: the last is kept until the next has run. */
function keep(session) {
  kept?.release();
  kept = session;
}

globalThis.runCase = async (one, options) => {
  const began = performance.now();
  const outcome = await runCase({ modelet, compareTensors, read }, one, options, keep).catch((error) =>
    failedCase(modelet, error),
  );
  return { ...outcome, seconds: (performance.now() - began) / 1000 };
};
