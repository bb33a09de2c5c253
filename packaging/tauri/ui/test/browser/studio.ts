// Shared by the browser tests: a page on top of the bridge, with its own daemon and folders.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Manifest } from "@locara/image/node";
import { test as base, expect, type Page } from "@playwright/test";
import axe from "axe-core";
import { Bridge } from "./bridge.js";
import { PAGE } from "./build-page.js";

const REPOSITORY = fileURLToPath(new URL("../../../../../", import.meta.url));
/** The daemon's program, set by make. */
const PROGRAM = process.env["LOCARA_SIDECAR"] ?? join(REPOSITORY, ".venv/bin/locara-sidecar");

export interface Wishes {
  engine?: "fake" | "torch" | "auto";
  models?: string[];
  fs?: "read-write" | "write" | null;
  flags?: string[];
  env?: Record<string, string>;
  /** Parameters of the page's URL: `theme=dark`, `served`, `token`. */
  query?: string;
}

export interface Studio {
  page: Page;
  bridge: Bridge;
  pictures: string;
}

export type Open = (wishes?: Wishes) => Promise<Studio>;

/** Two small models on a hub on loopback, `open` and `gated`. */
export interface Hub {
  hub: string;
  catalogue: string;
}

export const test = base.extend<{ folder: string; open: Open; served: Hub }>({
  // biome-ignore lint/correctness/noEmptyPattern: Playwright reads the names in it
  folder: async ({}, use) => {
    const folder = mkdtempSync(join(tmpdir(), "locara-ui-"));
    await use(folder);
    rmSync(folder, { recursive: true, force: true });
  },
  open: async ({ page, folder }, use) => {
    const bridges: Bridge[] = [];
    const pictures = join(folder, "pictures");
    mkdirSync(pictures);
    page.on("pageerror", (error) => expect(error, "an error in the page").toBeUndefined());
    await use(
      async ({ engine = "fake", models = ["pocket"], fs = "read-write", flags = [], env = {}, query = "" } = {}) => {
        const { HF_HUB_OFFLINE: _, HF_TOKEN: __, ...environment } = process.env;
        const manifest: Manifest = {
          schema: "locara/v1",
          name: "studio",
          publisher: "example",
          version: "1.0.0",
          modalities: ["text-to-image", "image-to-image", "image-text-to-image"],
          capabilities: { models, ...(fs && { fs: { "user-folder": fs } }) },
        };
        const bridge = await Bridge.start(PAGE, pictures, {
          command: [PROGRAM, "serve", "--engine", engine, "--cache-dir", join(folder, "cache"), ...flags],
          manifest,
          grants: fs ? { "user-folder": pictures } : {},
          env: { ...environment, HF_HOME: join(folder, "hf"), ...env },
        });
        bridges.push(bridge);
        await page.goto(`${bridge.url}?${query}`);
        return { page, bridge, pictures };
      },
    );
    for (const bridge of bridges) await bridge.close();
  },
  served: async ({ folder }, use) => {
    const place = join(folder, "hub");
    mkdirSync(place);
    const program: ChildProcess = spawn(
      join(dirname(PROGRAM), "python"),
      ["-m", "support.served_models", place, "1.5"],
      {
        cwd: join(REPOSITORY, "tests"),
        stdio: ["pipe", "pipe", "inherit"],
      },
    );
    if (program.stdout === null) throw new Error("The hub says nothing.");
    const [line] = (await once(createInterface(program.stdout), "line")) as [string];
    await use(JSON.parse(line) as Hub);
    program.stdin?.end();
    await once(program, "exit");
  },
});

export { expect };

export const draw = async (page: Page, prompt: string) => {
  await page.getByRole("textbox", { name: "What to draw" }).fill(prompt);
  await page.getByRole("button", { name: /^(Draw|Add to the queue)$/ }).click();
};

export const status = (page: Page) => page.locator(".locara-status-words");

/** Returns the problems that axe-core finds in the page as it looks now, colours included. */
export async function expectAccessible(page: Page): Promise<void> {
  await page.evaluate(axe.source);
  const found = await page.evaluate(async () => {
    const { violations } = await (window as unknown as { axe: typeof axe }).axe.run();
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 160)).join(" | ")}`);
  });
  expect(found).toEqual([]);
}
