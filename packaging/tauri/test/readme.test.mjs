// README.md shows the example's own code.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const EXAMPLE = join(HERE, "examples/minimal");

/** The text of each hand-written file of the example. */
function written(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return ["dist", "gen", "icons", "target"].includes(entry.name) ? [] : written(path);
    return [readFileSync(path, "utf8")];
  });
}

test("every code block in README.md is in a file of the example, unchanged", () => {
  const readme = readFileSync(join(HERE, "README.md"), "utf8");
  const blocks = [...readme.matchAll(/^```\w+\n(.*?)^```$/gms)].map(([, code]) => code);
  assert.equal(blocks.length, 8);
  const files = written(EXAMPLE);
  for (const block of blocks)
    assert.ok(
      files.some((text) => text.includes(block)),
      block,
    );
});

test("the version and the names in README.md's commands are those of the packages", () => {
  const readme = readFileSync(join(HERE, "README.md"), "utf8");
  for (const folder of [HERE, join(HERE, "../../protocol/typescript")]) {
    const { name, version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    assert.ok(readme.includes(`${name.replace("@", "").replace("/", "-")}-${version}.tgz`), name);
  }
});
