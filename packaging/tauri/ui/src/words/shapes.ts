// Sizes with about as many pixels as the model's own, for people who think in shapes.

import type { Model } from "@locara/image/core";

export interface Shape {
  readonly name: string;
  readonly width: number;
  readonly height: number;
}

const RATIOS = [
  ["Square", 1, 1],
  ["Landscape 4:3", 4, 3],
  ["Landscape 3:2", 3, 2],
  ["Wide 16:9", 16, 9],
  ["Portrait 3:4", 3, 4],
  ["Portrait 2:3", 2, 3],
  ["Tall 9:16", 9, 16],
] as const;

/** The shapes that the model can make, each once; a model with a single size has one. */
export function shapesOf({ limits, defaults }: Model): Shape[] {
  const pixels = defaults.width * defaults.height;
  const fitting = (side: number) =>
    Math.min(limits.maximum, Math.max(limits.minimum, Math.round(side / limits.multipleOf) * limits.multipleOf));
  const found = new Map<string, Shape>();
  for (const [name, across, down] of RATIOS) {
    const width = fitting(Math.sqrt((pixels * across) / down));
    const height = fitting(Math.sqrt((pixels * down) / across));
    const isOne = Math.abs(width / height / (across / down) - 1) < 0.08 && width * height <= limits.maxPixels;
    if (isOne && !found.has(`${width}x${height}`)) found.set(`${width}x${height}`, { name, width, height });
  }
  return [...found.values()];
}
