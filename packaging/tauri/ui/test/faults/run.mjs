// `npm run faults`: plants each fault in a copy of this package and checks that the component tests fail. Prints one line per
// fault; exits with status 1 if one is not noticed. WORDS on the command line select faults. The files next to this one list
// them, each those that the component test of the same name notices.

import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import live from "./live.mjs";
import mask from "./mask.mjs";
import picker from "./picker.mjs";
import requests from "./requests.mjs";
import studio from "./studio.mjs";
import words from "./words.mjs";

const ALL = { live, mask, picker, requests, studio, words };
const here = fileURLToPath(new URL("../..", import.meta.url));
const wanted = process.argv.slice(2);
const copy = mkdtempSync(join(tmpdir(), "locara-ui-faults-"));
let missed = 0;
try {
  for (const part of ["src", "test", "vite.config.ts", "tsconfig.json", "package.json"]) {
    cpSync(join(here, part), join(copy, part), { recursive: true });
  }
  symlinkSync(join(here, "node_modules"), join(copy, "node_modules"));
  /** How many tests there are, and how many of them fail. */
  const tested = (name) => {
    const command = ["vitest", "run", "--reporter=json", `test/components/${name}.test`];
    const { numTotalTests, numFailedTests } = JSON.parse(
      spawnSync("npx", command, { cwd: copy, encoding: "utf8", maxBuffer: 2 ** 26 }).stdout,
    );
    return { all: numTotalTests, failed: numFailedTests };
  };
  for (const [name, faults] of Object.entries(ALL)) {
    const chosen = faults.filter(([breaks]) => wanted.length === 0 || wanted.some((word) => breaks.includes(word)));
    if (chosen.length === 0) continue;
    const { all, failed } = tested(name);
    if (failed > 0) throw new Error(`${name} fails without a fault`);
    for (const [breaks, file, old, planted] of chosen) {
      const path = join(copy, "src", file);
      const sound = readFileSync(path, "utf8");
      if (sound.split(old).length !== 2) throw new Error(`${file} does not have this once: ${old}`);
      writeFileSync(
        path,
        sound.replace(old, () => planted),
      );
      const now = tested(name);
      writeFileSync(path, sound);
      if (now.all !== all) throw new Error(`it does not run with this: ${breaks}`);
      if (now.failed === 0) missed += 1;
      console.log(`${now.failed > 0 ? "noticed" : "MISSED "}  ${breaks}`);
    }
  }
} finally {
  rmSync(copy, { recursive: true, force: true });
}
process.exitCode = missed > 0 ? 1 : 0;
