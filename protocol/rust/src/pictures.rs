//! Images to send, and received previews.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::Violation;
use crate::schema::{EditParams, ImageMime, PreviewImage};

/// An image for an edit, in one of three forms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum ImageInput {
    /// A file below a granted root.
    File {
        /// The root's name, for example `user-folder`.
        root: String,
        /// The path, relative to the root.
        path: String,
    },
    /// A file that the user picked.
    Handle {
        /// The handle from [`Sidecar::pick_file`](crate::Sidecar::pick_file).
        handle: String,
    },
    /// The file itself; see [`ImageInput::inline`].
    #[serde(rename_all = "camelCase")]
    Inline {
        /// The bytes, in base64.
        data: String,
        /// The file's format.
        mime_type: ImageMime,
    },
}

impl ImageInput {
    /// A file below a granted root.
    #[must_use]
    pub fn file(root: impl Into<String>, path: impl Into<String>) -> Self {
        Self::File { root: root.into(), path: path.into() }
    }

    /// A file that the user picked.
    #[must_use]
    pub fn handle(handle: impl Into<String>) -> Self {
        Self::Handle { handle: handle.into() }
    }

    /// A file's bytes, which are sent with the call.
    ///
    /// ```
    /// use locara_diffusion::{ImageInput, ImageMime};
    ///
    /// let mask = ImageInput::inline(b"\x89PNG", ImageMime::Png);
    /// assert_eq!(serde_json::to_value(&mask)?, serde_json::json!({"data": "iVBORw==", "mimeType": "image/png"}));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn inline(bytes: &[u8], mime_type: ImageMime) -> Self {
        Self::Inline { data: STANDARD.encode(bytes), mime_type }
    }
}

impl EditParams {
    /// An edit of one picture; the sidecar chooses the rest.
    #[must_use]
    pub fn new(prompt: impl Into<String>, image: ImageInput) -> Self {
        Self { prompt: prompt.into(), options: None, image: Some(image), images: None, mask: None }
    }

    /// An edit of several pictures, in the order that the prompt refers to, for a model whose `max_references` allows
    /// so many.
    ///
    /// ```
    /// use locara_diffusion::{EditParams, ImageInput};
    ///
    /// let room = ImageInput::file("user-folder", "room.png");
    /// let chair = ImageInput::file("user-folder", "chair.png");
    /// let params = EditParams::of_several("put the chair into the room", vec![room, chair]);
    /// assert_eq!(serde_json::to_value(&params)?["images"][1]["path"], "chair.png");
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn of_several(prompt: impl Into<String>, images: Vec<ImageInput>) -> Self {
        Self { prompt: prompt.into(), options: None, image: None, images: Some(images), mask: None }
    }
}

impl PreviewImage {
    /// The encoded image.
    pub fn bytes(&self) -> Result<Vec<u8>, Violation> {
        STANDARD.decode(&self.data).map_err(|error| Violation::new(format!("A preview is not in base64: {error}")))
    }

    /// A `data:` URL, for the `src` of an `<img>`.
    #[must_use]
    pub fn data_url(&self) -> String {
        format!("data:{};base64,{}", self.mime_type.as_str(), self.data)
    }
}
