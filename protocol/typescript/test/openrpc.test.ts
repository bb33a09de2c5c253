// The OpenRPC document, checked by third-party tools: OpenRPC's own meta-schema, and @open-rpc/test-coverage, which sends the
// document's examples, and data that a faker generates from its schemas, to the real daemon.

import assert from "node:assert/strict";
import { copyFileSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { Connection, type MethodName, type RemoteError } from "@locara/image/core";
import { opened, PROMPT, REPOSITORY } from "./support.js";

// CommonJS modules, some with a default inside the default
const require = createRequire(import.meta.url);
const { openrpcDocument: META } = require("@open-rpc/meta-schema");
const { default: JSON_SCHEMA } = require("@json-schema-tools/meta-schema");
const { default: Ajv } = require("ajv");
const { parseOpenRPCDocument } = require("@open-rpc/schema-utils-js");
const { default: coverage } = require("@open-rpc/test-coverage/build/coverage");
const { default: ExamplesRule } = require("@open-rpc/test-coverage/build/rules/examples-rule");
const { default: FakerRule } = require("@open-rpc/test-coverage/build/rules/json-schema-faker-rule");
const SILENT = { onBegin() {}, onTestBegin() {}, onTestEnd() {}, onEnd() {} };

interface Document {
  openrpc: string;
  methods: {
    name: string;
    params: { name: string; schema: unknown }[];
    result: { schema: unknown };
    examples?: unknown[];
  }[];
}
const document = (): Document => JSON.parse(readFileSync(join(REPOSITORY, "protocol/schema/v1/openrpc.json"), "utf8"));

/** Replaces a schema's references to JSON Schema's meta-schema, which are URLs, by the local copy. */
const here = (schema: object) => ({
  ...JSON.parse(
    JSON.stringify(schema).replaceAll(/https:\/\/meta\.json-schema\.tools\/?/g, "https://json-schema.example/meta"),
  ),
  $schema: "http://json-schema.org/draft-07/schema#",
});

test("the document is valid by OpenRPC's own meta-schema, which rejects an invalid one", () => {
  const ajv = new Ajv({ strict: false, allErrors: true, validateFormats: false });
  ajv.addSchema(here(JSON_SCHEMA));
  const valid = ajv.compile(here(META));
  assert.ok(valid(document()), JSON.stringify(valid.errors, null, 1));
  const [method, ...methods] = document().methods;
  for (const wrong of [
    { ...method, paramz: [] },
    { ...method, name: 7 },
    { ...method, examples: [{ name: "x" }] },
  ]) {
    assert.ok(!valid({ ...document(), methods: [wrong, ...methods] }));
  }
});

interface Judged {
  methodName: string;
  title: string;
  valid?: boolean;
  reason?: string;
  requestError?: unknown;
}

test("@open-rpc/test-coverage finds that the real daemon matches the document", { timeout: 120_000 }, async (t) => {
  // jobs.attach names a channel that this client does not know
  const { sidecar, pictures } = await opened(t, { onViolation: () => {} });
  const folder = "/Users/a/Pictures"; // the examples' name for the folder that the host grants
  const moved = (value: unknown, from: string, to: string) => JSON.parse(JSON.stringify(value).replaceAll(from, to));
  const connection = sidecar.transport();
  assert.ok(connection instanceof Connection);
  const transport = async (_url: string, method: MethodName, params: object) => {
    try {
      return {
        result: moved(await connection.start(method, moved(params, folder, pictures)).answer, pictures, folder),
      };
    } catch (error) {
      const { code, message, data } = error as RemoteError;
      return { error: { code, message, data } };
    }
  };
  const judge = async (rule: unknown, only: string[], judged = document()): Promise<Judged[]> => {
    const openrpcDocument = await parseOpenRPCDocument(judged, { validate: false, dereference: true });
    return await coverage({
      openrpcDocument,
      transport,
      rules: [rule],
      only,
      skip: [],
      reporters: [SILENT],
    });
  };
  const failed = (calls: Judged[]) =>
    calls.filter(({ valid }) => valid !== true).map((call) => `${call.title}: ${call.reason ?? call.requestError}`);

  // the session is open already, so the `initialize` example is refused; this job is job-1 of the other examples
  const { images } = await sidecar.image.generate({
    prompt: PROMPT,
    options: { model: "pocket", output: { path: "red.png" } },
  });
  copyFileSync(images[0]?.path ?? "", join(pictures, "copy.png"));
  const examples = document().methods.filter(
    ({ name, examples }) => examples && !["initialize", "shutdown"].includes(name),
  );
  const calls = await judge(
    new ExamplesRule(),
    examples.map(({ name }) => name),
  );
  assert.ok(calls.length >= 10, `${calls.length} examples`);
  assert.deepEqual(failed(calls), []);

  const bare = document().methods.filter(
    ({ params, examples }) => examples === undefined && params.every(({ name }) => name === "_meta"),
  );
  const faked = await judge(
    new FakerRule({ numCalls: 3 }),
    bare.map(({ name }) => name),
  );
  assert.deepEqual([...new Set(faked.map(({ methodName }) => methodName))].sort(), [
    "models.list",
    "models.usage",
    "rpc.discover",
    "system.info",
  ]);
  assert.deepEqual(failed(faked), []);

  const wrong = document();
  for (const { name, result } of wrong.methods)
    if (name === "models.list") result.schema = { type: "object", required: ["nothing"] };
  assert.equal(
    failed(await judge(new FakerRule({ numCalls: 1 }), ["models.list"], wrong)).length,
    1,
    "it can find a fault",
  );
  assert.deepEqual(failed(await judge(new ExamplesRule(), ["shutdown"])), []);
});
