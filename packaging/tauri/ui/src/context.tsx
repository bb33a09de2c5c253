// Shared by the components: the client, its models and its jobs.

import { createContext, type ReactNode, useContext, useEffect, useMemo, useSyncExternalStore } from "react";
import type { ImageClient, PictureSource } from "./client.js";
import type { Job } from "./store/job.js";
import { JobStore } from "./store/jobs.js";
import { ModelStore, type ModelsState } from "./store/models.js";

export interface Shared {
  readonly client: ImageClient;
  readonly jobs: JobStore;
  readonly models: ModelStore;
  readonly source: PictureSource;
  /** Opens a web page outside the app; without it, links behave like the page's other links. */
  readonly openLink: ((url: string) => void) | undefined;
}

const Context = createContext<Shared | undefined>(undefined);

export interface ImageProviderProps {
  client: ImageClient;
  /** How this page shows finished pictures; by default only inline ones. */
  source?: PictureSource | undefined;
  openLink?: ((url: string) => void) | undefined;
  children: ReactNode;
}

/** Returns the `src` of an inline picture. */
export const inlineSource: PictureSource = ({ data, mimeType }) =>
  data === undefined ? undefined : `data:${mimeType};base64,${data}`;

/** Provides the components with a client. Put it high in the tree: jobs and downloads live as long as it does. */
export function ImageProvider({ client, source = inlineSource, openLink, children }: ImageProviderProps) {
  const stores = useMemo(() => ({ client, jobs: new JobStore(client), models: new ModelStore(client) }), [client]);
  const shared = useMemo<Shared>(() => ({ ...stores, source, openLink }), [stores, source, openLink]);
  useEffect(() => {
    void stores.models.refresh().then(() => stores.jobs.restore(stores.models.get().models));
  }, [stores]);
  return <Context.Provider value={shared}>{children}</Context.Provider>;
}

/** @throws Error outside an ImageProvider. */
export function useShared(): Shared {
  const shared = useContext(Context);
  if (shared === undefined) throw new Error("This component stands in no ImageProvider.");
  return shared;
}

export function useModels(): ModelsState {
  const { models } = useShared();
  return useSyncExternalStore(models.subscribe, models.get, models.get);
}

/** Newest first. */
export function useJobs(): readonly Job[] {
  const { jobs } = useShared();
  return useSyncExternalStore(jobs.subscribe, jobs.get, jobs.get);
}
