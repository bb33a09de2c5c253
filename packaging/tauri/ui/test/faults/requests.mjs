// Faults that test/components/requests.test notices: what breaks, the file in src, its sound text, and what is planted for it.

export default [
  [
    "again has another seed",
    "store/requests.ts",
    "const { seed: _, ...options } = request.params.options ?? {};",
    "const options = request.params.options ?? {};",
  ],
  ["after a reload an edit of several pictures is an edit", "store/job.ts", ' || "images" in parameters', ""],
  [
    "a mask that is gone is missed",
    "store/requests.ts",
    "return !mask || isThere(mask) ?",
    "return isThere !== undefined ?",
  ],
];
