//! What the generated types stand on: the traits of methods and messages, and the few types that no schema gives.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer, de, ser};
use serde_json::Value;

use crate::schema::{DiffusionStep, DownloadProgress, GenerateResult, LoadResult, ModelProgress, PrepareResult};

/// One request method of the contract: what it takes, answers and streams.
pub trait Method {
    /// Its name on the wire.
    const NAME: &'static str;
    /// What it takes, without the channel, which the client adds.
    type Params: Serialize;
    /// What it answers.
    type Result: DeserializeOwned + Send + 'static;
    /// What it streams while it runs.
    type Message: Message;
}

/// What a channel carries.
pub trait Message: DeserializeOwned + Send + 'static {
    /// Makes one message of two, when the one who takes them is slower than the sidecar: the latest state.
    #[must_use]
    fn merge(_older: Self, newer: Self) -> Self {
        newer
    }
}

impl Message for DiffusionStep {
    /// The newer one, with the older one's preview if it has none itself and both are of the same image.
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

/// The message of a job that was attached to: an image's, or that of a call about a model.
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

/// What a job was answered with.
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

/// There is no value of it.
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

/// The id of a request, as its host chose it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RequestId {
    /// What this crate sends.
    Number(i64),
    /// What other hosts may.
    Text(String),
}

/// Refuses what JSON has no number for, instead of sending null, which would be taken for the default.
#[allow(clippy::ref_option)] // as serde calls it
pub(crate) fn finite<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(number) if !number.is_finite() => Err(ser::Error::custom(format!("{number} is no number in JSON"))),
        _ => value.serialize(serializer),
    }
}
