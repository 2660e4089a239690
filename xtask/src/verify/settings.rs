//! What the environment sets.

use std::env;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};

/// The variable that repeats the generated cases of another run.
pub const SEED: &str = "VERIFY_SEED";

pub struct Settings {
    pub seed: u64,
    /// How long each load test of the cluster lasts.
    pub load: Duration,
    /// Whether a run ends at the first failure.
    pub fail_fast: bool,
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// Reads the settings, once.
///
/// # Errors
///
/// When one of them is no whole number.
pub fn read() -> Result<()> {
    let settings = Settings {
        seed: number(SEED)?.unwrap_or_else(|| fastrand::u64(0..1_000_000)),
        load: Duration::from_secs(number("VERIFY_LOAD_SECONDS")?.unwrap_or(1)),
        fail_fast: number("VERIFY_FAIL_FAST")? == Some(1),
    };
    SETTINGS.get_or_init(|| settings);
    Ok(())
}

pub fn settings() -> &'static Settings {
    SETTINGS.get().expect("`read` comes first")
}

fn number(name: &str) -> Result<Option<u64>> {
    let Some(value) = env::var_os(name) else {
        return Ok(None);
    };
    let value = value.to_string_lossy();
    let number = value.parse();
    let number = number.with_context(|| format!("{name} is '{value}', which is no whole number"));
    Ok(Some(number?))
}
