// Runs one case with the package, wherever that is: files come through a function that the caller gives. A process of the
// conformance run (worker.mjs) and a page of it (page.mjs) share this.

/**
 * What went wrong with a case, and where its nodes ran.
 *
 * @param {object} tools the package, `compareTensors`, and `read`, which gives the bytes of a file by its path
 * @param {object} one `model`, `sets` of `inputs` and `outputs` (paths), `tolerance`, and if wanted: whether its numbers are
 *   `random`, whether it is to give what it gives on the CPU (`asOnCpu`), and whether the shapes of the nodes that ran on
 *   the CPU are to be told (`shapes`)
 * @param {object} options how the session is loaded
 * @param {(session) => void} keep is given the session once the case has run; it releases it
 */
export async function runCase({ modelet, compareTensors, read }, one, options, keep = (session) => session.release()) {
  const failures = [];
  const bytes = await read(one.model);
  const session = await modelet.Session.load(bytes, options);
  const reference = one.asOnCpu ? await modelet.Session.load(bytes, { ...options, device: "cpu" }) : undefined;
  let lastFeeds;
  try {
    if (one.sets.length === 0) failures.push("the case has no test data");
    for (const { inputs, outputs } of one.sets) {
      const feeds = await readAll(modelet, read, inputs, session.inputs);
      const expected = reference ? await reference.run(feeds) : await readAll(modelet, read, outputs, session.outputs);
      lastFeeds = feeds;
      const results = await session.run(feeds);
      if (Object.keys(expected).length === 0) failures.push("the case has no expected outputs");
      for (const [name, value] of Object.entries(expected)) {
        const tolerance = one.random ? undefined : one.tolerance;
        const difference = compare({ modelet, compareTensors }, name, results[name], value, tolerance);
        if (difference !== undefined) failures.push(difference);
      }
    }
    const nodes = session.report().nodes;
    const onGpu = nodes.filter(({ device }) => device === "gpu");
    const onCpu = nodes.filter(({ device }) => device === "cpu");
    const rows = one.shapes && onCpu.length > 0 ? (await session.profile(lastFeeds, { runs: 1 })).nodes : [];
    const shapes = new Map(rows.map(({ node, shapes }) => [node, shapes]));
    return {
      failures,
      onGpu: operatorsOf(onGpu),
      onCpu: onCpu.map(({ node, operator, reason = "" }) => [operator, reason, node, shapes.get(node)]),
    };
  } finally {
    reference?.release();
    keep(session);
  }
}

/** What a case comes to whose run threw. */
export function failedCase(modelet, error) {
  const known = error instanceof modelet.ModeletError;
  const message = known ? `${error.code}: ${error.describe()}` : String(error?.stack ?? error);
  return { failures: [message], onGpu: [], onCpu: [] };
}

const operatorsOf = (nodes) => [...new Set(nodes.map(({ operator }) => operator))].sort();

/** The values of files in their order: by the name in the file where the model has it, else by position. */
async function readAll(modelet, read, files, infos) {
  const required = infos.filter(({ optional }) => !optional);
  const candidates = files.length > required.length ? infos : required;
  const values = {};
  for (const [i, file] of files.entries()) {
    const { name, value } = await modelet.readValue(await read(file), candidates[i]?.type ?? "?");
    const known = candidates.some((info) => info.name === name);
    values[known ? name : (candidates[i]?.name ?? `#${i}`)] = value;
  }
  return values;
}

/**
 * The first difference, in words: tensors by their elements (without a tolerance by type and shape alone),
 * sequences item by item, maps key by key.
 */
function compare(tools, name, actual, expected, tolerance) {
  const { Tensor } = tools.modelet;
  if (expected === null || expected === undefined) {
    return actual === null || actual === undefined ? undefined : `${name}: a value, expected none`;
  }
  if (actual === null || actual === undefined) return `${name}: no value, expected one`;
  if (Array.isArray(expected)) {
    if (!Array.isArray(actual)) return `${name}: not a sequence, expected one`;
    if (actual.length !== expected.length) return `${name}: ${actual.length} items, expected ${expected.length}`;
    const compared = expected.map((item, i) => compare(tools, `${name}[${i}]`, actual[i], item, tolerance));
    return compared.find((difference) => difference !== undefined);
  }
  if (typeof expected === "object" && !(expected instanceof Tensor)) {
    if (typeof actual !== "object" || actual instanceof Tensor) return `${name}: not a map, expected one`;
    const [size, wanted] = [Object.keys(actual).length, Object.keys(expected).length];
    if (size !== wanted) return `${name}: ${size} entries, expected ${wanted}`;
    const compared = Object.entries(expected).map(([key, value]) =>
      compare(tools, `${name}[${key}]`, actual[key], value, tolerance),
    );
    return compared.find((difference) => difference !== undefined);
  }
  if (expected instanceof Tensor) {
    if (!(actual instanceof Tensor)) return `${name}: not a tensor, expected one`;
    if (!tolerance) return String(actual) === String(expected) ? undefined : `${name}: ${actual}, expected ${expected}`;
    // At least two units in the last place, as the package's own runner has it.
    const rtol = expected.type === "bfloat16" ? Math.max(tolerance.rtol, 2 ** -6) : tolerance.rtol;
    return tools.compareTensors(name, actual, expected, { ...tolerance, rtol }).message;
  }
  if (typeof expected === "number") {
    const near = Math.abs(actual - expected) <= tolerance.atol + tolerance.rtol * Math.abs(expected);
    return Object.is(actual, expected) || near ? undefined : `${name} is ${actual}, expected ${expected}`;
  }
  return actual === expected ? undefined : `${name} is ${String(actual)}, expected ${String(expected)}`;
}
