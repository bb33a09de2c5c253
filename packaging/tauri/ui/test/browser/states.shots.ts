// `npm run screenshots`: each state, light and dark, into the folder that SHOTS names, else one beside the system's temporary files.

import { mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "@playwright/test";
import { draw, expect, type Hub, type Open, status, test } from "./studio.js";

const FOLDER = process.env["SHOTS"] ?? join(tmpdir(), "locara-ui-screenshots");
mkdirSync(FOLDER, { recursive: true });
test.setTimeout(300_000);

const ALL = ["sd3.5-medium", "flux.1-schnell", "flux.1-dev", "sdxl-lightning", "pocket"];
const SUN = "a smiling sun on a purple background";

type Given = { open: Open; hub: Hub; query: string };

const drawn = async (page: Page, prompt: string) => {
  await draw(page, prompt);
  await expect(status(page)).toContainText("Done", { timeout: 200_000 });
};
const scene =
  (name: string, then?: (page: Page) => Promise<void>) =>
  async ({ open, query }: Given) => {
    const { page } = await open({ query: `${query}&scene=${name}` });
    await then?.(page);
    return page;
  };
const download = (page: Page) =>
  page
    .getByRole("button", { name: /^Download Stable/ })
    .first()
    .click();

const STATES: Record<string, (given: Given) => Promise<Page>> = {
  "nothing-installed": async ({ open, query }) => {
    const { page } = await open({ models: ALL.slice(0, 4), query });
    await expect(page.getByRole("heading", { name: "No model is installed yet" })).toBeVisible();
    return page;
  },
  models: scene("fits", async (page) => {
    await page.getByRole("button", { name: /^Model/ }).click();
    await expect(page.getByText("Does not fit").first()).toBeVisible();
  }),
  "engine-missing": scene("engine", (page) => expect(page.getByText("No engine").first()).toBeVisible()),
  downloading: scene("downloading", async (page) => {
    await download(page);
    await expect(page.getByRole("progressbar", { name: /^Download/ })).toBeVisible();
  }),
  "disk-full": scene("full", (page) => expect(page.getByText("Disk too full").first()).toBeVisible()),
  "no-room": scene("disk", async (page) => {
    await download(page);
    await expect(page.getByRole("heading", { name: /Not enough room/ })).toBeVisible();
  }),
  gated: async ({ open, hub, query }) => {
    const flags = ["--allow-downloads", "--catalogue", hub.catalogue];
    const env = { HF_ENDPOINT: hub.hub };
    const { page } = await open({ models: ["gated"], flags, env, query: `${query}&token` });
    await page
      .locator("[data-model=gated]")
      .getByRole("button", { name: /^Download/ })
      .click();
    await expect(page.getByLabel("Access token", { exact: true })).toBeVisible();
    return page;
  },
  ready: async ({ open, query }) => {
    const { page } = await open({ query });
    await expect(page.getByRole("button", { name: /^Model/ })).toContainText("Pocket");
    await page.getByText("Options").click();
    return page;
  },
  loading: async ({ open, query }) => {
    const { page } = await open({ query });
    await draw(page, "fake:load=60000 a red house by a lake");
    await expect(status(page)).toContainText("Loading");
    return page;
  },
  drawing: async ({ open, query }) => {
    const { page } = await open({ engine: "torch", query });
    await page.getByText("Options").click();
    await page.getByLabel("Steps").fill("200"); // twelve would be over before the screenshot
    await page.getByText("Options").click();
    await draw(page, SUN);
    await expect(page.locator("[data-layer=preview]")).toHaveCount(1, { timeout: 200_000 });
    return page;
  },
  finished: async ({ open, query }) => {
    const { page } = await open({ engine: "torch", query });
    await drawn(page, "a rocket in 3d style");
    await drawn(page, "a slice of pizza, flat");
    await drawn(page, SUN);
    return page;
  },
  mask: async ({ open, query }) => {
    const { page } = await open({ engine: "torch", query });
    await drawn(page, SUN);
    await page.getByRole("button", { name: /^Edit this/ }).click();
    const box = await page.getByRole("application").boundingBox();
    if (box === null) throw new Error("no board");
    await page.mouse.move(box.x + box.width * 0.25, box.y + box.height * 0.3);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.5, box.y + box.height * 0.22, { steps: 8 });
    await page.mouse.move(box.x + box.width * 0.75, box.y + box.height * 0.32, { steps: 8 });
    await page.mouse.up();
    await expect(page.getByRole("button", { name: "Undo" })).toBeEnabled();
    return page;
  },
  queue: async ({ open, query }) => {
    const { page } = await open({ query });
    await draw(page, "fake:crash=denoising a lighthouse in the fog");
    await expect(page.getByRole("heading", { name: "The engine crashed" })).toBeVisible();
    await draw(page, "fake:slow=60000 a red house by a lake");
    await draw(page, "a blue house in the mountains");
    await draw(page, "a green house by the sea");
    await expect(page.getByText("number 2 in line")).toBeVisible();
    return page;
  },
  cancelled: async ({ open, query }) => {
    const { page } = await open({ query });
    await draw(page, "fake:slow=300 a red house by a lake");
    await expect(status(page)).toContainText(/Step [2-9]/);
    await page.getByRole("button", { name: "Cancel" }).click();
    await expect(status(page)).toHaveText("Cancelled");
    return page;
  },
  crashed: async ({ open, query }) => {
    const { page } = await open({ query });
    await draw(page, "fake:kill=decoding a red house by a lake");
    await expect(page.getByRole("heading", { name: "The engine crashed" })).toBeVisible();
    return page;
  },
  denied: async ({ open, query }) => {
    const { page } = await open({ fs: null, query });
    await draw(page, "a red house by a lake");
    await expect(page.getByRole("group", { name: "What locara.json lacks" })).toBeVisible();
    return page;
  },
};

for (const theme of ["light", "dark"]) {
  for (const [name, made] of Object.entries(STATES)) {
    test(`${name}, ${theme}`, async ({ open, served }) => {
      const page = await made({ open, hub: served, query: `theme=${theme}` });
      await page.mouse.move(0, 0);
      await page.screenshot({ path: join(FOLDER, `${name}-${theme}.png`), fullPage: true, animations: "disabled" });
    });
  }
}

test("narrow", async ({ open, page }) => {
  await page.setViewportSize({ width: 420, height: 800 });
  await open();
  await drawn(page, "a red house");
  await page.screenshot({ path: join(FOLDER, "narrow.png"), fullPage: true });
});
