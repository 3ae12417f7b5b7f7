//! The one error of this crate: what was being done, and the kernel's own words for why it failed.

#[derive(Debug, thiserror::Error)]
pub enum Error {}
