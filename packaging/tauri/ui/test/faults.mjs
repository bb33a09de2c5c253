// `npm run faults`: plants each fault in a copy of this package and sees the component tests fail for it. Prints a line a
// fault; ends with 1 if one is not noticed. WORDS on the command line choose faults.

import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const FAULTS = [
  [
    "the last preview stays until the final picture is decoded",
    "components/LivePreview.tsx",
    "{preview && !isShown && (",
    "{preview && final === undefined && (",
    "live",
  ],
  [
    "a message without a preview keeps the one before",
    "store/job.ts",
    "jobId: step.jobId, ...(preview && { preview })",
    "jobId: step.jobId, preview",
    "live",
  ],
  [
    "a screen reader hears quarters, not steps",
    "words/progress.ts",
    "Math.floor(step.progress * 4) * 25",
    "Math.round(step.progress * 100)",
    "live",
  ],
  [
    "a cancelled job keeps what was finished",
    "store/job.ts",
    "error instanceof RemoteError ? error.images : []",
    "[]",
    "live",
  ],
  [
    "a failure behind the next picture is still told",
    "components/Queue.tsx",
    'state === "failed" && key !== shown',
    "false",
    "live",
  ],
  [
    "blank options are the model's",
    "words/settings.ts",
    'if (settings[name] !== "") options[name] = Number',
    "options[name] = Number",
    "words",
  ],
  [
    "a non-commercial licence is told",
    "components/ModelEntry.tsx",
    "{!model.commercialUse && (",
    "{false && (",
    "picker",
  ],
  [
    "a disk that is too full is told before the download",
    "words/fit.ts",
    "return needed > freeBytes",
    "return needed < 0",
    "picker",
  ],
  [
    "a download that has begun needs only the rest",
    "words/fit.ts",
    "progress?.totalBytes ? progress.totalBytes - progress.bytes : model.downloadBytes",
    "model.downloadBytes",
    "picker",
  ],
  [
    "what a stopped download has written is not free any more",
    "store/models.ts",
    "if (error instanceof RemoteError) void this.#lookForRoom();",
    "",
    "picker",
  ],
  ["a resumed download stays where it was", "store/models.ts", 'now.phase !== "resolving" || ', "true || ", "picker"],
  [
    "what is asked for anew forgets no download",
    "store/models.ts",
    "const [{ models, freeBytes }, engines] = await Promise.all([this.#client.models.listing(), told]);\n      const { error: _, freeBytes: __, ...before } = this.get();",
    "const { models, freeBytes } = await this.#client.models.listing();\n      const { error: _, freeBytes: __, ...before } = this.get();\n      const engines = await told;",
    "picker",
  ],
  [
    "the list stays open when the first model arrives",
    "components/ModelChoice.tsx",
    "const isOpen = wanted ?? false;",
    "const isOpen = model === undefined;",
    "studio",
  ],
  [
    "a stroke goes on beyond the edge",
    "components/MaskPainter.tsx",
    "onPointerLeave={() => setBrush(undefined)}",
    "onPointerLeave={ended}",
    "mask",
  ],
  [
    "a new act forgets what was undone",
    "mask/strokes.ts",
    "acts: [...acts, act], undone: [] }",
    "acts: [...acts, act], undone: [act] }",
    "mask",
  ],
  [
    "again has another seed",
    "store/requests.ts",
    "const { seed: _, ...options } = request.params.options ?? {};",
    "const options = request.params.options ?? {};",
    "requests",
  ],
  [
    "after a reload running jobs are followed",
    "store/jobs.ts",
    'info.state === "queued" || info.state === "running"',
    "false",
    "studio",
  ],
  [
    "what waited is named after a reload",
    "store/job.ts",
    "request?.params.prompt ?? prompt",
    "request?.params.prompt",
    "studio",
  ],
  [
    "after a reload a picture is told with the options that it was drawn with",
    "components/Gallery.tsx",
    'job.result?.parameters["options"]',
    "job.result?.parameters",
    "studio",
  ],
  [
    "after a reload an edit of several pictures is an edit",
    "store/job.ts",
    ' || "images" in parameters',
    "",
    "requests",
  ],
  [
    "a mask that is gone is missed",
    "store/requests.ts",
    "return !mask || isThere(mask) ?",
    "return isThere !== undefined ?",
    "requests",
  ],
  ["the oldest pictures go", "store/jobs.ts", "ended.length > KEPT", "false", "studio"],
  [
    "Kontext gets no strength",
    "components/Studio.tsx",
    "...(byStrength && { strength: edit.strength })",
    "strength: edit.strength",
    "studio",
  ],
];

const here = fileURLToPath(new URL("..", import.meta.url));
const words = process.argv.slice(2);
const copy = mkdtempSync(join(tmpdir(), "locara-ui-faults-"));
let missed = 0;
try {
  for (const part of ["src", "test", "vite.config.ts", "tsconfig.json", "package.json"]) {
    cpSync(join(here, part), join(copy, part), { recursive: true });
  }
  symlinkSync(join(here, "node_modules"), join(copy, "node_modules"));
  const vitest = (name) => spawnSync("npx", ["vitest", "run", `test/components/${name}.test`], { cwd: copy }).status;
  const chosen = FAULTS.filter(([breaks]) => words.length === 0 || words.some((word) => breaks.includes(word)));
  for (const name of new Set(chosen.map((fault) => fault[4]))) {
    if (vitest(name) !== 0) throw new Error(`${name} fails without a fault`);
  }
  for (const [breaks, file, old, planted, name] of chosen) {
    const path = join(copy, "src", file);
    const sound = readFileSync(path, "utf8");
    if (sound.split(old).length !== 2) throw new Error(`${file} does not have this once: ${old}`);
    writeFileSync(
      path,
      sound.replace(old, () => planted),
    );
    const noticed = vitest(name) !== 0;
    writeFileSync(path, sound);
    if (!noticed) missed += 1;
    console.log(`${noticed ? "noticed" : "MISSED "}  ${breaks}`);
  }
} finally {
  rmSync(copy, { recursive: true, force: true });
}
process.exitCode = missed > 0 ? 1 : 0;
