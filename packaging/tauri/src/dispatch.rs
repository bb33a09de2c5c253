//! From a command of a web view to the sidecar and back.

use locara_diffusion::{Answer, Message, Messages};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tauri::ipc::{Channel, Invoke, InvokeBody, InvokeError, InvokeMessage, JavaScriptChannelId};
use tauri::{Manager, Runtime, Webview};

use crate::commands::{Action, find};
use crate::diffusion::Diffusion;
use crate::error::Error;
use crate::files::FileRequest;

/// What `invoke` is given beside the command's name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    #[serde(default)]
    params: Map<String, Value>,
    /// Of a long call, and of the command that cancels it: what the page calls it.
    #[serde(default)]
    request_id: Option<String>,
    /// Of a long call: where its messages go.
    #[serde(default)]
    channel: Option<JavaScriptChannelId>,
}

/// Takes a command; false for one that there is not. Its permission was looked at before.
pub(crate) fn handle<R: Runtime>(invoke: Invoke<R>) -> bool {
    let Invoke { message, resolver, .. } = invoke;
    let Some(action) = find(message.command()) else { return false };
    let payload = payload(&message);
    let webview = message.webview();
    resolver.respond_async(async move {
        let answer = match payload {
            Ok(payload) => run(&webview, action, payload).await,
            Err(error) => Err(error),
        };
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

async fn run<R: Runtime>(webview: &Webview<R>, action: Action, payload: Payload) -> Result<Value, Error> {
    let diffusion = webview.state::<Diffusion<R>>();
    let window = webview.window();
    let label = window.label().to_owned();
    let page = (label.as_str(), webview.label());
    match action {
        Action::Ask(method) => {
            let sidecar = diffusion.sidecar().await?;
            Ok(Value::Object(sidecar.call(method, &payload.params, false).1.await?))
        }
        Action::Stream(method) => {
            let channel = channel(webview, payload.channel)?;
            let open = diffusion.calls.open(page, payload.request_id, false)?;
            let sidecar = diffusion.sidecar().await?;
            let (messages, answer) = sidecar.call(method, &payload.params, true);
            open.sent(answer.canceller());
            let answer = forward(messages, answer, channel).await?;
            for path in saved(&answer) {
                diffusion.saved(path);
            }
            Ok(answer)
        }
        Action::Attach => {
            let JobId { job_id } = params(payload.params)?;
            let channel = channel(webview, payload.channel)?;
            let open = diffusion.calls.open(page, payload.request_id, true)?;
            let sidecar = diffusion.sidecar().await?;
            let (messages, answer) = sidecar.attach(job_id);
            open.sent(answer.canceller());
            forward(messages, answer, channel).await
        }
        Action::Cancel => {
            diffusion.calls.cancel(page, &payload.request_id.unwrap_or_default());
            Ok(Value::Null)
        }
        Action::PickImage | Action::PickOutput => {
            let mut request: FileRequest = params(payload.params)?;
            request.save = matches!(action, Action::PickOutput);
            let sidecar = diffusion.sidecar().await?;
            Ok(json!(diffusion.files.pick(window, &sidecar, request).await?))
        }
        Action::Release => {
            let Handle { handle } = params(payload.params)?;
            // that of another window is left alone, and one that was given back needs nothing
            if diffusion.files.released(&label, &handle) {
                diffusion.sidecar().await?.release_file(&handle).await?;
            }
            Ok(Value::Null)
        }
        Action::GiveToken => {
            let Token { token } = params(payload.params)?;
            diffusion.set_token(Some(token)).await?;
            Ok(Value::Null)
        }
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
        reason: format!("The parameters are not of this command: {error}"),
    })
}

fn channel<R: Runtime, M>(webview: &Webview<R>, id: Option<JavaScriptChannelId>) -> Result<Channel<M>, Error> {
    let id = id.ok_or_else(|| Error::Params { path: "$.channel", reason: "A long call has a Channel.".to_owned() })?;
    Ok(id.channel_on(webview.clone()))
}

/// Passes all messages on, in their order; then the answer, with their number, because it may overtake them.
async fn forward<M, R>(mut messages: Messages<M>, answer: Answer<R>, channel: Channel<M>) -> Result<Value, Error>
where
    M: Message + Serialize,
    R: Serialize,
{
    let mut sent: u64 = 0;
    while let Some(message) = messages.next().await {
        // a page that is gone takes nothing; the end of its window cancels the call, not that of the page
        if channel.send(message).is_ok() {
            sent += 1;
        }
    }
    let result = answer.await?;
    drop(channel); // its end frame goes before the answer
    Ok(json!({"result": result, "messages": sent}))
}

/// The files that an answer names.
fn saved(answer: &Value) -> impl Iterator<Item = &str> {
    let images = answer.pointer("/result/images").and_then(Value::as_array);
    images.into_iter().flatten().filter_map(|image| image.get("path")?.as_str())
}
