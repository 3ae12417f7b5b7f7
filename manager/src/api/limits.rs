//! How large things may be: what one client asks for is kept by every manager.

use std::collections::BTreeMap;

use prost::Message;

use crate::error::Error;

/// Of a spec, encoded. An object holds at most two of them, and an entry of the log 4 MiB.
const SPEC_BYTES: usize = 1 << 20;
/// Of what a node says of itself, encoded.
const DESCRIPTION_BYTES: usize = 64 << 10;
/// Of a list or map in a message.
const MOST_ENTRIES: usize = 1000;
/// Of a label, a path, a name.
const LONGEST_TEXT: usize = 4096;

pub fn spec_size(field: &str, spec: &impl Message) -> Result<(), Error> {
    size(field, spec.encoded_len(), SPEC_BYTES)
}

pub fn description_size(field: &str, description: &impl Message) -> Result<(), Error> {
    size(field, description.encoded_len(), DESCRIPTION_BYTES)
}

pub fn size(field: &str, bytes: usize, most: usize) -> Result<(), Error> {
    if bytes <= most {
        return Ok(());
    }
    Err(Error::invalid(field, format!("({bytes} bytes)"), format!("at most {most} bytes are allowed")))
}

pub fn count(field: &str, entries: usize) -> Result<(), Error> {
    if entries <= MOST_ENTRIES {
        return Ok(());
    }
    Err(Error::invalid(field, format!("({entries} entries)"), format!("at most {MOST_ENTRIES} are allowed")))
}

pub fn length(field: &str, text: &str) -> Result<(), Error> {
    if text.len() <= LONGEST_TEXT {
        return Ok(());
    }
    let start: String = text.chars().take(32).collect();
    Err(Error::invalid(
        field,
        format!("{start}…"),
        format!("it is {} bytes long, at most {LONGEST_TEXT} are allowed", text.len()),
    ))
}

pub fn map(field: &str, map: &BTreeMap<String, String>) -> Result<(), Error> {
    count(field, map.len())?;
    map.iter().try_for_each(|(key, value)| {
        length(field, key)?;
        length(&format!("{field}[{key}]"), value)
    })
}

/// Cuts a text that is only shown.
pub fn shorten(text: &mut String, longest: usize) {
    text.truncate(text.floor_char_boundary(longest));
}
