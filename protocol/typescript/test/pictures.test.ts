// Bytes of pictures, as the wire and a page want them.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { dataUrl, inline } from "@locara/image";

test("inline is plain base64, of files of any length", () => {
  for (const length of [0, 1, 2, 3, 32_767, 32_768, 32_769, 200_000]) {
    const bytes = randomBytes(length);
    assert.deepEqual(inline(bytes, "image/png"), { data: bytes.toString("base64"), mimeType: "image/png" });
  }
});

test("a data URL needs a picture that came inline", () => {
  assert.equal(dataUrl({ mimeType: "image/webp", data: "AAAA" }), "data:image/webp;base64,AAAA");
  assert.throws(() => dataUrl({ mimeType: "image/png" }), /output\.mode/);
});
