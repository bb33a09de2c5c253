//! The commands that a web view may run if its capabilities allow it. `build.rs` creates a permission for each.
//!
//! A web view cannot reach methods of the sidecar that are not listed here, whatever its capabilities say: `host.…`,
//! `initialize`, `shutdown`.

/// One command.
pub(crate) struct Command {
    /// Its name for `invoke`, after `plugin:locara-diffusion|`.
    pub(crate) name: &'static str,
    pub(crate) action: Action,
}

#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// Calls the sidecar and returns its answer.
    Ask(&'static str),
    /// The same with messages, on the call's own Channel.
    Stream(&'static str),
    /// Follows a job that another page has started.
    Attach,
    /// Cancels a call of the same window.
    Cancel,
    /// Asks the user for an image to read.
    PickImage,
    /// Asks the user where to save.
    PickOutput,
    /// Releases a file that the user picked.
    Release,
    /// Accepts an access token that the user typed.
    GiveToken,
}

use Action::{Ask, Attach, Cancel, GiveToken, PickImage, PickOutput, Release, Stream};

const fn command(name: &'static str, action: Action) -> Command {
    Command { name, action }
}

pub(crate) const COMMANDS: &[Command] = &[
    command("generate", Stream("image.generate")),
    command("edit", Stream("image.edit")),
    command("cancel", Ask("image.cancel")),
    command("cancel_request", Cancel),
    command("jobs_list", Ask("jobs.list")),
    command("jobs_attach", Attach),
    command("jobs_result", Ask("jobs.result")),
    command("models_list", Ask("models.list")),
    command("models_get", Ask("models.get")),
    command("models_load", Stream("models.load")),
    command("models_unload", Ask("models.unload")),
    command("models_download", Stream("models.download")),
    command("models_verify", Stream("models.verify")),
    command("models_prepare", Stream("models.prepare")),
    command("models_import", Stream("models.import")),
    command("models_remove", Ask("models.remove")),
    command("models_usage", Ask("models.usage")),
    command("models_gc", Ask("models.gc")),
    command("ping", Ask("ping")),
    command("system_info", Ask("system.info")),
    command("audit_capability_log", Ask("audit.capabilityLog")),
    command("pick_image", PickImage),
    command("pick_output", PickOutput),
    command("release_file", Release),
    command("give_token", GiveToken),
];

pub(crate) fn find(name: &str) -> Option<Action> {
    COMMANDS.iter().find(|command| command.name == name).map(|command| command.action)
}
