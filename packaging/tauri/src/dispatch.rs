//! Carries commands from a web view to the sidecar, and answers back.

use std::sync::Arc;

use locara_diffusion::{Answer, Message, Messages};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tauri::ipc::{Channel, Invoke, InvokeBody, InvokeError, InvokeMessage, JavaScriptChannelId};
use tauri::{Manager, Runtime, Webview};

use crate::calls::Open;
use crate::commands::{Action, find};
use crate::diffusion::Diffusion;
use crate::error::Error;
use crate::files::FileRequest;
use crate::jobs::{Job, Sent};

/// The arguments of `invoke` besides the command's name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Payload {
    #[serde(default)]
    params: Map<String, Value>,
    /// For a long call, and the command that cancels it: the page's id for the call.
    #[serde(default)]
    request_id: Option<String>,
    /// For a long call: where its messages go.
    #[serde(default)]
    channel: Option<JavaScriptChannelId>,
}

/// Handles a command; false if it does not exist. Its permission has already been checked.
pub(crate) fn handle<R: Runtime>(invoke: Invoke<R>) -> bool {
    let Invoke { message, resolver, .. } = invoke;
    let Some(action) = find(message.command()) else { return false };
    let webview = message.webview();
    let begun = payload(&message).and_then(|payload| begin(&webview, action, payload));
    resolver.respond_async(async move {
        let answer = match begun {
            Ok(begun) => run(&webview, action, begun).await,
            Err(error) => Err(error),
        };
        for path in saved(&answer) {
            webview.state::<Diffusion<R>>().saved(path);
        }
        answer.map_err(InvokeError::from)
    });
    true
}

fn payload<R: Runtime>(message: &InvokeMessage<R>) -> Result<Payload, Error> {
    let failed = |reason: String| Error::Params { path: "$", reason };
    match message.payload() {
        InvokeBody::Json(body) => Payload::deserialize(body).map_err(|error| {
            failed(format!("The command takes params, and a long one requestId and channel: {error}"))
        }),
        InvokeBody::Raw(_) => Err(failed("The command takes JSON.".to_owned())),
    }
}

/// A command that was accepted.
enum Begun {
    Short(Map<String, Value>),
    Long(Map<String, Value>, Open, Channel<Value>),
    /// It already gets the job's messages, if a window has started that job.
    Follow(JobId, Open, Result<(Arc<Job>, Sent), Channel<Value>>),
}

/// The part that is done at once, in the order of the page's commands: a cancel must not overtake its call, and a call
/// must not overtake the end of its window.
fn begin<R: Runtime>(webview: &Webview<R>, action: Action, payload: Payload) -> Result<Begun, Error> {
    let diffusion = webview.state::<Diffusion<R>>();
    let window = webview.window();
    let page = (window.label(), webview.label());
    let Payload { params: given, request_id, channel } = payload;
    let long = |follows: bool| {
        let no_channel = || Error::Params { path: "$.channel", reason: "A long call needs a Channel.".to_owned() };
        let channel: Channel<Value> = channel.ok_or_else(no_channel)?.channel_on(webview.clone());
        Ok::<_, Error>((diffusion.calls.open(page, request_id.clone(), follows)?, channel))
    };
    Ok(match action {
        Action::Stream(_) => {
            let (open, channel) = long(false)?;
            Begun::Long(given, open, channel)
        }
        Action::Attach => {
            let job: JobId = params(given)?;
            let (open, channel) = long(true)?;
            let found = diffusion.jobs.find(&job.job_id).map(|found| {
                open.sent(found.canceller());
                let sent = found.add(open.page(), channel.clone());
                (found, sent)
            });
            Begun::Follow(job, open, found.ok_or(channel))
        }
        Action::Cancel => {
            diffusion.calls.cancel(page, &request_id.unwrap_or_default());
            Begun::Short(given)
        }
        _ => Begun::Short(given),
    })
}

async fn run<R: Runtime>(webview: &Webview<R>, action: Action, begun: Begun) -> Result<Value, Error> {
    let diffusion = webview.state::<Diffusion<R>>();
    match (action, begun) {
        (Action::Stream(method), Begun::Long(given, open, channel)) => {
            let sidecar = diffusion.sidecar().await?;
            let (messages, answer) = sidecar.call(method, &given, true);
            forward(&diffusion, &open, channel, messages, answer).await
        }
        (_, Begun::Follow(_, _open, Ok((job, sent)))) => Ok(long_answer(job.answered().await?, &sent)),
        (_, Begun::Follow(JobId { job_id }, open, Err(channel))) => {
            let (messages, answer) = diffusion.sidecar().await?.attach(job_id);
            forward(&diffusion, &open, channel, messages, answer).await
        }
        (Action::Ask(method), Begun::Short(given)) => {
            let sidecar = diffusion.sidecar().await?;
            Ok(Value::Object(sidecar.call(method, &given, false).1.await?))
        }
        (action, Begun::Short(given) | Begun::Long(given, ..)) => ask_user(webview, &diffusion, action, given).await,
    }
}

/// Passes on all messages of a call, in order, and then the answer.
async fn forward<R: Runtime, M: Message + Serialize, A: Serialize>(
    diffusion: &Diffusion<R>,
    open: &Open,
    channel: Channel<Value>,
    mut messages: Messages<M>,
    answer: Answer<A>,
) -> Result<Value, Error> {
    open.sent(answer.canceller());
    let (mut running, sent) = diffusion.jobs.begin(open.page(), channel, answer.canceller());
    while let Some(message) = messages.next().await {
        running.tell(json!(message));
    }
    let outcome = answer.await.map(|result| json!(result));
    running.end(&outcome);
    Ok(long_answer(outcome?, &sent))
}

/// The answer carries the number of messages, because it may overtake them.
fn long_answer(result: Value, sent: &Sent) -> Value {
    let members = [("result".to_owned(), result), ("messages".to_owned(), sent.count().into())];
    Value::Object(Map::from_iter(members))
}

/// Commands between the app and its user, for which the sidecar has no call.
async fn ask_user<R: Runtime>(
    webview: &Webview<R>,
    diffusion: &Diffusion<R>,
    action: Action,
    given: Map<String, Value>,
) -> Result<Value, Error> {
    match action {
        Action::PickImage | Action::PickOutput => {
            let mut request: FileRequest = params(given)?;
            request.save = matches!(action, Action::PickOutput);
            Ok(json!(diffusion.files.pick(webview.window(), diffusion, request).await?))
        }
        Action::Release => {
            let Handle { handle } = params(given)?;
            // another window's handle is left alone, and a released one needs nothing
            if let Some(held) = diffusion.files.released(webview.window().label(), &handle) {
                diffusion.give_back(vec![held]).await;
            }
            Ok(Value::Null)
        }
        Action::GiveToken => {
            let Token { token } = params(given)?;
            diffusion.set_token(Some(token)).await?;
            Ok(Value::Null)
        }
        _ => Ok(Value::Null), // everything has been done already
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JobId {
    job_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Handle {
    handle: String,
}

fn params<T: DeserializeOwned>(params: Map<String, Value>) -> Result<T, Error> {
    serde_json::from_value(Value::Object(params)).map_err(|error| Error::Params {
        path: "$",
        reason: format!("The parameters do not fit this command: {error}"),
    })
}

/// The files that an answer or an error names: a cancelled call names those that it had finished.
fn saved(answer: &Result<Value, Error>) -> Vec<&str> {
    let images = match answer {
        Ok(answer) => answer.get("result").unwrap_or(answer).get("images"),
        Err(Error::Sidecar(error)) => error.remote().and_then(|error| error.data.get("images")),
        Err(_) => None,
    };
    images.and_then(Value::as_array).into_iter().flatten().filter_map(|image| image.get("path")?.as_str()).collect()
}
