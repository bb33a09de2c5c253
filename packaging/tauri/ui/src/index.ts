// React components for text to image over `@locara/image`. The stylesheet is `@locara/image-ui/styles.css`.

import "./styles/index.css";

export type { ImageClient, PictureSource } from "./client.js";
export { Denied } from "./components/Denied.js";
export { Gallery, type GalleryProps } from "./components/Gallery.js";
export { LivePreview, type LivePreviewProps } from "./components/LivePreview.js";
export { MaskPainter, type MaskPainterProps } from "./components/MaskPainter.js";
export { ModelPicker, type ModelPickerProps } from "./components/ModelPicker.js";
export { PromptPanel, type PromptPanelProps } from "./components/PromptPanel.js";
export { ProblemNote } from "./components/parts.js";
export { Queue, type QueueProps } from "./components/Queue.js";
export { Studio, type StudioProps } from "./components/Studio.js";
export { ImageProvider, type ImageProviderProps, inlineSource, useJobs, useModels, useShared } from "./context.js";
export { maskImage } from "./mask/raster.js";
export * as mask from "./mask/strokes.js";
export { isOpen, type Job, type JobRequest, type JobState, promptOf } from "./store/job.js";
export { JobStore } from "./store/jobs.js";
export { ModelStore, type ModelsState, type Transfer } from "./store/models.js";
export { type FitWords, fitOf, suggested } from "./words/fit.js";
export { explain, type Problem } from "./words/problems.js";
export { DEFAULTS, optionsOf, problemsOf, type Settings, settingsFrom } from "./words/settings.js";
