// The problems that axe-core finds in a page. Colours are checked in Chromium only, because jsdom has none.

import axe from "axe-core";
import { expect } from "vitest";

export async function expectAccessible(root: Element): Promise<void> {
  const { violations } = await axe.run(root, { rules: { "color-contrast": { enabled: false } } });
  const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 160)).join(" | ")}`);
  expect(told).toEqual([]);
}
