// The painting as a list of acts: undo removes the last one. No canvas is involved.

export interface Point {
  readonly x: number;
  readonly y: number;
}

/** Coordinates and radius in the picture's pixels. */
export type Act =
  | { readonly kind: "stroke"; readonly erase: boolean; readonly radius: number; readonly points: readonly Point[] }
  | { readonly kind: "fill" | "clear" | "invert" };

export interface Mask {
  readonly acts: readonly Act[];
  /** The acts that were undone and can be redone, the latest last. */
  readonly undone: readonly Act[];
}

export const EMPTY: Mask = { acts: [], undone: [] };

export const add = ({ acts }: Mask, act: Act): Mask => ({ acts: [...acts, act], undone: [] });

export function undo(mask: Mask): Mask {
  const last = mask.acts.at(-1);
  return last === undefined ? mask : { acts: mask.acts.slice(0, -1), undone: [...mask.undone, last] };
}

export function redo(mask: Mask): Mask {
  const last = mask.undone.at(-1);
  return last === undefined ? mask : { acts: [...mask.acts, last], undone: mask.undone.slice(0, -1) };
}

/** Whether anything may be painted: exact if there are no acts, or if the mask was just cleared. */
export function isBlank({ acts }: Mask): boolean {
  const since = acts.slice(acts.map(({ kind }) => kind).lastIndexOf("clear") + 1);
  return since.every((act) => act.kind === "stroke" && act.erase);
}

/** Limits the brush to between one pixel and half of the picture's longer side. */
export const largestRadius = (width: number, height: number): number => Math.ceil(Math.max(width, height) / 4);

/** Returns the next brush size: a fifth more or less, by at least one pixel. */
export function resized(radius: number, larger: boolean, largest: number): number {
  const step = Math.max(1, Math.round(radius / 5));
  return Math.min(largest, Math.max(1, radius + (larger ? step : -step)));
}
