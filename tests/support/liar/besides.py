"""What else each lie breaks."""

_NO_METHOD = "It asks for a method that there is not, to have an error."
_BATCHES = "Its fixtures have batches."
_FRAGMENT = "It looks at the fragment of a denial."
_REASON = "It looks at the reason of a denial."
_LONG = "Its fixtures are of lines over the limit."
_CANCELS = "It cancels one call while another one runs."
_BESIDE = "It asks for something while a picture is made."
_BARE = "A case of it has no manifest."
_DEEP = "It takes a request for one before it is known to be nested too deep."
_OF_A_FRAME = "It takes the job's id from a message of its channel."
_END = "It looks for the end of a call before its answer."
_GONE = "It ends with asking for the model that is not there any more."
_ENDED = "It looks for jobs that have ended."
_LENGTH = "It looks at the length, too."
_HANDLE = "It edits a picture by its handle, too."
_UNREADABLE = "It sends a picture that cannot be used, too."
_SILENT = "It looks whether anything is on stdout, too."

ALSO: dict[str, dict[str, str]] = {
    "TakesNoDescriptors": {
        "picked.handed-access": "Every descriptor to be read is one that did not come, the folder's too.",
        "picked.handed-once": "The first call of two has none either.",
    },
    "AnswersEarly": {"jsonrpc.jobs": "Its fixtures ask for the result of a job that runs."},
    "DoesNotTellItsVersions": {"lifecycle.again": "A fixture of it begins with another version."},
    "AllImagesAreStorage": dict.fromkeys(
        ("edit.jpeg-end", "edit.mask", "references.named", "references.shape", "references.together"), _UNREADABLE
    ),
    "BlursPaths": {"lifecycle.manifest-typo": "That is a path into the manifest, too."},
    "DoesNotTellTheLimit": {
        "framing.long-line": "Its fixtures are of lines over the limit.",
        "framing.own-limit": "It compares the limit with the flag's.",
    },
    "IgnoresPins": {"capabilities.taken": "What is granted is told with the pin."},
    "NothingIsKnown": {"store.damaged": _GONE, "store.remove": _GONE},
    "CrashesAreInternal": {"errors.retryable": "It has the engine crash, too."},
    "OpensAgain": {"schema.errors": "It opens a second time, to have an error."},
    "ForgetsEndedJobs": dict.fromkeys(("jobs.at-most", "jobs.picture", "jsonrpc.jobs", "models.load"), _ENDED),
    "IgnoresSigint": {"signals.inherited": "It sends SIGINT, too."},
    "DropsCrlf": {"framing.lf-only": "It sends a line that ends with CRLF, to see how the answer ends."},
    "UnknownMethodsAreWrongParams": {
        "framing.lf-only": _NO_METHOD,
        "framing.sizes": _NO_METHOD,
        "schema.errors": _NO_METHOD,
        "errors.kind": _NO_METHOD,
        "jsonrpc.notification-with-id": "That is a method that there is not.",
    },
    "BatchAnswersOneByOne": {
        "jsonrpc.batch-of-notifications": _BATCHES,
        "jsonrpc.batch-too-long": _BATCHES,
        "jsonrpc.invalid-entries": _BATCHES,
        "jsonrpc.stray-response": _BATCHES,
        "jsonrpc.unknown-method": _BATCHES,
    },
    "KindsDoNotFitCodes": {
        "jsonrpc.notification-with-id": "Its fixture names the kind.",
        "jsonrpc.unknown-method": "Its fixtures name the kind.",
    },
    "AlwaysTheFirstImage": {"cancel.finished-images": "It waits for a message of the third image."},
    "MindsUnknownNotifications": {"jsonrpc.request-without-id": "That is a notification that nobody knows."},
    "BadOutputIsAFault": {
        "errors.retryable": "It has such a picture drawn, too.",
        "jobs.attach-states": "It has a job fail with such a picture.",
        "jobs.list": "It has a job fail with such a picture.",
    },
    "KnowsNumbersOnly": {
        "jsonrpc.jobs": "Its fixtures name the channel by a string.",
        "lifecycle.default-deny": "Its fixture names the channel by a string.",
    },
    "TakesUnknownMembers": {"jsonrpc.shape": "It sends an unknown member, to have an error."},
    "ReadsNumbersInStrings": {"errors.path": "It sends a number in a string, to have an error."},
    "ClampsSteps": {"jsonrpc.types": "A fixture of it has fewer steps than there can be."},
    "HasNotAllMethods": {
        "lifecycle.before-initialize": "It asks for all methods, too.",
        "models.flags": "It asks for what the host has not allowed, that method among it.",
        "store.gc": "It is about that method.",
    },
    "DenialsDoNotSayWhatToDeclare": {"capabilities.declare": _FRAGMENT, "jsonrpc.types": _FRAGMENT},
    "FragmentsThatGrantNothing": {"errors.denied": _FRAGMENT, "jsonrpc.types": _FRAGMENT},
    "BlamesTheHost": {
        "capabilities.modality": _REASON,
        "errors.denied": _REASON,
        "jsonrpc.types": _REASON,
        "lifecycle.default-deny": _REASON,
    },
    "AlwaysIdle": {"models.unload": "It looks whether the engine still runs."},
    "AlwaysPng": {"edit.jpeg-end": "It has a JPEG drawn first.", "edit.rotated": "It has a JPEG drawn first."},
    "CancelsWhatRuns": {
        "cancel.answered": _CANCELS,
        "cancel.queued": _CANCELS,
        "cancel.waiting-job": _CANCELS,
        "channels.busy": _CANCELS,
        "errors.queue-full": _CANCELS,
        "jobs.attach-first": _CANCELS,
        "lifecycle.ping-counts": _CANCELS,
        "jobs.list": _CANCELS,
    },
    "DiesOnALongLine": {"jsonrpc.too-long": _LONG},
    "LosesTheLineAfterALongOne": {"jsonrpc.too-long": _LONG},
    "EditsInItsOwnSize": {"edit.rotated": "A turned picture is edited in its own size, too."},
    "GrantsWithoutManifest": {
        "capabilities.taken": _BARE,
        "jsonrpc.types": _BARE,
        "lifecycle.versions": _BARE,
    },
    "NothingIsRetryable": {
        "errors.queue-full": "That is an error after which one may ask again.",
        "errors.stall": "That is an error after which one may ask again.",
        "jsonrpc.jobs": "Its fixtures say which errors are.",
    },
    "UnknownModelsAreNotInstalled": {"models.catalogue": "It asks for a model that is not there, too."},
    "OneAtATime": dict.fromkeys(
        (
            "cancel.neighbour",
            "cancel.waiting-job",
            "ending.eof-answers",
            "ending.nothing-left",
            "jobs.attach-first",
            "jobs.last",
            "jobs.list",
            "jsonrpc.jobs",
            "lifecycle.ping",
            "lifecycle.ping-counts",
            "signals.sighup",
            "signals.sigint",
            "signals.sigterm",
        ),
        _BESIDE,
    ),
    "LosesStepsUnnoticed": {"edit.strength": "It looks at the steps of an edit."},
    "BlamesTheJob": {"jsonrpc.jobs": "A fixture of it attaches to a channel that is in use."},
    "FatFrames": {"channels.small": "What is too large for a notification is too large for a channel."},
    "OtherJobIds": {
        "jobs.picture": _OF_A_FRAME,
        "cancel.spellings": _OF_A_FRAME,
        "cancel.waiting-job": _OF_A_FRAME,
        "channels.attach": _OF_A_FRAME,
        "jobs.attach-first": _OF_A_FRAME,
        "jobs.attach-states": _OF_A_FRAME,
        "jobs.last": _OF_A_FRAME,
        "jobs.list": _OF_A_FRAME,
        "jobs.result": _OF_A_FRAME,
        "jobs.result-early": _OF_A_FRAME,
    },
    "CancelsTooLate": dict.fromkeys(
        (
            "cancel.answered",
            "cancel.finished-images",
            "cancel.neighbour",
            "cancel.spellings",
            "cancel.waiting-job",
            "channels.busy",
            "channels.end-counts",
            "channels.end-first",
            "channels.end-once",
            "channels.gapless",
            "channels.silent",
            "errors.queue-full",
            "errors.retryable",
            "jobs.attach-busy",
            "jobs.attach-first",
            "jobs.attach-states",
            "jobs.last",
            "jobs.list",
            "jobs.result-early",
            "jsonrpc.concurrent",
            "jsonrpc.notification-with-id",
            "lifecycle.ping",
            "lifecycle.ping-counts",
        ),
        "It cancels a call that runs or waits.",
    ),
    "EndsTwice": {
        "channels.end-counts": "The second end is taken for one of the call that has the channel next.",
        "channels.silent": "The second end comes when nobody has the channel any more.",
        "jobs.attach-ended": "It counts the frames.",
    },
    "EndsAfterTheResponse": dict.fromkeys(("channels.attach", "jobs.attach-busy"), _END),
    "MindsExtraMembers": {"jsonrpc.not-json": _DEEP},
    "SwallowsIdsInFlight": {"jsonrpc.not-json": _DEEP},
    "PrintsABanner": {"ending.no-room": _SILENT, "ending.unknown-flag": _SILENT},
    "SurvivesTheEndOfInput": {
        "framing.lf-ended": "It ends the input of a process that was asked for nothing else, too."
    },
    "CancelledCallsAreNeverAnswered": {"latency.ping": "It cancels its calls when it has measured."},
    "AttachedJobsAreDone": {"jsonrpc.jobs": "A fixture of it attaches to a job that was cancelled."},
    "ChannelsAreUsedOnce": {"jobs.attach-first": "It looks whether the channel that a job had is free."},
    "CountsBytesWrong": {"picked.handed": _LENGTH, "picked.sent": _LENGTH},
    "HandlesAreOtherPictures": {"picked.handed": _HANDLE, "picked.sent": _HANDLE},
    "HolesInTheRecord": {"audit.entries": "It asks for what comes after a number."},
    "PromptsInTheRecord": {"audit.entries": "It compares whole entries."},
    "FramesLackThePhase": {
        "cancel.saving": "It waits for a message of that phase.",
        "generate.all-phases": "It counts the messages of each phase.",
    },
    "AsksForNoModality": {"lifecycle.fixed": "It sends a manifest that lacks a modality."},
    "WritesNoFileOfDecisions": {"capabilities.read-only": "It reads from app-data, too."},
    "ResultsLackAMember": {"lifecycle.ping-counts": "It asks twice for the member that is missing."},
    "SaysNothingOfEncoding": {"cancel.encoding": "It waits for a message of that phase."},
    "ParametersLackOptions": {"models.get": "It compares what a picture was made with and the model's defaults."},
    "WrongDigests": {"generate.each-image": "It compares the digests of two images."},
    "MakesNoFolders": {"generate.file": "It has a file saved into a folder that is not there yet."},
}
"""Other MUSTs that a lie breaks, each with the reason. ``make campaign-lies`` checks that the table is complete."""
