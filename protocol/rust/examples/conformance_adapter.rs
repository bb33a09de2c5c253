//! The adapter of this crate for `locara-conformance host`; its form is in `protocol/conformance/README.md`.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use locara_diffusion::{Answer, Canceller, Error, Message, Messages, Method, Restart, Sidecar, methods};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

#[derive(Deserialize)]
struct Task {
    sidecar: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    r#do: String,
    #[serde(default)]
    call: String,
    #[serde(default)]
    method: String,
    #[serde(default)]
    params: Map<String, Value>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    slow_ms: u64,
    #[serde(default)]
    count: usize,
    within_ms: Option<u64>,
    #[serde(default)]
    ms: u64,
}

/// What the caller has seen of a call: its messages and its end.
struct Watched {
    seen: Arc<Mutex<Vec<Value>>>,
    counted: watch::Receiver<usize>,
    ended: watch::Receiver<Option<Value>>,
    canceller: Option<Canceller>,
}

impl Watched {
    fn new<M, R>(messages: Option<Messages<M>>, answer: Answer<R>, slow: Duration) -> Self
    where
        M: Message + Serialize,
        R: Serialize + Send + 'static,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (count, counted) = watch::channel(0);
        let (end, ended) = watch::channel(None);
        let canceller = Some(answer.canceller());
        let kept = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut messages = messages;
            while let Some(message) = next(&mut messages).await {
                if !slow.is_zero() {
                    sleep(slow).await;
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push(json!(message));
                count.send_replace(kept.len());
            }
            end.send_replace(Some(match answer.await {
                Ok(result) => json!({"ok": result}),
                Err(error) => json!({"error": described(&error)}),
            }));
        });
        Self { seen, counted, ended, canceller }
    }

    fn unsent() -> Self {
        let end = json!({"error": {"type": "gone", "message": "There is no session."}});
        let (counted, ended) = (watch::channel(0).1, watch::channel(Some(end)).1);
        Self { seen: Arc::default(), counted, ended, canceller: None }
    }

    /// Makes a call through the crate's typed API where there is one, otherwise by its name.
    fn start(sidecar: &Sidecar, step: &Step) -> Self {
        let slow = Duration::from_millis(step.slow_ms);
        match step.method.as_str() {
            "ping" => Self::typed::<methods::Ping>(sidecar, step, slow),
            "image.generate" => Self::typed::<methods::ImageGenerate>(sidecar, step, slow),
            "image.edit" => Self::typed::<methods::ImageEdit>(sidecar, step, slow),
            "models.list" => Self::typed::<methods::ModelsList>(sidecar, step, slow),
            _ => None,
        }
        .unwrap_or_else(|| {
            let (messages, answer) = sidecar.call(&step.method, &step.params, step.stream);
            Self::new(Some(messages), answer, slow)
        })
    }

    fn typed<N: Method>(sidecar: &Sidecar, step: &Step, slow: Duration) -> Option<Self>
    where
        N::Params: DeserializeOwned,
        N::Result: Serialize,
        N::Message: Serialize,
    {
        let params: N::Params = serde_json::from_value(Value::Object(step.params.clone())).ok()?;
        if !step.stream {
            return Some(Self::new(None::<Messages<Value>>, sidecar.request::<N>(params), slow));
        }
        let (messages, answer) = sidecar.stream::<N>(params);
        Some(Self::new(Some(messages), answer, slow))
    }
}

async fn next<M: Message>(messages: &mut Option<Messages<M>>) -> Option<M> {
    match messages {
        Some(messages) => messages.next().await,
        None => None,
    }
}

fn described(error: &Error) -> Value {
    let message = error.to_string();
    match error {
        Error::Remote(remote) => json!({
            "type": "remote", "message": message, "code": remote.code, "kind": remote.kind.as_str(),
            "retryable": remote.retryable(), "data": remote.data,
        }),
        Error::Violation(_) => json!({"type": "violation", "message": message}),
        Error::Gone(gone) => json!({"type": "gone", "message": message, "status": gone.status()}),
        Error::Spawn { .. } => json!({"type": "spawn", "message": message}),
        _ => json!({"type": "unknown", "message": message}),
    }
}

struct Adapter {
    command: Vec<String>,
    sidecar: Option<Sidecar>,
    calls: HashMap<String, Watched>,
}

impl Adapter {
    async fn step(&mut self, step: &Step) -> Result<Value, Box<dyn StdError>> {
        if step.r#do == "start" {
            let started = self.sidecar.as_ref().map_or_else(Watched::unsent, |sidecar| Watched::start(sidecar, step));
            self.calls.insert(step.call.clone(), started);
            return Ok(json!({"ok": {}}));
        }
        let call = || self.calls.get(&step.call).ok_or("no call of that name");
        Ok(match step.r#do.as_str() {
            "open" => self.open().await,
            "messages" => {
                let count = *call()?.counted.clone().wait_for(|count| *count >= step.count).await?;
                json!({"ok": {"count": count}})
            }
            "cancel" => {
                call()?.canceller.iter().for_each(Canceller::cancel);
                json!({"ok": {}})
            }
            "result" => {
                let call = call()?;
                let mut ended = call.ended.clone();
                let end = ended.wait_for(Option::is_some);
                let told = match step.within_ms {
                    Some(ms) => timeout(Duration::from_millis(ms), end).await.ok(),
                    None => Some(end.await),
                };
                let mut told = match told {
                    Some(end) => end?.clone().unwrap_or_default(),
                    None => json!({"error": {"type": "timeout", "message": "No answer in time."}}),
                };
                let seen = call.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
                told.as_object_mut().ok_or("no object")?.insert("messages".into(), seen.into());
                told
            }
            "pause" => {
                sleep(Duration::from_millis(step.ms)).await;
                json!({"ok": {}})
            }
            "close" => {
                let exit = match &self.sidecar {
                    Some(sidecar) => sidecar.close().await,
                    None => None,
                };
                json!({"ok": {"status": exit.and_then(|exit| exit.code())}})
            }
            other => return Err(format!("{other} is not a step").into()),
        })
    }

    /// Only one session is judged, so the process is not restarted.
    async fn open(&mut self) -> Value {
        let (program, args) = self.command.split_first().map_or(("", &[][..]), |(program, args)| (program, args));
        match Sidecar::builder().command(program, args).restart(Restart::Never).spawn().await {
            Ok(sidecar) => {
                let opened = json!({"ok": sidecar.session().as_deref()});
                self.sidecar = Some(sidecar);
                opened
            }
            Err(error) => json!({"error": described(&error)}),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn StdError>> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let task: Task = serde_json::from_str(&line)?;
    let mut adapter = Adapter { command: task.sidecar, sidecar: None, calls: HashMap::new() };
    for (number, step) in task.steps.iter().enumerate() {
        let mut told = adapter.step(step).await?;
        told.as_object_mut().ok_or("no object")?.insert("step".into(), number.into());
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{told}")?;
        stdout.flush()?;
    }
    Ok(())
}
