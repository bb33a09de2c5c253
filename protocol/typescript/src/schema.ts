// Generated from protocol/schema/v1 by scripts/generate.mjs. Do not edit: npm run generate

/**
 * Either ``image`` or, in order, ``images``. ``mask``: white is repainted, black is kept.
 */
export type EditParams =
  | {
      prompt: string;
      channel?: number | string | null;
      options?: EditOptions | null;
      _meta?: {
        [k: string]: unknown | undefined;
      };
      image: ImageInput;
      images?: null;
      mask?: ImageInput | null;
    }
  | {
      prompt: string;
      channel?: number | string | null;
      options?: EditOptions | null;
      _meta?: {
        [k: string]: unknown | undefined;
      };
      image?: null;
      /**
       * @minItems 1
       * @maxItems 10
       */
      images: ImageInput[];
      mask?: ImageInput | null;
    };
/**
 * An image: a file in a granted root, a picked file, or the bytes themselves; exactly one of the three forms,
 * complete.
 */
export type ImageInput =
  | {
      root: string;
      path: string;
      handle?: null;
      data?: null;
      mimeType?: null;
      _meta?: {
        [k: string]: unknown | undefined;
      };
    }
  | {
      root?: null;
      path?: null;
      handle: string;
      data?: null;
      mimeType?: null;
      _meta?: {
        [k: string]: unknown | undefined;
      };
    }
  | {
      root?: null;
      path?: null;
      handle?: null;
      /**
       * base64 with its padding and without line breaks
       */
      data: string;
      mimeType: "image/jpeg" | "image/png" | "image/webp";
      _meta?: {
        [k: string]: unknown | undefined;
      };
    };

/**
 * The app as the manifest names it (``<publisher>/<name>@<version>``) and what it was granted.
 */
export interface AppInfo {
  id: string | null;
  granted: string[];
  warnings: AppWarning[];
}
/**
 * A remark on the manifest or the grants that is not an error, for the app's developer.
 *
 * ``kind``: UnknownMember, UnknownModality, FolderMissing or FolderDenied; ``path`` is the member of the params that
 * it is about.
 */
export interface AppWarning {
  kind: string;
  message: string;
  path: string;
}
/**
 * The job whose further messages are to be sent on ``channel``.
 */
export interface AttachParams {
  jobId: string;
  channel: number | string;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * The job's state at that moment.
 */
export interface AttachResult {
  jobId: string;
  state: "cancelled" | "done" | "failed" | "queued" | "running";
}
/**
 * One decision of the gate. ``seq`` counts them from 1; ``time`` is UTC, ``2026-11-23T01:44:55.123Z``.
 */
export interface AuditEntry {
  seq: number;
  time: string;
  capability: string;
  resource: string;
  decision: "allow" | "deny";
  reason: string;
  requestId: number | string | null;
}
/**
 * Credentials for gated downloads; kept in memory only and never logged.
 */
export interface Auth {
  token: string;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
export interface CancelJobParams {
  jobId: string;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * ``cancelled``: whether a queued or running job with that id was told to stop.
 */
export interface CancelJobResult {
  cancelled: boolean;
}
/**
 * ``$/cancelRequest`` and ``$/cancel_request``: the id of the request to cancel.
 */
export interface CancelRequestParams {
  id: number | string;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * ``notifications/cancelled``.
 */
export interface CancelledParams {
  requestId: number | string;
  reason?: string | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * At most ``limit`` decisions: the first ones after ``after``, or the latest of all without it.
 */
export interface CapabilityLogParams {
  limit?: number | null;
  after?: number | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * Oldest first.
 */
export interface CapabilityLogResult {
  entries: AuditEntry[];
}
/**
 * The last frame of a channel; ``index`` equals the number of messages sent.
 */
export interface ChannelEnd {
  channel: number;
  index: number;
  end: true;
}
/**
 * A frame of an ``image.generate`` or ``image.edit`` channel.
 */
export interface ChannelMessage {
  channel: number;
  index: number;
  message: DiffusionStep;
}
/**
 * The state of a running generation; the message of an ``image.generate`` or ``image.edit`` channel.
 */
export interface DiffusionStep {
  jobId: string;
  phase: "decoding" | "denoising" | "encoding" | "loading" | "queued" | "saving";
  image: number;
  images: number;
  step: number;
  steps: number;
  progress: number;
  elapsedMs: number;
  etaMs?: number;
  preview?: PreviewImage;
}
/**
 * A decoded preview: ``data`` is base64 of an encoded image of ``width`` × ``height`` pixels.
 */
export interface PreviewImage {
  mimeType: "image/jpeg" | "image/png" | "image/webp";
  width: number;
  height: number;
  data: string;
  decoder: "full" | "linear" | "tiny";
  source: "x0";
}
export interface ClientInfo {
  name: string;
  version: string;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * The OpenRPC document itself (the OpenRPC meta-schema describes its members).
 */
export interface DiscoverResult {}
/**
 * A frame of a ``models.download`` channel.
 */
export interface DownloadMessage {
  channel: number;
  index: number;
  message: DownloadProgress;
}
/**
 * Bytes and files of the whole model; the message of a ``models.download`` channel.
 */
export interface DownloadProgress {
  model: string;
  phase: "downloading" | "publishing" | "resolving" | "verifying";
  bytes: number;
  totalBytes: number;
  files: number;
  totalFiles: number;
  bytesPerSecond: number;
  etaMs?: number;
}
export interface EditOptions {
  model?: string | null;
  negativePrompt?: string | null;
  width?: number | null;
  height?: number | null;
  steps?: number | null;
  guidance?: number | null;
  seed?: number | null;
  count?: number | null;
  scheduler?: string | null;
  speed?: ("balanced" | "exact" | "fast") | null;
  quantization?: ("4bit" | "8bit" | "auto" | "none") | null;
  precision?: ("auto" | "bfloat16" | "float16" | "float32") | null;
  tiling?: ("auto" | "off" | "on") | null;
  engine?: ("auto" | "mlx" | "torch") | null;
  preview?: PreviewOptions | null;
  output?: OutputOptions | null;
  strength?: number | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
export interface PreviewOptions {
  mode?: ("auto" | "full" | "linear" | "off" | "tiny") | null;
  everySteps?: number | null;
  maxSide?: number | null;
  maxBytes?: number | null;
  mimeType?: ("image/jpeg" | "image/png" | "image/webp") | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * ``handle``: of a file picked for writing, in place of ``root``, ``path`` and ``on_conflict``.
 */
export interface OutputOptions {
  mode?: ("both" | "inline" | "save") | null;
  handle?: string | null;
  root?: string | null;
  path?: string | null;
  onConflict?: ("error" | "overwrite" | "rename") | null;
  mimeType?: ("image/jpeg" | "image/png" | "image/webp") | null;
  quality?: number | null;
  metadata?: ("full" | "none") | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * ``{}``.
 */
export interface Empty {}
/**
 * One engine: whether it can run on this machine, on which device, and if not, why.
 */
export interface EngineInfo {
  name: string;
  available: boolean;
  reason: string;
  device: string | null;
}
/**
 * ``state``: stopped, starting, idle, busy, stuck or dead; times in milliseconds.
 */
export interface EngineStatus {
  state: "busy" | "dead" | "idle" | "starting" | "stopped" | "stuck";
  pid: number | null;
  model: string | null;
  lastProgressMs: number | null;
}
/**
 * ``maxBytes``: remove the least recently used models until the cache is within it; absent: only garbage.
 */
export interface GcParams {
  maxBytes?: number | null;
  dryRun?: boolean | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
export interface GenerateOptions {
  model?: string | null;
  negativePrompt?: string | null;
  width?: number | null;
  height?: number | null;
  steps?: number | null;
  guidance?: number | null;
  seed?: number | null;
  count?: number | null;
  scheduler?: string | null;
  speed?: ("balanced" | "exact" | "fast") | null;
  quantization?: ("4bit" | "8bit" | "auto" | "none") | null;
  precision?: ("auto" | "bfloat16" | "float16" | "float32") | null;
  tiling?: ("auto" | "off" | "on") | null;
  engine?: ("auto" | "mlx" | "torch") | null;
  preview?: PreviewOptions | null;
  output?: OutputOptions | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
export interface GenerateParams {
  prompt: string;
  channel?: number | string | null;
  options?: GenerateOptions | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * ``peak_memory_bytes``: the engine process's peak so far, as measured by the operating system;
 * ``peak_allocated_bytes``: the peak of its arrays alone, if its allocator tracks it (MLX).
 */
export interface GenerateResult {
  jobId: string;
  images: ImageResult[];
  model: ModelUsed;
  parameters: {
    [k: string]: unknown | undefined;
  };
  timings: Timings;
  peakMemoryBytes: number;
  warnings: ResultWarning[];
  peakAllocatedBytes?: number;
}
/**
 * One finished image. ``path`` is absolute; a picked file has ``handle`` instead; ``data`` (base64) only with
 * output mode inline or both.
 */
export interface ImageResult {
  mimeType: "image/jpeg" | "image/png" | "image/webp";
  width: number;
  height: number;
  bytes: number;
  sha256: string;
  seed: number;
  path?: string;
  root?: string;
  relativePath?: string;
  handle?: string;
  data?: string;
}
export interface ModelUsed {
  id: string;
  version: string;
  digest: string;
  engine: string;
  device: string;
  quantization: string;
  precision: string;
}
/**
 * Milliseconds, summed over the images of the call.
 */
export interface Timings {
  queuedMs: number;
  loadMs: number;
  encodeMs: number;
  denoiseMs: number;
  decodeMs: number;
  saveMs: number;
  totalMs: number;
}
export interface ResultWarning {
  kind: string;
  message: string;
}
/**
 * ``from``: the absolute path of a folder in diffusers' layout, or of a model's folder in a Hugging Face cache.
 * ``replace``: replace another model that is installed under this id.
 */
export interface ImportParams {
  model: string;
  from: string;
  replace?: boolean | null;
  channel?: number | string | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
export interface InitializeParams {
  protocolVersion: number;
  clientInfo: ClientInfo;
  manifest?: {
    [k: string]: unknown | undefined;
  } | null;
  grants?: {
    [k: string]: string | undefined;
  } | null;
  processId?: number | null;
  auth?: Auth | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
export interface InitializeResult {
  protocolVersion: number;
  serverInfo: ServerInfo;
  capabilities: ServerCapabilities;
  app: AppInfo;
}
export interface ServerInfo {
  name: string;
  version: string;
}
export interface ServerCapabilities {
  methods: string[];
  notifications: string[];
  engines: string[];
  imageFormats: string[];
  limits: Limits;
}
export interface Limits {
  maxLineBytes: number;
  maxInlineImageBytes: number;
  maxQueue: number;
  maxBatch: number;
  maxPromptBytes: number;
}
/**
 * A model that is now installed; ``files`` is how many it has.
 */
export interface InstalledResult {
  model: string;
  digest: string;
  bytes: number;
  files: number;
}
export interface JobCounts {
  running: number;
  queued: number;
}
/**
 * A job that is waiting, running or has ended.
 *
 * ``last``: the last message of an image job, with the latest preview of that image; ``lastProgress``: that of
 * ``models.load`` or ``models.prepare``. ``prompt``, ``width`` and ``height`` are an image job's; an edit of its
 * source's own size has no size.
 */
export interface JobInfo {
  jobId: string;
  method: string;
  state: "cancelled" | "done" | "failed" | "queued" | "running";
  requestId: number | string;
  channel?: number;
  model?: string;
  prompt?: string;
  width?: number;
  height?: number;
  last?: DiffusionStep;
  lastProgress?: ModelProgress;
}
/**
 * The message of the channels of ``models.import``, ``verify``, ``load`` and ``prepare``.
 */
export interface ModelProgress {
  model: string;
  phase: "loading" | "publishing" | "queued" | "reading" | "verifying";
  bytes: number;
  totalBytes: number;
}
/**
 * The result of the job's own call, member by member; its error is returned as an error.
 */
export interface JobResult {}
export interface JobResultParams {
  jobId: string;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * First jobs that are running or waiting, in queue order; then those that have ended, most recent first.
 */
export interface JobsListResult {
  jobs: JobInfo[];
}
/**
 * The model to load into the engine, and how; the options mean the same as in ``image.generate``.
 */
export interface LoadParams {
  model: string;
  quantization?: ("4bit" | "8bit" | "auto" | "none") | null;
  precision?: ("auto" | "bfloat16" | "float16" | "float32") | null;
  engine?: ("auto" | "mlx" | "torch") | null;
  channel?: number | string | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * A model that is loaded in the engine. ``memoryBytes``: what the engine uses with it loaded.
 */
export interface LoadResult {
  model: string;
  engine: string;
  device: string;
  quantization: string;
  memoryBytes: number;
}
/**
 * Bytes. ``total`` and ``available`` respect a container's limit; ``daemon`` and ``engine`` are resident sizes.
 */
export interface MemoryInfo {
  total: number;
  available: number;
  daemon: number;
  engine: number | null;
}
/**
 * A catalogue entry and its state on this machine. ``runnable``: an engine of this version can draw with it.
 * ``max_references``: how many pictures an edit may have; 0 if it cannot edit.
 */
export interface Model {
  id: string;
  version: string;
  displayName: string;
  description: string;
  tags: string[];
  license: string;
  licenseUrl: string;
  commercialUse: boolean;
  gated: boolean;
  modalities: string[];
  family: string;
  parameters: number;
  downloadBytes: number;
  classifierFreeGuidance: boolean;
  schedulers: string[];
  defaults: ModelDefaults;
  limits: ModelLimits;
  maxReferences: number;
  speeds: ModelSpeed[];
  source: ModelSource[];
  installed: boolean;
  granted: boolean;
  runnable: boolean;
  fit: ModelFit[];
  recommended: ModelFit | null;
  prepared: PreparedForm[];
  digest?: string;
  path?: string;
}
export interface ModelDefaults {
  width: number;
  height: number;
  steps: number;
  guidance: number;
  scheduler: string;
}
/**
 * Pixels: each side a multiple of ``multipleOf`` within the bounds.
 */
export interface ModelLimits {
  minimum: number;
  maximum: number;
  multipleOf: number;
  maxPixels: number;
}
/**
 * A ``speed`` that the model supports with ``engine``, in jobs that actually run at least ``leastSteps`` steps.
 * Shorter jobs run at ``exact``.
 */
export interface ModelSpeed {
  engine: string;
  speed: "balanced" | "exact" | "fast";
  leastSteps: number;
}
/**
 * A hub repository. ``revision``: the commit of the installed files, else the one that the catalogue names.
 */
export interface ModelSource {
  repository: string;
  revision: string | null;
}
/**
 * Whether a model fits this machine, at its default size. Bytes; ``available`` takes other daemons' engines into
 * account.
 */
export interface ModelFit {
  engine: string;
  quantization: "4bit" | "8bit" | "none";
  fit: "fits" | "no" | "tight";
  weights: number;
  peak: number;
  available: number;
}
/**
 * A model as quantized by an engine, kept in the cache: ``engine`` loads it for jobs with that ``quantization``
 * and ``precision`` while the model's digest is ``derivedFrom``.
 */
export interface PreparedForm {
  engine: string;
  quantization: "4bit" | "8bit";
  precision: string;
  digest: string;
  derivedFrom: string;
  bytes: number;
}
/**
 * A frame of a ``models.import``, ``models.verify`` or ``models.load`` channel.
 */
export interface ModelMessage {
  channel: number;
  index: number;
  message: ModelProgress;
}
/**
 * The model, by its catalogue id.
 */
export interface ModelParams {
  model: string;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * A long call about one model.
 */
export interface ModelWorkParams {
  model: string;
  channel?: number | string | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * ``free_bytes``: how much space is left for models, if there is a model and the system reports it.
 */
export interface ModelsListResult {
  models: Model[];
  freeBytes?: number;
}
/**
 * A method without parameters.
 */
export interface NoParams {
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * ``write`` is for a file that may or may not exist yet. The file is given by one of: ``path``, the absolute path
 * from a dialog; ``data``, its bytes, for reading; ``descriptor``, the text sent with it over the ``--descriptors``
 * socket. The last two come with the file's ``name``, without its folder.
 */
export interface PickFileParams {
  access: "read" | "write";
  path?: string | null;
  name?: string | null;
  data?: string | null;
  descriptor?: string | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * ``name``: the file's own, without its folder. ``bytes``: its length, if it was picked for reading.
 */
export interface PickFileResult {
  handle: string;
  name: string;
  bytes?: number;
}
export interface PingResult {
  uptimeMs: number;
  engine: EngineStatus;
  jobs: JobCounts;
}
export interface PlatformInfo {
  system: string;
  release: string;
  machine: string;
  python: string;
  cpus: number;
}
/**
 * What slows the system down, as it reports it: ``low_power``, its power-saving mode; ``thermal_state``, absent if
 * it is not known.
 */
export interface PowerInfo {
  lowPower: boolean;
  thermalState?: "critical" | "fair" | "nominal" | "serious";
}
/**
 * The model to keep a quantized form of; ``precision`` and ``engine`` mean the same as in ``image.generate``.
 */
export interface PrepareParams {
  model: string;
  quantization: "4bit" | "8bit";
  precision?: ("auto" | "bfloat16" | "float16" | "float32") | null;
  engine?: ("auto" | "mlx" | "torch") | null;
  channel?: number | string | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * A prepared form that is now in the cache. ``bytes`` of all its files; ``sharedBytes`` of them are the model's
 * own.
 */
export interface PrepareResult {
  model: string;
  digest: string;
  derivedFrom: string;
  engine: string;
  quantization: "4bit" | "8bit";
  precision: string;
  bytes: number;
  sharedBytes: number;
}
export interface ReleaseFileParams {
  handle: string;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * ``prepared``: remove only the model's prepared forms; otherwise they are removed with it.
 */
export interface RemoveParams {
  model: string;
  prepared?: boolean | null;
  dryRun?: boolean | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * ``derivedFrom`` and ``quantization``: for a prepared form.
 */
export interface RemovedModel {
  model: string;
  digest: string;
  derivedFrom?: string;
  quantization?: string;
}
/**
 * What was removed, or with ``dryRun`` would be; ``bytes`` is the disk space freed.
 */
export interface RemovedResult {
  removed: RemovedModel[];
  bytes: number;
}
/**
 * What actually confines the engine process on this machine, as the engine found out by trying.
 *
 * ``enforced``: every forbidden attempt was blocked. ``reason`` says what holds and what is missing. ``details``: one
 * word for each attempt (``blocked``, ``open`` or ``unknown``), and the mechanisms with their versions.
 */
export interface SandboxInfo {
  enforced: boolean;
  kind: string;
  reason: string;
  details: {
    [k: string]: string | undefined;
  };
}
/**
 * ``power``: only on systems that report it (macOS 12 and later).
 */
export interface SystemInfo {
  platform: PlatformInfo;
  memory: MemoryInfo;
  engines: EngineInfo[];
  sandbox: SandboxInfo;
  cacheRoot: string;
  version: string;
  power?: PowerInfo;
}
/**
 * ``unloaded``: whether there was an idle engine, which has now ended.
 */
export interface UnloadResult {
  unloaded: boolean;
}
/**
 * ``sharedBytes`` of ``bytes`` also belong to another entry; ``lastUsed`` is UTC. A prepared form has
 * ``derivedFrom``, its model's digest, and ``quantization``.
 */
export interface UsageEntry {
  model: string;
  digest: string;
  bytes: number;
  sharedBytes: number;
  lastUsed: string;
  inUse: boolean;
  derivedFrom?: string;
  quantization?: string;
}
/**
 * ``bytes`` is the size of the cache, ``reclaimableBytes`` what collecting everything not in use would free.
 */
export interface UsageResult {
  bytes: number;
  reclaimableBytes: number;
  entries: UsageEntry[];
}
export interface VerifyResult {
  model: string;
  digest: string;
  files: number;
  ok: true;
}
export interface Manifest {
  schema: "locara/v1";
  name: string;
  publisher: string;
  version: string;
  modalities?: string[] | null;
  capabilities?: {
    models?:
      | (
          | string
          | {
              id: string;
              digest?: string | null;
              reason?: unknown;
              required?: unknown;
            }
        )[]
      | null;
    fs?:
      | (
          | {
              "user-folder"?: ("read" | "write" | "read-write" | false) | null;
              "app-data"?: ("read" | "write" | "read-write" | false) | null;
              "user-paths"?: {
                /**
                 * This interface was referenced by `undefined`'s JSON-Schema definition
                 * via the `patternProperty` "^(?:[A-Za-z0-9][A-Za-z0-9_-]{0,63})$(?!\n)".
                 */
                [k: string]: "read" | "write" | "read-write" | false | null | undefined;
              } | null;
              "user-selected"?: ("read" | "read-write" | false) | null;
            }
          | false
        )
      | null;
    net?:
      | (
          | boolean
          | {
              allowed_hosts?: string[] | null;
              allowed_ports?: number[] | null;
            }
        )
      | null;
  } | null;
  displayName?: unknown;
  description?: unknown;
  longDescription?: unknown;
  license?: unknown;
  homepage?: unknown;
  repository?: unknown;
  author?: unknown;
  icon?: unknown;
  screenshots?: unknown;
  category?: unknown;
  tags?: unknown;
  tooling?: unknown;
  profiles?: unknown;
  storage?: unknown;
  entry?: unknown;
  build?: unknown;
}

/** Request methods: their params, their result, and the messages on their channel. */
export interface Methods {
  /** Open the session: versions, the app's manifest, the host's folder grants. */
  "initialize": { params: InitializeParams; result: InitializeResult; message: never };
  /** Whether the daemon is alive, what the engine is doing and how many jobs there are. */
  "ping": { params: NoParams; result: PingResult; message: never };
  /** The OpenRPC document of this server. */
  "rpc.discover": { params: NoParams; result: DiscoverResult; message: never };
  /** Platform, memory, engines, sandbox, cache folder. */
  "system.info": { params: NoParams; result: SystemInfo; message: never };
  /** A handle for a file that the user picked in a dialog. Never forwarded from a web view. */
  "host.pickFile": { params: PickFileParams; result: PickFileResult; message: never };
  /** Release a handle: no new call may use it. Never forwarded from a web view. */
  "host.releaseFile": { params: ReleaseFileParams; result: Empty; message: never };
  /** The app's jobs that are waiting, running or ended recently, each with its last state and preview. */
  "jobs.list": { params: NoParams; result: JobsListResult; message: never };
  /** Receive a job's further messages on another channel, for example after a web view reloads. */
  "jobs.attach": { params: AttachParams; result: AttachResult; message: never };
  /** The answer to a job that ended recently. */
  "jobs.result": { params: JobResultParams; result: JobResult; message: never };
  /** Text to image, with live previews on a channel. */
  "image.generate": { params: GenerateParams; result: GenerateResult; message: DiffusionStep };
  /** Change an image: as a whole, where a mask is white, or as an instruction says. */
  "image.edit": { params: EditParams; result: GenerateResult; message: DiffusionStep };
  /** Cancel a job by its id. */
  "image.cancel": { params: CancelJobParams; result: CancelJobResult; message: never };
  /** The gate's decisions about this app's calls, allowed and denied. */
  "audit.capabilityLog": { params: CapabilityLogParams; result: CapabilityLogResult; message: never };
  /** The models that the app's manifest declares: what they are, whether they are installed and fit. */
  "models.list": { params: NoParams; result: ModelsListResult; message: never };
  /** One model of the catalogue. */
  "models.get": { params: ModelParams; result: Model; message: never };
  /** Download a model into the shared cache; resumes an interrupted download. */
  "models.download": { params: ModelWorkParams; result: InstalledResult; message: DownloadProgress };
  /** Hash an installed model's files again and compare. */
  "models.verify": { params: ModelWorkParams; result: VerifyResult; message: ModelProgress };
  /** Import a model from a folder or a Hugging Face cache into the shared cache. */
  "models.import": { params: ImportParams; result: InstalledResult; message: ModelProgress };
  /** Have the engine load a model ahead of its first job. */
  "models.load": { params: LoadParams; result: LoadResult; message: ModelProgress };
  /** Save a model in the shared cache in quantized form, so that it loads faster. */
  "models.prepare": { params: PrepareParams; result: PrepareResult; message: ModelProgress };
  /** Stop an idle engine and free its memory. */
  "models.unload": { params: NoParams; result: UnloadResult; message: never };
  /** Remove a model from the shared cache. */
  "models.remove": { params: RemoveParams; result: RemovedResult; message: never };
  /** The disk space that shared-cache models use; other apps' only where the host allows managing it. */
  "models.usage": { params: NoParams; result: UsageResult; message: never };
  /** Remove what no model needs and, down to maxBytes, the least recently used models. */
  "models.gc": { params: GcParams; result: RemovedResult; message: never };
  /** Cancel all jobs and get ready for exit. */
  "shutdown": { params: NoParams; result: Empty; message: never };
}

/** Error kinds and their JSON-RPC codes. */
export const CODES = {
  /** The line is not one valid JSON text in UTF-8, or is nested too deeply. */
  ParseError: -32700,
  /** The message is not a valid request, or not one that may be sent now. */
  InvalidRequest: -32600,
  /** There is no request method with this name. */
  MethodNotFound: -32601,
  /** A parameter is missing, unknown, of the wrong type or out of range; `path` names it. */
  InvalidParams: -32602,
  /** A fault of the sidecar itself; its log says more. */
  InternalError: -32603,
  /** The request was cancelled; `images` holds what had been finished. */
  RequestCancelled: -32800,
  /** The app's manifest or the host does not grant this; `reason` says which. */
  CapabilityDenied: -32001,
  /** The session has not been opened with `initialize`. */
  NotInitialized: -32002,
  /** The catalogue has no model with this id. */
  ModelNotFound: -32003,
  /** The model is known but not installed. */
  ModelNotInstalled: -32004,
  /** Files of the installed model are missing. */
  ModelIncomplete: -32005,
  /** Files of the model differ from their digests. */
  IntegrityError: -32006,
  /** The download did not succeed; what has arrived is kept for the next try. */
  DownloadFailed: -32007,
  /** The model is gated: its licence must be accepted at `url` first. */
  LicenseNotAccepted: -32008,
  /** The request does not fit this machine; `suggestions` lists what would. */
  InsufficientMemory: -32009,
  /** There is not enough room on the disk. */
  InsufficientDisk: -32010,
  /** The engine asked for cannot run on this machine. */
  EngineUnavailable: -32011,
  /** The engine process died; it is restarted for the next request. */
  EngineCrashed: -32012,
  /** Too many jobs are waiting. */
  QueueFull: -32013,
  /** Reading or writing a file failed; `errno` names the reason. */
  StorageError: -32014,
  /** The engine made no progress for too long and was stopped. */
  EngineStalled: -32015,
  /** The host and the sidecar share no protocol version; `supported` lists its versions. */
  UnsupportedProtocolVersion: -32016,
  /** An image that was sent or named cannot be read. */
  InvalidImage: -32017,
  /** The model made no usable picture (black, or not a number). */
  InvalidOutput: -32018,
} as const;

/** The version of the contract that these types are of. */
export const PROTOCOL_VERSION = 1;
