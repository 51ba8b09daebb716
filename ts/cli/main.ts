// The `modelet` command: finds the command that was asked for, runs it, and ends with its exit code. 0: all is well;
// 1: a check failed; 2: a mistake in the arguments or the input files.

import { readFileSync } from "node:fs";
import { ModeletError, messageOf } from "../errors.js";
import { type Command, commandHelp, parse } from "./arguments.js";
import { bench, childCommand, measureForParent } from "./bench.js";
import { inspect } from "./inspect.js";
import { run } from "./run.js";
import { clearProgress, paint, print, UsageError } from "./terminal.js";
import { verify } from "./verify.js";

const commands: readonly Command[] = [inspect, run, verify, bench];

async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === childCommand) {
    await measureForParent();
    return 0;
  }
  if (name === "--version" || name === "-v") {
    print(version());
    return 0;
  }
  if (name === "--help" || name === "-h" || name === "help") {
    print(help());
    return 0;
  }
  if (name === undefined) throw new UsageError(help());
  const command = commands.find((one) => one.name === name);
  if (!command) throw new UsageError(`there is no command ${name}\n\n${help()}`);
  const { positionals, options } = parse(command, rest);
  if (options.on("help")) {
    print(commandHelp(command));
    return 0;
  }
  return command.run(positionals, options);
}

function help(): string {
  const width = Math.max(...commands.map(({ name }) => name.length)) + 2;
  return [
    "modelet runs trained models on WebGPU and on the CPU.",
    "",
    `${paint("bold", "usage:")} modelet COMMAND ...`,
    "",
    ...commands.map(({ name, summary }) => `  ${name.padEnd(width)}${summary.split("\n")[0]}`),
    "",
    "  --version, --help; modelet COMMAND --help says more.",
  ].join("\n");
}

/** The version of the package that this file belongs to. */
function version(): string {
  return JSON.parse(readFileSync(new URL("./package.json", import.meta.url), "utf8")).version;
}

/** Ends the process once everything is written; handles of a GPU would otherwise keep it alive. */
function exit(code: number): void {
  process.stdout.write("", () => process.stderr.write("", () => process.exit(code)));
}

// A reader that has seen enough, such as `head`, is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

main(process.argv.slice(2)).then(exit, (error) => {
  clearProgress();
  if (error instanceof ModeletError) {
    process.stderr.write(`${paint("red", `error [${error.code}]:`, process.stderr)} ${error.describe()}\n`);
  } else if (error instanceof UsageError) {
    process.stderr.write(`${error.message}\n`);
  } else {
    const text = process.env.DEBUG ? String((error as Error).stack) : messageOf(error);
    process.stderr.write(`${paint("red", "error:", process.stderr)} ${text}\n`);
  }
  exit(2);
});
