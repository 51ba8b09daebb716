// Runs a list of named steps one after another, tells how long each took, and ends with a table.

import { spawn } from "node:child_process";
import { root } from "./toolchain.mjs";

/** Thrown by a step that cannot run here; the reason is printed and the step does not count as failed. */
export class Skip extends Error {}

/**
 * Runs a command in the repository's root. Its output goes straight to ours; `quiet` shows it only when the command
 * fails, `keep` shows it and also returns it.
 * @returns {Promise<string>} what it wrote, with `quiet` or `keep`
 */
export function command(program, args, { env = process.env, cwd = root, quiet = false, keep = false } = {}) {
  return new Promise((resolve, reject) => {
    const pipe = quiet || keep ? "pipe" : "inherit";
    const child = spawn(program, args, { cwd, env, stdio: ["ignore", pipe, pipe] });
    let both = "";
    for (const [from, to] of [
      [child.stdout, process.stdout],
      [child.stderr, process.stderr],
    ]) {
      from?.setEncoding("utf8").on("data", (text) => {
        both += text;
        if (keep) to.write(text);
      });
    }
    child.on("error", (error) => reject(new Error(`${program} did not start: ${error.message}`)));
    child.on("close", (code, signal) => {
      if (code === 0) return resolve(both);
      if (quiet) process.stderr.write(both);
      reject(new Error(`${[program, ...args].join(" ")} ended with ${signal ?? `exit code ${code}`}`));
    });
  });
}

const seconds = (began) => `${((performance.now() - began) / 1000).toFixed(1)} s`;

/**
 * Runs every step, also after one failed, and prints a table.
 * @param {{ name: string, run: () => unknown }[]} steps a step may return a short remark for the table
 * @returns {Promise<boolean>} whether none failed
 */
export async function runAll(title, steps) {
  const rows = [];
  const began = performance.now();
  for (const [index, step] of steps.entries()) {
    const start = performance.now();
    console.log(`\n=== ${title} ${index + 1}/${steps.length}: ${step.name}`);
    let result = "pass";
    let remark = "";
    try {
      remark = (await step.run()) ?? "";
    } catch (error) {
      result = error instanceof Skip ? "skip" : "FAIL";
      remark = error instanceof Error ? error.message : String(error);
    }
    rows.push({ name: step.name, result, time: seconds(start), remark: String(remark).split("\n")[0] });
    console.log(`=== ${step.name}: ${result} after ${rows.at(-1).time}${remark ? ` (${remark})` : ""}`);
  }
  const failed = rows.filter((row) => row.result === "FAIL").length;
  const skipped = rows.filter((row) => row.result === "skip").length;
  const width = Math.max(...rows.map((row) => row.name.length));
  console.log(`\n${title}:`);
  for (const row of rows) {
    console.log(`  ${row.result}  ${row.name.padEnd(width)}  ${row.time.padStart(8)}  ${row.remark}`.trimEnd());
  }
  console.log(`  total ${seconds(began)}`);
  console.log(`${title}: ${rows.length - failed - skipped} passed, ${failed} failed, ${skipped} skipped`);
  return failed === 0;
}
