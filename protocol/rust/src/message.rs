//! What the generated types build on: the traits of methods and messages, and the few types that no schema defines.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer, de, ser};
use serde_json::Value;

use crate::schema::{DiffusionStep, DownloadProgress, GenerateResult, LoadResult, ModelProgress, PrepareResult};

/// One request method of the contract: its params, result and messages.
pub trait Method {
    /// Its name on the wire.
    const NAME: &'static str;
    /// Its params, without the channel, which the client adds.
    type Params: Serialize;
    /// Its result.
    type Result: DeserializeOwned + Send + 'static;
    /// The messages that it streams while it runs.
    type Message: Message;
}

/// A message on a channel.
pub trait Message: DeserializeOwned + Send + 'static {
    /// Merges two messages into one with the latest state, for a consumer that is slower than the sidecar.
    #[must_use]
    fn merge(_older: Self, newer: Self) -> Self {
        newer
    }
}

impl Message for DiffusionStep {
    /// Returns the newer one, with the older one's preview if it has none and both are about the same image.
    fn merge(older: Self, mut newer: Self) -> Self {
        if newer.preview.is_none() && older.image == newer.image {
            newer.preview = older.preview;
        }
        newer
    }
}

impl Message for DownloadProgress {}
impl Message for ModelProgress {}

impl Message for Value {
    fn merge(mut older: Self, mut newer: Self) -> Self {
        let same = older.get("image") == newer.get("image");
        if let (true, Some(preview), Some(members)) =
            (same, older.get_mut("preview").map(Value::take), newer.as_object_mut())
        {
            members.entry("preview").or_insert(preview);
        }
        newer
    }
}

/// A message of an attached job: about an image, or about a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum JobMessage {
    /// Of `image.generate` or `image.edit`.
    Step(DiffusionStep),
    /// Of `models.load` or `models.prepare`.
    Progress(ModelProgress),
}

impl Message for JobMessage {
    fn merge(older: Self, newer: Self) -> Self {
        match (older, newer) {
            (Self::Step(older), Self::Step(newer)) => Self::Step(Message::merge(older, newer)),
            (_, newer) => newer,
        }
    }
}

/// The answer to a job's own call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum JobAnswer {
    /// Of `image.generate` or `image.edit`.
    Images(Box<GenerateResult>),
    /// Of `models.prepare`.
    Prepare(PrepareResult),
    /// Of `models.load`.
    Load(LoadResult),
}

/// A type without values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Never {}

/// The message of a method that streams nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoMessage(Never);

impl<'de> Deserialize<'de> for NoMessage {
    fn deserialize<D: de::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("this method streams nothing"))
    }
}

impl Serialize for NoMessage {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        match self.0 {}
    }
}

impl Message for NoMessage {}

/// A request's id, as its host chose it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RequestId {
    /// The kind of id that this crate sends.
    Number(i64),
    /// The kind of id that other hosts may send.
    Text(String),
}

/// Refuses a number that JSON cannot express, instead of sending null, which would mean the default.
#[allow(clippy::ref_option)] // the signature that serde calls
pub(crate) fn finite<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(number) if !number.is_finite() => Err(ser::Error::custom(format!("{number} is not a number in JSON"))),
        _ => value.serialize(serializer),
    }
}
