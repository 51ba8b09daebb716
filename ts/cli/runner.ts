// Where the command line runs models: in this process, or (see browser.ts) in a page of a headless browser. Both sides
// answer the same few questions.

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import type { Device, InspectStage, Optimization, Profile, Report, ValueInfo } from "../core.js";
import { Session } from "../session.js";
import type { Values } from "../value.js";
import { note, UsageError } from "./terminal.js";

export interface OpenOptions {
  readonly device: Device;
  readonly optimization?: Optimization;
  readonly threads?: number;
}

/** A loaded model. */
export interface OpenModel {
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  run(feeds: Values): Promise<Values>;
  profile(feeds: Values, runs: number): Promise<Profile>;
  report(): Promise<Report>;
  inspect(stage: InspectStage, json: boolean): Promise<string>;
  release(): Promise<void>;
}

/** A place where models run. */
export interface Runner {
  open(model: string, options: OpenOptions): Promise<OpenModel>;
  close(): Promise<void>;
}

/** Runs models in this process. */
export function nodeRunner(): Runner {
  return {
    async open(model, options) {
      if (!existsSync(model)) throw new UsageError(`there is no file ${model}`);
      if (options.device === "webgpu") prepareVulkan();
      const session = await Session.load(model, options);
      return {
        inputs: session.inputs,
        outputs: session.outputs,
        run: (feeds) => session.run<Values>(feeds),
        profile: (feeds, runs) => session.profile(feeds, { runs }),
        report: async () => session.report(),
        inspect: async (stage, json) => session.inspect(stage, { json }),
        release: async () => session.release(),
      };
    },
    async close() {},
  };
}

/**
 * Without a Vulkan driver for real hardware, WebGPU in Node.js needs a software driver. Chromium brings one; it has to
 * be chosen before the `webgpu` package starts, so another process looks first whether there is hardware.
 */
export function prepareVulkan(): void {
  const { env, platform } = process;
  if (prepared || platform !== "linux" || env.VK_DRIVER_FILES || env.VK_ICD_FILENAMES || env.VK_ADD_DRIVER_FILES)
    return;
  prepared = true;
  const script = `import("webgpu").then(async ({ create }) => {
    const adapter = await create([]).requestAdapter();
    process.stdout.write(adapter === null || adapter.info.isFallbackAdapter ? "" : adapter.info.description || "hardware");
    process.exit(0);
  }).catch(() => process.exit(0));`;
  const probe = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    cwd: import.meta.dirname ?? process.cwd(),
    encoding: "utf8",
    timeout: 20_000,
  });
  if (probe.stdout) {
    note(`WebGPU adapter: ${probe.stdout}`);
    return;
  }
  const driver = softwareDrivers.find((path) => existsSync(path));
  if (driver) {
    process.env.VK_DRIVER_FILES = driver;
    note(`WebGPU adapter: SwiftShader in software (${driver}); no hardware adapter was found`);
  }
}

let prepared = false;

const softwareDrivers = [
  "/usr/lib/chromium/vk_swiftshader_icd.json",
  "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
  "/opt/google/chrome/vk_swiftshader_icd.json",
];
