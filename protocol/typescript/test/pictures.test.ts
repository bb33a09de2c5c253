// The bytes of pictures, for the wire and for web pages.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { dataUrl, type EditParams, inline } from "@locara/image";

test("inline is plain base64, for files of any length", () => {
  for (const length of [0, 1, 2, 3, 32_767, 32_768, 32_769, 200_000]) {
    const bytes = randomBytes(length);
    assert.deepEqual(inline(bytes, "image/png"), { data: bytes.toString("base64"), mimeType: "image/png" });
  }
});

test("a data URL needs an inline picture", () => {
  assert.equal(dataUrl({ mimeType: "image/webp", data: "AAAA" }), "data:image/webp;base64,AAAA");
  assert.throws(() => dataUrl({ mimeType: "image/png" }), /output\.mode/);
});

test("an edit has one picture or a list of them, each in one form", () => {
  const file = { root: "user-folder", path: "a.png" };
  const good: EditParams[] = [
    { prompt: "a", image: file },
    { prompt: "a", images: [file, { handle: "file-0" }, inline(new Uint8Array(), "image/png")] },
  ];
  // @ts-expect-error both
  const both: EditParams = { prompt: "a", image: file, images: [file] };
  // @ts-expect-error neither
  const neither: EditParams = { prompt: "a" };
  // @ts-expect-error half a form
  const half: EditParams = { prompt: "a", images: [{ root: "user-folder" }] };
  assert.equal([...good, both, neither, half].length, 5);
});
