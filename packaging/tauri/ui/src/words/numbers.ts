// Numbers as people read them.

const UNITS = ["bytes", "kB", "MB", "GB", "TB"] as const;

/** `16_280_000_000` → `16.3 GB`, in powers of ten, as disks are sold. */
export function bytes(count: number): string {
  let [value, unit] = [count, 0];
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit > 1 && value < 99.95 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

/** `95_000` → `about 2 min`; in growing steps, so that it does not flicker. */
export function remaining(ms: number): string {
  const seconds = Math.max(1, Math.round(ms / 1000));
  if (seconds <= 10) return `about ${seconds} s`;
  if (seconds <= 90) return `about ${Math.ceil(seconds / 5) * 5} s`;
  if (seconds <= 90 * 60) return `about ${Math.round(seconds / 60)} min`;
  return `about ${Math.round(seconds / 3600)} h`;
}

/** `83_400` → `1 min 23 s`. */
export function duration(ms: number): string {
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

export const percent = (part: number): string => `${Math.floor(part * 100)} %`;
