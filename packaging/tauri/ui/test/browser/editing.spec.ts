// Changing a picture: what is painted is what the daemon gets, at the picture's size, and what is not painted stays.

import type { Page } from "@playwright/test";
import { draw, expect, expectAccessible, status, test } from "./studio.js";

interface Pixels {
  width: number;
  height: number;
  data: number[];
}

/** A picture's pixels, four numbers each, as the browser decodes it. */
const pixels = (page: Page, src: string): Promise<Pixels> =>
  page.evaluate(async (url) => {
    const image = new Image();
    image.src = url;
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image;
    const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
    if (context === null) throw new Error("no canvas");
    context.drawImage(image, 0, 0);
    return { width, height, data: [...context.getImageData(0, 0, width, height).data] };
  }, src);

const finalSrc = async (page: Page) => (await page.locator("[data-layer=final]").getAttribute("src")) ?? "";

test("a painted mask has the picture's size, is black or white, and only there the picture changes", async ({
  open,
}) => {
  const { page, bridge } = await open();
  await draw(page, "a red house");
  await expect(status(page)).toContainText("Done");
  const before = await pixels(page, await finalSrc(page));
  await page.getByRole("button", { name: "Edit this: a red house" }).click();
  const board = page.getByRole("application");
  await expect(board).toBeInViewport({ ratio: 0.99 }); // it was opened from below, where the pictures are
  const box = await board.boundingBox();
  if (box === null) throw new Error("no board");
  // from the middle beyond the right edge and back: the stroke does not end there
  await page.mouse.move(box.x + box.width * 0.6, box.y + box.height / 2);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width + 60, box.y + box.height / 2, { steps: 6 });
  await page.mouse.move(box.x + box.width * 0.8, box.y + box.height * 0.8, { steps: 6 });
  await page.mouse.up();
  await expectAccessible(page);
  await page.getByRole("textbox", { name: "What it should become" }).fill("a blue tree");
  await page.getByRole("button", { name: "Change it" }).click();
  await expect(page.locator(".locara-picture")).toHaveCount(2);

  const { params } = bridge.asked.find(({ method }) => method === "image.edit") ?? {};
  const sent = (params as { mask: { data: string; mimeType: string } }).mask;
  const mask = await pixels(page, `data:${sent.mimeType};base64,${sent.data}`);
  expect([mask.width, mask.height]).toEqual([before.width, before.height]);
  expect([...new Set(mask.data.filter((_, at) => at % 4 === 0))].sort()).toEqual([0, 255]);
  const painted = mask.data.filter((level, at) => at % 4 === 0 && level === 255).length;
  expect(painted).toBeGreaterThan(mask.width * 4);
  expect(painted).toBeLessThan((mask.width * mask.height) / 2);

  const after = await pixels(page, await finalSrc(page));
  const changed = (at: number) => [0, 1, 2].some((channel) => before.data[at + channel] !== after.data[at + channel]);
  let [inside, outside] = [0, 0];
  for (let at = 0; at < mask.data.length; at += 4) {
    if (!changed(at)) continue;
    if (mask.data[at] === 255) inside += 1;
    else outside += 1;
  }
  expect(outside).toBe(0);
  expect(inside).toBeGreaterThan(painted / 2);
});

test("what was painted and erased again leaves nothing, and all of the picture may change", async ({ open }) => {
  const { page, bridge } = await open();
  await draw(page, "a red house");
  await expect(status(page)).toContainText("Done");
  await page.getByRole("button", { name: "Edit this: a red house" }).click();
  const board = page.getByRole("application");
  await board.focus();
  await page.keyboard.press("Shift+ArrowRight");
  await page.keyboard.press("Space");
  await page.keyboard.press("e");
  await page.keyboard.press("Space");
  await page.getByRole("button", { name: "Change it" }).click();
  await expect(page.locator(".locara-picture")).toHaveCount(2);
  const { params } = bridge.asked.find(({ method }) => method === "image.edit") ?? {};
  expect(params).not.toHaveProperty("mask");
});

test("vary and again draw more of it, and a picture is shown while the next one is drawn", async ({ open }) => {
  const { page, bridge } = await open();
  await draw(page, "a red house");
  await expect(status(page)).toContainText("Done");
  await page.getByRole("button", { name: "Vary: a red house" }).click();
  await expect(page.locator(".locara-picture")).toHaveCount(2);
  await page.getByRole("button", { name: "Again: a red house" }).last().click();
  await expect(page.locator(".locara-picture")).toHaveCount(3);
  expect(bridge.asked.map(({ method }) => method).filter((name) => name.startsWith("image."))).toEqual([
    "image.generate",
    "image.edit",
    "image.generate",
  ]);
  await draw(page, "fake:slow=60000 a long one");
  await expect(status(page)).toContainText("Step");
  await page.getByRole("button", { name: "Show: a red house" }).first().click();
  await expect(status(page)).toContainText("Done");
  await expect(page.getByRole("region", { name: "Queue" })).toContainText("a long one");
});
