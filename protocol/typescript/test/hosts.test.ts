// The Node client against `locara-conformance host`: a sidecar that is slow, bursty, out of spec or dying.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { folder, HERE, PROGRAM } from "./support.js";

test("the client passes every scenario of the harness", { timeout: 600_000 }, (t) => {
  const report = join(folder(t), "report.json");
  const harness = join(dirname(PROGRAM), "locara-conformance");
  const adapter = [process.execPath, join(HERE, "build/adapter.js")];
  const { status, stdout, stderr } = spawnSync(harness, ["host", "--json", report, "--", ...adapter], {
    encoding: "utf8",
  });
  const { results } = JSON.parse(readFileSync(report, "utf8")) as {
    results: { id: string; outcome: string; reason: string }[];
  };
  const notSuccess = results
    .filter(({ outcome }) => outcome !== "SUCCESS")
    .map(({ id, outcome, reason }) => `${outcome} ${id}: ${reason}`);
  assert.deepEqual(notSuccess, [], stderr);
  assert.ok(results.length >= 25, `${results.length} scenarios`);
  assert.equal(status, 0, stdout);
});
