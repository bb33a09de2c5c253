// Generated from protocol/schema/v1 by scripts/generate.mjs. Do not edit: npm run generate

/**
 * An image that the host names in a granted root, picked, or sends: exactly one of the three forms, whole.
 */
export type ImageInput = (
  | {
      root: string;
      path: string;
      handle?: null;
      data?: null;
      mimeType?: null;
    }
  | {
      root?: null;
      path?: null;
      handle: string;
      data?: null;
      mimeType?: null;
    }
  | {
      root?: null;
      path?: null;
      handle?: null;
      data: string;
      mimeType: string;
    }
) & {
  root?: string | null;
  path?: string | null;
  handle?: string | null;
  data?: string | null;
  mimeType?: ("image/jpeg" | "image/png" | "image/webp") | null;
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
 * Something about the manifest or the grants that is no error, for the app's developer.
 *
 *     ``kind``: UnknownMember, UnknownModality or FolderMissing; ``path`` is the member of the params that it is about.
 */
export interface AppWarning {
  kind: string;
  message: string;
  path: string;
}
/**
 * The job whose further messages are to come on ``channel``.
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
 * One decision of the gate. ``seq`` starts at 1 and has no holes; ``time`` is UTC, ``2026-11-23T01:44:55.123Z``.
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
 * ``cancelled``: whether a queued or running job of that id was told to stop.
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
 * At most ``limit`` decisions: the first ones behind ``after``, or the latest of all without it.
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
 * The OpenRPC document itself (its members are described by the OpenRPC meta-schema).
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
 * Bytes and files of all that the model has; the message of a ``models.download`` channel.
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
 * ``handle``: of a file that was picked to be written, in place of ``root``, ``path`` and ``on_conflict``.
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
 * ``mask``: white is repainted, black stays.
 */
export interface EditParams {
  prompt: string;
  channel?: number | string | null;
  options?: EditOptions | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
  image: ImageInput;
  mask?: (ImageInput1 | null) &
    (
      | {
          root: string;
          path: string;
          handle?: null;
          data?: null;
          mimeType?: null;
        }
      | {
          root?: null;
          path?: null;
          handle: string;
          data?: null;
          mimeType?: null;
        }
      | {
          root?: null;
          path?: null;
          handle?: null;
          data: string;
          mimeType: string;
        }
      | null
    );
}
/**
 * An image that the host names in a granted root, picked, or sends: exactly one of the three forms, whole.
 */
export interface ImageInput1 {
  root?: string | null;
  path?: string | null;
  handle?: string | null;
  data?: string | null;
  mimeType?: ("image/jpeg" | "image/png" | "image/webp") | null;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * ``{}``.
 */
export interface Empty {}
/**
 * One engine: whether it can run on this machine, on what device, and why (not).
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
 * ``maxBytes``: models used least recently go until the cache has at most so many; absent: only waste goes.
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
 * ``peak_memory_bytes``: the engine process's height so far as the operating system counts it;
 *     ``peak_allocated_bytes``: that of its arrays alone, where its allocator counts them (MLX).
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
 * One finished image. ``path`` is absolute; ``handle`` in its place for a picked file; ``data`` (base64) only with
 *     output mode inline or both.
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
 * ``from``: an absolute folder, in diffusers' layout or a model's folder of a Hugging Face cache. ``replace``: put
 *     it in the place of another one that is installed under this id.
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
 * A model that is installed now; ``files`` is how many it has.
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
 * A job that waits, runs or has ended.
 *
 *     ``last``: the last message of an image's job, with the latest preview of that image; ``lastProgress``: that of
 *     ``models.load`` or ``models.prepare``.
 */
export interface JobInfo {
  jobId: string;
  method: string;
  state: "cancelled" | "done" | "failed" | "queued" | "running";
  requestId: number | string;
  channel?: number;
  model?: string;
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
 * The result of the job's own call, member by member; its error comes as an error.
 */
export interface JobResult {}
export interface JobResultParams {
  jobId: string;
  _meta?: {
    [k: string]: unknown | undefined;
  };
}
/**
 * Those that run or wait, in the order of their turns; then those that have ended, the latest first.
 */
export interface JobsListResult {
  jobs: JobInfo[];
}
/**
 * The model that the engine is to have ready, and how; the options mean what they mean in ``image.generate``.
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
 * A model that the engine has ready. ``memoryBytes``: what the engine takes with it.
 */
export interface LoadResult {
  model: string;
  engine: string;
  device: string;
  quantization: string;
  memoryBytes: number;
}
/**
 * Bytes. ``total`` and ``available`` honour a container's limit; ``daemon`` and ``engine`` are resident sizes.
 */
export interface MemoryInfo {
  total: number;
  available: number;
  daemon: number;
  engine: number | null;
}
/**
 * A catalogue entry and its state on this machine. ``runnable``: an engine of this version draws with it.
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
 * A ``speed`` that the model has with ``engine``: in jobs of which ``leastSteps`` steps or more really run. Jobs of
 *     fewer run at ``exact``.
 */
export interface ModelSpeed {
  engine: string;
  speed: "balanced" | "exact" | "fast";
  leastSteps: number;
}
/**
 * A hub repository. ``revision``: the commit of the installed files, else what the catalogue asks for.
 */
export interface ModelSource {
  repository: string;
  revision: string | null;
}
/**
 * Whether a model fits this machine, at its default size. Bytes; ``available`` takes other daemons' engines into
 *     account.
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
 * A model as an engine has quantized it, kept in the cache: what ``engine`` loads for jobs of that ``quantization``
 *     and ``precision`` while the model's digest is ``derivedFrom``.
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
export interface ModelsListResult {
  models: Model[];
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
 * ``write`` is for a file that may or may not be there yet. The file is one of: ``path``, absolute, as a dialog
 *     gave it; ``data``, its bytes, to be read; ``descriptor``, the text that was sent with it on the socket of
 *     ``--descriptors``. The last two have the file's ``name`` beside them, without its folder.
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
 * ``name``: the file's own, without its folder. ``bytes``: its length, where it was picked to be read.
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
 * What the system says that slows it: ``low_power``, its mode for saving power; ``thermal_state``, how warm it is,
 *     absent where that is not known.
 */
export interface PowerInfo {
  lowPower: boolean;
  thermalState?: "critical" | "fair" | "nominal" | "serious";
}
/**
 * The model of which a quantized form is to be kept; ``precision`` and ``engine`` mean what they mean in
 *     ``image.generate``.
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
 * A prepared form that is kept now. ``bytes`` of all its files, of which ``sharedBytes`` are the model's own.
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
 * ``prepared``: only the model's prepared forms; else they go with it.
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
 * What went, or with ``dryRun`` what would; ``bytes`` is what the disk gets back.
 */
export interface RemovedResult {
  removed: RemovedModel[];
  bytes: number;
}
/**
 * What really confines the engine process on this machine, as the engine found by trying.
 *
 *     ``enforced``: every attempt at what is forbidden was blocked. ``reason`` says what holds and what is missing.
 *     ``details``: one word for each attempt (``blocked``, ``open`` or ``unknown``), and the means in their versions.
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
 * ``power``: only where the system says so (macOS 12 and later).
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
 * ``unloaded``: whether there was an engine without work, which has ended now.
 */
export interface UnloadResult {
  unloaded: boolean;
}
/**
 * ``sharedBytes`` of ``bytes`` belong to another entry too; ``lastUsed`` is UTC. A prepared form has
 *     ``derivedFrom``, its model's digest, and ``quantization``.
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
 * ``bytes`` is what the cache takes, ``reclaimableBytes`` what collecting all that is not in use would free.
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

/** Request methods: what they take, what they answer, what they send to their channel. */
export interface Methods {
  /** Open the session: versions, the app's manifest, the host's folder grants. */
  "initialize": { params: InitializeParams; result: InitializeResult; message: never };
  /** Is the daemon alive, what is the engine doing, how many jobs are there. */
  "ping": { params: NoParams; result: PingResult; message: never };
  /** The OpenRPC document of this server. */
  "rpc.discover": { params: NoParams; result: DiscoverResult; message: never };
  /** Platform, memory, engines, sandbox, cache folder. */
  "system.info": { params: NoParams; result: SystemInfo; message: never };
  /** A handle of a file that the user picked in a dialog. Never forwarded from a web view. */
  "host.pickFile": { params: PickFileParams; result: PickFileResult; message: never };
  /** Take a handle back: no new call may use it. Never forwarded from a web view. */
  "host.releaseFile": { params: ReleaseFileParams; result: Empty; message: never };
  /** The app's jobs that wait, run or ended lately, each with its last state and preview. */
  "jobs.list": { params: NoParams; result: JobsListResult; message: never };
  /** Have a job's further messages on another channel, as after a web view was loaded again. */
  "jobs.attach": { params: AttachParams; result: AttachResult; message: never };
  /** What a job that ended lately was answered with. */
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
  /** Download a model into the shared cache, from where the last try stopped. */
  "models.download": { params: ModelWorkParams; result: InstalledResult; message: DownloadProgress };
  /** Hash an installed model's files again and compare. */
  "models.verify": { params: ModelWorkParams; result: VerifyResult; message: ModelProgress };
  /** Take a model from a folder or a Hugging Face cache into the shared cache. */
  "models.import": { params: ImportParams; result: InstalledResult; message: ModelProgress };
  /** Have the engine load a model ahead of its first job. */
  "models.load": { params: LoadParams; result: LoadResult; message: ModelProgress };
  /** Keep a model in the shared cache as the engine has quantized it, so that it loads sooner. */
  "models.prepare": { params: PrepareParams; result: PrepareResult; message: ModelProgress };
  /** End an engine that has no work and give its memory back. */
  "models.unload": { params: NoParams; result: UnloadResult; message: never };
  /** Remove a model from the shared cache. */
  "models.remove": { params: RemoveParams; result: RemovedResult; message: never };
  /** The room that models in the shared cache take; other apps' only where the host allows managing it. */
  "models.usage": { params: NoParams; result: UsageResult; message: never };
  /** Collect what no model needs and, down to maxBytes, the models used least recently. */
  "models.gc": { params: GcParams; result: RemovedResult; message: never };
  /** Cancel all jobs and get ready for exit. */
  "shutdown": { params: NoParams; result: Empty; message: never };
}

/** Error kinds and their JSON-RPC codes. */
export const CODES = {
  /** The line is not one valid JSON text in UTF-8, or is nested too deep. */
  ParseError: -32700,
  /** The message is not a valid request, or not one that may be sent now. */
  InvalidRequest: -32600,
  /** There is no request method of this name. */
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
  /** The catalogue has no model of this id. */
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
  /** The engine process died; it is started anew for the next request. */
  EngineCrashed: -32012,
  /** Too many jobs are waiting. */
  QueueFull: -32013,
  /** Reading or writing a file failed; `errno` names the reason. */
  StorageError: -32014,
  /** The engine made no progress for too long and was stopped. */
  EngineStalled: -32015,
  /** No version of the contract is shared; `supported` lists the sidecar's. */
  UnsupportedProtocolVersion: -32016,
  /** An image that was sent or named cannot be read. */
  InvalidImage: -32017,
  /** The model made no usable picture (black, or not a number). */
  InvalidOutput: -32018,
} as const;

/** The version of the contract that these types are of. */
export const PROTOCOL_VERSION = 1;
