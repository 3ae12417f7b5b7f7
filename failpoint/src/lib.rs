//! Where a test may end this process, as a power cut or the kernel's memory killer would.
//!
//! A step that changes something outside of the process is marked by [`reached`] before it is taken. In a debug build
//! the environment variable [`VARIABLE`] then says at which of them the process ends by SIGKILL; a release build
//! contains nothing of it. What a death leaves behind is judged by the next start, so neither an error nor a
//! destructor may run: that is why it is not a panic.

use std::fmt::Display;

/// `<text>@<n>`: at the n-th step whose name contains the text. Without `@<n>` it is the first, without a text any.
pub const VARIABLE: &str = "SWARMD_DIE_AT";

/// Marks a step that is about to be taken.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reached(_: impl Display) {}

/// Marks a step that is about to be taken.
#[cfg(debug_assertions)]
pub fn reached(step: impl Display) {
    armed::reached(&step);
}

#[cfg(debug_assertions)]
mod armed {
    use std::fmt::Display;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    static DEATH: OnceLock<Option<Death>> = OnceLock::new();

    #[derive(Debug)]
    pub struct Death {
        text: String,
        nth: u32,
        passed: AtomicU32,
    }

    impl Death {
        /// Reads the variable; without a number after the last `@` all of it is text.
        pub fn parse(value: &str) -> Self {
            let numbered = value.rsplit_once('@').and_then(|(text, nth)| Some((text, nth.parse().ok()?)));
            let (text, nth) = numbered.unwrap_or((value, 1));
            Self { text: text.to_owned(), nth, passed: AtomicU32::new(0) }
        }

        pub fn is_at(&self, step: &str) -> bool {
            step.contains(&self.text) && self.passed.fetch_add(1, Ordering::Relaxed) + 1 == self.nth
        }
    }

    pub fn reached(step: &dyn Display) {
        let death = DEATH.get_or_init(|| Some(Death::parse(&std::env::var(super::VARIABLE).ok()?)));
        if death.as_ref().is_some_and(|death| death.is_at(&step.to_string())) {
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn dies_at(value: &str, steps: &[&str]) -> Option<usize> {
            let death = Death::parse(value);
            steps.iter().position(|step| death.is_at(step))
        }

        #[test]
        fn a_death_is_at_the_nth_step_of_a_name() {
            let steps = ["task: start", "network a: create", "network b: create"];
            assert_eq!(dies_at("network", &steps), Some(1));
            assert_eq!(dies_at("create@2", &steps), Some(2));
            assert_eq!(dies_at("@1", &steps), Some(0));
            assert_eq!(dies_at("create@3", &steps), None);
        }
    }
}
