"""Deliberately broken implementations: each is found by the check that is meant to find it, and by no other MUST."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from locara_conformance import runner
from locara_conformance.checks import CHECKS, chosen
from locara_conformance.outcomes import Outcome
from support import liar
from support.host import command
from support.liar import LIES

pytestmark = pytest.mark.timeout(300)

CAUGHT = {
    "WritesCr": ["framing.lf-only"],
    "WritesLatin1": ["framing.utf-8"],
    "CutsTheLastLine": ["framing.lf-ended"],
    "FatFrames": ["framing.sizes"],
    "DropsCrlf": ["framing.crlf"],
    "DiesOnALongLine": ["framing.long-line"],
    "LosesTheLineAfterALongOne": ["framing.long-line"],
    "AnswersTwice": ["jsonrpc.answered-once"],
    "IdsAsStrings": ["jsonrpc.id-echo"],
    "NoVersion": ["jsonrpc.shape"],
    "BatchAnswersOneByOne": ["jsonrpc.batches"],
    "ParseErrorsAreInvalidRequests": ["jsonrpc.not-json"],
    "TakesUnknownMembers": ["jsonrpc.unknown-member"],
    "RunsRequestsWithoutId": ["jsonrpc.answered-once", "jsonrpc.request-without-id"],
    "TakesArrays": ["jsonrpc.array-params"],
    "TakesFractions": ["jsonrpc.fraction"],
    "OneAtATime": ["jsonrpc.concurrent"],
    "ResultsLackAMember": ["schema.results"],
    "FramesLackTheJob": ["schema.notifications"],
    "ErrorsWithoutKind": ["schema.errors"],
    "KindsDoNotFitCodes": ["errors.kind"],
    "ErrorsWithoutPath": ["errors.path"],
    "NothingIsRetryable": ["errors.retryable"],
    "CrashesAreInternal": ["errors.crash"],
    "DenialsDoNotSayWhatToDeclare": ["errors.denied"],
    "ServesBeforeInitialize": ["lifecycle.before-initialize"],
    "GrantsWithoutManifest": ["lifecycle.default-deny"],
    "LacksAMethod": ["lifecycle.capabilities"],
    "SkipsAnIndex": ["channels.gapless"],
    "EndsTwice": ["channels.end-once"],
    "EndCountsWrong": ["channels.end-counts"],
    "EndsAfterTheResponse": ["channels.end-first", "channels.silent"],
    "SpeaksAfterTheResponse": ["channels.silent"],
    "SpeaksWithoutAChannel": ["channels.none", "channels.silent"],
    "LosesStepsUnnoticed": ["channels.interleaved", "generate.phases"],
    "ProgressFalls": ["generate.progress"],
    "ProgressNeverEnds": ["channels.slow-reader", "generate.progress-end", "jobs.attach-ended"],
    "PreviewsChangeThePicture": ["generate.previews-off"],
    "DoesNotReproduce": ["generate.reproduces"],
    "AlwaysTheSameSeed": ["generate.seed"],
    "WrongDigests": ["generate.file"],
    "CancelledCallsAreNeverAnswered": ["cancel.answered"],
    "KnowsOneSpellingOfCancel": ["cancel.spellings"],
    "CancelsWhatRuns": ["cancel.neighbour", "cancel.of-nothing"],
    "CancelTellsNoImages": ["cancel.finished-images"],
    "CancelsTooLate": [
        "cancel.decoding",
        "cancel.denoising",
        "cancel.encoding",
        "cancel.hung-engine",
        "cancel.loading",
        "cancel.next-line",
        "cancel.queued",
        "latency.cancel",
        "models.cancel-load",
    ],
    "ForgetsEndedJobs": ["jobs.list"],
    "JobsWithoutTheirLast": ["jobs.last"],
    "JobResultsDiffer": ["jobs.result"],
    "AnswersEarly": ["jobs.result-early"],
    "FollowsLinks": ["edit.files"],
    "AllImagesAreStorage": ["edit.bad-image"],
    "IgnoresStrength": ["edit.strength"],
    "NeverReleases": ["picked.released"],
    "TellsPickedPaths": ["picked.write"],
    "IgnoresPins": ["capabilities.pinned"],
    "ListsUndeclaredModels": ["capabilities.models"],
    "ReadingIsWriting": ["capabilities.read-only"],
    "PicksWithoutLeave": ["picked.denied"],
    "BlursPaths": ["capabilities.refused"],
    "FragmentsThatGrantNothing": ["capabilities.declare"],
    "HolesInTheRecord": ["audit.log"],
    "PromptsInTheRecord": ["audit.private"],
    "ForgetsWhatIsLoaded": ["models.load"],
    "AlwaysUnloaded": ["models.unload"],
    "HasDefaultsOfItsOwn": ["models.get"],
    "FlagsAreNotNamed": ["models.flags"],
    "BlamesTheHost": ["models.undeclared"],
    "HangsUnderLoad": ["latency.ping"],
    "SurvivesTheEndOfInput": ["ending.eof", "ending.eof-hung", "ending.eof-unread", "ending.nothing-left"],
    "WaitsForItsReader": ["ending.eof-unread"],
    "IgnoresSigterm": ["signals.at-once", "signals.inherited", "signals.sigterm"],
    "LeavesWithoutAnswering": ["ending.eof-answers"],
    "WrongStatus": ["ending.exit-status", "ending.no-room", "lifecycle.exit-before-initialize"],
    "SurvivesItsHost": ["ending.host-death"],
    "ShutdownLeavesJobs": ["ending.shutdown"],
    "UsageOnStdout": ["ending.unknown-flag", "stdout.messages-only"],
    "PrintsOnStdout": ["stdout.messages-only"],
    "PrintsABanner": ["channels.silent", "stdout.silent-start"],
    "LogsText": ["stderr.json"],
    "LogsPrompts": ["stderr.private"],
    "MakesPipesBlocking": ["pipes.nonblocking-kept"],
    "DiesWhenAPipeIsNotReady": ["pipes.nonblocking"],
    "ReadsWithoutBound": ["pipes.held-back"],
    "WaitsForStderr": ["pipes.stderr-unread"],
    "TakesNoPieces": ["framing.pieces"],
    "KeepsLongLines": ["framing.long-line-memory"],
    "DoesNotTellTheLimit": ["jsonrpc.too-long"],
    "EmptyBatchesGetAnArray": ["jsonrpc.empty-batch"],
    "OneErrorForAllEntries": ["jsonrpc.invalid-entries"],
    "AnswersBatchesOfNotifications": ["jsonrpc.batch-of-notifications"],
    "CutsBatches": ["jsonrpc.batch-too-long"],
    "NeedsNoVersion": ["jsonrpc.envelope"],
    "NullIdsAreNotifications": ["jsonrpc.bad-id"],
    "SwallowsIdsInFlight": ["jsonrpc.id-in-flight"],
    "NullIsNoParams": ["jsonrpc.null-params"],
    "UnknownMethodsAreWrongParams": ["jsonrpc.unknown-method"],
    "AnswersNotifications": ["jsonrpc.notification-with-id"],
    "MindsUnknownNotifications": ["jsonrpc.ignored-notification"],
    "MindsStrayResponses": ["jsonrpc.stray-response"],
    "TheFirstMemberWins": ["jsonrpc.same-member-twice"],
    "MindsExtraMembers": ["jsonrpc.extra-members"],
    "ReadsNumbersInStrings": ["jsonrpc.types"],
    "NamesNoJob": ["jobs.unknown", "jsonrpc.jobs"],
    "SpeaksAnotherVersion": ["channels.tauri-string", "lifecycle.initialize"],
    "HasNotAllMethods": ["lifecycle.methods"],
    "OpensAgain": ["lifecycle.again"],
    "DoesNotTellItsVersions": ["lifecycle.versions"],
    "ForgivesTypos": ["lifecycle.manifest-typo"],
    "WarnsOfNothing": ["capabilities.taken", "lifecycle.folder-missing"],
    "AlwaysIdle": ["lifecycle.ping", "models.idle-unload"],
    "DocumentsLess": ["lifecycle.discover"],
    "TakesAnyToken": ["lifecycle.token"],
    "ConfinedFromTheStart": ["lifecycle.sandbox"],
    "TakesWideManifests": ["lifecycle.open-size"],
    "RefusedCallsAreJobs": ["jobs.never-one"],
    "BlamesTheJob": ["jobs.attach-busy"],
    "KeepsFewerJobs": ["jobs.at-most"],
    "FlagsAreGrants": ["errors.host-flag", "models.flags"],
    "UnknownModelsAreNotInstalled": ["errors.model-not-found"],
    "StallsAreCrashes": ["errors.stall"],
    "BadOutputIsAFault": ["errors.engine"],
    "DoesNotSayHowItFailed": ["errors.start"],
    "FullIsInvalid": ["errors.queue-full"],
    "MindsUnknownWords": ["errors.unknown-word"],
    "KnowsNumbersOnly": ["channels.tauri-string"],
    "TrueIsNoChannel": ["channels.busy"],
    "ChannelsAreUsedOnce": ["channels.again"],
    "LargeMessages": ["channels.small"],
    "StopsWhenNobodyReads": ["channels.stopped-reader"],
    "AttachesAtTheStart": ["channels.attach"],
    "AlwaysTheFirstImage": ["generate.images"],
    "OtherJobIds": ["generate.job-id"],
    "PreviewsOfOnePixel": ["generate.previews"],
    "AlwaysPng": ["generate.formats"],
    "AlwaysOverwrites": ["generate.conflict"],
    "MakesPathsFit": ["generate.outside"],
    "ClampsSteps": ["generate.refusals"],
    "SeedsBeginAgain": ["generate.last-seed"],
    "NearestIsOffTheGrid": ["generate.sizes"],
    "CapabilitiesFirst": ["generate.order"],
    "NullIsAValue": ["generate.null"],
    "TakesLargeInlineImages": ["generate.inline-limit"],
    "HandlesAreOtherPictures": ["edit.forms"],
    "PicksByName": ["picked.held"],
    "CountsBytesWrong": ["picked.told"],
    "PicksFolders": ["picked.kinds"],
    "EditsInItsOwnSize": ["edit.size"],
    "InstructionsHaveStrength": ["edit.instruction"],
    "EditsWithAnyModel": ["edit.cannot"],
    "NeedsTheEndOfAJpeg": ["edit.jpeg-end"],
    "IgnoresRotation": ["edit.rotated"],
    "AsksForNoModality": ["capabilities.modality"],
    "WritesNoFileOfDecisions": ["audit.file"],
    "LoadsWithoutPhases": ["models.progress"],
    "HidesBrokenEntries": ["models.catalogue"],
    "NothingIsKnown": ["store.import", "store.not-installed"],
    "ReplacesUnasked": ["store.again"],
    "KeepsWhatItRefused": ["store.refused"],
    "IncompleteIsDamaged": ["store.incomplete"],
    "BlamesTheFolder": ["store.own-folder"],
    "VerifiesNothing": ["store.damaged"],
    "CollectsWhatIsNeeded": ["store.gc"],
    "RemovesInADryRun": ["store.remove"],
    "FailedDownloadsAreFaults": ["store.download"],
    "IgnoresSigint": ["signals.sigint"],
    "IgnoresSighup": ["signals.sighup"],
    "IgnoresProcessIds": ["ending.process-id"],
    "LosesAnswersWhenFull": ["pipes.full"],
    "TakesOtherManifests": ["lifecycle.fixed"],
    "TellsAnotherLimit": ["framing.own-limit"],
    "PreviewsOfEveryStep": ["generate.previews-every"],
    "FindsAPreview": ["generate.no-preview"],
    "MakesNoFolders": ["generate.paths"],
    "AlwaysWritesMetadata": ["generate.metadata"],
    "IgnoresMasks": ["edit.mask"],
}
"""Each lie and the checks that find it: more than one where it breaks several clauses, or one that several checks try.
Without ``lifecycle.initialize`` nothing else can be tried."""

BYSTANDERS = ["channels.tauri-string"]
"""Checks that have nothing to do with any lie; what they send and get is watched like all else."""


def results_of(lie, only, timeout=3):
    return runner.run(liar.command(lie, *command("--engine", "fake")), chosen(only), timeout=timeout)


def failures(results):
    assert not [one for one in results if one.outcome is Outcome.ERROR], [(one.check.id, one.reason) for one in results]
    assert not [one for one in results if "Traceback" in one.stderr], "the liar itself failed"
    return {one.check.id: one.reason for one in results if one.outcome is Outcome.FAILURE}


def test_every_lie_is_in_the_table():
    assert sorted({*CAUGHT, "Honest"}) == sorted(LIES)
    assert {check for checks in CAUGHT.values() for check in checks} <= CHECKS.keys()


def test_every_must_is_seen_to_fail():
    musts = {id for id, one in CHECKS.items() if one.level == "MUST"}
    assert musts - {check for checks in CAUGHT.values() for check in checks} == set()


@pytest.mark.slow
def test_the_liar_without_a_lie_is_found_conforming():
    only = sorted({check for checks in CAUGHT.values() for check in checks} - {"ending.host-death"})
    results = results_of("Honest", only, timeout=10)
    assert failures(results) == {}
    assert len(results) == len(only)


@pytest.fixture(scope="module")
def running(request):
    """The runs of all lies that were chosen, three at a time: they wait more than they work."""
    chosen_lies = {item.callspec.params["lie"] for item in request.session.items if "lie" in _params(item)}
    with ThreadPoolExecutor(3) as pool:
        yield {lie: pool.submit(results_of, lie, [*CAUGHT[lie], *BYSTANDERS]) for lie in CAUGHT if lie in chosen_lies}


def _params(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


@pytest.mark.parametrize("lie", CAUGHT)
@pytest.mark.quick_cases("WritesCr", "SkipsAnIndex")
def test_a_lie_is_found_by_its_check_and_no_other(lie, running):
    found = failures(running[lie].result())
    assert sorted(found) == CAUGHT[lie], found


@pytest.mark.slow
def test_an_implementation_that_never_answers_fails_everything_soon():
    results = runner.run([sys.executable, "-c", "import sys; sys.stdin.read()"], chosen(["cancel"]), timeout=0.5)
    assert {one.outcome for one in results} == {Outcome.FAILURE}
    assert "lifecycle.initialize does not hold" in results[0].reason


def test_liar_is_a_program_by_itself():
    line = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    spawned = liar.command("AnswersTwice", *command("--engine", "fake"))
    done = subprocess.run(spawned, input=line, capture_output=True, timeout=60)
    assert done.stdout.count(b'"id":1') == 2
