// A process of the conformance run: takes a case, answers with its outcome.

import { readFile } from "node:fs/promises";
import * as modelet from "modelet";
import { internal } from "../ts/lib/internals.mjs";
import { failedCase, runCase } from "./case.mjs";

const options = JSON.parse(process.argv[2]);
const { compareTensors } = await internal("cli/compare.ts");
const tools = { modelet, compareTensors, read: readFile };

process.on("message", async (one) => {
  const began = performance.now();
  const outcome = await runCase(tools, one, options).catch((error) => failedCase(modelet, error));
  process.send({ ...outcome, seconds: (performance.now() - began) / 1000 });
});
process.send("ready");
