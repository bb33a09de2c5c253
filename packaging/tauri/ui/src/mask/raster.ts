// Draws the acts on a canvas of the picture's size: in colour on top of the picture, and in black and white for the wire.

import type { Act, Point } from "./strokes.js";

/** Draws an act. Painted areas are `colour`, all others transparent. */
export function draw(context: CanvasRenderingContext2D, act: Act, colour: string): void {
  const { width, height } = context.canvas;
  context.save();
  context.fillStyle = colour;
  context.strokeStyle = colour;
  if (act.kind === "stroke") {
    context.globalCompositeOperation = act.erase ? "destination-out" : "source-over";
    drawStroke(context, act.points, act.radius);
  } else if (act.kind === "clear") {
    context.clearRect(0, 0, width, height);
  } else {
    context.globalCompositeOperation = act.kind === "invert" ? "source-out" : "source-over";
    context.fillRect(0, 0, width, height);
  }
  context.restore();
}

function drawStroke(context: CanvasRenderingContext2D, points: readonly Point[], radius: number): void {
  const [first, ...rest] = points;
  if (first === undefined) return;
  context.lineWidth = radius * 2;
  context.lineCap = "round";
  context.lineJoin = "round";
  context.beginPath();
  if (rest.length === 0) {
    context.arc(first.x, first.y, radius, 0, 2 * Math.PI);
    context.fill();
    return;
  }
  context.moveTo(first.x, first.y);
  for (const { x, y } of rest) context.lineTo(x, y);
  context.stroke();
}

export function drawAll(context: CanvasRenderingContext2D, acts: readonly Act[], colour: string): void {
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  for (const act of acts) draw(context, act, colour);
}

/**
 * Returns the mask as a PNG of that size: 255 is repainted, 0 stays, and nothing is in between, so that an area that was
 * painted and erased leaves no pale rim.
 *
 * @returns undefined if nothing is painted.
 */
export async function maskImage(acts: readonly Act[], width: number, height: number): Promise<Uint8Array | undefined> {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (context === null) throw new Error("This page has no canvas to paint on.");
  drawAll(context, acts, "#fff");
  const pixels = context.getImageData(0, 0, width, height);
  let painted = false;
  for (let at = 0; at < pixels.data.length; at += 4) {
    const level = (pixels.data[at + 3] ?? 0) >= 128 ? 255 : 0;
    painted ||= level > 0;
    pixels.data.fill(level, at, at + 3);
    pixels.data[at + 3] = 255;
  }
  if (!painted) return undefined;
  context.putImageData(pixels, 0, 0);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/png"));
  if (blob === null) throw new Error("The mask could not be written.");
  return new Uint8Array(await blob.arrayBuffer());
}
