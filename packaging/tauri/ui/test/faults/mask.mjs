// Faults that test/components/mask.test notices: what breaks, the file in src, its sound text, and what is planted for it.

export default [
  [
    "a stroke goes on beyond the edge",
    "components/MaskPainter.tsx",
    "onPointerLeave={() => setBrush(undefined)}",
    "onPointerLeave={ended}",
  ],
  [
    "a new act forgets what was undone",
    "mask/strokes.ts",
    "acts: [...acts, act], undone: [] }",
    "acts: [...acts, act], undone: [act] }",
  ],
];
