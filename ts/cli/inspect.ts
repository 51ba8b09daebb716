// `modelet inspect`: shows a model at a stage of its compilation.

import type { ValueInfo } from "../core.js";
import type { Command } from "./arguments.js";
import { parseDimensions, randomInputs } from "./inputs.js";
import { nodeRunner } from "./runner.js";
import { paint, print, printTable, UsageError } from "./terminal.js";

const stages = ["graph", "optimized", "program"] as const;

export const inspect: Command = {
  name: "inspect",
  usage: "inspect MODEL [--stage graph|optimized|program] [--dim NAME=N] [--json]",
  summary: "Show a model's inputs and outputs, or the model itself at a stage of its compilation.",
  options: {
    stage: { value: "STAGE", help: "print the graph as imported, as optimized, or the planned program" },
    dim: { value: "NAME=N", help: "size of a symbolic dimension, for the program (default: 1)", multiple: true },
    json: { help: "print JSON" },
  },
  async run([model, ...rest], options) {
    if (model === undefined || rest.length > 0) throw new UsageError("inspect takes one model");
    const stage = options.text("stage") === undefined ? undefined : options.choice("stage", stages, "graph");
    // An imported graph is shown even when its operators could not be optimized.
    const optimization = stage === "graph" ? "none" : "all";
    const opened = await nodeRunner().open(model, { device: "cpu", optimization });
    if (stage !== undefined) {
      // A program is planned for concrete shapes: those of a run on made-up inputs.
      const dimensions = parseDimensions(options.texts("dim"));
      if (stage === "program") await opened.run(randomInputs(opened.inputs, dimensions));
      print((await opened.inspect(stage, options.on("json"))).trimEnd());
    } else if (options.on("json")) {
      const { inputs, outputs } = opened;
      print(JSON.stringify({ inputs, outputs, report: await opened.report() }));
    } else {
      const { memory, fusedGroups, warnings } = await opened.report();
      printValues("inputs", opened.inputs);
      printValues("outputs", opened.outputs);
      const { nodes } = JSON.parse(await opened.inspect("optimized", true)) as { nodes: { operator: string }[] };
      const counts = new Map<string, number>();
      for (const { operator } of nodes) counts.set(operator, (counts.get(operator) ?? 0) + 1);
      const operators = [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0], "en"));
      print(paint("bold", "operators after optimisation"));
      print(`  ${operators.map(([name, count]) => (count > 1 ? `${name} ×${count}` : name)).join(", ")}`);
      print(`  ${fusedGroups} fused groups, ${(memory.weightsBytes / 1e6).toFixed(2)} MB of weights`);
      for (const warning of warnings) print(paint("yellow", `warning: ${warning}`));
    }
    await opened.release();
    return 0;
  },
};

function printValues(title: string, values: readonly ValueInfo[]): void {
  printTable(
    [title, "type", "shape"],
    values.map(({ name, type, shape }) => [name, type, `[${shape.join(", ")}]`]),
  );
  print();
}
