// Assertions on typed errors.

import assert from "node:assert/strict";
import { ModeletError } from "modelet";

/**
 * Asserts that a promise (or a function) ends in a ModeletError with a code (or one of several), and that its message
 * says something.
 * @returns the error
 */
export async function rejectsWith(work, code, pattern = /./, ErrorClass = ModeletError) {
  let error;
  try {
    await (typeof work === "function" ? work() : work);
  } catch (thrown) {
    error = thrown;
  }
  assert.ok(error, `expected an error with the code ${code}, but there was none`);
  assert.ok(error instanceof ErrorClass, `expected a ModeletError, got ${error?.stack ?? error}`);
  assert.ok([code].flat().includes(error.code), `the code is ${error.code}, expected ${code}: ${error.message}`);
  assert.match(error.describe(), pattern);
  return error;
}
