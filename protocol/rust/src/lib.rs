#![doc = include_str!("../README.md")]

mod builder;
mod call;
mod error;
mod exchange;
#[cfg(unix)]
mod handing;
mod handle;
#[cfg(not(unix))]
mod handing {
    /// Not available here: a file is picked by its path or as bytes.
    pub(crate) enum Handed {}
}
mod lines;
mod mailbox;
mod message;
mod pictures;
#[cfg(test)]
mod properties;
// the contract's page describes its members and values; here each type has one sentence
#[allow(missing_docs, clippy::struct_excessive_bools)]
mod schema;
mod session;
mod sidecar;
mod supervisor;

pub use builder::{Builder, Restart};
pub use call::{Answer, Canceller, Messages};
pub use error::{Denied, Error, Gone, RemoteError, Violation};
pub use message::{JobAnswer, JobMessage, Message, Method, Never, NoMessage, RequestId};
pub use pictures::ImageInput;
pub use schema::*;
pub use sidecar::Sidecar;
