// Drawing over the real daemon: previews to the finished picture, cancel, crash, queue, refusal, reload, and one real picture.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "@playwright/test";
import { draw, expect, expectAccessible, status, test } from "./studio.js";

/** Records, in each frame that the browser paints, where things are and whether a picture is visible. */
async function watch(page: Page): Promise<() => Promise<{ places: string[]; blank: number; frames: number }>> {
  await page.evaluate(() => {
    const seen = { places: new Set<string>(), blank: 0, frames: 0, began: false };
    Object.assign(window, { seen });
    const place = (selector: string) => {
      const box = document.querySelector(selector)?.getBoundingClientRect();
      return box ? [box.x, box.y, box.width, box.height].join(" ") : "";
    };
    const look = () => {
      const preview = document.querySelector<HTMLImageElement>("[data-layer=preview]");
      const final = document.querySelector<HTMLImageElement>("[data-layer=final]");
      const isSeen = preview?.complete || (final?.complete && final.style.opacity === "1");
      seen.began ||= preview !== null;
      if (seen.began) {
        seen.frames += 1;
        seen.places.add([".locara-frame", ".locara-status-words", ".locara-gallery h2"].map(place).join(" | "));
        if (!isSeen) seen.blank += 1;
      }
      requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  });
  return () =>
    page.evaluate(() => {
      const { places, blank, frames } = (
        window as unknown as { seen: { places: Set<string>; blank: number; frames: number } }
      ).seen;
      return { places: [...places], blank, frames };
    });
}

for (const [way, query] of [
  ["inline", ""],
  ["by their address", "served"],
] as const) {
  test(`from the first preview to the finished picture nothing moves and nothing flickers, pictures ${way}`, async ({
    open,
  }) => {
    const { page, pictures } = await open({ query });
    const seen = await watch(page);
    await page.getByText("Options").click();
    await draw(page, "fake:slow=100 a red house");
    await expect(status(page)).toContainText("Done");
    await expect(page.locator("[data-layer=final]")).toHaveCSS("opacity", "1");
    await expect(page.locator("[data-layer=preview]")).toHaveCount(0);
    const { places, blank, frames } = await seen();
    expect(frames).toBeGreaterThan(5);
    expect(places).toHaveLength(1);
    expect(blank).toBe(0);
    expect(readdirSync(pictures)).toHaveLength(1);
    const shown = await page.locator("[data-layer=final]").getAttribute("src");
    expect(shown?.startsWith(query === "" ? "data:image/png" : "/pictures/")).toBe(true);
    await expectAccessible(page);
  });
}

test("pocket draws a real picture, which is the file", async ({ open }) => {
  const { page, pictures } = await open({ engine: "torch" });
  // in each frame, since it is there for half a second only; torch has to be imported first
  const appeared = page.waitForFunction(() => document.querySelector("[data-layer=preview]"), null, {
    timeout: 200_000,
  });
  await draw(page, "a smiling sun on a purple background");
  await appeared;
  await expect(status(page)).toContainText("Done");
  const [file = ""] = readdirSync(pictures);
  const bytes = readFileSync(join(pictures, file)).toString("base64");
  expect(await page.locator("[data-layer=final]").getAttribute("src")).toBe(`data:image/png;base64,${bytes}`);
});

test("a cancel ends a picture in the middle of a step, and the next one is drawn", async ({ open }) => {
  const { page, pictures } = await open();
  await draw(page, "fake:slow=60000 a red house");
  await expect(status(page)).toContainText("Step 0");
  await page.getByRole("button", { name: "Cancel" }).click();
  await expect(status(page)).toHaveText("Cancelled");
  await draw(page, "a blue house");
  await expect(status(page)).toContainText("Done");
  expect(readdirSync(pictures)).toHaveLength(1);
});

test("an engine that crashes is told, and draws again when it is asked", async ({ open }) => {
  const { page } = await open();
  await draw(page, "fake:kill=denoising a red house");
  await expect(page.getByRole("heading", { name: "The engine crashed" })).toBeVisible();
  await expectAccessible(page);
  await draw(page, "a blue house");
  await expect(status(page)).toContainText("Done");
});

test("pictures wait for their turns, and one that failed meanwhile is still told", async ({ open }) => {
  const { page } = await open();
  await draw(page, "fake:load=3000 fake:crash=denoising first");
  await expect(status(page)).toContainText("Loading");
  await draw(page, "fake:slow=800 second");
  await draw(page, "third");
  const queue = page.getByRole("region", { name: "Queue" });
  await expect(queue.getByRole("listitem")).toHaveCount(3);
  await expect(page.getByRole("button", { name: "Why it failed: fake:load" })).toBeVisible();
  await expect(page.locator(".locara-picture")).toHaveCount(2);
  await page.getByRole("button", { name: "Dismiss: fake:load" }).click();
  await expect(queue).toHaveCount(0);
});

test("a picture that the manifest does not allow shows the fragment that would allow it", async ({ open }) => {
  const { page } = await open({ fs: null });
  await draw(page, "a red house");
  const lacks = page.getByRole("group", { name: "What locara.json lacks" });
  await expect(lacks).toContainText('"user-folder": "write"');
  await expectAccessible(page);
});

test("after a reload in mid-job the picture goes on with its preview, and what was finished is there", async ({
  open,
}) => {
  const { page } = await open();
  await draw(page, "a blue house");
  await expect(status(page)).toContainText("Done");
  await page.getByText("Options").click();
  await page.getByLabel("Steps").fill("200"); // it runs however long the page takes to load
  await draw(page, "fake:slow=1000 a red house");
  await expect(status(page)).toContainText(/Step [2-9]/);
  await page.reload();
  await expect(page.locator("[data-layer=preview]")).toHaveCount(1);
  await expect(status(page)).toContainText(/Step [0-9]+ of 200/);
  await expect(page.locator(".locara-picture-prompt")).toHaveText("a blue house");
  await page.getByRole("button", { name: "Cancel" }).click();
  await expect(status(page)).toHaveText("Cancelled");
  await page.getByRole("button", { name: "Again: a blue house" }).click();
  await expect(page.locator(".locara-picture")).toHaveCount(2);
});

test("all of it works with the keyboard alone", async ({ open }) => {
  const { page } = await open();
  await expect(page.getByRole("button", { name: /^Model/ })).toContainText("Pocket");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  await expect(page.getByRole("radio", { name: "Pocket" })).toBeFocused();
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  await page.keyboard.type("a red house");
  await page.keyboard.press("Control+Enter");
  await expect(status(page)).toContainText("Done");
  await expect(page.getByRole("status").filter({ hasText: "The picture is finished." })).toHaveCount(1);
});
