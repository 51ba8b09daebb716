// The tables beside the cases, and those that runs write.

import * as fs from "node:fs";

/** Lines of tab-separated columns; comments and the first `skipped` lines are left out. */
export function readTable(path, skipped = 1) {
  const lines = fs.readFileSync(path, "utf8").split("\n").slice(skipped);
  return lines.filter((line) => line && !line.startsWith("#")).map((line) => line.split("\t"));
}
