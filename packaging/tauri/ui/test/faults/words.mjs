// Faults that test/components/words.test notices: what breaks, the file in src, its sound text, and what is planted for it.

export default [
  [
    "blank options are the model's",
    "words/settings.ts",
    'if (settings[name] !== "") options[name] = Number',
    "options[name] = Number",
  ],
  [
    "an update under the running service is told as such, and can be tried again",
    "words/problems.ts",
    'if (reason === "updated") {',
    "if (false) {",
  ],
];
