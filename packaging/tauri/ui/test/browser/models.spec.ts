// Getting models: from a hub on loopback, with the real daemon.

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, expectAccessible, test } from "./studio.js";

test("a download is paused, goes on where it was, and the model is there without a restart", async ({
  open,
  served,
}) => {
  const flags = ["--allow-downloads", "--catalogue", served.catalogue];
  const { page } = await open({ models: ["open"], flags, env: { HF_ENDPOINT: served.hub } });
  await expect(page.getByRole("heading", { name: "No model is installed yet" })).toBeVisible();
  const entry = page.locator("[data-model=open]");
  await entry.getByRole("button", { name: /^Download/ }).click();
  await expect(entry.getByRole("progressbar")).toHaveAttribute("aria-valuenow", /[1-9]/);
  await entry.getByRole("button", { name: /^Pause/ }).click();
  await expect(entry).toContainText("What has arrived is kept.");
  const stopped = Number(await entry.getByRole("progressbar").getAttribute("aria-valuenow"));
  expect(stopped).toBeGreaterThan(0);
  await expectAccessible(page);
  await entry.getByRole("button", { name: /^Resume/ }).click();
  await expect(entry).toContainText("Installed", { timeout: 200_000 }); // the engine opens the files first
  await expect(page.getByRole("button", { name: /^Model/ })).not.toContainText("None yet");
});

test("a gated model says how to get a token, takes one, and is downloaded with it", async ({ open, served }) => {
  const flags = ["--allow-downloads", "--catalogue", served.catalogue];
  const wishes = { models: ["gated"], flags, env: { HF_ENDPOINT: served.hub }, query: "token" };
  const { page } = await open({ ...wishes });
  const entry = page.locator("[data-model=gated]");
  await entry.getByRole("button", { name: /^Download/ }).click();
  await expect(entry.getByRole("link", { name: "the model's page" })).toHaveAttribute("href", /org\/gated/);
  await expectAccessible(page);
  await entry.getByLabel("Access token", { exact: true }).fill("good-token");
  await entry.getByRole("button", { name: "Download", exact: true }).click();
  await expect(entry).toContainText("Installed", { timeout: 200_000 }); // the engine opens the files first
});

test("the daemon tells how much room its disk has", async ({ open, served }) => {
  const catalogue = mkdtempSync(join(tmpdir(), "locara-huge-"));
  const entry = JSON.parse(readFileSync(join(served.catalogue, "open.json"), "utf8"));
  writeFileSync(join(catalogue, "open.json"), JSON.stringify({ ...entry, downloadBytes: 10 ** 15 }));
  const { page } = await open({ models: ["open"], flags: ["--catalogue", catalogue] });
  await expect(page.locator("[data-model=open]")).toContainText(
    /Disk too full.*Needs 1000 TB on the disk, where \d.* are free/,
  );
});

test("a host that allows no downloads is told which flag is missing", async ({ open, served }) => {
  const { page } = await open({ models: ["open"], flags: ["--catalogue", served.catalogue] });
  const entry = page.locator("[data-model=open]");
  await entry.getByRole("button", { name: /^Download/ }).click();
  await expect(entry).toContainText("--allow-downloads");
});

for (const theme of ["light", "dark"]) {
  test(`the list of models has no fault that axe finds, ${theme}`, async ({ open }) => {
    const models = ["sd3.5-medium", "flux.1-schnell", "flux.1-dev", "sdxl-lightning", "pocket"];
    const { page } = await open({ models, query: `theme=${theme}` });
    await page.getByRole("button", { name: /^Model/ }).click();
    await expect(page.getByRole("listitem")).toHaveCount(5);
    await expect(page.locator("[data-model='flux.1-dev']")).toContainText("Non-commercial");
    await expectAccessible(page);
  });
}
