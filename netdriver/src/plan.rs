//! Decides what to change.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {}
