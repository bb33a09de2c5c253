import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  clearScreen: false,
  server: { port: 1420, strictPort: true },
  build: { target: "es2022" },
  // the packages are links to folders that have their own copies of some of these
  resolve: { dedupe: ["react", "react-dom", "@locara/image", "@tauri-apps/api"] },
});
