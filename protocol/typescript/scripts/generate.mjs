// Writes src/schema.ts from protocol/schema/v1: every message type, the method table, the error codes.
// With --check it writes nothing, and the status is 1 if the file is stale.
import { readFileSync, writeFileSync } from "node:fs";
import { compile } from "json-schema-to-typescript";

const here = new URL("../", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(`../schema/v1/${name}`, here), "utf8"));
const document = read("openrpc.json");
const target = new URL("src/schema.ts", here);

/** Returns the schemas by name, with references that the compiler can resolve. */
function definitions() {
  const { Error: _error, ...schemas } = document.components.schemas;
  // the schema's name "Warning" says too little among a package's exports
  const text = JSON.stringify(schemas)
    .replaceAll("#/components/schemas/", "#/definitions/")
    .replaceAll('"#/definitions/Warning"', '"#/definitions/ResultWarning"');
  const { Warning, ...others } = JSON.parse(text);
  return {
    ...Object.fromEntries(Object.entries(others).map(([name, schema]) => [name, formed(schema)])),
    ResultWarning: { ...Warning, title: "ResultWarning" },
    Manifest: { ...read("manifest.json"), title: "Manifest" },
  };
}

/** Allows any member in an object without named ones: its type would be `{}`, from which none can be read. */
function opened(schema) {
  if (Array.isArray(schema)) return schema.map(opened);
  if (typeof schema !== "object" || schema === null) return schema;
  const members = Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, opened(value)]));
  const named = ["properties", "additionalProperties", "patternProperties"].some((keyword) => keyword in schema);
  const open = schema.type === "object" && !named;
  return open && schema.title !== "Empty" ? { ...members, additionalProperties: true } : members;
}

/** Splits an object with several forms into one type per form, in which the other forms' members are null or absent. */
function formed(schema) {
  if (schema.oneOf === undefined || schema.properties === undefined) return schema;
  const { oneOf, properties, required = [], ...rest } = schema;
  const forms = oneOf.map((form) => {
    const members = Object.entries(form.properties).map(([name, { type }]) => [
      name,
      type === "null" ? { type } : present(properties[name]),
    ]);
    return {
      type: "object",
      required: [...required, ...form.required],
      properties: { ...properties, ...Object.fromEntries(members) },
    };
  });
  return { title: rest.title, description: rest.description, anyOf: forms };
}

/** The schema of a present member, without null. */
function present({ anyOf, default: _, ...schema }) {
  const others = anyOf?.filter(({ type }) => type !== "null");
  return others === undefined ? schema : others.length === 1 ? others[0] : { ...schema, anyOf: others };
}

/** `{ $ref: "#/components/schemas/Name" }` → `Name`. */
const named = (schema) => schema.$ref.split("/").at(-1);
const message = (method) => {
  const note = document["x-notifications"].find(({ name }) => name === method["x-notification"]);
  if (note === undefined) return "never";
  const frame = named(note.params.anyOf[0]);
  return named(document.components.schemas[frame].properties.message);
};
/** Returns the type whose members are a method's parameters, which OpenRPC lists as content descriptors. */
const parameters = (method) => {
  const file = read(`${method.name}.params.json`);
  return file.$ref.split("/").at(-1);
};

/** Removes the compiler's comments about where a type came from, and its type for the whole. */
const tidy = (text) =>
  text
    .replace(
      /\n \*\n \* This interface was referenced by `Messages`'s JSON-Schema\n \* via the `definition` "\w+"\.\n/g,
      "\n",
    )
    .replace(
      /\/\*\*\n \* This interface was referenced by `Messages`'s JSON-Schema\n \* via the `definition` "\w+"\.\n \*\/\n/g,
      "",
    )
    .replace(/export interface Messages \{[^}]*\}\n/, "")
    .trim();

async function source() {
  const types = await compile({ title: "Messages", definitions: opened(definitions()) }, "Messages", {
    additionalProperties: false,
    bannerComment: "",
    unreachableDefinitions: true,
    style: { printWidth: 120 },
    strictIndexSignatures: true,
    ignoreMinAndMaxItems: true,
  });
  const rows = document.methods.map(
    (method) =>
      `  /** ${method.summary} */\n  "${method.name}": { params: ${parameters(method)}; result: ${named(method.result.schema)}; message: ${message(method)} };`,
  );
  const kinds = Object.entries(document.components.errors).map(
    ([kind, error]) => `  /** ${error.message} */\n  ${kind}: ${error.code},`,
  );
  const parts = [
    "// Generated from protocol/schema/v1 by scripts/generate.mjs. Do not edit: npm run generate\n",
    tidy(types),
    `\n/** Request methods: their params, their result, and the messages on their channel. */\nexport interface Methods {\n${rows.join("\n")}\n}\n`,
    `/** Error kinds and their JSON-RPC codes. */\nexport const CODES = {\n${kinds.join("\n")}\n} as const;\n`,
    `/** The version of the contract that these types are of. */\nexport const PROTOCOL_VERSION = ${document.info.version.split(".")[0]};\n`,
  ];
  return parts.join("\n");
}

const wanted = await source();
if (process.argv.includes("--check")) {
  let present = "";
  try {
    present = readFileSync(target, "utf8");
  } catch {}
  if (present !== wanted) {
    console.error("stale: protocol/typescript/src/schema.ts (run: npm run generate)");
    process.exit(1);
  }
} else {
  writeFileSync(target, wanted);
}
