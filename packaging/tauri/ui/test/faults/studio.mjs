// Faults that test/components/studio.test notices: what breaks, the file in src, its sound text, and what is planted for it.

export default [
  [
    "the list stays open when the first model arrives",
    "components/ModelChoice.tsx",
    "const isOpen = wanted ?? false;",
    "const isOpen = model === undefined;",
  ],
  [
    "after a reload running jobs are followed",
    "store/jobs.ts",
    'info.state === "queued" || info.state === "running"',
    "false",
  ],
  ["what waited is named after a reload", "store/job.ts", "request?.params.prompt ?? prompt", "request?.params.prompt"],
  [
    "after a reload a picture is told with the options that it was drawn with",
    "components/Gallery.tsx",
    'job.result?.parameters["options"]',
    "job.result?.parameters",
  ],
  ["the oldest pictures go", "store/jobs.ts", "ended.length > KEPT", "false"],
  [
    "Kontext gets no strength",
    "components/Studio.tsx",
    "...(byStrength && { strength: edit.strength })",
    "strength: edit.strength",
  ],
  [
    "what is drawn now is shown before what waits",
    "components/Studio.tsx",
    'open.find(({ state }) => state === "running") ?? open.at(-1)',
    "open[0]",
  ],
  [
    "what no engine draws with is not used",
    "components/Studio.tsx",
    "models.filter(({ installed, runnable }) => installed && runnable)",
    "models.filter(({ installed }) => installed)",
  ],
  ["a cancel reaches the sidecar", "store/jobs.ts", "    call.cancel();\n", ""],
  [
    "the folded list names a non-commercial licence",
    "components/ModelChoice.tsx",
    "{model && !model.commercialUse && <Badge",
    "{false && <Badge",
  ],
  [
    "the folded list tells of a model that does not fit",
    "components/ModelChoice.tsx",
    '{fit && fit.verdict !== "fits" && fit.verdict !== "unknown" && (',
    "{false && (",
  ],
  ["the folded list tells that a download runs", "components/ModelChoice.tsx", "{isBusy && <Badge", "{false && <Badge"],
];
