// The options of the command line: what each command takes, its help, and the checks on what was typed.

import { parseArgs } from "node:util";
import type { Device } from "../core.js";
import { paint, UsageError } from "./terminal.js";

/** An option: its value's name in the help (none for a switch) and what it does. */
export interface Option {
  readonly value?: string;
  readonly help: string;
  readonly multiple?: true;
}

export interface Command {
  readonly name: string;
  readonly usage: string;
  readonly summary: string;
  readonly options: Readonly<Record<string, Option>>;
  /** Runs the command and gives the exit code. */
  run(positionals: string[], options: Options): Promise<number>;
}

/** The typed-in options, checked where they are asked for. */
export class Options {
  readonly #values: Readonly<Record<string, unknown>>;

  constructor(values: Readonly<Record<string, unknown>>) {
    this.#values = values;
  }

  on(name: string): boolean {
    return this.#values[name] === true;
  }

  text(name: string): string | undefined {
    return this.#values[name] as string | undefined;
  }

  texts(name: string): readonly string[] {
    return (this.#values[name] as string[] | undefined) ?? [];
  }

  choice<C extends string>(name: string, choices: readonly C[], otherwise: C): C {
    const value = this.text(name) ?? otherwise;
    if ((choices as readonly string[]).includes(value)) return value as C;
    throw new UsageError(`--${name} is one of ${choices.join(", ")}, not ${value}`);
  }

  device(otherwise: Device): Device {
    return this.choice("device", ["auto", "webgpu", "cpu"], otherwise);
  }

  /** `--threads` as an option of loading; nothing when it is left out. */
  threads(): { threads?: number } {
    return this.text("threads") === undefined ? {} : { threads: this.integer("threads", 1, 1) };
  }

  number(name: string, otherwise: number, least = 0): number {
    const text = this.text(name);
    if (text === undefined) return otherwise;
    const value = Number(text);
    if (text.trim() !== "" && Number.isFinite(value) && value >= least) return value;
    throw new UsageError(`--${name} takes a number from ${least}, not ${text}`);
  }

  integer(name: string, otherwise: number, least: number): number {
    const value = this.number(name, otherwise, least);
    if (Number.isInteger(value)) return value;
    throw new UsageError(`--${name} takes a whole number, not ${value}`);
  }
}

/** Parses what follows the command's name. */
export function parse(command: Command, args: readonly string[]): { positionals: string[]; options: Options } {
  const options = Object.fromEntries(
    Object.entries({ ...command.options, help: help }).map(([name, option]) => [
      name,
      {
        type: option.value === undefined ? ("boolean" as const) : ("string" as const),
        ...(option.multiple && { multiple: true }),
        ...(name === "help" && { short: "h" }),
      },
    ]),
  );
  try {
    const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
    return { positionals, options: new Options(values) };
  } catch (error) {
    throw new UsageError(`${(error as Error).message.split(". To specify")[0]}\n\nusage: modelet ${command.usage}`);
  }
}

/** The help of one command. */
export function commandHelp(command: Command): string {
  const rows = Object.entries({ ...command.options, help }).map(
    ([name, option]) => [`  --${name}${option.value ? ` ${option.value}` : ""}`, option.help] as const,
  );
  const width = Math.max(...rows.map(([left]) => left.length)) + 2;
  return [
    command.summary,
    "",
    `${paint("bold", "usage:")} modelet ${command.usage}`,
    "",
    ...rows.map(([left, right]) => left.padEnd(width) + right),
  ].join("\n");
}

const help: Option = { help: "show this help" };
