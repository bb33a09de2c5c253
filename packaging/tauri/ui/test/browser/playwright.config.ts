import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";

const PLACES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const chromium = process.env["CHROMIUM"] ?? PLACES.find((path) => existsSync(path));
if (chromium === undefined) throw new Error("Chromium is not here; CHROMIUM=/path/to/it names one.");

export default defineConfig({
  testDir: ".",
  outputDir: "../../test-results",
  globalSetup: "./build-page.ts",
  workers: 2,
  timeout: 300_000,
  expect: { timeout: 60_000 },
  retries: 1, // a busy machine makes a page late; the report calls it flaky
  reporter: "list",
  forbidOnly: true,
  fullyParallel: true,
  use: {
    viewport: { width: 1180, height: 820 },
    // as root, as in most containers, Chromium has no sandbox of its own
    launchOptions: { executablePath: chromium, args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] },
    screenshot: "only-on-failure",
    contextOptions: { reducedMotion: "reduce" },
  },
  projects: [
    { name: "tests", testMatch: "*.spec.ts" },
    { name: "screenshots", testMatch: "*.shots.ts" },
  ],
});
