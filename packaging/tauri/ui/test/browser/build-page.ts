import { fileURLToPath } from "node:url";
import react from "@vitejs/plugin-react";
import { build } from "vite";

/** Where the built page is. */
export const PAGE = fileURLToPath(new URL("../../build/page", import.meta.url));

/** Builds the page once, before the tests. */
export default async function buildPage(): Promise<void> {
  const root = fileURLToPath(new URL("page", import.meta.url));
  await build({
    configFile: false,
    root,
    logLevel: "warn",
    plugins: [react()],
    build: { outDir: PAGE, emptyOutDir: true, minify: false },
  });
}
