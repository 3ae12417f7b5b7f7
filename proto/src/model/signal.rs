//! Signals by name or number, as `STOPSIGNAL` of an image and `--stop-signal` have them.

use std::fmt;
use std::str::FromStr;

/// The signals of Linux, from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// First and last real-time signal as seen by programs that use glibc.
const RT_MIN: u8 = 34;
const RT_MAX: u8 = 64;

/// A signal number, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(u8);

impl Signal {
    pub const TERM: Self = Self(15);
    pub const KILL: Self = Self(9);

    pub const fn number(self) -> u8 {
        self.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such signal")]
pub struct UnknownSignal;

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// `SIGTERM`, `term`, `15`, `SIGRTMIN+3`.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let upper = text.trim().to_ascii_uppercase();
        let short = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = short.parse().ok().or_else(|| real_time(short)).or_else(|| named(short));
        number.filter(|number| (1..=RT_MAX).contains(number)).map(Self).ok_or(UnknownSignal)
    }
}

fn named(short: &str) -> Option<u8> {
    (1..).zip(NAMES).find(|(_, name)| *name == short).map(|(number, _)| number)
}

fn real_time(short: &str) -> Option<u8> {
    if let Some(offset) = short.strip_prefix("RTMIN") {
        return match offset.strip_prefix('+') {
            Some(offset) => RT_MIN.checked_add(offset.parse().ok()?),
            None => offset.is_empty().then_some(RT_MIN),
        };
    }
    let offset = short.strip_prefix("RTMAX")?;
    match offset.strip_prefix('-') {
        Some(offset) => RT_MAX.checked_sub(offset.parse().ok()?),
        None => offset.is_empty().then_some(RT_MAX),
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0) - 1) {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("rtmin", 34), ("RTMAX-1", 63)]
        {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for text in ["", "0", "65", "SIGNOPE", "RTMIN+31", "-1"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
    }
}
