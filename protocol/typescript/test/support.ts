// Shared by the tests: the real daemon, in its own folder.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { DiffusionStep, Manifest, ProtocolViolationError } from "@locara/image/node";
import { Sidecar, type SidecarOptions } from "@locara/image/node";

/** The package's folder. */
export const HERE = fileURLToPath(new URL("..", import.meta.url));
export const REPOSITORY = join(HERE, "../..");
/** The daemon's program, set by make. */
export const PROGRAM = process.env["LOCARA_SIDECAR"] ?? join(REPOSITORY, ".venv/bin/locara-sidecar");
export const PROMPT = "a red circle on a blue background";

export const MANIFEST: Manifest = {
  schema: "locara/v1",
  name: "studio",
  publisher: "example",
  version: "1.2.3",
  modalities: ["text-to-image", "image-to-image"],
  capabilities: { models: ["pocket"], fs: { "user-folder": "read-write", "user-selected": "read-write" } },
};

/** Something with an end to clean up after: a test, or a whole file. */
type Ending = { after: (done: () => void | Promise<void>) => void };

/** A folder that is removed after the test. */
export function folder(test: Ending, name = "pictures"): string {
  const made = mkdtempSync(join(tmpdir(), "locara-"));
  test.after(() => rmSync(made, { recursive: true, force: true }));
  const inner = join(made, name);
  mkdirSync(inner);
  return inner;
}

export function command(engine = "fake", ...flags: string[]): [string, ...string[]] {
  return [PROGRAM, "serve", "--engine", engine, ...flags];
}

export interface Opened {
  sidecar: Sidecar;
  pictures: string;
  violations: ProtocolViolationError[];
}

/** A session with the real daemon. It ends with the test and must not have broken the contract. */
export async function opened(test: Ending, options: SidecarOptions & { engine?: string } = {}): Promise<Opened> {
  const pictures = folder(test);
  const violations: ProtocolViolationError[] = [];
  const sidecar = await Sidecar.start({
    command: command(options.engine),
    manifest: MANIFEST,
    grants: { "user-folder": pictures },
    onViolation: (violation) => violations.push(violation),
    ...options,
  });
  test.after(async () => {
    await sidecar.close();
    if (violations.length > 0) throw violations[0];
  });
  return { sidecar, pictures, violations };
}

/** Returns a call's error. */
export async function failure(call: PromiseLike<unknown>): Promise<unknown> {
  try {
    await call;
  } catch (error) {
    return error;
  }
  throw new Error("The call succeeded.");
}

/** Waits until a condition holds, by polling. */
export async function until(holds: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const end = Date.now() + 20_000;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`Not within 20 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A promise that somebody else settles. */
export function gate(): { opened: Promise<void>; open: () => void } {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

/** The finished denoising steps that messages report. */
export function stepsOf(messages: DiffusionStep[]): number[] {
  return messages.filter(({ phase, step }) => phase === "denoising" && step > 0).map(({ step }) => step);
}
